"""A gateway over three simulated nodes, one of which dies under load, and a real Prometheus that watches.

Everything runs on free ports and in a folder of its own, and what was started is ended by its process id.
"""

import collections
import contextlib
import dataclasses
import json
import pathlib
import random
import signal
import subprocess
import tempfile
import threading
import time

import requests
import tools
from support import ADMIN_KEY, Gateway, Quiet, binary, free_address, serving, wait_until

MODELS = {"llama3.2:latest": 2.0, "llama3.2:1b": 1.3}
# `doomed` dies under load; `broken` lives, and fails whatever it is asked for.
NODES = ("north", "south", "doomed")
CURSED = "cursed:latest"
NOBODY_HAS = "invented"
# What the gateway calls the errors that this load meets.
REFUSED = {"model_not_found": "client_error", "rate_limit_exceeded": "rate_limited", "upstream_error": "upstream_error",
           "no_node_available": "overloaded", "server_is_overloaded": "overloaded"}


@dataclasses.dataclass
class Counted:
    """What clients saw."""

    outcomes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    tokens: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    by_model: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    first_tokens: list = dataclasses.field(default_factory=list)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def add(self, outcome: str, model: str, usage: dict | None = None, first: float | None = None):
        with self.lock:
            self.outcomes[outcome] += 1
            self.by_model[model] += 1
            for kind, field in [("input", "prompt_tokens"), ("output", "completion_tokens")]:
                self.tokens[kind] += (usage or {}).get(field, 0)
            if first is not None:
                self.first_tokens.append(first)


class Stand:
    def __init__(self, gateway: Gateway, prometheus: str):
        self.gateway, self.prometheus = gateway, prometheus
        self.counted = Counted()
        self.keys: dict[str, str] = {}
        self.rows: list[dict] = []
        self.began = self.ended = 0.0

    def ask(self, path: str, **params) -> list[dict]:
        response = requests.get(f"{self.prometheus}/api/v1/{path}", params=params, timeout=30)
        assert response.status_code == 200, f"{params}: {response.text}"
        return response.json()["data"]

    def instant(self, expr: str, at: float | None = None) -> list[dict]:
        return self.ask("query", query=expr, time=at or self.ended)["result"]

    def over_time(self, expr: str, step: float = 1) -> list[dict]:
        return self.ask("query_range", query=expr, start=self.began, end=self.ended, step=step)["result"]

    def value(self, expr: str) -> float:
        """Of the last scrape, when everything had ended."""
        (series,) = self.instant(expr, time.time())
        return float(series["value"][1])


class Broken(Quiet):
    """A node that answers probes, has one model in memory, and cannot run it."""

    protocol_version = "HTTP/1.1"
    said = {"/api/version": {"version": "0.0.0"}, "/api/ps": {"models": [{"name": CURSED, "model": CURSED, "size_vram": 1}]},
            "/api/tags": {"models": [{"name": CURSED, "model": CURSED, "size": 1, "digest": "0", "modified_at": ""},
                                      {"name": 5}]}}

    def do_GET(self):
        self.answer(200, self.said.get(self.path, {}))

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(500, {"error": {"message": "out of memory", "type": "api_error", "param": None, "code": None}})

    def answer(self, status: int, body: dict):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def broken_node():
    """Its URL, as long as it is there."""
    return serving(Broken)


