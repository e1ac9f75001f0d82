"""The commands of README and docs, pasted as they stand against a demo.

A block is run if it is `sh` and has a line with `curl`, or if it is `python`. A block marked `sh example` is not run, nor
is one without curl: those start, build or deploy something. Blocks of a page run in their order.
"""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
# Pasting shows what failed and where: any error ends the block, and an HTTP error is one.
PREFACE = 'set -euo pipefail\ncurl() { command curl -sS --fail-with-body "$@"; }\n'
# Every route that a page should show.
ROUTES = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/models",
          "/v1/usage/summary", "/api/chat", "/openai/deployments", "/admin/users", "/limits", "/keys", "/rotate",
          "/admin/nodes", "/drain", "/admin/models/pull", "/admin/usage", "/admin/queue", "/admin/requests", "/health/ready",
          "/metrics"]


def blocks() -> list:
    found = []
    for page in PAGES:
        name = page.relative_to(ROOT)
        for match in BLOCK.finditer(text := page.read_text(encoding="utf-8")):
            language, code = match.groups()
            if language == "python" or "curl" in code:
                line = text[:match.start()].count("\n") + 2
                found.append(pytest.param(language, code, id=f"{name}:{line}"))
    return found


def test_the_pages_show_every_route():
    text = "".join(block.values[1] for block in blocks())
    assert [route for route in ROUTES if route not in text] == []


@pytest.mark.parametrize("language,code", blocks())
def test_a_block_works_as_pasted(language, code, gateway, user_key, admin_key):
    code = code.replace("http://localhost:8000", gateway.url).replace("sk-user-123-…", user_key)
    command = ["bash", "-c", PREFACE + code] if language == "sh" else [sys.executable, "-c", code]
    environment = {"KEY": user_key, "ADMIN": admin_key, "PATH": "/usr/local/bin:/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
