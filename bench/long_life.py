"""What does a long life cost? Measures the table of `docs/evidence.md` on a database that `bench fill` made.

Beside it runs a gateway with ten keys, and load goes to both in turn. Waits for the hourly comparison of sums and rows,
which a large database has a minute after the start, and for the deletion of the oldest day, and loads the gateway
meanwhile: neither may be noticed.
"""
import contextlib
import json
import os
import sqlite3
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

USERS, KEYS = 100_000, 1_000_000
# A user with a fiftieth of all rows, one with as many as others, and the model that only the last few users have.
HEAVY, USUAL, RARE = "user-0000000", "user-0000003", "llama3.1:70b"
DAY = 86_400
# When a gateway with a large database compares sums and rows, and how long that is watched.
COMPARES_AFTER, WATCHED = 60, 30
# Longest wait for the first copy of users and keys.
COPIED_WITHIN = 1800


def p(times, part):
    return round(sorted(times)[min(len(times) - 1, int(len(times) * part))], 1)


class Measured:
    """A gateway under measurement."""

    def __init__(self, bench, url, folder, port, **settings):
        self.bench, self.port = bench, port
        environment = {**bench.gateway_environment(url, folder), "GATEWAY__SERVER__BIND": port, **settings}
        self.process = bench.start([bench.GATEWAY], environment=environment, log=Path(folder) / f"{port}.log")
        self.began = time.monotonic()
        self.ready = bench.until_ready(self.process, 120, port)

    def ask(self, path, key, body=None, method=None):
        """The milliseconds until the answer, and the answer."""
        request = urllib.request.Request(
            f"http://{self.port}{path}", data=None if body is None else json.dumps(body).encode(), method=method,
            headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
        )
        began = time.monotonic()
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return (time.monotonic() - began) * 1e3, json.loads(text or "null")

    def works(self, key):
        try:
            self.ask("/v1/models", key)
            return True
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
            return False

    def load(self, key, seconds):
        return self.bench.load(self.port, key, clients=8, seconds=seconds)["ms"]["p99"]

    def watched(self, key, seconds):
        """The p99 of requests in windows of two seconds, and the milliseconds that new users took in between."""
        windows, users, began = [], [], time.monotonic()
        while time.monotonic() - began < seconds:
            windows.append(self.load(key, 2))
            users.append(self.ask("/admin/users", self.bench.ADMIN, {"user_id": f"new-{time.time_ns()}"})[0])
        return {"p99_ms": p(windows, 0.5), "worst_p99_ms": round(max(windows), 1), "slowest_new_user_ms": round(max(users))}

    def wait_until_copied(self, folder):
        """Until it has copied all users and keys."""
        with contextlib.closing(sqlite3.connect(f"file:{folder}/outbox.db?mode=ro", uri=True, timeout=60)) as db:
            while db.execute("SELECT is_whole FROM people_copy").fetchone() != (1,):
                if time.monotonic() - self.began > COPIED_WITHIN:
                    raise TimeoutError("users and keys are not copied yet")
                time.sleep(1)

    def stop(self):
        self.bench.stop(self.process)


