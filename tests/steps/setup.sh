# What the steps of tests/run need: packages, a Postgres, Python, the binaries, a demo. Sourced by tests/run.

venv=$target/venv
# Not below TMPDIR, which other users, such as postgres, may not be able to enter.
scratch=$(mktemp -d /tmp/gateway-tests.XXXXXX)
chmod 711 "$scratch"
memory=
postgres_data=$scratch/postgres
demo_pid=
demo_url=
aside_pid=
doing="what was asked for"

# On every way out.
finish() {
    local code=$?
    trap - EXIT
    if [[ -n $demo_pid ]]; then
        kill -TERM "$demo_pid" || true
        wait "$demo_pid" || true
    fi
    if [[ -n $aside_pid ]]; then kill -TERM -- -"$aside_pid" 2>/dev/null || true; fi
    if [[ -f $postgres_data/postmaster.pid ]]; then
        as_postgres pg_ctl -D "$postgres_data" -m immediate -w stop >"$scratch/stop.log" 2>&1 || cat "$scratch/stop.log"
    fi
    if ((code != 0)); then
        if [[ -f $scratch/demo.log ]]; then tail -n 40 "$scratch/demo.log"; fi
        printf '\nFAILED (%s): %s\n' "$code" "$doing"
    fi
    rm -rf "$scratch" ${memory:+"$memory"}
    exit "$code"
}
trap finish EXIT

as_root() {
    if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

install_packages() {
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@")
    as_root "${install[@]}" || { as_root apt-get update && as_root "${install[@]}"; }
}

# need PROGRAM PACKAGE: installs the package unless the program is there.
need() {
    command -v "$1" >/dev/null || install_packages "$2"
}

# need_library FILE PACKAGE: installs the package unless the dynamic linker knows the file.
need_library() {
    # Not on the PATH of other users than root.
    /sbin/ldconfig -p | grep -F "$1" >/dev/null || install_packages "$2"
}

# The newest server's programs, which Debian keeps out of PATH.
postgres_bin() {
    find /usr/lib/postgresql -path '*/bin/initdb' 2>/dev/null | sort -V | tail -n 1 | xargs -r dirname
}

need_postgres_programs() {
    if [[ ${SKIP_POSTGRES:-} != 1 && -z $(postgres_bin) ]]; then install_packages postgresql; fi
}

# Postgres refuses to run as root.
as_postgres() {
    local program
    program=$(postgres_bin)/$1
    shift
    # From a folder that this user may enter.
    if ((EUID == 0)); then (cd / && runuser -u postgres -- "$program" "$@"); else "$program" "$@"; fi
}

# Runs what leaves a server behind: a step ends when nobody holds its output any more, which the server would for ever.
without_pipes() {
    local path
    for path in /proc/"$BASHPID"/fd/*; do
        if ((${path##*/} > 2)); then eval "exec ${path##*/}>&-"; fi
    done
    "$@"
}

# Runs a command with its temporary files in memory, if there is room for them. While a disk still writes what a build
# has left, an fsync takes seconds, and so does an answer of the gateway.
off_the_disk() {
    local free
    free=$(df --output=avail --block-size=1M /dev/shm 2>/dev/null | tail -n 1) || free=0
    if [[ ! -w /dev/shm ]] || ((free < 2048)); then
        sync
        "$@"
        return
    fi
    if [[ -z $memory ]]; then
        memory=$(mktemp -d /dev/shm/gateway-tests.XXXXXX)
        chmod 711 "$memory"
    fi
    TMPDIR=$memory "$@"
}

need_pooler() {
    if [[ ${SKIP_POSTGRES:-} != 1 && ! -x /usr/sbin/pgbouncer ]]; then install_packages pgbouncer; fi
}

# One server for the whole run.
need_postgres() {
    if [[ ${SKIP_POSTGRES:-} == 1 || -n ${TEST_POSTGRES_URL:-} ]]; then return; fi
    need_postgres_programs
    mkdir "$postgres_data"
    if ((EUID == 0)); then chown postgres: "$postgres_data"; fi
    as_postgres initdb -D "$postgres_data" -U postgres --auth=trust --encoding=UTF8 --no-locale --no-sync >"$scratch/initdb.log" ||
        { cat "$scratch/initdb.log"; return 1; }
    # Somebody else may take a port between its choice and its use.
    local port options
    for _ in 1 2 3; do
        port=$(python3 tests/free_port.py)
        # Every test has a database and pools of its own, and many tests run at a time.
        options="-h 127.0.0.1 -p $port -k $postgres_data -F -c max_connections=400"
        if (without_pipes as_postgres pg_ctl -D "$postgres_data" -l "$postgres_data/log" -o "$options" -w -t 60 start) \
            >"$scratch/start.log" 2>&1; then
            export TEST_POSTGRES_URL=postgres://postgres@127.0.0.1:$port/postgres
            return
        fi
    done
    cat "$postgres_data/log"
    return 1
}

need_venv() {
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then install_packages python3-venv; fi
    local wanted
    wanted=$(sha256sum tests/requirements.txt; python3 -VV)
    if [[ -f $venv/made-for && $(<"$venv/made-for") == "$wanted" ]]; then return; fi
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/requirements.txt
    # Last, so that a half-made one is not used again.
    printf '%s' "$wanted" >"$venv/made-for"
}

python_tests() {
    need_venv
    "$venv/bin/python" -m pytest -q -rs "$@"
}

# As `cargo test` builds them: with other features, all dependencies would be compiled a second time.
need_binaries() {
    need cc build-essential
    cargo test --workspace --locked --no-run
}

# Compiles what the benchmark runs while other steps wait for something, as most do: their processes go first, whenever
# they have anything to do.
begin_release_build() {
    local last=(nice -n 19)
    if chrt --idle 0 true 2>/dev/null; then last=(chrt --idle 0); fi
    need cc build-essential
    # A process group of its own, to be ended as a whole.
    without_pipes exec setsid "${last[@]}" cargo build --release --locked -p ollama-gateway -p bench </dev/null >"$scratch/release.log" 2>&1 &
    aside_pid=$!
}

end_release_build() {
    local pid=$aside_pid
    aside_pid=
    if [[ -n $pid ]]; then wait "$pid" || { cat "$scratch/release.log"; return 1; }; fi
}

start_demo() {
    need curl curl
    need_binaries
    demo_url=http://127.0.0.1:$(python3 tests/free_port.py)
    "$GATEWAY_BIN" demo --bind "${demo_url#http://}" >"$scratch/demo.log" 2>&1 &
    demo_pid=$!
    for _ in {1..300}; do
        if curl --silent --fail --output /dev/null "$demo_url/health"; then return; fi
        if ! kill -0 "$demo_pid" 2>/dev/null; then break; fi
        sleep 0.1
    done
    echo "the demo is not up"
    return 1
}

# The demo must end well when it is told to.
stop_demo() {
    local pid=$demo_pid
    demo_pid=
    kill -TERM "$pid"
    wait "$pid"
}
