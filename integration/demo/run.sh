#!/usr/bin/env bash
# A real image in a pod, from pull to clean end, and the proof that nothing
# stays behind. `make demo` builds what this needs.
#
# All of it happens in a network namespace of its own and below one directory,
# so that it neither meets nor changes anything else on the machine.
set -euo pipefail

workspace=$(cd "$(dirname "$0")/../.." && pwd)
bin=${BERTH_BIN:-$workspace/target/berth/bin}

if [ -z "${BERTH_DEMO_INSIDE:-}" ]; then
    [ "$(id -u)" = 0 ] || { echo "error: run the demo as root" >&2; exit 1; }
    export BERTH_DEMO_INSIDE=1
    exec unshare --net "$0" "$@"
fi
ip link set lo up

began=$(date +%s.%N)
home=$(mktemp -d /var/tmp/berth-demo-XXXXXXXX)
mark=$(basename "$home")
mkdir "$home"/{root,run,registry}
registry_pid= agent_pid= follow_pid=
socket=unix://$home/run/agent.sock
image=127.0.0.1:5000/berth/count:1

bold= plain=
[ ! -t 1 ] || { bold=$(printf '\033[1m') plain=$(printf '\033[0m'); }
step=0
say() {
    step=$((step + 1))
    printf '\n%s%2d. %s%s\n' "$bold" "$step" "$*" "$plain"
}
note() { printf '    %s\n' "$*"; }
# Unbuffered, since a followed log is shown through it.
indent() { sed -u 's/^/    /'; }
ctl() {
    printf '    $ berthctl %s\n' "${shown:-$*}"
    "$bin/berthctl" -H "$socket" "$@" 2>&1 | indent
}
fail() {
    printf '\nerror: %s\n' "$*" >&2
    exit 1
}

finish() {
    local status=$?
    trap - EXIT
    [ -z "$follow_pid" ] || kill "$follow_pid" 2>/dev/null || true
    [ -z "$agent_pid" ] || kill -9 "$agent_pid" 2>/dev/null || true
    [ -z "$registry_pid" ] || kill "$registry_pid" 2>/dev/null || true
    wait 2>/dev/null || true
    if [ "$status" != 0 ]; then
        echo "---- the last words of the agent" >&2
        tail -n 40 "$home/agent.log" >&2 || true
        [ ! -e "$home/before" ] ||
            "$bin/berth-house" sweep --home "$home" --mark "$mark" --before "$home/before" || true
    fi
    [ -n "${BERTH_KEEP:-}" ] || rm -rf "$home"
    exit "$status"
}
trap finish EXIT

until_true() { # WHAT COMMAND...
    local what=$1
    shift
    for _ in $(seq 200); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.05
    done
    fail "$what: not within 10 seconds"
}

start_agent() {
    "$bin/berth-agent" --config "$home/config.toml" --root "$home/root" --run-dir "$home/run" \
        --listen "$socket" >>"$home/agent.log" 2>&1 </dev/null &
    agent_pid=$!
    until_true "the agent answers" "$bin/berthctl" -H "$socket" version
}

last_count() { tail -n 1 "$log" | sed -n 's/.* count //p'; }

"$bin/berth-house" traces --home "$home" --mark "$mark" >"$home/before"
printf '[cgroup]\nparent = "/%s"\n' "$mark" >"$home/config.toml"

say "Start a registry on the loopback address (Debian's docker-registry)"
cat >"$home/registry.yml" <<YAML
version: 0.1
log: { level: error, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: $home/registry } }
http: { addr: 127.0.0.1:5000 }
YAML
"$workspace/target/tools/debian/usr/bin/docker-registry" serve "$home/registry.yml" \
    >"$home/registry.log" 2>&1 </dev/null &
registry_pid=$!
until_true "the registry listens" bash -c '</dev/tcp/127.0.0.1/5000'
note "listening on 127.0.0.1:5000"

say "Make an image of two layers from Debian's busybox-static, and push it there"
id=$("$bin/berth-house" image demo --push "$image")
note "$image"
note "$id"

say "Start berth-agent with directories of its own"
start_agent
note "pid $agent_pid, below $home"

say "Pull the image"
ctl pull "$image"
ctl images

