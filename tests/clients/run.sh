#!/usr/bin/env bash
# The real clients against a demo, and against a gateway whose node is slow or breaks. Each client has an environment
# of its own below target/clients. Names of clients as arguments run those alone. Needs python3 and, for the clients in
# JavaScript, node; installs node where it is missing (Debian, root or sudo). Leaves nothing running.
set -uo pipefail
here=$(realpath "$(dirname "$0")")
cd "$here/../.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
gateway=$(realpath "${GATEWAY_BIN:-$target/debug/ollama-gateway}")
homes=$target/clients
scratch=$(mktemp -d "${TMPDIR:-/tmp}/gateway-clients.XXXXXX")
export ADMIN_API_KEY=admin-secret-key PYTHONDONTWRITEBYTECODE=1 DO_NOT_TRACK=1
# What the caller has set for servers of theirs must not turn these clients to them.
unset "${!OPENAI_@}" "${!ANTHROPIC_@}" "${!OLLAMA_@}" "${!LITELLM_@}" "${!LANGCHAIN_@}" "${!LANGSMITH_@}"
pids=()

finish() {
    local code=$?
    trap - EXIT
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
    rm -rf "$scratch"
    exit "$code"
}
trap finish EXIT

fail() {
    printf '%s\n' "$1" >&2
    if [[ -f ${2:-} ]]; then tail -n 40 "$2" >&2; fi
    exit 1
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Waits until all nodes of the gateway at this address are up.
wait_ready() {
    local url=$1 log=$2
    for _ in {1..300}; do
        if curl --silent "$url/health" | grep -q '"status":"ok"'; then return; fi
        if ! kill -0 "${pids[-1]}" 2>/dev/null; then break; fi
        sleep 0.1
    done
    fail "the gateway at $url is not up" "$log"
}

start_gateways() {
    local port
    port=$(free_port)
    export GATEWAY_URL=http://127.0.0.1:$port
    "$gateway" demo --bind "127.0.0.1:$port" >"$scratch/demo.log" 2>&1 &
    pids+=($!)
    wait_ready "$GATEWAY_URL" "$scratch/demo.log"

    python3 "$here/node.py" >"$scratch/node.port" 2>"$scratch/node.log" &
    pids+=($!)
    for _ in {1..100}; do
        if [[ -s $scratch/node.port ]]; then break; fi
        sleep 0.1
    done
    port=$(free_port)
    export FAULTY_GATEWAY_URL=http://127.0.0.1:$port
    mkdir "$scratch/faulty"
    (
        cd "$scratch/faulty" || exit 1
        export GATEWAY__SERVER__BIND=127.0.0.1:$port GATEWAY__ADMIN__KEY=$ADMIN_API_KEY
        export GATEWAY__RELAY__COMMIT_SECONDS=1 GATEWAY__RELAY__KEEP_ALIVE_SECONDS=1
        export GATEWAY__NODES="[{\"name\":\"faulty\",\"url\":\"http://127.0.0.1:$(<"$scratch/node.port")\",\"slots\":8}]"
        exec "$gateway"
    ) >"$scratch/faulty.log" 2>&1 &
    pids+=($!)
    wait_ready "$FAULTY_GATEWAY_URL" "$scratch/faulty.log"
}

# Installs node where a client needs it and it is missing.
need_node() {
    if command -v node >/dev/null && command -v npm >/dev/null; then return; fi
    local as_root=()
    if ((EUID != 0)); then as_root=(sudo); fi
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends nodejs npm)
    "${as_root[@]}" "${install[@]}" || { "${as_root[@]}" apt-get update && "${as_root[@]}" "${install[@]}"; }
}

# Makes the environment of a client, unless it is there and was made from the same files.
install_client() {
    local client=$1 home=$homes/$1 wanted
    if [[ -f $here/$client/requirements.txt ]]; then
        wanted=$(sha256sum "$here/$client/requirements.txt"; python3 -VV)
    else
        need_node || return 1
        wanted=$(sha256sum "$here/$client/package.json" "$here/$client/package-lock.json"; node --version)
    fi
    if [[ -f $home/made-for && $(<"$home/made-for") == "$wanted" ]]; then return; fi
    rm -rf "$home"
    mkdir -p "$home"
    if [[ -f $here/$client/requirements.txt ]]; then
        python3 -m venv "$home" &&
            "$home/bin/pip" install --quiet --disable-pip-version-check -r "$here/$client/requirements.txt" || return 1
    else
        cp "$here/$client/package.json" "$here/$client/package-lock.json" "$home"
        (cd "$home" && npm ci --silent --no-audit --no-fund --ignore-scripts) || return 1
    fi
    # Last, so that one that is only half made is not used again.
    printf '%s' "$wanted" >"$home/made-for"
}

run_client() {
    local client=$1 home=$homes/$1
    if [[ -f $here/$client/requirements.txt ]]; then
        PYTHONPATH=$here timeout 180 "$home/bin/python" "$here/$client/client.py"
    else
        # JavaScript looks for packages beside the program.
        cp "$here/gateway.mjs" "$here/$client/client.mjs" "$home" && timeout 180 node "$home/client.mjs"
    fi
}

[[ -x $gateway ]] || cargo build --locked || fail "the gateway cannot be built"
start_gateways
clients=("$@")
if ((${#clients[@]} == 0)); then
    for folder in "$here"/*/; do clients+=("$(basename "$folder")"); done
fi

table=
passed=0
failed=0
for client in "${clients[@]}"; do
    log=$scratch/$client.log
    began=$SECONDS
    if install_client "$client" >"$log" 2>&1 && run_client "$client" >"$log" 2>&1 && grep -q '^PASS ' "$log"; then
        versions=$(sed -n 's/^PASS //p' "$log" | paste -sd, | sed 's/,/, /g')
        result=pass
        passed=$((passed + 1))
    else
        versions=$(sed -n 's/^PASS //p' "$log" | paste -sd,)
        result=FAIL
        failed=$((failed + 1))
        printf '\n== %s\n' "$client" >&2
        tail -n 40 "$log" >&2
    fi
    table+=$(printf '%-18s %-46s %-5s %3s s' "$client" "${versions:--}" "$result" $((SECONDS - began)))$'\n'
    printf '%s: %s\n' "$client" "$result"
done
printf '\n%-18s %-46s %s\n%s\n%s passed, %s failed\n' client versions result "$table" "$passed" "$failed"
((failed == 0))
