# What the scripts that start virtual machines share; they source it.
#
# A machine ends with its script, however that ends, and so does the working folder.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# What all working folders begin with; the process that made it follows.
prefix=${TMPDIR:-/tmp}/twill-kernels
work=
machine=
machine_status=
reader=

# need_tools PROGRAM…: these, and what every machine needs.
need_tools() {
    local tool
    for tool in "$@" cpio depmod modprobe setpriv; do
        # On Debian depmod is in /sbin, which not every path has.
        PATH=$PATH:/sbin:/usr/sbin command -v "$tool" >/dev/null \
            || fail "$tool is missing (Debian: qemu-system-x86 qemu-system-arm busybox-static cpio kmod util-linux)"
    done
}

# Makes the working folder.
enter() {
    sweep
    work=$(mktemp -d "$prefix.$$.XXXXXX")
    trap leave EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

# Removes the folders of runs that were killed before they could.
sweep() {
    local folder process
    for folder in "$prefix".*; do
        process=${folder#"$prefix".}
        process=${process%%.*}
        if [[ $process =~ ^[0-9]+$ && ! -e /proc/$process ]]; then rm -rf "$folder"; fi
    done
}

leave() {
    if [[ -n $machine ]]; then
        kill "$machine" 2>/dev/null || true
        wait "$machine" 2>/dev/null || true
    fi
    rm -rf "$work"
}

# copy_modules TREE VERSION ROOT MODULE…: into ROOT/modules, named in the order in which they must be loaded.
copy_modules() {
    local tree=$1 version=$2 root=$3 file number=100
    shift 3
    mkdir -p "$root/modules"
    while read -r file; do
        number=$((number + 1))
        copy_module "$file" "$root/modules/$number"
    done < <(module_files "$tree" "$version" "$@")
}

module_files() {
    local tree=$1 version=$2 module
    shift 2
    for module in "$@"; do
        # A module that is built in has no file.
        modprobe -d "$tree" -S "$version" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
    done | awk '!seen[$0]++'
}

copy_module() {
    case $1 in
    *.ko) cp "$1" "$2.ko" ;;
    *.ko.xz) xz -dc "$1" >"$2.ko" ;;
    *.ko.zst) zstd -qdc "$1" >"$2.ko" ;;
    *) fail "cannot read the module $1" ;;
    esac
}

# pack ROOT: the machine's first root.
pack() {
    mkdir -p "$1"/{proc,sys,dev,run,tmp}
    (cd "$1" && find . | cpio --quiet -o -H newc) >"$work/initramfs.cpio"
}

# Shows what the machine will write to the pipe `output`, and ends by itself with the machine: that is when
# the last writer closes.
show() {
    rm -f "$work/output"
    mkfifo "$work/output"
    tee "$work/shown" <"$work/output" &
    reader=$!
}

# power_on LIMIT EMULATOR…: waits until the machine is off.
power_on() {
    local limit=$1
    shift
    # Both end with this script, even if it is killed; `timeout` passes SIGTERM on.
    setpriv --pdeathsig TERM timeout --kill-after 5 "$limit" setpriv --pdeathsig KILL \
        "$@" -nodefaults -no-reboot -display none </dev/null >"$work/qemu" 2>&1 &
    machine=$!
    # `wait` returns at once for a trapped signal, which a command in the foreground would delay.
    wait "$machine" && machine_status=0 || machine_status=$?
    machine=
    # A machine that did not start never opened the pipe, for which the reader would wait for ever.
    : <>"$work/output"
    wait "$reader" || true
}

# not_done VERSION LIMIT: the machine ended before its command did.
not_done() {
    cat "$work/qemu" >&2 || true
    if [[ $machine_status -eq 124 || $machine_status -eq 137 ]]; then
        fail "Linux $1: not done after $2 s (TWILL_KERNELS_LIMIT)"
    fi
    fail "Linux $1: the machine ended with status $machine_status before the command did"
}

fail() {
    echo "tests/kernels/${0##*/}: $*" >&2
    exit 125
}