def secret(bench, number, users=USERS):
    command = [str(bench.TOOL), "secret", str(number), str(users)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def is_file(url):
    return url.startswith("sqlite:")


def sql(url, statement):
    """The first value, as text."""
    if is_file(url):
        with sqlite3.connect(url.removeprefix("sqlite://")) as db:
            return str(db.execute(statement).fetchone()[0])
    return subprocess.run(["psql", "-qAtX", url, "-c", statement], capture_output=True, text=True, check=True).stdout


def amounts(url):
    bytes_of = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size" if is_file(url) else \
        "SELECT pg_database_size(current_database())"
    found = {table: int(sql(url, f"SELECT count(*) FROM {table}")) for table in ("users", "keys", "usage_rollups")}
    return {**found, "rows": int(sql(url, "SELECT sum(requests) FROM usage_totals")), "gib": round(int(sql(url, bytes_of)) / 2**30, 1)}


def forget_pages(url):
    """Takes a file out of the page cache; what Postgres holds itself cannot be taken from it."""
    if is_file(url):
        with open(url.removeprefix("sqlite://"), "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def beside(bench, url, folder):
    """A database with ten keys of ten users on the same server."""
    if is_file(url):
        few = f"sqlite://{folder}/few.db"
    else:
        base, name = url.rsplit("/", 1)
        few = f"{base}/{name}_few"
        sql(url, f"DROP DATABASE IF EXISTS {name}_few")
        sql(url, f"CREATE DATABASE {name}_few")
    subprocess.run([bench.TOOL, "fill", "--url", few, "--users", "10", "--keys", "10", "--rows", "0"], check=True)
    return few


def reports():
    """The path of each query, by its name."""
    month = f"from={time.strftime('%Y-%m-%d', time.gmtime(time.time() - 30 * DAY))}"
    orders = [
        "user", "key", "model", "node", "day", "status", "group", "model,user", "user,model", "key,model", "model,key",
        "day,user", "day,key", "status,user", "node,key", "user,key,day", "day,model,node,status",
    ]
    filters = [
        f"group_by=day&user={HEAVY}", f"group_by=user,model&user={USUAL}", "group_by=user&model=qwen3:8b",
        "group_by=user&node=node-1", "group_by=user&group=", "group_by=day&model=qwen3:8b&node=node-1",
        f"group_by=user&model={RARE}", f"group_by=user,day&model={RARE}", f"group_by=key&model={RARE}",
        "group_by=user&key=", "group_by=user,key&limit=1000", "group_by=model,user&limit=1000",
    ]
    for query in (*(f"group_by={order}" for order in orders), *filters):
        yield f"/admin/usage?{query}&{month}"


def own_queries():
    noon = time.strftime("%Y-%m-%dT13:00:00Z", time.gmtime(time.time() - 30 * DAY))
    yield "/v1/usage"
    yield "/v1/usage?limit=1000"
    yield "/v1/usage/summary"
    yield f"/v1/usage/summary?from={noon[:10]}"
    yield f"/v1/usage/summary?from={noon}&to={noon.replace('T13', 'T23')}"
    yield f"/v1/usage/summary?from={noon}"


def queries(gateway, times=30):
    """The first time of each query in milliseconds, and the p95 of the times after."""
    heavy = int(HEAVY.removeprefix("user-"))
    asked = [(f"{path} of {user}", path, secret(gateway.bench, number))
             for path in own_queries() for user, number in ((HEAVY, heavy), (USUAL, 3))]
    asked += [(path, path, gateway.bench.ADMIN) for path in reports()]
    asked.append((f"/admin/users/{USUAL}/usage", f"/admin/users/{USUAL}/usage", gateway.bench.ADMIN))
    found = {}
    for name, path, key in asked:
        first = gateway.ask(path, key)[0]
        found[name] = {"first_ms": round(first), "p95_ms": p([gateway.ask(path, key)[0] for _ in range(times)], 0.95)}
        print(f"{name}: {found[name]}", flush=True)
    return found


def elsewhere(gateway, other):
    """The shortest wait after which a new key works at the other gateway, and a revoked one has stopped, in milliseconds.

    Each wait has a key of its own, which is tried once: a gateway soon turns away an address that tries unknown keys.
    """
    time.sleep(3)
    path = f"/admin/users/{USUAL}/keys"
    for wait_ms in (50, 100, 200, 500, 1000, 2000, 5000):
        made = gateway.ask(path, gateway.bench.ADMIN, {"name": f"elsewhere {time.time_ns()}"})[1]
        time.sleep(wait_ms / 1e3)
        works = other.works(made["api_key"])
        gateway.ask(f"{path}/{made['id']}", gateway.bench.ADMIN, method="DELETE")
        time.sleep(wait_ms / 1e3)
        if works and not other.works(made["api_key"]):
            return {"works_ms": wait_ms, "stops_ms": wait_ms}
    return {"works_ms": None, "stops_ms": None}


def in_turns(bench, beside_it, gateway, keys):
    """The p99 of both gateways, and the median of their ratios."""
    small, few_key = beside_it
    pairs = []
    for key in keys:
        for measured, its in ((small, few_key), (gateway, key)):
            measured.load(its, 0.3)
        pairs.append((small.load(few_key, bench.SECONDS), gateway.load(key, bench.SECONDS)))
    of = [p(times, 0.5) for times in zip(*pairs)]
    ratio = round(statistics.median(full / few for few, full in pairs), 2)
    return {"p99_ms": {"few": of[0], "full": of[1]}, "p99_ratio": ratio}


def measure(bench, url, folder, result=None):
    bench.start([bench.TOOL, "upstream", bench.UPSTREAM], core=1)
    few = beside(bench, url, folder)
    starts = {"cold": [], "warm": []}
    for kind in ("cold", "warm") * 3:
        if kind == "cold":
            forget_pages(url)
        gateway = Measured(bench, url, folder, bench.PORT)
        starts[kind].append(gateway.ready)
        gateway.stop()
    small = Measured(bench, few, f"{folder}", bench.OTHER_PORT, GATEWAY__DATABASE__OUTBOX=f"{folder}/few-outbox.db")
    forget_pages(url)
    gateway = Measured(bench, url, folder, bench.PORT)
    keys = [secret(bench, number * 99_990 % KEYS) for number in range(1, bench.ROUNDS + 1)]
    few_key = secret(bench, 0, 10)
    time.sleep(2)
    found = {
        "amounts": amounts(url),
        "ready_seconds": {**{kind: round(max(times), 2) for kind, times in starts.items()}, "ten_keys": round(small.ready, 2)},
        "memory_mib": {"full": round(bench.memory_mib(gateway.process.pid)), "few": round(bench.memory_mib(small.process.pid))},
    }
    found.update(in_turns(bench, (small, few_key), gateway, keys))
    print(json.dumps(found), flush=True)
    time.sleep(max(0, gateway.began + COMPARES_AFTER - 2 - time.monotonic()))
    found["while_sums_are_compared"] = gateway.watched(keys[0], WATCHED)
    print(json.dumps(found["while_sums_are_compared"]), flush=True)
    forget_pages(url)
    found["queries"] = queries(gateway)
    if not is_file(url):
        # At first the gateway made its copy of users and keys for a start without Postgres.
        found["p99_ratio_while_users_are_copied"] = found["p99_ratio"]
        gateway.wait_until_copied(folder)
        found.update(in_turns(bench, (small, few_key), gateway, keys))
    small.stop()
    time.sleep(5)
    before = bench.cpu_ticks(gateway.process.pid)
    time.sleep(60)
    spent = (bench.cpu_ticks(gateway.process.pid) - before) / os.sysconf("SC_CLK_TCK")
    found["idle_percent_of_a_core"] = round(100 * spent / 60, 2)
    found["memory_mib"]["after_queries"] = round(bench.memory_mib(gateway.process.pid))
    if not is_file(url):
        other = Measured(bench, url, folder, bench.OTHER_PORT, GATEWAY__DATABASE__OUTBOX=f"{folder}/other-outbox.db")
        found["key_at_another_gateway"] = elsewhere(gateway, other)
        other.stop()
    gateway.stop()
    # The oldest of 50 days is deleted in batches.
    gateway = Measured(bench, url, folder, bench.PORT, GATEWAY__DATABASE__USAGE_RETENTION_DAYS="49")
    time.sleep(max(0, COMPARES_AFTER - 2))
    found["while_a_day_is_deleted"] = gateway.watched(keys[0], WATCHED)
    gateway.stop()
    found["load_average"] = os.getloadavg()[0]
    print(json.dumps({name: value for name, value in found.items() if name != "queries"}, indent=2))
    if result:
        Path(result).write_text(json.dumps(found, indent=2) + "\n")
