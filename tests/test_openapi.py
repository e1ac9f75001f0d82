"""The gateway held against its own OpenAPI document, with requests that schemathesis makes up."""

import pathlib
import subprocess
import sys

import pytest

from support import demo

# Bodies pass through to a node, which takes more than the document says, and refuses what no schema could tell: a model
# that cannot chat, a cursor that nobody gave out.
NOT_OURS = "positive_data_acceptance,negative_data_rejection"
# A deleted user's usage stays readable.
BY_DESIGN = "use_after_free"


@pytest.fixture(scope="module")
def fresh():
    """A gateway of its own: the requests delete users, too."""
    with demo() as started:
        yield started


@pytest.mark.parametrize("who, paths", [("user", "^/(v1|api)/"), ("admin", "^/admin/|^/metrics$|^/health|^/$")])
def test_every_answer_is_as_documented(who, paths, fresh, tmp_path):
    with fresh.user() as (_, user_key):
        check(fresh, user_key if who == "user" else fresh.admin_key, paths, tmp_path)


def check(gateway, key, paths, folder):
    command = [
        str(pathlib.Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{gateway.url}/openapi.json",
        f"--url={gateway.url}",
        f"--header=Authorization: Bearer {key}",
        f"--include-path-regex={paths}",
        f"--exclude-checks={NOT_OURS},{BY_DESIGN}",
        "--max-examples=15",
        "--request-timeout=20",
        "--seed=1",
    ]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
