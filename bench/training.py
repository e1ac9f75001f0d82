"""What does a gateway do often? Counts it in a build made for that, under the load of many kinds of clients.

`cargo build --profile dist` makes fast what these counts say is often done. So every kind of request that is to be fast must
be here, and none so much more often than the others that those look rare.
"""
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Of the build that counts, and of all that use what it counted: each would find other names otherwise.
OPTIONS = ["--profile", "dist", "--no-default-features", "--package", "ollama-gateway"]
# Requests of each kind, and at a time; reads of each kind.
REQUESTS, AT_ONCE, READS = 300, 16, 8
TEXT = "[[n=20]] Why is the sky blue?"
MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": TEXT}]
TOOL = {"name": "weather", "description": "The weather.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
}}
OFTEN = {
    "/v1/chat/completions": {"model": "llama3.2", "messages": MESSAGES},
    "/v1/completions": {"model": "llama3.2", "prompt": TEXT},
    "/v1/responses": {"model": "llama3.2", "input": TEXT},
    "/v1/messages": {"model": "llama3.2", "messages": MESSAGES[1:], "system": "Be short.", "max_tokens": 100},
    "/api/chat": {"model": "llama3.2", "messages": MESSAGES},
    "/api/generate": {"model": "llama3.2", "prompt": TEXT},
}
PLAIN = {
    "/v1/embeddings": {"model": "all-minilm", "input": ["one", "two"]},
    "/api/embed": {"model": "all-minilm", "input": ["one", "two"]},
    "/v1/chat/completions": {
        "model": "llama3.2", "messages": MESSAGES, "tools": [{"type": "function", "function": TOOL}], "max_tokens": 50,
    },
    "/v1/messages/count_tokens": {"model": "llama3.2", "messages": MESSAGES[1:]},
}
READ = [
    "/v1/models", "/v1/models/llama3.2", "/api/tags", "/api/ps", "/api/version", "/v1/usage", "/v1/usage/summary",
    "/v1/me", "/v1/me/requests",
]
READ_BY_OPERATORS = [
    "/metrics", "/health/ready", "/admin/nodes", "/admin/queue", "/admin/users", "/admin/requests",
    "/admin/usage?group_by=day,user",
]


def train(bench, gateway, sim, folder):
    """Puts `gateway` under load; it leaves its counts when it ends."""
    bench.start([bench.TOOL, "upstream", bench.UPSTREAM], core=1)
    bench.start([sim, "--listen", bench.NGINX, "--speed", "inf", "--load-gb-s", "inf", "--slots", "64"], core=1)
    for node in (bench.UPSTREAM, bench.NGINX):
        environment = bench.gateway_environment(f"sqlite://{folder}/{node.rpartition(':')[2]}.db", folder)
        environment["GATEWAY__NODES"] = json.dumps([{"name": "a", "url": f"http://{node}", "slots": 1024}])
        process = bench.start([gateway], environment=environment, log=folder / "gateway.log")
        bench.until_ready(process, 60)
        key = bench.user_with_limits()
        if node == bench.UPSTREAM:
            load(bench, key)
        else:
            ask_everything(bench, key)
        bench.stop(process)


def load(bench, key):
    for options in (
        dict(clients=64, requests=6000), dict(clients=8, requests=2000), dict(clients=1, requests=1000),
        dict(clients=200, requests=600, chunks=100), dict(clients=200, requests=600, chunks=100, pause=20),
    ):
        bench.load(bench.PORT, key, seconds=120, **options)


def ask_everything(bench, key):
    bodies = [(path, {**body, "stream": stream}) for path, body in OFTEN.items() for stream in (True, False)]
    bodies += PLAIN.items()
    kinds = [(key, path, body, 200) for path, body in bodies] * REQUESTS
    reads = [(key, path, None, 200) for path in READ] + [(bench.ADMIN, path, None, 200) for path in READ_BY_OPERATORS]
    reads += [
        ("sk-unknown", "/v1/models", None, 401), (key, "/v1/chat/completions", {"model": "no", "messages": MESSAGES}, 404),
    ]
    with ThreadPoolExecutor(AT_ONCE) as clients:
        statuses = list(clients.map(lambda kind: ask(bench, *kind[:3]), kinds))
    # A user may read only a few pages at a time.
    statuses += [ask(bench, *read[:3]) for read in reads * READS]
    kinds += reads * READS
    # A kind that is refused would teach the compiler how to refuse.
    other = {(path, status) for (_, path, _, wanted), status in zip(kinds, statuses) if status != wanted}
    if other:
        sys.exit(f"answers that were not expected: {sorted(other)}")


def ask(bench, key, path, body):
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{bench.PORT}{path}", data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
            return answer.status
    except urllib.error.HTTPError as refused:
        refused.read()
        return refused.code


def make(bench, folder, output):
    """Builds the gateway that counts, puts it under load, and writes what it counted to `output`."""
    sysroot = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True).stdout.strip()
    merge = next(Path(sysroot).glob("lib/rustlib/*/bin/llvm-profdata"), None)
    if merge is None:
        sys.exit("llvm-profdata is not installed: rustup component add llvm-tools")
    target = bench.TARGET.parent / "counting"
    counts = target / "counts"
    flags = {**os.environ, "RUSTFLAGS": f"-Cprofile-generate={counts}", "CARGO_TARGET_DIR": str(target)}
    if not os.environ.get("NO_BUILD"):
        subprocess.run(["cargo", "build", "--locked", *OPTIONS], cwd=bench.ROOT, env=flags, check=True)
        subprocess.run(["cargo", "build", "--release", "--locked", "-p", "ollama-sim"], cwd=bench.ROOT, check=True)
    # Build scripts that were built so have left theirs.
    for file in counts.glob("*"):
        file.unlink()
    train(bench, target / "dist" / "ollama-gateway", bench.TARGET / "ollama-sim", folder)
    # One file for all runs of the same program.
    files = list(counts.glob("*.profraw"))
    # Without the functions that never ran: with them the file is six times as large, and the compiler would make whatever is
    # missing here, such as TLS, small and slow.
    subprocess.run([merge, "merge", "-sparse", "-o", output, *files], check=True)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
    compiler = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    output.with_name("profile.json").write_text(json.dumps({"rustc": compiler}) + "\n")
