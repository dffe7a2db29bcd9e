#!/bin/sh
# Nebula between two hosts, for `twill-perf --external`:
#   --external "nebula,mtu=1300=sh $PWD/perf/external/nebula.sh {host} {peer} {local} {remote} {subnet} {peer_subnet} {dir}"
# Needs nebula and nebula-cert (Debian: nebula; or a newer one in front of PATH).
set -eu
host=$1 peer=$2 local=$3 remote=$4 subnet=$5 peer_subnet=$6 dir=$7

cd "$dir"
if [ "$host" = 1 ]; then
    nebula-cert ca -name test -duration 24h
    nebula-cert sign -name h1 -ip 10.99.0.1/24 -subnets "$subnet"
    nebula-cert sign -name h2 -ip 10.99.0.2/24 -subnets "$peer_subnet"
    touch signed
fi
while [ ! -e signed ]; do sleep 0.05; done
cat > "nebula$host.yml" <<EOF
pki: {ca: $dir/ca.crt, cert: $dir/h$host.crt, key: $dir/h$host.key}
static_host_map: {"10.99.0.$peer": ["$remote:4242"]}
lighthouse: {am_lighthouse: false}
listen: {host: $local, port: 4242, batch: 64}
punchy: {punch: false}
tun:
  dev: nebula0
  mtu: 1300
  tx_queue: 1000
  unsafe_routes: [{route: $peer_subnet, via: 10.99.0.$peer}]
logging: {level: info, format: text}
firewall:
  outbound: [{port: any, proto: any, host: any, local_cidr: 0.0.0.0/0}]
  inbound: [{port: any, proto: any, host: any, local_cidr: 0.0.0.0/0}]
EOF
exec nebula -config "nebula$host.yml"
