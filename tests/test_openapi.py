"""The gateway held against its own OpenAPI document, with requests that schemathesis makes up.

Every check is on: what the document allows is taken, what it forbids is refused, and every answer is as it says. The node
has one model that can do everything, as no document can say which model a node has for what.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from support import ROOT, binary, free_address, running

# What a document cannot say.
APART = """
# A deleted user's usage stays readable.
[checks]
use_after_free.enabled = false
"""
# A cursor is one that was given out and CSV has none, a key is one that was issued, its end lies in the future, a node is one
# that is there, and its address can be reached: no form of them tells.
BEYOND_FORM = [
    "GET /v1/usage", "GET /admin/users", "GET /admin/groups", "POST /admin/users", "GET /admin/users/{id}/usage", "GET /admin/usage", "GET /admin/requests",
    "GET /admin/series",
    "PATCH /admin/users/{id}", "POST /admin/users/{id}/keys", "POST /v1/me/keys", "POST /admin/admins",
    "PATCH /admin/admins/{name}", "GET /admin/audit", "POST /console/session",
    "PATCH /admin/users/{id}/keys/{key_id}", "POST /admin/groups", "PATCH /admin/groups/{id}",
    "POST /admin/nodes/{name}/drain",
    "POST /admin/nodes", "PATCH /admin/nodes/{name}",
    "POST /admin/models/pull", "POST /admin/models/load", "POST /admin/models/unload", "DELETE /admin/models/{model}",
]
# Answers that do not end.
ENDLESS = "^/admin/events$"
# The run drains and unloads nodes as well, after which a gateway says, rightly, that it is not healthy.
UNWELL = ["GET /health", "GET /health/ready", "HEAD /health", "HEAD /health/ready"]
# The names of the document's examples.
NAMES = ["llama3.2", "all-minilm"]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A gateway of its own, over a node of its own: the requests delete users, too."""
    folder = tmp_path_factory.mktemp("gateway")
    address, node = free_address(), free_address()
    server = {"bind": address}
    if "guesses_per_minute" in (ROOT / "gateway.yaml").read_text():
        # Wrong keys come by the hundred.
        server["guesses_per_minute"] = 1_000_000
    settings = {
        "server": server,
        "admin": {"key": "admin-secret-key"},
        "nodes": [{"name": "a", "url": f"http://{node}", "slots": 4}],
        "models": {"aliases": dict.fromkeys(NAMES, "omni")},
    }
    (folder / "gateway.yaml").write_text(json.dumps(settings))
    simulated = [binary().with_name("ollama-sim"), f"--listen={node}", "--models=omni=1", "--slots=4", "--speed=inf"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY__")}
    with subprocess.Popen([*simulated, "--load-gb-s=inf", "--load-overhead-ms=0"], stdout=subprocess.DEVNULL) as process:
        try:
            with running(address, [binary()], cwd=folder, env=environment) as gateway:
                yield gateway
        finally:
            process.terminate()


@pytest.mark.parametrize("who, paths", [("user", "^/(v1|api)/"), ("admin", "^/admin/|^/console/|^/metrics$|^/health|^/$")])
def test_every_answer_is_as_documented(who, paths, fresh, tmp_path):
    with fresh.user() as (_, user_key):
        check(fresh, user_key if who == "user" else fresh.admin_key, paths, tmp_path)


def check(gateway, key, paths, folder):
    apart = "[[operations]]\ninclude-name = {}\nchecks.positive_data_acceptance.enabled = false\n"
    unwell = "[[operations]]\ninclude-name = {}\nchecks.not_a_server_error.enabled = false\n"
    written = [apart.format(json.dumps(name)) for name in BEYOND_FORM] + [unwell.format(json.dumps(name)) for name in UNWELL]
    (folder / "schemathesis.toml").write_text(APART + "\n".join(written))
    command = [
        str(pathlib.Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{gateway.url}/openapi.json",
        f"--url={gateway.url}",
        f"--header=Authorization: Bearer {key}",
        f"--include-path-regex={paths}",
        f"--exclude-path-regex={ENDLESS}",
        "--max-examples=30",
        "--request-timeout=20",
        "--seed=1",
    ]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
