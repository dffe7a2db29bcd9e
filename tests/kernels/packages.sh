# Packages of a Debian suite, in a folder of their own; the scripts that unpack them source it.

# What the rest works with: the suite, the architecture, and where everything about them is kept.
release=
arch=amd64
store=
tree=

# of_suite RELEASE ARCH: sets them.
of_suite() {
    local root
    release=$1
    arch=$2
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
    store=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")/kernels/$release
    [[ $arch == amd64 ]] || store+=-$arch
    tree=$store/tree
}

# needs PACKAGE PATTERN: the packages that it depends on whose names begin like this.
needs() {
    private apt-cache depends "$1" 2>/dev/null | sed -n "s/^ *Depends: \\($2.*\\)/\\1/p"
}

# A state of its own, because the machine's own apt must not learn of other suites.
private() {
    local command=$1
    shift
    "$command" \
        -o Dir::State="$store/apt" \
        -o Dir::State::lists="$store/apt/lists" \
        -o Dir::State::status="$store/apt/status" \
        -o Dir::Cache="$store/apt/cache" \
        -o Dir::Etc::sourcelist="$store/apt/sources.list" \
        -o Dir::Etc::sourceparts=- \
        -o APT::Sandbox::User=root \
        -o APT::Architecture="$arch" \
        -o APT::Architectures="$arch" \
        "$@"
}

update_lists() {
    local mirror keyring options=
    mirror=$(apt-get indextargets --format '$(REPO_URI)' \
        'Created-By: Packages' 'Label: Debian' 'Component: main' | head -n 1)
    [[ -n $mirror ]] || fail "apt knows no Debian mirror here: run apt-get update"
    # Debian's own keyring has the keys of all suites in use; a suite's own file has only its own.
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    if [[ -e $keyring ]]; then options="[signed-by=$keyring]"; fi
    mkdir -p "$store/apt/lists/partial" "$store/apt/cache/archives/partial"
    : >"$store/apt/status"
    echo "deb $options $mirror $release main" >"$store/apt/sources.list"
    local said
    said=$(LC_ALL=C private apt-get update -qq -o APT::Update::Error-Mode=any 2>&1) && return
    echo "$said"
    # Its words only for a mirror that answers and does not know the suite.
    if [[ $said == *"does not have a Release file"* ]]; then
        echo "tests/kernels/${0##*/}: $mirror does not have the suite '$release'" >&2
        exit 2
    fi
    fail "the suite '$release' cannot be had from this machine's Debian mirror"
}

download() {
    (cd "$store/packages" && private apt-get download -qq "$1") \
        || fail "the package $1 cannot be had from this machine's Debian mirror"
}

fail() {
    echo "tests/kernels/${0##*/}: $*" >&2
    exit 1
}
