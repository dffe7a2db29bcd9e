//! How the host reaches an address, and the link on the way (ip-route(8), `ip route get`).

use super::netlink::Netlink;
use rtnetlink::packet_route::link::{
    LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, Stats64,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;
use std::net::Ipv4Addr;

/// The way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    /// The index of the link by which packets leave.
    pub(crate) device: u32,
    /// The address of ours that they come from.
    pub(crate) source: Ipv4Addr,
    /// The route's MTU, or what ICMP taught the kernel; none if it is the link's.
    pub(crate) mtu: Option<u32>,
}

/// A link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its name.
    pub(crate) name: String,
    /// Its MTU, bytes.
    pub(crate) mtu: u32,
    /// Its address, of Ethernet if it is one.
    pub(crate) address: Vec<u8>,
    /// Whether its frames are those of Ethernet.
    pub(crate) is_ethernet: bool,
    /// Whether it is up and has somebody at its other end (`IFF_LOWER_UP`); of a TUN device, a process
    /// that reads it.
    pub(crate) is_running: bool,
}

/// The way to an address; none if there is no route, or the address is our own.
///
/// # Errors
/// No answer.
pub(crate) fn hop(
    netlink: &mut Netlink,
    to: Ipv4Addr,
    from: Option<Ipv4Addr>,
) -> io::Result<Option<Hop>> {
    let mut question = RouteMessage::default();
    question.header.address_family = AddressFamily::Inet;
    question.header.destination_prefix_length = 32;
    question.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(to)));
    if let Some(from) = from {
        question.header.source_prefix_length = 32;
        question.attributes.push(RouteAttribute::Source(RouteAddress::Inet(from)));
    }
    let answer = match netlink.get(RouteNetlinkMessage::GetRoute(question)) {
        Ok(RouteNetlinkMessage::NewRoute(answer)) => answer,
        Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
        Err(error) if is_no_route(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    if answer.header.kind != RouteType::Unicast {
        return Ok(None);
    }
    let (mut device, mut source, mut mtu) = (None, from, None);
    for attribute in answer.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = Some(index),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(address),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.into_iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(bytes) => Some(bytes),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Ok(device.zip(source).map(|(device, source)| Hop { device, source, mtu }))
}

/// The link with an index.
///
/// # Errors
/// The kernel's: there is no such link.
pub(crate) fn link(netlink: &mut Netlink, index: u32) -> io::Result<Link> {
    let answer = described(netlink, index)?;
    let is_ethernet = answer.header.link_layer_type == LinkLayerType::Ether;
    let is_running = answer.header.flags.contains(LinkFlags::LowerUp);
    let mut link =
        Link { name: String::new(), mtu: 0, address: Vec::new(), is_ethernet, is_running };
    for attribute in answer.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(bytes) => link.mtu = bytes,
            LinkAttribute::Address(bytes) => link.address = bytes,
            _ => {}
        }
    }
    Ok(link)
}

/// What a link has counted.
///
/// # Errors
/// The kernel's: there is no such link.
pub(crate) fn statistics(netlink: &mut Netlink, index: u32) -> io::Result<Stats64> {
    let statistics =
        described(netlink, index)?.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Stats64(statistics) => Some(statistics),
            _ => None,
        });
    statistics.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A message about the link with an index.
pub(crate) fn indexed(index: u32) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link
}

/// A message that brings it up.
pub(crate) fn up(index: u32) -> LinkMessage {
    let mut link = indexed(index);
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link
}

/// Gives a link no IPv6: no address, no router solicitation.
pub(crate) fn disable_ipv6(name: &str) {
    // A host without IPv6 has no such file.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
}

/// Removes a link.
///
/// # Errors
/// The kernel's.
pub(crate) fn remove_link(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    netlink.change(RouteNetlinkMessage::DelLink(indexed(index)))
}

/// What the kernel says of a link.
fn described(netlink: &mut Netlink, index: u32) -> io::Result<LinkMessage> {
    match netlink.get(RouteNetlinkMessage::GetLink(indexed(index)))? {
        RouteNetlinkMessage::NewLink(answer) => Ok(answer),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn is_no_route(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use twill_testbed::Testbed;

    #[test]
    fn the_way_to_a_neighbour_to_oneself_and_to_nowhere() {
        let Some(bed) = Testbed::for_test("routes") else { return };
        let hosts = bed.hosts(2, &twill_testbed::Underlay::default()).unwrap();
        let [own, other]: [Ipv4Addr; 2] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
        hosts[0].ip("route add 198.51.100.0/24 via 192.0.2.2 mtu 1400").unwrap();
        hosts[0].enter(|| {
            let mut netlink = Netlink::open().unwrap();

            let hop = hop(&mut netlink, other, None).unwrap().unwrap();
            let link = link(&mut netlink, hop.device).unwrap();
            assert_eq!((hop.source, hop.mtu), (own, None));
            assert_eq!((link.name.as_str(), link.mtu, link.is_ethernet), ("u0", 1500, true));
            assert_eq!(link.address.len(), 6);

            let beyond = super::hop(&mut netlink, Ipv4Addr::new(198, 51, 100, 7), None);
            assert_eq!(beyond.unwrap().unwrap(), Hop { mtu: Some(1400), ..hop });
            for nowhere in [own, Ipv4Addr::new(203, 0, 113, 1)] {
                assert_eq!(super::hop(&mut netlink, nowhere, None).unwrap(), None, "{nowhere}");
            }
        });
    }
}
