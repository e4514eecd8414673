#!/usr/bin/env bash
# Tests of the programs in guests with cgroup v2, for machines that have v1:
#
#   test.sh [newest|oldest [FILTER...]]
#
# By default those in the file `tests`, on both kernels. BERTH_BIN is where the
# programs are; default: target/berth/bin.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
workspace=$(cd "$here/../.." && pwd)
cd "$workspace"
programs=${BERTH_BIN:-$workspace/target/berth/bin}
# The guest's first program.
export PATH=$workspace/target/tools/debian/bin:$PATH
export VMRUN_CACHE=$workspace/target/vm
# Far above what the tests of one kernel take; a guest that hangs ends here.
limit=900

. "$here/kernel.sh"

# Runs the tests of one kernel.
run() { # KERNEL TEST...
    local kernel=$1 began=$SECONDS status=0
    shift
    (
        # Debian 12's own kernel is the oldest.
        . /etc/os-release
        [ "$kernel" = oldest ] || [ "${VERSION_CODENAME:-}" != bookworm ] || use_backports bookworm
        "$here/vmrun" --cgroup v2 --timeout $limit -- \
            env BERTH_TEST_DIR=/scratch BERTH_BIN="$programs" CI= bash -c \
            'echo "guest: Linux $(uname -r), cgroup v2"; exec "$@"' - \
            "$test" --test-threads=1 "$@"
    ) || status=$?
    echo "guest with the $kernel kernel: $((SECONDS - began)) s"
    return $status
}

test=$(cargo test --locked -p berth-integration --test node --no-run --message-format=json 2>/dev/null |
    sed -n 's|.*"executable":"\([^"]*/deps/node-[^"]*\)".*|\1|p' | tail -1)
[ -x "$test" ] || fail "the tests do not build: cargo test -p berth-integration --no-run"

if [ $# -gt 1 ]; then
    run "$@"
    exit
fi

# The listed tests must be there: a name that changed would pass unseen.
there=$("$test" --list 2>/dev/null | sed -n 's/: test$//p')
status=0
for kernel in ${1:-newest oldest}; do
    mapfile -t listed < <(sed -n "s/^$kernel //p" "$here/tests")
    for name in "${listed[@]}"; do
        grep -qxF "$name" <<<"$there" || fail "$here/tests: there is no test $name"
    done
    [ "${#listed[@]}" -gt 0 ] || fail "$here/tests has none for the $kernel kernel"
    if [ "$kernel" = oldest ] && ! grep -q bookworm /etc/os-release; then
        echo "note: this release of Debian has no kernel 6.1: its smoke run is left out"
        continue
    fi
    run "$kernel" --exact "${listed[@]}" || status=1
done
exit $status
