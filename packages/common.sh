# What the scripts of this folder share; they source it.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=target/packages
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n1)
# Archives made twice from one commit are equal.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.toml)}
export SOURCE_DATE_EPOCH
mkdir -p "$out"

# triple_of ARCH: Rust's name of the target, for Debian's name of the architecture.
triple_of() {
    case $1 in
    amd64) echo x86_64-unknown-linux-gnu ;;
    arm64) echo aarch64-unknown-linux-gnu ;;
    *) fail "unknown architecture \"$1\": known are amd64 and arm64" ;;
    esac
}

# tool ARCH NAME: a program of binutils or gcc that works on that architecture's files.
tool() {
    if [[ $1 == "$(dpkg --print-architecture)" ]]; then echo "$2"; return; fi
    case $1 in
    amd64) echo "x86_64-linux-gnu-$2" ;;
    arm64) echo "aarch64-linux-gnu-$2" ;;
    esac
}

# emulator ARCH: a command that runs that architecture's programs; nothing if this machine runs them.
emulator() {
    [[ $1 != "$(dpkg --print-architecture)" ]] || return 0
    case $1 in
    amd64) echo "qemu-x86_64-static -L /usr/x86_64-linux-gnu" ;;
    arm64) echo "qemu-aarch64-static -L /usr/aarch64-linux-gnu" ;;
    esac
}

# add_target TRIPLE: Rust's standard library for it.
add_target() {
    [[ -d $(rustc --print sysroot)/lib/rustlib/$1/lib ]] && return
    command -v rustup >/dev/null || fail "Rust's standard library for $1 is missing, and rustup, which would install it"
    rustup target add "$1"
}

fail() {
    echo "${0#"$PWD"/}: $*" >&2
    exit 1
}
