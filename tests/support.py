"""How do the Python tests reach a gateway? A handle on one, users of it, a demo of one's own, and bounded waiting."""

import contextlib
import http.server
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
import time
import uuid

import requests
from free_port import free_port

ROOT = pathlib.Path(__file__).resolve().parent.parent
ADMIN_KEY = os.environ.get("ADMIN_API_KEY", "admin-secret-key")
CHAT_MODEL = os.environ.get("TEST_MODEL", "llama3.2")
VISION_MODEL = os.environ.get("TEST_VISION_MODEL", "llava")
EMBEDDING_MODEL = os.environ.get("TEST_EMBEDDING_MODEL", "all-minilm")
DEFAULT_URL = "http://localhost:8000"


class Gateway:
    """A running gateway, by its address."""

    def __init__(self, url: str, admin_key: str = ADMIN_KEY):
        self.url = url.rstrip("/")
        self.api = f"{self.url}/v1"
        self.admin_key = admin_key

    def request(self, method: str, path: str, key: str | None = None, **options) -> requests.Response:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        headers |= options.pop("headers", {})
        return requests.request(method, f"{self.url}{path}", headers=headers, timeout=60, **options)

    def admin(self, method: str, path: str, **options) -> requests.Response:
        return self.request(method, f"/admin{path}", self.admin_key, **options)

    def rows(self, key: str) -> list[dict]:
        """The caller's usage rows, newest first."""
        response = self.request("GET", "/v1/usage", key, params={"limit": 1000})
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def metric(self, name: str, **labels: str) -> float:
        """The sum over all series of a family that carry these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        total = 0.0
        for line in self.request("GET", "/metrics").text.splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(label in series for label in wanted):
                total += float(value)
        return total

    @contextlib.contextmanager
    def user(self, **limits):
        """Makes a user with a name of its own, hands out name and key, and deletes the user afterwards."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        # Explicit, since a gateway may have limits for new users.
        body = {"user_id": name, "requests_per_minute": None, "tokens_per_day": None} | limits
        created = self.admin("POST", "/users", json=body)
        if created.status_code != 201:
            raise RuntimeError(f"no user could be made, set TEST_API_KEY or ADMIN_API_KEY: {created.text}")
        try:
            yield name, created.json()["api_key"]
        finally:
            self.admin("DELETE", f"/users/{name}")

    @contextlib.contextmanager
    def key(self):
        """`TEST_API_KEY`, or the key of a user who is there for so long."""
        if given := os.environ.get("TEST_API_KEY"):
            yield given
        else:
            with self.user() as (_, key):
                yield key


def wait_until(what: str, condition, seconds: float = 10.0):
    """Asks again and again until the answer is truthy, and returns it; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := condition():
            return answer
        assert time.monotonic() < deadline, f"waited {seconds} s in vain until {what}"
        time.sleep(0.05)


def binary() -> pathlib.Path:
    """`GATEWAY_BIN`, or the newest build; builds one if there is none."""
    if given := os.environ.get("GATEWAY_BIN"):
        return pathlib.Path(given).resolve()
    target = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
    built = [path for kind in ["release", "debug"] if (path := target / kind / "ollama-gateway").exists()]
    if not built:
        subprocess.run(["cargo", "build", "--locked"], cwd=ROOT, check=True)
        built = [target / "debug" / "ollama-gateway"]
    return max(built, key=lambda path: path.stat().st_mtime)


def free_address() -> str:
    """An address on this machine at which nothing listens."""
    return f"127.0.0.1:{free_port()}"


class Quiet(http.server.BaseHTTPRequestHandler):
    """What the servers of tests have in common: they log nothing."""

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(handler: type[Quiet]):
    """The URL of a server with this handler, as long as it is there."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextlib.contextmanager
def demo():
    """A demo on a free port."""
    address = free_address()
    with running(address, [binary(), "demo", "--bind", address]) as gateway:
        yield gateway


@contextlib.contextmanager
def running(address: str, command: list, **options):
    """The gateway that this command starts; it must be ready in time and, told to stop, end well."""
    gateway = Gateway(f"http://{address}", admin_key="admin-secret-key")
    # A file and no pipe: nobody reads while the tests run, and a full pipe would stop the gateway.
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, **options)
        try:
            wait_until("the gateway is ready", lambda: _is_ready(gateway, process, log), seconds=30)
            yield gateway
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                code = "none within 30 s"
        assert code == 0, f"exit code after SIGTERM: {code}\n{_tail(log)}"


def _is_ready(gateway: Gateway, process: subprocess.Popen, log) -> bool:
    assert process.poll() is None, f"the gateway ended at once\n{_tail(log)}"
    try:
        health = gateway.request("GET", "/health").json()
    except requests.ConnectionError:
        return False
    return health["nodes"]["healthy"] == health["nodes"]["total"]


def _tail(log) -> str:
    log.seek(0)
    return log.read().decode(errors="replace")[-4000:]
