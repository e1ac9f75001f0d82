#!/usr/bin/env bash
# The real clients against a demo, and against a gateway whose node is slow or breaks; two at a time. Each client has an
# environment of its own below target/clients, with the versions that its files name. Names of clients as arguments run
# those alone; some take so long to install that they run only so. Needs python3 with venv and, for the clients in
# JavaScript, node and npm; installs what of these is missing (Debian, root or sudo). The client in Go needs Go. Leaves
# nothing running.
set -uo pipefail
here=$(realpath "$(dirname "$0")")
cd "$here/../.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
gateway=$(realpath -m "${GATEWAY_BIN:-$target/debug/ollama-gateway}")
homes=$target/clients
scratch=$(mktemp -d "${TMPDIR:-/tmp}/gateway-clients.XXXXXX")
export ADMIN_API_KEY=admin-secret-key PYTHONDONTWRITEBYTECODE=1 DO_NOT_TRACK=1
# What was fetched once serves the next environment, too.
export PIP_CACHE_DIR=$homes/.cache/pip npm_config_cache=$homes/.cache/npm PIP_DISABLE_PIP_VERSION_CHECK=1
export GOMODCACHE=$homes/.cache/go/modules GOCACHE=$homes/.cache/go/builds GOTOOLCHAIN=local
# What the caller has set for servers of theirs must not turn these clients to them.
unset "${!OPENAI_@}" "${!ANTHROPIC_@}" "${!OLLAMA_@}" "${!LITELLM_@}" "${!LANGCHAIN_@}" "${!LANGSMITH_@}"
npm_options=(--silent --no-audit --no-fund --ignore-scripts)
# These run only by name: installing them takes minutes, or more than half a gigabyte.
by_name=(aider go)
# Clients at once: one computes while another waits.
lanes=2
pids=()
running=()

finish() {
    local code=$?
    trap - EXIT
    for pid in "${running[@]}" "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null; done
    for pid in "${running[@]}" "${pids[@]}"; do wait "$pid" 2>/dev/null; done
    rm -rf "$scratch"
    exit "$code"
}
trap finish EXIT

fail() {
    printf '%s\n' "$1" >&2
    if [[ -f ${2:-} ]]; then tail -n 40 "$2" >&2; fi
    exit 1
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
    port=$(python3 tests/free_port.py)
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
    port=$(python3 tests/free_port.py)
    export FAULTY_GATEWAY_URL=http://127.0.0.1:$port
    mkdir "$scratch/faulty"
    (
        cd "$scratch/faulty" || exit 1
        export GATEWAY__SERVER__BIND=127.0.0.1:$port GATEWAY__ADMIN__KEY=$ADMIN_API_KEY
        # Health is not what is tested here: a busy machine must not make the node look down.
        export GATEWAY__HEALTH__PROBE_TIMEOUT_MS=10000
        # All clients are on one network here.
        export GATEWAY__SERVER__GUESSES_PER_MINUTE=1000
        export GATEWAY__RELAY__COMMIT_SECONDS=1 GATEWAY__RELAY__KEEP_ALIVE_SECONDS=1
        export GATEWAY__NODES="[{\"name\":\"faulty\",\"url\":\"http://127.0.0.1:$(<"$scratch/node.port")\",\"slots\":8}]"
        exec "$gateway"
    ) >"$scratch/faulty.log" 2>&1 &
    pids+=($!)
    wait_ready "$FAULTY_GATEWAY_URL" "$scratch/faulty.log"
}