@contextlib.contextmanager
def running(command: list, log: pathlib.Path, ended_by=signal.SIGTERM):
    """A process that is ended again, by its own id, whatever happens."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=log.parent)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(ended_by)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def sim() -> pathlib.Path:
    beside = binary().with_name("ollama-sim")
    if not beside.exists():
        subprocess.run(["cargo", "build", "--locked", "-p", "ollama-sim"], cwd=tools.ROOT, check=True)
        beside = tools.target_folder() / "debug" / "ollama-sim"
    return beside


@contextlib.contextmanager
def stand(seconds: float = 20.0):
    """Runs the load and hands out what was counted, and a Prometheus that can be asked."""
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-stand-")))
        processes, nodes = {}, []
        for name in NODES:
            listen = free_address()
            models = ",".join(f"{model}={size}" for model, size in MODELS.items())
            command = [sim(), "--listen", listen, "--speed", "100", "--slots", "2", "--load-gb-s", "8",
                       "--load-overhead-ms", "100", "--models", models]
            # The one that dies has its models in memory from the start, so that it has something to do when it does.
            command += ["--warm"] if name == "doomed" else []
            processes[name] = stack.enter_context(running(command, folder / f"{name}.log", signal.SIGINT))
            nodes.append({"name": name, "url": f"http://{listen}", "slots": 2, "vram_gb": 24})
        nodes.append({"name": "broken", "url": stack.enter_context(broken_node()), "slots": 2})
        address = free_address()
        # YAML is a superset of JSON.
        (folder / "gateway.yaml").write_text(json.dumps({
            "server": {"bind": address, "drain_seconds": 5}, "admin": {"key": ADMIN_KEY}, "nodes": nodes,
            "metrics": {"user_label": "all", "user_cap": 3}, "database": {"url": f"sqlite://{folder}/gateway.db"}}))
        stack.enter_context(running([binary(), "serve", "--config", folder / "gateway.yaml"], folder / "gateway.log"))
        gateway = Gateway(f"http://{address}", ADMIN_KEY)
        wait_until("all nodes are up", lambda: healthy(gateway) == len(nodes), seconds=30)
        watcher = free_address()
        (folder / "prometheus.yml").write_text(json.dumps({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [str(tools.RULES)],
            "scrape_configs": [{"job_name": "gateway", "static_configs": [{"targets": [address]}]}]}))
        stack.enter_context(running(
            [tools.prometheus("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address={watcher}"], folder / "prometheus.log"))
        stood = Stand(gateway, f"http://{watcher}")
        for name, limits in [("ann", {}), ("bob", {}), ("carl", {"requests_per_minute": 5}), ("dora", {}), ("eve", {}), ("finn", {})]:
            body = {"user_id": name, "requests_per_minute": None, "tokens_per_day": None} | limits
            stood.keys[name] = gateway.admin("POST", "/users", json=body).json()["api_key"]
        wait_until("Prometheus has seen the gateway", lambda: scraped(stood), seconds=30)
        load(stood, processes["doomed"], seconds)
        stood.rows = [row for key in stood.keys.values() for row in gateway.rows(key)]
        # One more look, at what has ended since the last.
        done = time.time() + 1
        wait_until("the end is scraped", lambda: last_scrape(stood) >= done, seconds=15)
        yield stood


def healthy(gateway: Gateway) -> int:
    with contextlib.suppress(requests.ConnectionError):
        return gateway.request("GET", "/health").json()["nodes"]["healthy"]
    return 0


def scraped(stood: Stand) -> bool:
    """Twice at least, so that rates begin before the load does."""
    with contextlib.suppress(requests.ConnectionError, AssertionError):
        found = stood.instant("count_over_time(gateway_build_info[1m])", time.time())
        return bool(found) and float(found[0]["value"][1]) >= 3
    return False


def last_scrape(stood: Stand) -> float:
    return float(stood.instant("timestamp(gateway_build_info)", time.time())[0]["value"][1])


def load(stood: Stand, doomed: subprocess.Popen, seconds: float):
    """More clients than slots, for so long; a third in, a node dies."""
    stood.began = time.time()
    until = time.monotonic() + seconds
    behaviours = ([("ann", True)] * 4 + [("bob", False)] * 4 + [("dora", True)] * 2 + [("carl", False), ("eve", False), ("finn", False)])
    clients = [threading.Thread(target=client, args=(stood, number, user, stream, until))
               for number, (user, stream) in enumerate(behaviours)]
    for each in clients:
        each.start()
    time.sleep(seconds / 3)
    doomed.kill()
    for each in clients:
        each.join(timeout=seconds + 60)
        assert not each.is_alive(), "a client hangs"
    stood.ended = time.time()


def client(stood: Stand, number: int, user: str, stream: bool, until: float):
    dice = random.Random(number)
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {stood.keys[user]}"
        # Two, as the failures of one alone may be that user's own doing; and only who is answered at times is believed. They
        # ask nothing of `doomed` when it dies: whoever fails on two nodes counts for less.
        is_cursed = user in ("eve", "finn")
        if is_cursed:
            chat(stood, session, next(iter(MODELS)), stream, "[[n=10]]")
        while time.monotonic() < until:
            model = NOBODY_HAS if dice.random() < 0.05 else dice.choice(list(MODELS))
            if is_cursed:
                model = CURSED
            chat(stood, session, model, stream, f"{dice.random()} [[n={dice.randint(10, 60)}]]")
            if not stream and user != "bob":
                time.sleep(0.5)


# The same for everybody, so that nodes have it in their prompt caches.
RULES = "Answer in one short sentence. " * 40


def chat(stood: Stand, session: requests.Session, model: str, stream: bool, prompt: str):
    messages = [{"role": "system", "content": RULES}, {"role": "user", "content": prompt}]
    body = {"model": model, "stream": stream, "messages": messages}
    if stream:
        body["stream_options"] = {"include_usage": True}
    began = time.monotonic()
    with session.post(f"{stood.gateway.api}/chat/completions", json=body, stream=stream, timeout=60) as response:
        if response.status_code != 200:
            return stood.counted.add(REFUSED[response.json()["error"]["code"]], model)
        if not stream:
            return stood.counted.add("ok", model, response.json()["usage"])
        first = usage = None
        for line in response.iter_lines(chunk_size=1):
            if not line.startswith(b"data: "):
                continue
            first = first or time.monotonic() - began
            if line == b"data: [DONE]":
                return stood.counted.add("ok", model, usage, first)
            usage = json.loads(line[6:]).get("usage") or usage
        stood.counted.add("upstream_error", model)
