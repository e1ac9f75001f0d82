"""Three real engines, and gateways over them, for all tests of this folder."""

import contextlib
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import engines as real  # noqa: E402


@pytest.fixture(scope="session")
def engines():
    """The engines by name; `embedder` embeds, the others chat."""
    with contextlib.ExitStack() as stack:
        started = {name: stack.enter_context(real.engine(name, slots)) for name, slots in real.SLOTS.items()}
        yield started | {"embedder": stack.enter_context(real.engine("embedder", 1, real.EMBEDDER, "embed"))}


@pytest.fixture(scope="session", params=["ollama", "openai"])
def kind(request):
    """How the gateway is told of the engines."""
    if request.param == "openai" and not real.knows_openai_nodes():
        pytest.skip("LEFT OUT: this gateway does not know nodes of `kind: openai`")
    return request.param


@pytest.fixture(scope="module")
def fleet(kind, engines):
    """A gateway over all engines that has to learn everything about them."""
    with real.fleet(kind, engines) as started:
        yield started
