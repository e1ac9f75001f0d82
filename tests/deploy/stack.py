"""The compose file of a checkout, run by an engine: its commands, its containers, and clients that put load on it."""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import subprocess
import threading
import time

import requests
from engine import Engine
from support import CHAT_MODEL, ROOT, Gateway, wait_until

HERE = pathlib.Path(__file__).resolve().parent
UP_SECONDS = 120
# Above stop_grace_period of the compose file.
REPLACE_SECONDS = 180
STANDINS = {"postgres": "postgres:17-bookworm", "prometheus": "prom/prometheus:v3.5.0", "haproxy": "haproxy:3.2.4-alpine"}


def checkout(into: pathlib.Path) -> pathlib.Path:
    """A copy of what git knows, so that nothing is written to the caller's own deploy/secrets."""
    listed = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, into / name)
    return into


class Images:
    """Every image that compose asks for, under its name. None is pulled."""

    def __init__(self, engine: Engine, base: pathlib.Path, services: pathlib.Path, binaries: pathlib.Path):
        self.engine = engine
        self.binaries = binaries
        engine.docker("import", base, "debian:bookworm-slim")
        engine.docker("import", services, "services")
        for target, name in STANDINS.items():
            engine.docker("build", "--quiet", "--target", target, "--tag", name, HERE / "standin")

    def give_binaries(self, version: str):
        """The image that takes the compiler's place. Another version differs in a byte that nothing reads."""
        work = self.engine.work / f"binaries-{version}"
        release = work / "build" / "target" / "release"
        release.mkdir(parents=True)
        for name in ["ollama-gateway", "ollama-sim"]:
            subprocess.run(["strip", "-o", release / name, self.binaries / name], check=True, timeout=60)
            with (release / name).open("ab") as file:
                file.write(version.encode())
        archive = work.with_suffix(".tar")
        subprocess.run(["tar", "-C", work, "-cf", archive, "build"], check=True, timeout=60)
        self.engine.docker("import", archive, "binaries")
        shutil.rmtree(work)
        archive.unlink()


class Stack:
    """What `docker compose` started from a checkout."""

    def __init__(self, engine: Engine, root: pathlib.Path, url: str, profiles: list[str], extra: list[str]):
        self.engine = engine
        self.root = root
        files = ["deploy/docker-compose.yml", *(f"tests/deploy/{name}" for name in ["left-out.yml", *extra])]
        self.options = [word for file in files for word in ("-f", file)]
        self.options += [word for profile in profiles for word in ("--profile", profile)]
        self.gateway = Gateway(url, (root / "deploy/secrets/admin_key").read_text())

    def compose(self, *arguments, seconds: float = UP_SECONDS) -> str:
        environment = self.engine.environment | {"GATEWAY_BINARIES": "binaries"}
        return self.engine.run("docker-compose", *self.options, *arguments, cwd=self.root, env=environment, seconds=seconds)

    def container(self, service: str) -> dict:
        identifier = self.compose("ps", "--quiet", service).strip()
        return json.loads(self.engine.docker("inspect", identifier))[0]

    def states(self) -> dict[str, str]:
        """Each container's health or, if its image and service have no check, its state."""
        found = {}
        for identifier in self.compose("ps", "--quiet").split():
            each = json.loads(self.engine.docker("inspect", identifier))[0]
            state = each["State"]
            found[each["Config"]["Labels"]["com.docker.compose.service"]] = state.get("Health", state)["Status"]
        return found

    def wait_until_healthy(self):
        states = {}

        def settled() -> bool:
            states.update(self.states())
            return all(state in ("healthy", "running") for state in states.values())

        try:
            wait_until("every container is healthy", settled, UP_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{states}\n{self.compose('logs', '--tail=20')}") from error

    def address(self, service: str) -> str:
        """For what must reach one gateway: only the balancer's port is published."""
        return next(iter(self.container(service)["NetworkSettings"]["Networks"].values()))["IPAddress"]

    def one(self, service: str) -> Gateway:
        return Gateway(f"http://{self.address(service)}:8000", self.gateway.admin_key)

    def role(self, service: str) -> str:
        return self.one(service).admin("GET", "/queue").json()["scheduling"]["role"]


@contextlib.contextmanager
def stack(engine: Engine, root: pathlib.Path, url: str, profiles: list[str], extra: list[str] = ()):
    """Brings the profiles up and takes them down with their volumes; the engine must have nothing left of them."""
    running = Stack(engine, root, url, profiles, list(extra))
    try:
        running.compose("up", "-d")
        running.wait_until_healthy()
        yield running
    finally:
        running.compose("down", "--volumes", "--timeout", "20")
    assert engine.leftovers() == {}


@dataclasses.dataclass
class Attempt:
    began: float
    ended: float
    # "answered", "refused" (503 with Retry-After), "disconnected", or what else was said.
    outcome: str


def attempt(url: str, key: str, tokens: int) -> str:
    """One chat on a connection of its own."""
    body = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": f"[[n={tokens}]]"}]}
    try:
        response = requests.post(f"{url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"},
                                 timeout=60)
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
        return "disconnected"
    if response.status_code == 503 and int(response.headers.get("Retry-After", 0)) > 0:
        return "refused"
    if response.status_code != 200:
        return f"{response.status_code} {response.text}"
    used = response.json()["usage"]["completion_tokens"]
    return "answered" if used == tokens else f"{used} tokens instead of {tokens}"


class Load:
    """Clients that chat one after the other until told to stop, and remember every attempt."""

    def __init__(self, url: str, key: str, clients: int, tokens: int):
        self.attempts: list[Attempt] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._chat, args=(url, key, tokens)) for _ in range(clients)]

    def _chat(self, url: str, key: str, tokens: int):
        while not self._stop.is_set():
            began = time.monotonic()
            outcome = attempt(url, key, tokens)
            self.attempts.append(Attempt(began, time.monotonic(), outcome))
            if outcome != "answered":
                # As a client backs off.
                self._stop.wait(0.25)

    def answered_since(self, moment: float) -> int:
        return sum(each.began >= moment and each.outcome == "answered" for each in list(self.attempts))

    def wait_for_answers(self, count: int, seconds: float = 30):
        """Until this many chats that began from now on were answered."""
        now = time.monotonic()
        wait_until(f"{count} chats are answered", lambda: self.answered_since(now) >= count, seconds)

    def outcomes(self, since: float = 0, until: float = float("inf")) -> dict[str, int]:
        """How many attempts that began in this time had which outcome."""
        found: dict[str, int] = {}
        for each in self.attempts:
            if since <= each.began < until:
                found[each.outcome] = found.get(each.outcome, 0) + 1
        return found

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        self.wait_for_answers(len(self._threads))
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=90)
        assert not any(thread.is_alive() for thread in self._threads)
