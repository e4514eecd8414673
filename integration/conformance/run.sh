#!/usr/bin/env bash
# Runs the CRI's own test suite against an agent of its own.
#
#   run.sh            all specs; writes docs/conformance.md and prints the counts
#   run.sh --check    the same without writing: fails if a spec of baseline.tsv
#                     no longer passes
#   run.sh --record   as without, and adds what passes to baseline.tsv
#   run.sh --focus R  only the specs that match the expression, with all they say
#
# PARALLEL=1 runs one spec after another (4 at a time otherwise); STREAMS=spdy has exec,
# attach and port-forward over SPDY/3.1 instead of WebSocket.
#
# Everything runs in namespaces of its own (processes, mounts, network, IPC) and
# below one directory, so that the end of this script is the end of all of it,
# however it comes.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
workspace=$(cd "$here/../.." && pwd)
bin=${BERTH_BIN:-$workspace/target/berth/bin}
parts=$workspace/target/conformance
tools=$workspace/target/tools
# The suite takes 15 s here, and a minute more for each thing that it waits for
# in vain.
LIMIT=900
PARALLEL=${PARALLEL:-4}

mode=report focus=
case ${1:-} in
"") ;;
--check) mode=check ;;
--record) mode=record ;;
--focus) mode=focus focus=${2:?an expression} ;;
*)
    sed -n '2,15s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac

fail() {
    echo "error: $*" >&2
    exit 1
}

# ---- outside: make what is needed, and clean up after whatever happens inside.

# Control groups, and the directory; processes and mounts end with their namespaces.
sweep() { # HOME
    local group
    for _ in $(seq 50); do
        find /sys/fs/cgroup -depth -type d -path "*/$(basename "$1")*" -exec rmdir {} + 2>/dev/null || true
        group=$(find /sys/fs/cgroup -type d -name "$(basename "$1")" -print -quit)
        [ -n "$group" ] || break
        sleep 0.1
    done
    rm -rf "$1"
}

if [ -z "${BERTH_CONFORMANCE_HOME:-}" ]; then
    [ "$(id -u)" = 0 ] || fail "run this as root"
    [ -x "$bin/berth-house" ] || fail "$bin/berth-house is missing: run \`make build\`, or set BERTH_BIN"
    "$here/prepare.sh"
    # Of a run that was killed and could not clean up.
    for old in /var/tmp/berth-conformance-*; do
        [ ! -d "$old" ] || kill -0 "$(cat "$old/owner")" 2>/dev/null || sweep "$old"
    done
    BERTH_CONFORMANCE_HOME=$(mktemp -d /var/tmp/berth-conformance-XXXXXXXX)
    export BERTH_CONFORMANCE_HOME
    echo $$ >"$BERTH_CONFORMANCE_HOME/owner"
    inside=
    finish() {
        local status=$?
        trap - EXIT INT TERM HUP
        [ -z "$inside" ] || kill -KILL "$inside" 2>/dev/null || true
        wait 2>/dev/null || true
        mkdir -p "$parts/last"
        cp "$BERTH_CONFORMANCE_HOME"/{agent.log,critest.log,report.json} "$parts/last/" 2>/dev/null || true
        sweep "$BERTH_CONFORMANCE_HOME"
        exit "$status"
    }
    trap finish EXIT
    trap 'exit 130' INT TERM HUP
    # The death of this script, even by SIGKILL, is that of all that it started;
    # then the next run sweeps.
    setpriv --pdeathsig KILL \
        unshare --net --ipc --mount --pid --fork --kill-child --mount-proc \
        timeout --foreground --kill-after=10 "$LIMIT" "$0" "$@" &
    inside=$!
    status=0
    wait "$inside" || status=$?
    inside=
    [ "$status" != 124 ] || fail "the suite did not end within $LIMIT s"
    exit "$status"
fi

# ---- inside.

home=$BERTH_CONFORMANCE_HOME
ip link set lo up
mkdir "$home"/{root,run,tmp,home}
export TMPDIR=$home/tmp HOME=$home/home

until_true() { # WHAT COMMAND...
    local what=$1
    shift
    for _ in $(seq 300); do
        "$@" >/dev/null 2>&1 && return
        # The last one started is what is waited for; dead, it will never come.
        kill -0 $! 2>/dev/null || break
        sleep 0.1
    done
    tail -n 20 "$home"/*.log >&2
    fail "$what: not within 30 seconds"
}

# One registry is the mirror of all that the suite's images come from.
mirror=127.0.0.1:5000
"$bin/berth-house" offer --parts "$parts" --listen "$mirror" \
    >"$home/registries" 2>"$home/registry.log" &
until_true "the registry offers the images" test -s "$home/registries"
for name in $(<"$home/registries"); do
    mkdir -p "$home/hosts.d/$name"
    printf '[host."http://%s"]\ncapabilities = ["pull", "resolve"]\n' "$mirror" \
        >"$home/hosts.d/$name/hosts.toml"
done
cat >"$home/config.toml" <<TOML
[cgroup]
parent = "/$(basename "$home")"
[image]
hosts_dirs = ["$home/hosts.d"]
[telemetry]
listen = "off"
TOML
socket=unix://$home/run/agent.sock
"$bin/berth-agent" --config "$home/config.toml" --root "$home/root" --run-dir "$home/run" \
    --listen "$socket" >"$home/agent.log" 2>&1 </dev/null &
until_true "the agent answers" "$bin/berthctl" -H "$socket" version

arguments=(--config /dev/null --runtime-endpoint "$socket" --image-endpoint "$socket")
case ${STREAMS:-websocket} in
websocket) arguments+=(--websocket-exec --websocket-attach --websocket-portforward) ;;
spdy) ;;
*) fail "STREAMS=$STREAMS: expected websocket or spdy" ;;
esac
cd "$home"
if [ "$mode" = focus ]; then
    "$tools/critest" "${arguments[@]}" --ginkgo.focus "$focus"
    exit
fi

began=$SECONDS
# The suite takes 1 for a mistake.
[ "$PARALLEL" = 1 ] || arguments+=(--parallel="$PARALLEL")
PATH=$tools:$PATH "$tools/critest" "${arguments[@]}" \
    --ginkgo.json-report="$home/report.json" >"$home/critest.log" 2>&1 || true
[ -s "$home/report.json" ] || {
    tail -n 40 "$home/critest.log" >&2
    fail "critest wrote no report"
}
echo "critest: $((SECONDS - began)) s"
judge=("$bin/berth-house" conformance "$home/report.json" --baseline "$here/baseline.tsv")
case $mode in
report) "${judge[@]}" --page "$workspace/docs/conformance.md" --head "$here/head.md" ;;
record) "${judge[@]}" --page "$workspace/docs/conformance.md" --head "$here/head.md" --record ;;
check) "${judge[@]}" ;;
esac
