#!/bin/sh
# wireguard-go between two hosts, for `twill-perf --external`:
#   --external "wireguard-go,mtu=1420=sh $PWD/perf/external/wireguard-go.sh {host} {peer} {local} {remote} {subnet} {peer_subnet} {dir}"
# Needs wireguard-go and wg (Debian: wireguard-go, wireguard-tools).
set -eu
host=$1 peer=$2 local=$3 remote=$4 subnet=$5 peer_subnet=$6 dir=$7

# Its control socket lies in /var/run/wireguard, which hosts share: the name carries the process.
device=wg$$
umask 077
wg genkey > "$dir/key$host"
wg pubkey < "$dir/key$host" > "$dir/public$host.new"
mv "$dir/public$host.new" "$dir/public$host"
while [ ! -s "$dir/public$peer" ]; do sleep 0.05; done

wireguard-go --foreground "$device" &
gateway=$!
trap 'kill $gateway; wait $gateway' TERM INT
while [ ! -S "/var/run/wireguard/$device.sock" ]; do sleep 0.05; done
wg set "$device" listen-port 51820 private-key "$dir/key$host" \
    peer "$(cat "$dir/public$peer")" endpoint "$remote:51820" allowed-ips "$peer_subnet"
ip link set "$device" mtu 1420 up
ip route add "$peer_subnet" dev "$device"
wait $gateway
