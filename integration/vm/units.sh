#!/usr/bin/env bash
# The systemd units, really: in a guest whose PID 1 is systemd, on cgroup v2.
#
#   units.sh            boots the guest and runs itself there
#
# Installs as `make install` does, then: socket activation, readiness, what the
# unit promises of the process (delegation, limits, score), containers over
# kill, restart, watchdog and stop, and the end.
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
    exec "$here/vmrun" --cgroup v2 --systemd --timeout 900 -- \
        env BERTH_BIN="$programs" bash "$here/units.sh" guest
fi

say() { echo "== $*"; }
fail() {
    echo "FAILED: $*" >&2
    systemctl status --no-pager -l berth-agent.service berth-agent.socket >&2 || true
    journalctl --no-pager -n 40 -u berth-agent.service >&2 2>/dev/null || true
    exit 1
}
is() { # is WHAT EXPECTED FOUND
    [ "$2" = "$3" ] || fail "$1: expected $2, found $3"
    echo "   $1: $3"
}
property() { systemctl show --value -p "$1" "$2"; }
agent() { property MainPID berth-agent.service; }
# Waits until COMMAND succeeds; the guest is emulated, and slow.
until_() {
    local end=$((SECONDS + 60))
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || fail "not within 60 s: $*"
        sleep 0.2
    done
}
active() { [ "$(property ActiveState berth-agent.service)" = active ]; }
another() { active && [ "$(agent)" != "$1" ] && [ "$(agent)" != 0 ]; }
init_of() { berthctl inspect "$1" | sed -n 's/.*"pid": \([0-9]*\).*/\1/p' | head -1; }
kept() { # kept SINCE: the container is what it was before
    until_ berthctl ps
    is "$1: the container's process" "$init" "$(init_of keep)"
    kill -0 "$init" || fail "$1: the container is dead"
}

say "install"
mount -t tmpfs tmpfs /var/lib # the agent's root, off the overlay
make --no-print-directory -s -o build install BIN="$programs"
systemd-analyze verify /usr/lib/systemd/system/berth-agent.{service,socket} ||
    fail "systemd-analyze verify"
systemctl daemon-reload

say "socket activation"
systemctl start berth-agent.socket
is "mode of the socket" 600 "$(stat -c %a /run/berth/agent.sock)"
is "mode of its directory" 700 "$(stat -c %a /run/berth)"
is "service before a client" inactive "$(property ActiveState berth-agent.service)"
until_ berthctl version # emulated, an agent may need longer than it holds a client
is "service after a client" active "$(property ActiveState berth-agent.service)"
is "readiness protocol" notify "$(property Type berth-agent.service)"
is "its word" serving "$(property StatusText berth-agent.service)"

say "what the unit promises"
pid=$(agent)
is "score when memory runs out" -999 "$(cat "/proc/$pid/oom_score_adj")"
is "open files" "1048576 1048576" "$(awk '/^Max open files/ {print $4, $5}' "/proc/$pid/limits")"
group=/sys/fs/cgroup$(property ControlGroup berth-agent.service)
is "processes and threads" max "$(cat "$group/pids.max")"
is "delegation" yes "$(property Delegate berth-agent.service)"
is "signal to the rest at a stop" process "$(property KillMode berth-agent.service)"
is "watchdog" 1min "$(property WatchdogUSec berth-agent.service)"

say "a container"
image=$(mktemp -d)
mkdir -p "$image/bin"
cp "$workspace/target/tools/debian/bin/busybox" "$image/bin/"
ln -s busybox "$image/bin/sh"
tar -C "$image" -c . | berthctl import - units:1 ||
    fail "the image cannot be imported"
berthctl run -d --name keep units:1 busybox sh -c 'while :; do busybox sleep 1; done'
init=$(init_of keep)
[ -n "$init" ] || fail "the container has no process"
is "score of the container" 0 "$(cat "/proc/$init/oom_score_adj")"
is "open files of the container below the agent's" yes \
    "$([ "$(awk '/^Max open files/ {print $4}' "/proc/$init/limits")" -le 1048576 ] && echo yes)"

say "journal"
id=$(berthctl ps -q --no-trunc | head -1)
until_ sh -c "journalctl -o cat CONTAINER_ID=$id | grep 'container is created'"
echo "   the container's lines are found by CONTAINER_ID"

say "kill -9"
before=$(agent)
kill -9 "$before"
until_ another "$before"
kept "kill -9"

say "restart"
before=$(agent)
systemctl restart berth-agent.service
another "$before" || fail "it is not another agent"
kept restart

say "reload"
before=$(agent)
berthctl exec -i keep busybox sh -c 'read x; echo "$x"' < <(while [ ! -e /tmp/reloaded ]; do sleep 0.2; done; echo through) >/tmp/exec &
exec_pid=$!
until_ sh -c 'pgrep -f "[r]ead x"'
systemctl reload berth-agent.service
until_ another "$before"
kept reload
is "what serves after a reload" serving "$(property StatusText berth-agent.service)"
kill -0 "$before" || fail "the old agent does not serve its stream"
touch /tmp/reloaded
wait "$exec_pid"
is "a stream that was open" through "$(cat /tmp/exec)"
until_ sh -c "! kill -0 $before"
before=$(agent)
kill -HUP "$before" # reads the configuration again
kept "SIGHUP"
is "the agent after SIGHUP" "$before" "$(agent)"

say "watchdog"
mkdir -p /run/systemd/system/berth-agent.service.d
printf '[Service]\nWatchdogSec=5\n' >/run/systemd/system/berth-agent.service.d/test.conf
systemctl daemon-reload
systemctl restart berth-agent.service
sleep 8
before=$(agent)
active || fail "the agent does not ping the watchdog"
kill -STOP "$before"
until_ another "$before"
# This guest's systemd logs to the kernel. (Not grep -q: it would end the pipe.)
dmesg | grep "Watchdog timeout" >/dev/null || fail "systemd did not miss the pings"
kept watchdog
rm -r /run/systemd/system/berth-agent.service.d
systemctl daemon-reload

say "stop"
systemctl stop berth-agent.service
is "after a stop" inactive "$(property ActiveState berth-agent.service)"
kill -0 "$init" || fail "the stop killed the container"
# On a real machine the first call is held until the agent serves.
until_ sh -c "berthctl ps | grep keep"
kept "wake"

say "the end"
berthctl rmp --force keep
[ ! -e "/proc/$init" ] || fail "the container outlived its pod"
systemctl stop berth-agent.socket berth-agent.service
is "result" success "$(property Result berth-agent.service)"
is "processes left" "" "$(pgrep -d ' ' berth || true)"
is "groups left" "" "$(find /sys/fs/cgroup -maxdepth 1 -name 'berth*')"
say "all is as it should be"
