#!/usr/bin/env bash
# What `make test` does: format, lints, release programs, unit tests, tests of
# the programs, some of them again in guests with cgroup v2. Every step runs even
# if an earlier one failed; the last line adds up all tests, and a step that is
# not a test counts as one.
set -uo pipefail

cd "$(dirname "$0")/.."
log=$PWD/target/test.log
mkdir -p target
: >"$log"
passed=0
failed=0
broken=()

# Runs a step with its time; its output is shown and kept.
step() { # NAME COMMAND...
    local name=$1 began=$SECONDS status
    shift
    printf '\n==== %s\n' "$name"
    "$@" 2>&1 | tee -a "$log" "$log.step"
    status=${PIPESTATUS[0]}
    printf '==== %s: %s s\n' "$name" $((SECONDS - began))
    [ "$status" = 0 ] || broken+=("$name")
    return "$status"
}

# A step that passes or fails as a whole.
check() {
    if step "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
    : >"$log.step"
}

# A step of cargo test, whose summaries are added up.
tests() {
    local status=0 p f
    step "$@" || status=$?
    read -r p f < <(awk '/^test result:/ { p += $4; f += $6 } END { print p + 0, f + 0 }' "$log.step")
    passed=$((passed + p))
    failed=$((failed + f))
    # It did not build, or a test took its process along.
    if [ "$status" != 0 ] && [ "$f" = 0 ]; then failed=$((failed + 1)); fi
    : >"$log.step"
}

guests() { integration/tools.sh vm && integration/vm/test.sh; }

flags=${CARGO_FLAGS:---locked}
: >"$log.step"
integration/tools.sh test || { echo "0 passed, 1 failed"; exit 1; }

check "format" cargo fmt --all --check
check "lints" cargo clippy $flags --workspace --all-targets -- -D warnings
# First, since the engine's tests start real shims.
check "release programs" make --no-print-directory build
tests "unit tests" cargo test $flags --workspace --exclude berth-integration --no-fail-fast
# The tests of the programs share one machine: more than two at a time would
# only measure how they disturb each other.
tests "tests of the programs" cargo test $flags -p berth-integration --no-fail-fast -- --test-threads=2
# A selection of the sweeps; `make test-faults` runs them whole.
tests "faults" env BERTH_SWEEP_EVERY=9 BERTH_STORM_SECONDS=12 BERTH_SOAK_PODS=160 \
    cargo test $flags -p berth-integration --test faults -- --nocapture --test-threads=1
# The tests of the list in integration/vm, where control groups are as nodes have them.
tests "guests with cgroup v2" guests
# The suite is written in Go; without one, only CI insists.
if [ -n "${CI:-}" ] || command -v go >/dev/null; then
    check "conformance" integration/conformance/run.sh --check
else
    echo "note: there is no Go here: conformance is not checked"
fi
rm -f "$log.step"

if [ "$failed" != 0 ]; then
    printf '\nfailed: %s\n' "${broken[*]}"
    grep -E '^(test .* \.\.\. FAILED|error(\[|:)|no longer passes: )' "$log" | sort -u | head -40
fi
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
