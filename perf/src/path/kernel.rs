//! Paths that the kernel alone provides.

use std::net::{Ipv4Addr, Ipv6Addr};
use twill_testbed::{Host, Pod, Testbed, TestbedError, has_ipv6};

/// Two pods joined by one pair of devices: what the generators can do at most.
pub(super) fn linked_pods(bed: &Testbed, mtu: u16) -> Result<[Pod; 2], TestbedError> {
    let (one, other) = (bed.namespace("p1")?, bed.namespace("p2")?);
    one.link("eth0", &other, "eth0", mtu)?;
    let pod = |namespace, index: u8| {
        let v4 = Ipv4Addr::new(10, 244, 0, index);
        let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, index.into());
        let pod = Pod::assume(namespace, v4, v6);
        pod.ip(&format!("address add {v4}/24 dev eth0"))?;
        if has_ipv6(mtu) {
            pod.ip(&format!("address add {v6}/64 dev eth0 nodad"))?;
        }
        Ok::<_, TestbedError>(pod)
    };
    Ok([pod(one, 1)?, pod(other, 2)?])
}

/// Routing, as flannel's host-gw backend sets it up: each host's pod network by way of that host.
pub(super) fn host_gw(hosts: &[Host]) -> Result<(), TestbedError> {
    for_each_pair(hosts, |host, other| {
        host.ip(&format!("route add {}/24 via {}", other.pod_network(), other.address()))
    })
}

/// VXLAN as flannel sets it up: no learning, the peers' addresses entered by hand.
pub(super) fn vxlan(hosts: &[Host], mtu: u16) -> Result<(), TestbedError> {
    for host in hosts {
        let (local, mac) = (host.address(), mac(host));
        let (device, network) = (host.underlay_device(), host.pod_network());
        host.ip(&format!(
            "link add flannel.1 mtu {mtu} address {mac} type vxlan \
                 id 1 dev {device} local {local} dstport 8472 nolearning
             address add {network}/32 dev flannel.1
             link set flannel.1 up"
        ))?;
    }
    for_each_pair(hosts, |host, other| {
        let (mac, address, network) = (mac(other), other.address(), other.pod_network());
        host.ip(&format!(
            "neighbour add {network} lladdr {mac} dev flannel.1 nud permanent
             route add {network}/24 via {network} dev flannel.1 onlink"
        ))?;
        let entry = format!("fdb append {mac} dev flannel.1 dst {address}");
        host.run("bridge", &entry.split(' ').collect::<Vec<_>>()).map(drop)
    })
}

fn mac(host: &Host) -> String {
    format!("0e:2f:00:00:00:{:02x}", host.index())
}

fn for_each_pair(
    hosts: &[Host],
    mut join: impl FnMut(&Host, &Host) -> Result<(), TestbedError>,
) -> Result<(), TestbedError> {
    for host in hosts {
        for other in hosts.iter().filter(|other| other.index() != host.index()) {
            join(host, other)?;
        }
    }
    Ok(())
}
