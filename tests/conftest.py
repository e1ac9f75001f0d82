"""Which gateway do the tests meet? `gateway` is a demo that is started for them, `live` is what is up."""

import os

import openai
import pytest

from support import ADMIN_KEY, DEFAULT_URL, Gateway, demo


def pytest_configure(config):
    config.addinivalue_line("markers", "integration: runs against a gateway that is up")


def pytest_collection_modifyitems(items):
    if os.environ.get("SKIP_INTEGRATION_TESTS", "true").lower() == "false":
        return
    reason = "needs a gateway that is up: SKIP_INTEGRATION_TESTS=false, and GATEWAY_URL if it is not localhost:8000"
    for item in items:
        if item.get_closest_marker("integration"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def gateway():
    """The gateway at `GATEWAY_URL`, else a demo of our own."""
    if url := os.environ.get("GATEWAY_URL"):
        yield Gateway(url)
        return
    with demo() as started:
        yield started


@pytest.fixture(scope="session")
def admin_key(gateway):
    return gateway.admin_key


@pytest.fixture(scope="session")
def user_key(gateway):
    """The key of a user without limits."""
    with gateway.user() as (_, key):
        yield key


@pytest.fixture
def client(gateway, user_key):
    """The SDK as that user; it does not try again, so that a test sees the first answer."""
    with openai.OpenAI(base_url=gateway.api, api_key=user_key, max_retries=0) as sdk:
        yield sdk


@pytest.fixture(scope="session")
def live():
    """The gateway at `GATEWAY_URL`, else the one on localhost:8000."""
    return Gateway(os.environ.get("GATEWAY_URL", DEFAULT_URL), ADMIN_KEY)


@pytest.fixture(scope="session")
def live_key(live):
    """`TEST_API_KEY`, else the key of a user who is deleted afterwards."""
    with live.key() as key:
        yield key


@pytest.fixture
def live_client(live, live_key):
    # Long enough for a real node to load a model first.
    with openai.OpenAI(base_url=live.api, api_key=live_key, max_retries=0, timeout=300) as sdk:
        yield sdk
