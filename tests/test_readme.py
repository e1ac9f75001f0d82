"""Every curl line of README, pasted as it stands against a demo."""

import pathlib
import re
import subprocess

import pytest

README = pathlib.Path(__file__).resolve().parent.parent / "README.md"


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = "\n".join(block for block in blocks if "curl" in block)
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("curl")]


def test_readme_shows_every_route():
    text = "\n".join(commands())
    for path in ["chat/completions", "/v1/completions", "embeddings", "/v1/models", "usage/summary", "/limits", "/admin/nodes",
                 "/admin/usage"]:
        assert path in text, path


@pytest.mark.parametrize("command", commands())
def test_a_line_works_as_pasted(command, gateway, user_key, admin_key):
    line = command.replace("http://localhost:8000", gateway.url).replace("curl ", "curl -sS --fail-with-body ", 1)
    script = subprocess.run(
        ["bash", "-c", line],
        env={"KEY": user_key, "ADMIN": admin_key, "PATH": "/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert script.returncode == 0, f"{line}\n{script.stdout}\n{script.stderr}"
