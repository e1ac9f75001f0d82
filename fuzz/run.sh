#!/usr/bin/env bash
# Fuzzes every target, or those that are named, for so many seconds each, and adds what it finds to the corpus:
#   fuzz/run.sh SECONDS [TARGET...]
# Needs a C++ compiler beside Rust, and no nightly: these are the flags of `cargo fuzz --sanitizer none`. The parsers are
# safe code, so that there is nothing for a sanitizer to see.
set -euo pipefail
cd "$(dirname "$0")"
seconds=$1
shift
targets=("$@")
if ((${#targets[@]} == 0)); then
    for file in targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi

host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}
export RUSTFLAGS="-Cpasses=sancov-module -Ccodegen-units=1 --cfg fuzzing -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares"
RUSTFLAGS=$(tr -s '\n ' ' ' <<<"$RUSTFLAGS")
# The same versions of everything as the gateway has.
cp ../Cargo.lock Cargo.lock
# Only what runs in the end: build scripts and macros stay as they are.
cargo build --release --target "$host" --features settings

found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
for target in "${targets[@]}"; do
    printf '\n== %s\n' "$target"
    program=$CARGO_TARGET_DIR/$host/release/$target
    mkdir -p "$found/$target" "corpus/$target"
    "$program" -max_total_time="$seconds" -max_len=4096 -dict=words.dict -print_final_stats=1 -verbosity=0 \
        -artifact_prefix="$found/" "$found/$target" "corpus/$target"
    # What adds nothing to the coverage of the rest is left out.
    "$program" -merge=1 -max_len=4096 -verbosity=0 "corpus/$target" "$found/$target"
done
