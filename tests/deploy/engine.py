"""A container engine of the test's own, in the namespaces that tests/run made for it."""

import contextlib
import os
import pathlib
import shutil
import signal
import socketserver
import subprocess
import threading
import time

CGROUPS = pathlib.Path("/sys/fs/cgroup")
START_SECONDS = 30
STOP_SECONDS = 30
# Of this network namespace. Without a name server the engine leaves questions for other names, such as that of a
# container that has ended, without an answer for ten seconds.
NAME_SERVER = "192.0.2.53"


class KnowsNoName(socketserver.BaseRequestHandler):
    """Answers every question of DNS with NXDOMAIN."""

    def handle(self):
        query, answering = self.request
        # A header of 12 bytes; then the one question: a name that a zero ends, its type and its class.
        end = query.find(b"\0", 12) + 5
        answering.sendto(query[:2] + b"\x81\x83" + b"\0\1" + bytes(6) + query[12:end], self.client_address)


@contextlib.contextmanager
def name_server():
    with socketserver.UDPServer((NAME_SERVER, 53), KnowsNoName) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield
        server.shutdown()
        thread.join()


class Engine:
    """A running `dockerd`: its socket, and the programs of its packages first on PATH."""

    def __init__(self, programs: pathlib.Path, work: pathlib.Path):
        self.work = work
        path = f"{programs}/usr/bin:{programs}/usr/sbin:{os.environ['PATH']}"
        self.environment = {"PATH": path, "HOME": str(work), "DOCKER_HOST": f"unix://{work}/socket",
                            "DOCKER_BUILDKIT": "1", "COMPOSE_DOCKER_CLI_BUILD": "1", "LC_ALL": "C.UTF-8"}

    def docker(self, *arguments, **options) -> str:
        return self.run("docker", *arguments, **options)

    def run(self, *command, seconds: float = 120, **options) -> str:
        # Found on the engine's PATH, not on that of the tests.
        program = shutil.which(command[0], path=self.environment["PATH"])
        assert program, f"{command[0]} is missing"
        options = {"env": self.environment} | options
        done = subprocess.run([program, *map(str, command[1:])], capture_output=True, text=True, timeout=seconds, **options)
        assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def prepare(self):
        """What the engine expects of the namespaces: loopback, and a `/run` without the machine's own engine."""
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "address", "add", f"{NAME_SERVER}/32", "dev", "lo")
        self.run("mount", "-t", "tmpfs", "tmpfs", "/run")

    def answers(self) -> bool:
        try:
            return bool(self.docker("version"))
        except AssertionError:
            return False

    def leftovers(self) -> dict[str, str]:
        """What the engine still has of containers, networks, volumes, and rules for published ports."""
        found = {
            "containers": self.docker("ps", "--all", "--format", "{{.Names}}"),
            "networks": self.docker("network", "ls", "--filter", "type=custom", "--format", "{{.Name}}"),
            "volumes": self.docker("volume", "ls", "--quiet"),
            "rules": "\n".join(rule for rule in self.run("iptables-save").splitlines() if "DNAT" in rule),
            "mounts": "\n".join(self.mounts("overlay")),
        }
        return {kind: text for kind, text in found.items() if text.strip()}

    def mounts(self, kind: str = "") -> list[str]:
        lines = pathlib.Path("/proc/mounts").read_text().splitlines()
        return [line for line in lines if f" {self.work}/" in line and kind in line]


def others() -> list[str]:
    """The processes of this PID namespace besides its first and the tests' own."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in (1, os.getpid()):
            with contextlib.suppress(OSError):
                found.append(f"{entry.name} {(entry / 'cmdline').read_bytes()[:120]}")
    return found


def cgroups(name: str) -> list[pathlib.Path]:
    """The engine's groups in each hierarchy, innermost first."""
    roots = [path for pattern in (name, f"*/{name}") for path in CGROUPS.glob(pattern)]
    # A hierarchy may have several names, such as cpu and cpu,cpuacct.
    found = {path.resolve() for root in roots for path in [root, *root.rglob("*")] if path.is_dir()}
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


@contextlib.contextmanager
def engine(programs: pathlib.Path, work: pathlib.Path):
    """Starts an engine, and ends it; nothing of it may be left then."""
    running = Engine(programs, work)
    # Containers are below it; a name of its own, so that none of another engine is meant.
    group = f"gateway-tests-{work.parent.name}"
    # Neither the machine's own settings of an engine nor its cgroup driver.
    (work / "daemon.json").write_text("{}")
    command = ["dockerd", f"--data-root={work}/data", f"--exec-root={work}/exec", f"--pidfile={work}/pid",
               f"--host={running.environment['DOCKER_HOST']}", f"--config-file={work}/daemon.json",
               "--exec-opt=native.cgroupdriver=cgroupfs", f"--cgroup-parent=/{group}", f"--dns={NAME_SERVER}"]
    running.prepare()
    with (work / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(command, env=running.environment, stdout=log, stderr=log,
                                   executable=f"{programs}/usr/sbin/dockerd")
    try:
        deadline = time.monotonic() + START_SECONDS
        while not running.answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"NO CONTAINER ENGINE RUNS ON THIS MACHINE; its log ends so:\n{tail(work / 'dockerd.log')}\n"
                                     "Leave these tests out by name: tests/run --skip deploy")
            time.sleep(0.1)
        with name_server():
            yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        # The engine leaves its parent group behind.
        for path in cgroups(group):
            path.rmdir()
    assert code == 0, f"the engine ended with {code}:\n{tail(work / 'dockerd.log')}"
    assert running.mounts() == [] and others() == []


def tail(path: pathlib.Path, count: int = 15) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-count:])
