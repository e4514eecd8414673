#!/usr/bin/env bash
# berth-oci with systemd's scopes, really: in a guest whose PID 1 is systemd, on cgroup v2.
#
#   scopes.sh            boots the guest and runs itself there
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
workspace=$(cd "$here/../.." && pwd)
cd "$workspace"
programs=${BERTH_BIN:-$workspace/target/berth/bin}

if [ "${1:-}" != guest ]; then
    . "$here/kernel.sh"
    # The guest's first program.
    export PATH=$workspace/target/tools/debian/bin:$PATH
    export VMRUN_CACHE=$workspace/target/vm
    . /etc/os-release
    [ "${VERSION_CODENAME:-}" != bookworm ] || [ -n "${VMRUN_KERNEL:-}" ] || use_backports bookworm
    exec "$here/vmrun" --cgroup v2 --systemd --timeout 600 -- \
        env BERTH_BIN="$programs" bash "$here/scopes.sh" guest
fi

say() { echo "== $*"; }
fail() {
    echo "FAILED: $*" >&2
    systemctl status --no-pager -l 'berth-*.scope' >&2 || true
    exit 1
}
is() { # is WHAT EXPECTED FOUND
    [ "$2" = "$3" ] || fail "$1: expected $2, found $3"
    echo "   $1: $3"
}
property() { systemctl show --value -p "$1" "$2"; }
oci() { BERTH_SHIM=$programs/berth-shim "$programs/berth-oci" --root "$home/run" --systemd-cgroup "$@"; }
gone() { # gone UNIT
    local end=$((SECONDS + 30))
    while systemctl list-units --all --plain --no-legend "$1" | grep -q .; do
        [ $SECONDS -lt $end ] || fail "unit $1 is left"
        sleep 0.2
    done
    [ ! -e "/sys/fs/cgroup/$2" ] || fail "group $2 is left"
    echo "   gone: $1"
}

home=$(mktemp -d)
mkdir -p "$home"/bundle/rootfs/{bin,proc,dev,tmp}
cp "$(command -v busybox)" "$home/bundle/rootfs/bin/busybox"
for applet in sh sleep cat true; do ln -s busybox "$home/bundle/rootfs/bin/$applet"; done
config() { # config CGROUPSPATH PROPERTY
    cat >"$home/bundle/config.json" <<END
{"ociVersion": "1.0.2", "root": {"path": "rootfs"},
 "process": {"args": ["/bin/sleep", "1000"], "cwd": "/", "env": ["PATH=/bin"],
             "user": {"uid": 0, "gid": 0}},
 "annotations": {"org.systemd.property.TimeoutStopUSec": "$2"},
 "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}],
 "linux": {"cgroupsPath": "$1",
           "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "cgroup"}],
           "resources": {"memory": {"limit": 67108864}, "pids": {"limit": 50},
                         "cpu": {"shares": 512, "quota": 25000, "period": 100000}}}}
END
}
group=berth.slice/berth-test.slice/try-one.scope

say "a container is a scope"
config berth-test.slice:try:one "uint64 7000000"
oci run -d --bundle "$home/bundle" one </dev/null >/dev/null
is "unit" active "$(property ActiveState try-one.scope)"
is "its group" "/$group" "$(property ControlGroup try-one.scope)"
is "its slice" berth-test.slice "$(property Slice try-one.scope)"
is "delegation" yes "$(property Delegate try-one.scope)"
is "a property of one's own" 7s "$(property TimeoutStopUSec try-one.scope)"
pid=$(oci state one | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')
is "where its process is" "0::/$group" "$(cat "/proc/$pid/cgroup")"
is "processes in it" "$pid" "$(tr '\n' ' ' <"/sys/fs/cgroup/$group/cgroup.procs" | sed 's/ $//')"
is "memory, file" 67108864 "$(cat "/sys/fs/cgroup/$group/memory.max")"
is "memory, unit" 67108864 "$(property MemoryMax try-one.scope)"
is "weight" 59 "$(cat "/sys/fs/cgroup/$group/cpu.weight")"
is "quota" 250ms "$(property CPUQuotaPerSecUSec try-one.scope)"
is "an exec is in it" "0::/" "$(oci exec one cat /proc/self/cgroup)"

say "what holds over a reload"
oci update --memory 33554432 --pids-limit 60 one
systemctl daemon-reload
is "memory, file" 33554432 "$(cat "/sys/fs/cgroup/$group/memory.max")"
is "memory, unit" 33554432 "$(property MemoryMax try-one.scope)"
is "processes" 60 "$(cat "/sys/fs/cgroup/$group/pids.max")"
is "quota" "25000 100000" "$(cat "/sys/fs/cgroup/$group/cpu.max")"
oci delete --force one
gone try-one.scope "$group"

say "a name is free again, also after a failure and a kill"
config berth-test.slice:try:one "uint64 7000000"
sed -i 's,/bin/sleep,/bin/absent,' "$home/bundle/config.json"
if oci run -d --bundle "$home/bundle" one </dev/null >/dev/null 2>"$home/said"; then fail "it ran"; fi
gone try-one.scope "$group"
config berth-test.slice:try:one "uint64 7000000"
oci run -d --bundle "$home/bundle" one </dev/null >/dev/null
if oci run -d --bundle "$home/bundle" two </dev/null >/dev/null 2>"$home/said"; then fail "a second one has the unit"; fi
grep -q UnitExists "$home/said" || fail "what it said: $(cat "$home/said")"
is "the first one" running "$(oci state one | sed -n 's/.*"status": "\(.*\)".*/\1/p')"
kill -9 "$(oci state one | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')"
sleep 1
oci delete one
gone try-one.scope "$group"

say "what systemd would not take is refused before anything is made"
for bad in /a/b 'a:b' 'x.slice:p:n/m' 'a--b.slice:p:n'; do
    config "$bad" "uint64 1"
    if oci create --bundle "$home/bundle" one >/dev/null 2>"$home/said"; then fail "$bad was taken"; fi
    grep -q cgroupsPath "$home/said" || fail "$bad: $(cat "$home/said")"
done
config "::one" "rm -rf"
if oci create --bundle "$home/bundle" one >/dev/null 2>"$home/said"; then fail "a property"; fi
grep -q property "$home/said" || fail "$(cat "$home/said")"
[ -z "$(ls "$home/run")" ] || fail "records are left"

if command -v podman >/dev/null; then
    say "podman with the manager that it has by default"
    printf '#!/bin/sh\nBERTH_SHIM=%s exec %s "$@"\n' "$programs/berth-shim" "$programs/berth-oci" >"$home/runtime"
    chmod +x "$home/runtime"
    pod() { podman --root "$home/podman" --runroot "$home/podman.run" --storage-driver vfs \
        --runtime "$home/runtime" --cgroup-manager systemd "$@"; }
    tar -C "$home/bundle/rootfs" -c . | pod import - berth-test >/dev/null
    is "its group" yes "$(pod run --rm --network none --cgroupns host berth-test sh -c \
        'case $(cat /proc/self/cgroup) in 0::/machine.slice/libpod-*.scope*) echo yes;; *) cat /proc/self/cgroup;; esac')"
fi
say "all is well"
