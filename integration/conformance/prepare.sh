#!/usr/bin/env bash
# Makes what the conformance tests run on, once, below target/:
#
#   target/tools          crictl, critest and ginkgo, from the Go module here
#   target/conformance    what the images are assembled from: a busybox of
#                         Debian's source package in its default configuration
#                         (the packaged ones have other applets, and a shell
#                         that prefers its own to the files'), nginx with its
#                         libraries, and a setuid program
#
#   prepare.sh [crictl]   crictl alone
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
workspace=$(cd "$here/../.." && pwd)
tools=$workspace/target/tools
parts=$workspace/target/conformance
mkdir -p "$tools" "$parts"

fail() {
    echo "error: $*" >&2
    exit 1
}

# Runs a step quietly; if it fails, its last words are shown.
quiet() { # LOG COMMAND...
    local log=$parts/$1.log
    shift
    "$@" >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        fail "$1: see $log"
    }
}

# The programs are as old as go.mod says; a new pin builds them anew.
pin=$(sha256sum "$here/go.mod" | cut -c1-16)
go_program() { # NAME COMMAND...
    local name=$1
    shift
    [ ! -x "$tools/$name" ] || [ "$(cat "$tools/$name.pin" 2>/dev/null)" != "$pin" ] || return 0
    command -v go >/dev/null || fail "Go is missing: the CRI's own tests are written in it"
    echo "go build $name"
    (cd "$here" && quiet "$name" go "$@")
    echo "$pin" >"$tools/$name.pin"
}
go_program crictl build -trimpath -o "$tools/crictl" sigs.k8s.io/cri-tools/cmd/crictl
[ "${1:-}" != crictl ] || exit 0
go_program critest test -c -trimpath -o "$tools/critest" sigs.k8s.io/cri-tools/cmd/critest
go_program ginkgo build -trimpath -o "$tools/ginkgo" github.com/onsi/ginkgo/v2/ginkgo

work=$(mktemp -d "$parts/work-XXXXXX")
trap 'rm -rf "$work"' EXIT

# apt with lists of its own, which name the source packages too: machines
# seldom do, and their configuration is not ours to change.
sources() {
    command -v apt-get >/dev/null || fail "this is not Debian: the images are made from its packages"
    # On a bare machine apt has not looked yet, and then names no places.
    [ -n "$(places)" ] || quiet update apt-get update
    places >"$work/sources.list"
    [ -s "$work/sources.list" ] || fail "apt knows of no place with packages"
    mkdir -p "$work/lists/partial"
    quiet apt apt_get update
}
places() {
    # shellcheck disable=SC2016  # apt's own variables
    apt-get indextargets --format '$(IDENTIFIER) $(REPO_URI) $(RELEASE) $(COMPONENT)' |
        awk '$1 == "Packages" { print "deb", $2, $3, $4; print "deb-src", $2, $3, $4 }' | sort -u
}
apt_get() {
    apt-get -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=- \
        -o Dir::State::Lists="$work/lists" -o APT::Sandbox::User=root "$@"
}
need() { # COMMAND PACKAGE
    command -v "$1" >/dev/null || DEBIAN_FRONTEND=noninteractive \
        quiet "$2" apt-get install -y -qq --no-install-recommends "$2"
}

busybox() {
    need bzip2 bzip2
    (cd "$work" && quiet source apt_get source --download-only busybox)
    mkdir "$work/busybox"
    tar -C "$work/busybox" --strip-components=1 -xf "$work"/busybox_*.orig.tar.*
    cd "$work/busybox"
    quiet config make defconfig
    # Headers of Linux 6.8 and newer no longer have what tc needs.
    sed -i -e 's/^# CONFIG_STATIC is not set/CONFIG_STATIC=y/' -e 's/^CONFIG_TC=y/CONFIG_TC=n/' .config
    quiet busybox make -j"$(nproc)"
    install -m 0755 busybox "$parts/busybox.new"
    cd "$workspace"
    mv "$parts/busybox.new" "$parts/busybox"
}

# nginx and the libraries that it is linked with, as a tree.
nginx() {
    local tree=$work/tree libraries
    mkdir -p "$tree" "$work/debs" "$work/nginx"
    (cd "$work/debs" &&
        quiet download apt_get download nginx libc6 libcrypt1 libpcre2-8-0 libssl3 zlib1g)
    for deb in "$work"/debs/*.deb; do dpkg-deb --extract "$deb" "$tree"; done
    libraries=$(find "$tree" -name 'libc.so.6' -printf '%h\n' | head -n 1)
    install -D -m 0755 "$tree/usr/sbin/nginx" "$work/nginx/usr/sbin/nginx"
    local loader path
    loader=$(find "$tree" -name 'ld-linux*.so.*' | head -n 1)
    mkdir -p "$work/nginx/lib"
    "$loader" --library-path "$libraries:$tree/usr/lib/$(basename "$libraries")" --list "$tree/usr/sbin/nginx" |
        awk '$2 == "=>" { print $3 }' |
        while read -r path; do cp -L "$path" "$work/nginx/lib/"; done
    # Where the program's header says that its loader is.
    mkdir -p "$work/nginx/lib64"
    cp -L "$loader" "$work/nginx/lib64/$(basename "$loader")"
    rm -rf "$parts/nginx"
    mv "$work/nginx" "$parts/nginx"
}

wanted=
[ -x "$parts/busybox" ] || wanted+=" busybox"
[ -d "$parts/nginx" ] || wanted+=" nginx"
if [ -n "$wanted" ]; then
    echo "apt-get update, with source packages"
    sources
    for part in $wanted; do
        echo "make $part"
        "$part"
    done
fi
if [ ! -x "$parts/nonewprivs" ] || [ "$here/nonewprivs.c" -nt "$parts/nonewprivs" ]; then
    quiet nonewprivs cc -static -Os -o "$parts/nonewprivs" "$here/nonewprivs.c"
fi
