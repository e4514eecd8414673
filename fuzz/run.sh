#!/usr/bin/env bash
# Fuzzes the targets of fuzz/src/lib.rs:
#
#   run.sh [TARGET...]        default: all
#
#   FUZZ_SECONDS=60           for each target
#   FUZZ_JOBS=                targets at once; default: one for each processor
#   FUZZ_REPLAY=FILE          only runs TARGET on this input
#
# Begins with fuzz/seeds/TARGET and what earlier runs have found, which is kept,
# minimised, in target/fuzz/corpus/TARGET. An input that breaks its target is
# written to target/fuzz/found, and the exit status is not 0.
set -euo pipefail

cd "$(dirname "$0")/.."
here=$PWD/fuzz
out=$PWD/target/fuzz
seconds=${FUZZ_SECONDS:-60}
# Far beyond what any target needs for one input, in seconds and MiB.
slow=20
memory=1024
# Inputs are small: what is large is found sooner as a longer run of something small.
length=65536

command -v g++ >/dev/null || {
    echo "installing g++, which libFuzzer is compiled with"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq g++
} >&2

host=$(rustc -vV | sed -n 's/^host: //p')
RUSTC_WRAPPER=$here/instrument cargo build --locked --quiet --profile fuzz \
    --target "$host" --target-dir "$out/build" -p berth-fuzz --features libfuzzer
program=$out/build/$host/fuzz/berth-fuzz

all=$(sed -n 's/^    ("\([a-z0-9]*\)", .*/\1/p' "$here/src/lib.rs")
[ $# -gt 0 ] || set -- $all
for target in "$@"; do
    grep -qx "$target" <<<"$all" || { echo "error: no target $target; there are:" $all >&2; exit 2; }
done

if [ -n "${FUZZ_REPLAY:-}" ]; then
    [ $# = 1 ] || { echo "error: FUZZ_REPLAY needs TARGET=..., the one that it is for" >&2; exit 2; }
    BERTH_FUZZ_TARGET=$1 exec "$program" -timeout=$slow -rss_limit_mb=$memory "$FUZZ_REPLAY"
fi

mkdir -p "$out/found" "$out/log"

# One target; its log goes to a file, since several run at once.
one() {
    local target=$1 corpus=$out/corpus/$1 log=$out/log/$1 status=0
    mkdir -p "$corpus"
    export BERTH_FUZZ_TARGET=$target
    "$program" -max_total_time="$seconds" -timeout=$slow -rss_limit_mb=$memory \
        -max_len=$length -print_final_stats=1 -artifact_prefix="$out/found/$target-" \
        "$corpus" "$here/seeds/$target" >"$log" 2>&1 || status=$?
    local runs coverage
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(sed -n 's/.* cov: \([0-9]*\).*/\1/p' "$log" | tail -1)
    if [ "$status" != 0 ]; then
        local input
        input=$(sed -n 's/.*Test unit written to \(.*\)/\1/p' "$log" | tail -1)
        printf '%-12s BROKEN\n' "$target"
        grep -m3 -E "panicked|ERROR: libFuzzer|assertion" -A2 "$log" | sed 's/^/    /'
        printf '    again: make fuzz TARGET=%s FUZZ_REPLAY=%s\n    log:   %s\n' "$target" "$input" "$log"
        return 1
    fi
    # Keeps the fewest inputs that reach as much.
    rm -rf "$corpus.new"
    mkdir "$corpus.new"
    if "$program" -merge=1 -timeout=$slow -rss_limit_mb=$memory -max_len=$length \
        "$corpus.new" "$corpus" "$here/seeds/$target" >>"$log" 2>&1; then
        rm -rf "$corpus"
        mv "$corpus.new" "$corpus"
    else
        rm -rf "$corpus.new"
    fi
    printf '%-12s %9s runs in %s s, %s places reached, %s inputs kept\n' \
        "$target" "$runs" "$seconds" "$coverage" "$(find "$corpus" -type f | wc -l)"
}

failed=0 running=0
jobs=${FUZZ_JOBS:-$(nproc)}
for target in "$@"; do
    if [ "$running" -ge "$jobs" ]; then
        wait -n || failed=1
        running=$((running - 1))
    fi
    one "$target" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
done
exit $failed