say "Give it a second name and push that; save it, remove it, load it again"
copy=127.0.0.1:5000/berth/copy:1
ctl tag "$image" "$copy"
ctl push "$copy"
shown="save -o count.tar $image" ctl save -o "$home/count.tar" "$image"
ctl rmi "$copy" "$image"
shown="load -i count.tar" ctl load -i "$home/count.tar"
rm "$home/count.tar"

say "Run a pod with one container"
ctl run -d --name count "$image"
container=$("$bin/berthctl" -H "$socket" ps -q --no-trunc)
[ -n "$container" ] || fail "the container is not listed"
ctl pods
ctl ps
# For the last step: what there is to be found, now.
pod=$("$bin/berthctl" -H "$socket" pods -q --no-trunc)
"$bin/berth-house" traces --home "$home" --mark "$mark" --mark "$container" --mark "$pod" >"$home/during"
there=$(comm -13 <(sort "$home/before") <(sort "$home/during") | cut -f1 | sort | uniq -c |
    awk '{ printf "%s%d %s", sep, $1, $2; sep = ", " }')

say "Run a command inside"
inside='hostname; id; ip -4 addr show eth0 | grep inet'
shown="exec count sh -c '$inside'" ctl exec count sh -c "$inside"

say "Follow its log, live"
log=$("$bin/berthctl" -H "$socket" inspect count | sed -n 's/.*"logPath": "\(.*\)".*/\1/p' | head -1)
[ -f "$log" ] || fail "no log file: $log"
printf '    $ berthctl logs -f --tail 2 count\n'
"$bin/berthctl" -H "$socket" logs -f --tail 2 count > >(tee "$home/followed" | indent) 2>&1 &
follow_pid=$!
sleep 1.2
kill -0 "$follow_pid" 2>/dev/null || fail "logs -f ended by itself"

say "kill -9 the agent, with the log still followed"
program=$(pgrep -f '^/bin/sh /bin/count' | head -1)
before=$(last_count)
kill -9 "$agent_pid"
wait "$agent_pid" 2>/dev/null || true
note "-- agent $agent_pid is dead; the container is not"
sleep 1
during=$(last_count)
[ "$during" -gt "$before" ] || fail "the log stood still while no agent ran"
note "-- one second without an agent; the log went on from count $before to $during"
start_agent
note "-- a new agent is up, pid $agent_pid"
sleep 0.7
kill "$follow_pid" 2>/dev/null || fail "logs -f ended when the agent did"
wait "$follow_pid" 2>/dev/null || true
follow_pid=
[ "$(tail -n 1 "$home/followed" | cut -d' ' -f2)" -gt "$during" ] || fail "logs -f stood still"
ctl ps
[ "$(pgrep -f '^/bin/sh /bin/count' | head -1)" = "$program" ] || fail "another process runs now"
sed -n 's/.* stdout F count //p' "$log" | awk '$1 != NR { exit 1 }' || fail "a log line is missing"
note "the same process (pid $program), and a log without a gap"

say "Stop it: SIGTERM, and the exit code that the program chose"
ctl stop count
ctl logs --tail 1 count
ctl ps -a
code=$("$bin/berthctl" -H "$socket" inspect count | sed -n 's/.*"exitCode": \([0-9]*\).*/\1/p' | head -1)
[ "$code" = 7 ] || fail "exit code ${code:-unknown} instead of 7"
note "exit code $code"

say "Remove all of it and stop the agent"
ctl stopp "$pod"
ctl rmp "$pod"
ctl rmi "$image"
kill "$agent_pid"
wait "$agent_pid" || fail "the agent ended with an error"
agent_pid=
kill "$registry_pid"
wait "$registry_pid" 2>/dev/null || true
registry_pid=

say "Look for what stayed behind: mounts, processes, control groups, links, rules, files"
if ! left=$("$bin/berth-house" compare --home "$home" --before "$home/before" \
    --mark "$mark" --mark "$container" --mark "$pod"); then
    printf '%s\n' "$left" | indent
    fail "this stayed behind"
fi
note "while the container ran: $there"
note "now: nothing"
awk -v from="$began" -v to="$(date +%s.%N)" 'BEGIN { printf "\nDone in %.1f seconds.\n", to - from }'
