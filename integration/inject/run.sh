#!/usr/bin/env bash
# A failing system call at each call of a container's start-up, injected by strace.
#
#   inject.sh            every call of berth-oci create and start, and of the shim
#   inject.sh short      one of each kind
#
# For each: the command fails with a line that says what, or the container that runs is
# the whole one. Nothing is left behind: no record, group, process or mount.
set -euo pipefail

workspace=$(cd "$(dirname "$0")/../.." && pwd)
programs=${BERTH_BIN:-$workspace/target/berth/bin}
which=${1:-all}
export BERTH_SHIM=$programs/berth-shim
command -v strace >/dev/null || { echo "strace is missing: apt-get install strace" >&2; exit 1; }

home=$(mktemp -d)
groups=berth-inject-$$
mkdir -p "$home"/bundle/rootfs/{bin,proc,dev,tmp,sys}
trap 'clean; rm -rf "$home"' EXIT
cp "$(command -v busybox)" "$home/bundle/rootfs/bin/busybox"
for applet in sh cat grep ls sort; do ln -s busybox "$home/bundle/rootfs/bin/$applet"; done

# What the container is, said by itself.
probe='grep -E "^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups)" /proc/self/status; cat /proc/self/mountinfo | cut -d" " -f4-6 | sort; ls /dev | sort; cat /proc/self/oom_score_adj; hostname; ls /proc/self/ns; ls -l /proc/self/fd | wc -l; (echo x >/proc/sys/kernel/domainname) 2>&1; cat /proc/kcore 2>&1 | head -c 1; ulimit -n; pwd'
for applet in cut hostname wc head; do ln -s busybox "$home/bundle/rootfs/bin/$applet"; done
cat >"$home/bundle/config.json" <<END
{"ociVersion": "1.0.2", "root": {"path": "rootfs", "readonly": true}, "hostname": "whole",
 "process": {"args": ["/bin/sh", "-c", $(printf '%s' "$probe" | python3 -c 'import json,sys; print(json.dumps(sys.stdin.read()))')],
   "cwd": "/tmp", "env": ["PATH=/bin"], "user": {"uid": 7, "gid": 8, "additionalGids": [9]},
   "noNewPrivileges": true, "oomScoreAdj": 500,
   "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
   "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 300, "hard": 300}]},
 "mounts": [
   {"destination": "/proc", "type": "proc", "source": "proc"},
   {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
   {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
   {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]}],
 "linux": {"cgroupsPath": "/$groups/c",
   "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}, {"type": "cgroup"}],
   "resources": {"pids": {"limit": 50}, "devices": [{"allow": false, "access": "rwm"}]},
   "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]},
   "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"]}}
END

oci() { "$programs/berth-oci" --root "$home/run" "$@"; }
clean() {
    oci delete --force c >/dev/null 2>&1 || true
    local top
    for top in /sys/fs/cgroup "${tops[@]}"; do rmdir "$top/$groups/c" "$top/$groups" 2>/dev/null || true; done
}
tops=(/sys/fs/cgroup/*/)
left() { # what is left of the container
    local top
    [ -z "$(ls "$home/run" 2>/dev/null)" ] || echo "record: $(ls "$home/run")"
    for top in /sys/fs/cgroup "${tops[@]}"; do [ ! -e "$top/$groups/c" ] || echo "group: $top/$groups/c"; done
    grep "$home" /proc/self/mountinfo || true
    # The shim's arguments end with the container's name.
    pgrep -f "^berth-shim detached $name\$" >/dev/null 2>&1 && echo "shim" || true
}
# Names differ, so that a shim of an earlier round is not taken for one of this.
name=c

# The calls of one run: NAME COUNT for each call that is made.
strace -f -qq -o "$home/calls" -e signal=none \
    "$programs/berth-oci" --root "$home/run" run --bundle "$home/bundle" c >"$home/whole" 2>"$home/said" </dev/null ||
    { cat "$home/said" >&2; exit 1; }
oci run --bundle "$home/bundle" c >"$home/again" </dev/null
diff -q "$home/whole" "$home/again" >/dev/null || { echo "the container's own word changes:"; diff "$home/whole" "$home/again"; exit 1; }

# Calls before main, whose failure the loader cannot tell of; those whose failure the C library or the kernel hides or that end the tracer's view,
# and those of the container's own program.
skip='^(exit|exit_group|rt_sigreturn|restart_syscall|execve|brk|mmap|mprotect|futex|getpid|getuid|geteuid|getgid|getegid|arch_prctl|set_robust_list|rseq|munmap|madvise|\+\+\+)$'
# How often a call is made by one process, up to where the container's program runs.
awk '{print $1, $2}' "$home/calls" | sed 's/(.*//' | sort | uniq -c |
    awk '{count[$3] = count[$3] > $1 ? count[$3] : $1} END {for (name in count) print name, count[name]}' |
    grep -Ev "$(echo "$skip" | sed 's/\^(/^(/; s/)\$/) /')" | sort >"$home/plan"

rounds=0 failed=0 refused=0 whole=0
check() { # check CALL NUMBER ERRNO
    rounds=$((rounds + 1))
    local code=0 why=''
    timeout 60 strace -f -qq -o /dev/null -e signal=none -e "trace=$1" -e "inject=$1:error=$3:when=$2" \
        "$programs/berth-oci" --root "$home/run" run --bundle "$home/bundle" c \
        >"$home/out" 2>"$home/said" </dev/null || code=$?
    if [ "$code" = 124 ]; then
        why="it hangs"
    elif cmp -s "$home/out" "$home/whole"; then
        # The program's own calls may have failed after it had said everything.
        whole=$((whole + 1))
    elif grep -q 'level=error' "$home/said"; then
        refused=$((refused + 1))
    elif [ "$code" != 0 ]; then
        # The program itself.
        refused=$((refused + 1))
        [ -s "$home/said" ] || [ -s "$home/out" ] || why="it fails with $code without a word"
    else
        # The program's own calls fail too: it may say less, but nothing else.
        grep -vxFf "$home/whole" "$home/out" >"$home/more" 2>/dev/null || true
        if grep -qE '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups)|kcore' "$home/more"; then
            why="another container than was asked for runs: $(head -2 "$home/more" | tr '\n' ' ')"
        else
            whole=$((whole + 1))
        fi
    fi
    sleep 0.02
    local rest
    rest=$(left)
    if [ -n "$rest" ]; then
        sleep 0.5
        rest=$(left)
    fi
    # Cleaning up may be what fails: then it is said, and delete does the rest.
    if [ -n "$rest" ] && [ -s "$home/said" ]; then
        oci delete --force c 2>>"$home/said" || why="delete fails afterwards"
        rest=$(left)
    fi
    [ -z "$rest" ] || why="$why left: $rest"
    if [ -n "$why" ]; then
        failed=$((failed + 1))
        echo "FAILED: $3 from $1, the ${2}th: $why" >&2
        tail -2 "$home/said" >&2
        clean
    fi
}

while read -r call count; do
    first=1
    # Before main the runtime of the language looks at its descriptors, and aborts.
    [ "$call" != poll ] || first=2
    [ "$count" -ge "$first" ] || continue
    case $which in short) numbers=$(printf '%s\n' $first "$count" | sort -nu) ;; *) numbers=$(seq $first "$count") ;; esac
    for number in $numbers; do check "$call" "$number" EIO; done
done <"$home/plan"
echo "$rounds failing calls: $refused refused with a line, $whole had no effect or were worked around, $failed wrong"
[ "$failed" = 0 ]