# Installs what the clients' own package managers need.
need_tools() {
    local packages=()
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then packages+=(python3-venv); fi
    if ! command -v node >/dev/null; then packages+=(nodejs); fi
    if ! command -v npm >/dev/null; then packages+=(npm); fi
    if ((${#packages[@]} == 0)); then return; fi
    local as_root=()
    if ((EUID != 0)); then as_root=(sudo); fi
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}")
    "${as_root[@]}" "${install[@]}" || { "${as_root[@]}" apt-get update && "${as_root[@]}" "${install[@]}"; }
}

# Makes the environment of a client, unless it is there and was made from the same files.
install_client() {
    local client=$1 home=$homes/$1 wanted
    if [[ -f $here/$client/requirements.txt ]]; then
        wanted=$(sha256sum "$here/$client/requirements.txt"; python3 -VV)
    elif [[ -f $here/$client/go.mod ]]; then
        wanted=$(sha256sum "$here/$client/"*; go version)
    else
        wanted=$(sha256sum "$here/$client/package.json" "$here/$client/package-lock.json"; node --version)
    fi
    if [[ -f $home/made-for && $(<"$home/made-for") == "$wanted" ]]; then return; fi
    # Once more where a registry was away for a moment.
    make_home "$client" || { sleep 5; make_home "$client"; } || return 1
    # Last, so that one that is only half made is not used again.
    printf '%s' "$wanted" >"$home/made-for"
}

make_home() {
    local client=$1 home=$homes/$1
    rm -rf "$home"
    mkdir -p "$home"
    if [[ -f $here/$client/requirements.txt ]]; then
        python3 -m venv "$home" && "$home/bin/pip" install --quiet --no-compile -r "$here/$client/requirements.txt"
    elif [[ -f $here/$client/go.mod ]]; then
        go build -C "$here/$client" -mod=readonly -o "$home/client" .
    else
        # `ci` wants the lock to name packages for every other system, too, which a registry may not have.
        cp "$here/$client/package.json" "$here/$client/package-lock.json" "$home" &&
            (cd "$home" && { npm ci "${npm_options[@]}" || npm install "${npm_options[@]}"; })
    fi
}

run_client() {
    local client=$1 home=$homes/$1
    if [[ -f $here/$client/requirements.txt ]]; then
        PYTHONPATH=$here timeout 180 "$home/bin/python" "$here/$client/client.py"
    elif [[ -f $here/$client/go.mod ]]; then
        timeout 180 "$home/client"
    else
        # JavaScript looks for packages beside the program.
        cp "$here/gateway.mjs" "$here/$client/client.mjs" "$home" && timeout 180 node "$home/client.mjs"
    fi
}

# Runs one client; a line of the table, and what it said if that was no good.
check_client() {
    local client=$1 log=$scratch/$1.log began=$SECONDS result=FAIL versions
    if install_client "$client" >"$log" 2>&1 && run_client "$client" >"$log" 2>&1 && grep -q '^PASS ' "$log"; then
        result=pass
    else
        printf '\n== %s\n' "$client" >&2
        tail -n 40 "$log" >&2
    fi
    versions=$(sed -n 's/^PASS //p' "$log" | paste -sd, | sed 's/,/, /g')
    printf '%-18s %-46s %-5s %3s s\n' "$client" "${versions:--}" "$result" $((SECONDS - began)) >"$scratch/$client.row"
    printf '%s: %s\n' "$client" "$result"
}

# Waits until fewer than so many clients run.
until_fewer_than() {
    local alive pid
    while ((${#running[@]} >= $1)); do
        wait -n "${running[@]}" || true
        alive=()
        for pid in "${running[@]}"; do
            if kill -0 "$pid" 2>/dev/null; then alive+=("$pid"); fi
        done
        running=("${alive[@]}")
    done
}

[[ -x $gateway ]] || cargo build --locked || fail "the gateway cannot be built"
clients=("$@")
if ((${#clients[@]} == 0)); then
    for folder in "$here"/*/; do
        name=$(basename "$folder")
        if [[ " ${by_name[*]} " == *" $name "* ]]; then
            printf 'LEFT OUT: %s takes long to install; tests/clients/run.sh %s runs it\n' "$name" "$name"
        elif [[ -f $folder/requirements.txt || -f $folder/package.json ]]; then
            clients+=("$name")
        fi
    done
fi
need_tools >"$scratch/tools.log" 2>&1 || fail "python3-venv, nodejs or npm cannot be installed" "$scratch/tools.log"
start_gateways

for client in "${clients[@]}"; do
    until_fewer_than "$lanes"
    (trap - EXIT; check_client "$client") &
    running+=($!)
done
until_fewer_than 1

passed=0
printf '\n%-18s %-46s %s\n' client versions result
for client in "${clients[@]}"; do
    row=$(cat "$scratch/$client.row" 2>/dev/null) || row="$client  FAIL"
    printf '%s\n' "$row"
    if [[ $row == *" pass "* ]]; then passed=$((passed + 1)); fi
done
failed=$((${#clients[@]} - passed))
printf '\n%s passed, %s failed\n' "$passed" "$failed"
((failed == 0))
