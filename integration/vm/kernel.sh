# shellcheck shell=bash disable=SC2154 # workspace: of who sources this
# Which kernel a guest gets. Sourced.

fail() {
    echo "error: $*" >&2
    exit 1
}

# The newest kernel is in the backports of older releases. Where they are is known
# from the machine's own sources, which stay as they are.
use_backports() { # CODENAME
    local uri key apt=$workspace/target/tools/apt
    uri=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
        awk -v release="$1" '$2 == release && $3 == "main" { print $1; exit }')
    [ -n "$uri" ] || fail "apt has no source for $1 main, and so none for its backports"
    key=/usr/share/keyrings/debian-archive-keyring.gpg
    mkdir -p "$apt/lists/partial" "$apt/parts"
    echo "deb $([ ! -e "$key" ] || echo "[signed-by=$key]") $uri $1-backports main" >"$apt/sources.list"
    cat >"$apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "$apt/parts";
Dir::State::lists "$apt/lists";
CONF
    export APT_CONFIG=$apt/apt.conf VMRUN_APT_RELEASE=$1-backports
    # Once a day at most: the kernel itself is kept.
    [ -n "$(find "$apt/lists" -name '*_Packages*' -mtime -1 2>/dev/null)" ] || apt-get update -qq
}
