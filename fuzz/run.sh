#!/usr/bin/env bash
# Fuzzes every target, or those that are named, for so many seconds each; then keeps what adds coverage in the corpus:
#   fuzz/run.sh SECONDS [TARGET...]
# With 0 seconds it only minimises. A corpus is one archive, corpus/TARGET.tar.gz, which is unpacked here and packed again.
# Needs a C++ compiler beside Rust, and no nightly: these are the flags of `cargo fuzz --sanitizer none`. The parsers are
# safe code, so a sanitizer would have nothing to see.
set -euo pipefail
cd "$(dirname "$0")"
seconds=$1
shift
targets=("$@")
if ((${#targets[@]} == 0)); then
    mapfile -t targets < <(sed -n '/^\[\[bin\]\]/,/^$/s/^name = "\(.*\)"/\1/p' Cargo.toml)
fi
# The configuration needs the whole gateway, which takes minutes to build.
features=()
for target in "${targets[@]}"; do
    if sed -n "/^name = \"$target\"/,/^$/p" Cargo.toml | grep -q required-features; then features=(--features settings); fi
done

host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}
export RUSTFLAGS="-Cpasses=sancov-module -Ccodegen-units=1 --cfg fuzzing -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares"
RUSTFLAGS=$(tr -s '\n ' ' ' <<<"$RUSTFLAGS")
# The same versions of everything as the gateway has.
cp ../Cargo.lock Cargo.lock
# Only what runs in the end: build scripts and macros stay as they are.
cargo build --release --target "$host" "${features[@]}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for target in "${targets[@]}"; do
    printf '\n== %s\n' "$target"
    program=$CARGO_TARGET_DIR/$host/release/$target
    packed=corpus/$target.tar.gz
    mkdir -p "$work/$target"/{known,found,kept} corpus
    if [[ -e $packed ]]; then tar -C "$work/$target/known" -xzf "$packed"; fi
    if ((seconds > 0)); then
        "$program" -max_total_time="$seconds" -max_len=4096 -dict=words.dict -print_final_stats=1 -verbosity=0 \
            -artifact_prefix="$work/" "$work/$target/found" "$work/$target/known"
    fi
    # The smallest inputs that together reach all that any input reaches.
    "$program" -set_cover_merge=1 -max_len=4096 -verbosity=0 "$work/$target/kept" "$work/$target/known" "$work/$target/found"
    # The same inputs give the same bytes.
    tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=0644 --format=ustar \
        -C "$work/$target/kept" -cf - --transform='s,^\./,,' . | gzip -9n >"$packed"
    printf '%s: %s inputs, %s bytes packed\n' "$target" "$(find "$work/$target/kept" -type f | wc -l)" "$(stat -c %s "$packed")"
done
