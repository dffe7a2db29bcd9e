#!/bin/sh
# A stock flanneld with its udp backend on each of two hosts, for `twill-perf --external`:
#   --external "flanneld=sh $PWD/perf/external/flanneld.sh {host} {peer} {local} {remote} {subnet} {peer_subnet} {dir}"
# Needs flanneld (built with cgo) and etcd; the first host runs etcd for both.
set -eu
host=$1 peer=$2 local=$3 remote=$4 subnet=$5 peer_subnet=$6 dir=$7

store=http://192.0.2.1:2379
if [ "$host" = 1 ]; then
    etcd --data-dir "$dir/etcd" --log-level error --listen-client-urls "$store" \
        --advertise-client-urls "$store" --listen-peer-urls http://127.0.0.1:2380 &
    etcd=$!
    trap 'kill $etcd $gateway; wait' TERM INT
    until etcdctl --endpoints "$store" put /coreos.com/network/config \
        '{"Network": "10.244.0.0/16", "Backend": {"Type": "udp"}}'; do sleep 0.1; done
    touch "$dir/ready"
else
    trap 'kill $gateway; wait' TERM INT
fi
while [ ! -e "$dir/ready" ]; do sleep 0.05; done
# flanneld keeps the subnet that its file names: the one that the pods have already.
printf 'FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=%s\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n' \
    "$(echo "$subnet" | sed 's|\.0/|.1/|')" > "$dir/subnet$host.env"
flanneld --etcd-endpoints "$store" --iface "$local" --ip-masq=false \
    --subnet-file "$dir/subnet$host.env" &
gateway=$!
wait $gateway
