"""What the Python client programs share: the two gateways, users of them, and what the gateway wrote down about them.

Only the standard library: each client has an environment of its own.
"""

import contextlib
import importlib.metadata
import json
import os
import threading
import time
import urllib.request
import uuid

# A demo: three simulated nodes.
URL = os.environ["GATEWAY_URL"]
# One over node.py: its model `waits` is silent for longer than the status is held back, and `breaks` dies on the way.
FAULTY_URL = os.environ["FAULTY_GATEWAY_URL"]
ADMIN_KEY = os.environ["ADMIN_API_KEY"]
# What the model `waits` says in the end.
WAITED = "worth the wait"

WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def request(url: str, key: str, body: dict | None = None) -> dict:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as response:
        return json.load(response)


def user(url: str = URL, **limits) -> str:
    """Makes a user with these limits and no others; the key."""
    body = {"user_id": f"c-{uuid.uuid4().hex[:12]}", "requests_per_minute": None, "tokens_per_day": None} | limits
    return request(f"{url}/admin/users", ADMIN_KEY, body)["api_key"]


def rows(key: str) -> list[dict]:
    """The user's usage rows, newest first."""
    return request(f"{URL}/v1/usage?limit=1000", key)["data"]


def statuses_once(key: str, count: int) -> list[str]:
    """How the user's requests ended, once there are so many; rows are written behind the answer."""
    deadline = time.monotonic() + 10
    while len(found := rows(key)) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(found) == count, found
    return sorted(row["status"] for row in found)


@contextlib.contextmanager
def tokens_held(key: str):
    """While this lasts, a running stream of the user holds 9000 tokens."""
    body = {
        "model": "llama3.2",
        "stream": True,
        "max_tokens": 8900,
        "messages": [{"role": "user", "content": "[[n=8000]]"}],
    }
    headers = {"Authorization": f"Bearer {key}"}
    call = urllib.request.Request(f"{URL}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(call, timeout=60) as stream:
        stream.readline()
        # Somebody has to read on, or the gateway gives the client up.
        reading = threading.Thread(target=_read_on, args=(stream,), daemon=True)
        reading.start()
        yield
        with contextlib.suppress(OSError):
            import socket

            stream.fp.raw._sock.shutdown(socket.SHUT_RDWR)
        reading.join(timeout=10)


def _read_on(stream):
    with contextlib.suppress(Exception):
        while stream.readline():
            pass


@contextlib.contextmanager
def raises(kind: type[BaseException]):
    """Fails unless this is raised; what was, as `.error`."""
    caught = _Caught()
    try:
        yield caught
    except kind as error:
        caught.error = error
        return
    raise AssertionError(f"nothing was raised, {kind.__name__} was expected")


class _Caught:
    error = None


def passed(package: str):
    print(f"PASS {package} {importlib.metadata.version(package)}")
