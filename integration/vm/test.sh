#!/usr/bin/env bash
# Tests of the programs in a guest with cgroup v2, for machines that have v1:
#
#   test.sh [FILTER...]      default: what depends on control groups
#
# The guest is emulated where there is no KVM, and then about ten times slower,
# so this is not part of `make test`.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
workspace=$(cd "$here/../.." && pwd)
cd "$workspace"
[ $# -gt 0 ] || set -- limits_are_written out_of_memory what_a_program_leaves goes_from_created

for package in qemu-system-x86 qemu-system-common kmod cpio xz-utils e2fsprogs; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="${missing:-} $package"
done
[ -z "${missing:-}" ] || {
    apt-get update -qq
    # shellcheck disable=SC2086 # a list
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

# Debian 12's own kernel cannot add lower layers by descriptor; its backports'
# can. The source is used here only, the machine's list stays as it is.
. /etc/os-release
if [ "${VERSION_CODENAME:-}" = bookworm ] && [ -z "${VMRUN_KERNEL:-}" ]; then
    apt=$workspace/target/tools/apt
    mkdir -p "$apt/lists/partial" "$apt/parts"
    echo 'deb http://deb.debian.org/debian bookworm-backports main' >"$apt/sources.list"
    cat >"$apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "$apt/parts";
Dir::State::lists "$apt/lists";
CONF
    export APT_CONFIG=$apt/apt.conf VMRUN_APT_RELEASE=bookworm-backports
    apt-get update -qq
fi

test=$(cargo test --locked -p berth-integration --test node --no-run --message-format=json 2>/dev/null |
    sed -n 's|.*"executable":"\([^"]*/deps/node-[^"]*\)".*|\1|p' | tail -1)
[ -x "$test" ] || { echo "error: the tests do not build" >&2; exit 1; }

exec "$here/vmrun" --cgroup v2 --timeout 1800 -- \
    env BERTH_TEST_DIR=/scratch BERTH_BIN="$workspace/target/berth/bin" CI= \
    "$test" --test-threads=1 "$@"
