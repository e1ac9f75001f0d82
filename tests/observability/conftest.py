"""One demo, and one real Prometheus over a gateway under load, for all tests of this folder."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import stand as stands  # noqa: E402
import tools  # noqa: E402, F401
from support import demo, wait_until  # noqa: E402


@pytest.fixture(scope="session")
def exported():
    """What a demo exports before anybody has asked it for anything."""
    with demo() as gateway:
        text = lambda: gateway.request("GET", "/metrics").text
        wait_until("the models are known", lambda: 'model="llama3.2:latest"' in text())
        yield text()


@pytest.fixture(scope="session")
def stand():
    with stands.stand() as running:
        yield running
