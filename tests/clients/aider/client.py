"""aider, as it answers one message: over OpenAI's API and over Ollama's own."""

import os
import pathlib
import subprocess
import sys
import tempfile

from gateway import FAULTY_URL, URL, passed, rows, statuses_once, user

ARGUMENTS = [
    "--message=hello", "--no-git", "--yes-always", "--no-check-update", "--analytics-disable", "--no-show-model-warnings",
    "--no-show-release-notes", "--no-pretty",
]  # fmt: skip


def aider(model: str, *arguments: str, **environment: str) -> str:
    """What it prints in an empty home with these variables."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [pathlib.Path(sys.prefix) / "bin/aider", f"--model={model}", *ARGUMENTS, *arguments],
            cwd=home,
            env={"PATH": os.environ["PATH"], "HOME": home} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    return done.stdout + done.stderr


def openai(key: str, url: str = URL) -> dict[str, str]:
    return {"OPENAI_API_BASE": f"{url}/v1", "OPENAI_API_KEY": key}


def answers():
    key = user()
    for arguments in (["--no-stream"], []):
        said = aider("openai/llama3.2", *arguments, **openai(key))
        assert "Tokens:" in said and "received" in said, said
    assert statuses_once(key, 2) == ["completed"] * 2
    assert all(row["endpoint"] == "/v1/chat/completions" and row["completion_tokens"] > 0 for row in rows(key))


def answers_over_ollamas_api():
    key = user()
    for environment in (
        {"OLLAMA_API_BASE": URL, "OLLAMA_API_KEY": key},
        {"OLLAMA_API_BASE": f"{URL}/k/{key}"},
    ):
        said = aider("ollama_chat/llama3.2", **environment)
        assert "Tokens:" in said and "received" in said, said
    assert statuses_once(key, 2) == ["completed"] * 2
    assert all(row["endpoint"] == "/api/chat" for row in rows(key))


def errors():
    said = " ".join(aider("openai/llama3.2", **openai("sk-wrong", FAULTY_URL)).split())
    assert "Incorrect API key" in said, said
    said = " ".join(aider("openai/nothere", **openai(user())).split())
    assert "`nothere` does not exist here" in said, said


answers()
answers_over_ollamas_api()
errors()
passed("aider-chat")
