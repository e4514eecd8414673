#!/usr/bin/env bash
# Installs what the build, the demo and the tests need and this machine lacks.
#
#   tools.sh build|demo|test|vm|bench|engine
#
# From Debian's packages. The registry and busybox are only unpacked, into
# target/tools: installing them would start a service and replace the machine's
# busybox.
set -euo pipefail

cd "$(dirname "$0")/.."
what=${1:-test}
tools=$PWD/target/tools
mkdir -p "$tools"

fail() {
    echo "error: $*" >&2
    exit 1
}

[ "$(uname -s)" = Linux ] || fail "Berth runs on Linux only; this is $(uname -s)"
[ "$(id -u)" = 0 ] || fail "run this as root: namespaces, mounts and control groups need it"

updated=
apt() {
    command -v apt-get >/dev/null || fail "$1 is missing and this is not Debian: install it by hand"
    if [ -z "$updated" ]; then
        echo "apt-get update"
        apt-get update -qq >"$tools/apt.log" 2>&1 || fail "apt-get update: see $tools/apt.log"
        updated=1
    fi
}

# A command, and the package that has it.
need() {
    command -v "$1" >/dev/null && return
    apt "$1"
    echo "apt-get install $2"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" \
        >"$tools/apt.log" 2>&1 || fail "apt-get install $2: see $tools/apt.log"
    command -v "$1" >/dev/null || fail "package $2 did not bring $1"
}

# A file of a package, unpacked below target/tools/debian.
unpack() {
    [ -x "$tools/debian/$1" ] && return
    apt "$1"
    echo "unpack $2"
    local there
    there=$(mktemp -d)
    (cd "$there" && apt-get download -qq "$2" >"$tools/apt.log" 2>&1) ||
        fail "apt-get download $2: see $tools/apt.log"
    dpkg-deb --extract "$there"/"$2"_*.deb "$tools/debian"
    rm -rf "$there"
    # Debian 13's packages have /bin below /usr.
    [ -x "$tools/debian/$1" ] || [ ! -x "$tools/debian/usr/$1" ] ||
        install -D "$tools/debian/usr/$1" "$tools/debian/$1"
    [ -x "$tools/debian/$1" ] || fail "package $2 has no $1"
}

# The libraries of an unpacked program, if they are missing. They have other names
# in each release: those that the package names.
libraries() {
    ldd "$tools/debian/$1" 2>/dev/null | grep -q 'not found' || return 0
    apt "the libraries of $2"
    local wanted
    wanted=$(apt-cache depends "$2" | sed -n 's/^ *Depends: \(lib[^ ]*\)$/\1/p')
    echo "apt-get install" $wanted
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted \
        >"$tools/apt.log" 2>&1 || fail "apt-get install $wanted: see $tools/apt.log"
}

need cc gcc
# The static C library that the shim is linked with.
[ -n "$(cc -print-file-name=libc.a | grep /)" ] || { apt libc.a; apt-get install -y -qq libc6-dev >"$tools/apt.log" 2>&1; }
need make make
command -v cargo >/dev/null ||
    fail "cargo is missing: install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or newer with rustup"
[ "$what" = build ] && exit 0

need ip iproute2
need nft nftables
need pgrep procps
need unshare util-linux
unpack bin/busybox busybox-static
unpack usr/bin/docker-registry docker-registry

grep -qw overlay /proc/filesystems || modprobe overlay 2>/dev/null ||
    fail "this kernel has no overlayfs (CONFIG_OVERLAY_FS)"
grep -q cgroup /proc/self/mounts || fail "no control groups are mounted at /sys/fs/cgroup"
[ -d /proc/self/ns ] && unshare --net true 2>/dev/null ||
    fail "network namespaces cannot be created here (is this an unprivileged container?)"
[ "$what" = demo ] && exit 0

# The guests with cgroup v2, and what makes their disks and initial file systems.
if [ "$what" = vm ]; then
    need qemu-system-x86_64 qemu-system-x86
    need modprobe kmod
    need cpio cpio
    need xz xz-utils
    need mkfs.ext4 e2fsprogs
    # A part of QEMU's packages until Debian 12.
    [ -x /usr/lib/qemu/virtiofsd ] || [ -x /usr/libexec/virtiofsd ] || {
        apt virtiofsd
        echo "apt-get install virtiofsd"
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends virtiofsd \
            >"$tools/apt.log" 2>&1 || fail "apt-get install virtiofsd: see $tools/apt.log"
    }
    exit 0
fi

# Other OCI runtimes: measured beside, and the first to show what a test looks for.
peers() {
    unpack usr/sbin/runc runc
    libraries usr/sbin/runc runc
    unpack usr/bin/crun crun
    libraries usr/bin/crun crun
}
if [ "$what" = engine ]; then
    peers
    exit 0
fi

# The runtimes to be measured beside, unpacked: installing them would start services.
if [ "$what" = bench ]; then
    while read -r file package; do
        unpack "$file" "$package"
        libraries "$file" "$package"
    done <<'END'
usr/bin/containerd containerd
usr/sbin/runc runc
usr/bin/podman podman
usr/bin/crun crun
usr/bin/conmon conmon
usr/lib/cni/bridge containernetworking-plugins
END
    [ -z "${PROFILE:-}" ] || need perf linux-perf
    exit 0
fi

need strace strace
peers
need openssl openssl
# A client of registries and archives that is not ours.
unpack usr/bin/skopeo skopeo
libraries usr/bin/skopeo skopeo
need git git
/usr/bin/python3 -c 'import grpc, google.protobuf, websockets' 2>/dev/null || {
    apt python3-grpcio
    echo "apt-get install python3-grpcio python3-protobuf python3-websockets"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        python3-grpcio python3-protobuf python3-websockets >"$tools/apt.log" 2>&1 ||
        fail "apt-get install python3-grpcio: see $tools/apt.log"
}

# The CRI's own client, where there is a Go that can fetch the version it wants.
if command -v go >/dev/null && go version | grep -Eq 'go1\.(2[1-9]|[3-9][0-9])'; then
    integration/conformance/prepare.sh crictl
elif [ ! -x "$tools/crictl" ] && ! command -v crictl >/dev/null; then
    [ -z "${CI:-}" ] || fail "neither crictl nor Go 1.21 is here, and CI must run the crictl steps"
    echo "note: neither crictl nor Go 1.21 or newer is here: the crictl steps will not run"
fi
