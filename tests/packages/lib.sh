# Clean Debian machines for the tests of packages; the scripts of this folder source it.
#
# A machine is a Debian root that debootstrap made, under an overlay that takes what a test writes, in a
# network namespace of its own. `boot` starts it with systemd as its first process (systemd-nspawn).
# Overlays, processes, control groups and namespaces are gone when the script ends, however it ends.

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
suite=${SUITE:-bookworm}
cache=$PWD/target/packages/roots
work=
mark=twpkg$$
passed=0
declare -A leader=()
declare -a spawned=()

# In a mount namespace of its own, nothing stays mounted.
enter() {
    [[ $(id -u) == 0 ]] || { echo "run this as root" >&2; exit 1; }
    [[ ${TWILL_PACKAGES_INSIDE-} ]] || TWILL_PACKAGES_INSIDE=yes exec unshare --mount --propagation private "$0" "$@"
    work=$(mktemp -d)
    mount -t tmpfs none "$work"
    trap leave EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

leave() {
    local code=$? pid name
    set +e
    # The first process of a machine outlives systemd-nspawn, and takes the others along.
    for pid in "${spawned[@]}"; do
        kill -KILL $(cat "/proc/$pid/task/$pid/children") "$pid" 2>/dev/null || true
    done
    { wait || true; } 2>/dev/null
    # Control groups are busy until the last process has left.
    for _ in {1..20}; do
        [[ $(find /sys/fs/cgroup -depth -type d -path "*/$mark-*" -exec rmdir {} + 2>&1) ]] || break
        sleep 0.1
    done
    for name in "/run/netns/$mark-"*; do [[ ! -e $name ]] || ip netns delete "${name##*/}"; done
    cd /
    umount -R -l "$work" 2>/dev/null || true
    rmdir "$work" 2>/dev/null || true
    [[ $code == 0 ]] || echo "1 failed" >&2
    exit "$code"
}

# clean NAME PACKAGE…: a Debian root with these packages, made once; prints its path.
clean() {
    local root=$cache/$suite-$1 list
    shift
    list="$*"
    if [[ ! -e $root/made || $(<"$root/made") != "$list" ]]; then
        rm -rf --one-file-system "$root"
        mkdir -p "$root"
        echo "debootstrap $suite: $list" >&2
        debootstrap --variant=minbase --include="${list// /,}" "$suite" "$root/root" >"$root/log" 2>&1 ||
            { tail -n5 "$root/log" >&2; echo "debootstrap failed; its log is $root/log" >&2; exit 1; }
        echo "$list" >"$root/made"
    fi
    echo "$root/root"
}

# machine NAME ROOT: a machine with that root below its overlay, with an empty network namespace.
machine() {
    local at=$work/$1
    mkdir -p "$at"/{upper,work,root}
    mount -t overlay overlay -o "lowerdir=$2,upperdir=$at/upper,workdir=$at/work" "$at/root"
    ip netns add "$mark-$1"
    : >"$at/root/etc/machine-id"
    echo "$1" >"$at/root/etc/hostname"
}

root() { echo "$work/$1/root"; }

# wire A B: a cable between two machines, 192.0.2.1 at the first one, 192.0.2.2 at the second.
wire() {
    ip link add name up0 netns "$mark-$1" type veth peer name up0 netns "$mark-$2"
    local host number=1
    for host in "$1" "$2"; do
        ip -n "$mark-$host" address add "192.0.2.$number/24" dev up0
        ip -n "$mark-$host" link set up0 up
        ip -n "$mark-$host" link set lo up
        number=$((number + 1))
    done
}

# boot NAME: starts systemd in it and waits until it has started what it starts.
boot() {
    # systemd-nspawn by itself grants nothing that the fast path's programs need.
    local options=(--register=no --capability=CAP_NET_ADMIN,CAP_BPF,CAP_PERFMON --system-call-filter=bpf)
    # Without systemd, there is nobody to ask for a scope: the machine gets control groups made here.
    [[ -d /run/systemd/system ]] || options+=(--keep-unit)
    group "$1" systemd-nspawn --quiet "${options[@]}" --directory="$(root "$1")" \
        --network-namespace-path="/run/netns/$mark-$1" --bind=/dev/net/tun --console=pipe \
        --boot systemd.unit=multi-user.target </dev/null >"$work/$1/console" 2>&1 &
    local spawn=$! tries
    spawned+=("$spawn")
    for ((tries = 0; tries < 300; tries++)); do
        leader[$1]=$(cat "/proc/$spawn/task/$spawn/children" 2>/dev/null | awk '{print $1}')
        if [[ ${leader[$1]} ]] && inside "$1" systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded'; then
            return
        fi
        kill -0 "$spawn" 2>/dev/null || break
        sleep 0.2
    done
    tail -n20 "$work/$1/console" >&2
    fail "systemd does not start in the clean root"
}

# group NAME COMMAND…: in control groups of that machine, unless systemd manages them.
group() {
    local at name=$1
    shift
    for at in /sys/fs/cgroup/{systemd,unified,.}; do
        if [[ ! -d /run/systemd/system && -w $at/cgroup.procs ]]; then
            mkdir -p "$at/$mark-$name"
            echo "$BASHPID" >"$at/$mark-$name/cgroup.procs"
        fi
    done
    exec "$@"
}

# inside NAME COMMAND…: in a machine that was booted.
inside() {
    local name=$1
    shift
    nsenter --target "${leader[$name]}" --all --root -- env -i --chdir=/ PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"
}

# is SENTENCE COMMAND…: states what the command shows.
is() {
    local sentence=$1 output
    shift
    if ! output=$("$@" 2>&1); then
        printf '%s\n' "$output" >&2
        logs >&2
        fail "$sentence"
    fi
    passed=$((passed + 1))
    echo "ok  $sentence"
}

# eventually COMMAND…: repeats it for up to 20 seconds.
eventually() {
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.2
    done
    "$@"
}

# What twill said in the machines that were booted.
logs() {
    local name
    for name in "${!leader[@]}"; do
        echo "journal of $name:"
        inside "$name" journalctl --no-pager --output=cat --lines=40 --unit='twill*' --unit='flanneld*' --unit='etcd*' || true
    done
    tail -n40 "$work"/*.log 2>/dev/null || true
}

no() { ! "$@"; }

fail() {
    echo "FAILED  $*" >&2
    exit 1
}

finished() {
    echo "$passed passed, 0 failed"
}
