"""One engine with every image for all tests of this folder, and the stacks that run on it."""

import os
import pathlib
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import engine as engines  # noqa: E402
import stack as stacks  # noqa: E402
import standins  # noqa: E402
from support import binary  # noqa: E402


@pytest.fixture(scope="session")
def work():
    # Short, because the path of a socket is bounded.
    with tempfile.TemporaryDirectory(prefix="deploy.") as folder:
        yield pathlib.Path(folder)


@pytest.fixture(scope="session")
def engine(work):
    """Fails where no engine can run; only tests/run makes the namespaces that keep it apart."""
    assert os.environ.get("DEPLOY_NAMESPACES") == "own", "run these tests with tests/run deploy"
    (work / "engine").mkdir()
    with engines.engine(standins.made()[0], work / "engine") as running:
        yield running


@pytest.fixture(scope="session")
def images(engine):
    _, base, services = standins.made()
    made = stacks.Images(engine, base, services, binary().parent)
    made.give_binaries("1")
    return made


@pytest.fixture(scope="session")
def root(work, images):
    """A checkout with secrets, and with the gateway and the simulated node built."""
    folder = stacks.checkout(work / "checkout")
    images.engine.run("deploy/make-secrets", cwd=folder)
    return folder
