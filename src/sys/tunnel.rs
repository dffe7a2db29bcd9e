//! Tunnel devices of the kernel's own, and routes into them (ip-link(8), ip-route(8)).

use super::netlink::{Netlink, PROTOCOL};
use super::route::{disable_ipv6, indexed, up};
use ipnet::Ipv4Net;
use rtnetlink::packet_core::EthernetProtocol;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoBareUdp, InfoData, InfoIpTunnel, InfoKind, LinkAttribute, LinkInfo, LinkMessage,
    TunnelEncapType,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteIpTunnel, RouteLwEnCapType, RouteLwTunnelEncap,
    RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;
use std::net::Ipv4Addr;

/// Hops that an outer packet may take.
const TTL: u8 = 64;
/// The Ethernet type of IPv4.
const IPV4: u16 = 0x0800;

/// Creates a device that takes IPv4 packets out of datagrams at a port once it is up, and sends them to
/// where their route says. Returns its index.
///
/// # Errors
/// The kernel's: `EOPNOTSUPP` if it has no such devices.
pub(crate) fn create_bareudp(
    netlink: &mut Netlink,
    name: &str,
    mtu: u16,
    port: u16,
) -> io::Result<u32> {
    let data = vec![InfoBareUdp::Port(port), InfoBareUdp::Ethertype(EthernetProtocol::from(IPV4))];
    create(netlink, name, mtu, InfoKind::BareUdp, InfoData::BareUdp(data))
}

/// Creates a device toward one address: packets leave in datagrams to a port, and those from there come
/// in by it. Returns its index.
///
/// # Errors
/// The kernel's: `EEXIST` if there is such a device already.
pub(crate) fn create_fou(
    netlink: &mut Netlink,
    name: &str,
    mtu: u16,
    (local, remote): (Option<Ipv4Addr>, Ipv4Addr),
    port: u16,
) -> io::Result<u32> {
    let mut data = vec![
        InfoIpTunnel::Remote(remote.into()),
        InfoIpTunnel::Ttl(TTL),
        InfoIpTunnel::PMtuDisc(true),
        InfoIpTunnel::EncapType(TunnelEncapType::Fou),
        // 0 is a port by the inner flow.
        InfoIpTunnel::EncapSPort(0),
        InfoIpTunnel::EncapDPort(port),
    ];
    data.extend(local.map(|local| InfoIpTunnel::Local(local.into())));
    create(netlink, name, mtu, InfoKind::IpIp, InfoData::IpTunnel(data))
}

fn create(
    netlink: &mut Netlink,
    name: &str,
    mtu: u16,
    kind: InfoKind,
    data: InfoData,
) -> io::Result<u32> {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu.into()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]),
    ];
    netlink.create(RouteNetlinkMessage::NewLink(link))?;
    let index = super::ioctl::interface_index(name).ok_or(io::ErrorKind::NotFound)?;
    disable_ipv6(name);
    Ok(index)
}

/// Brings a link up and says in its alias to whom it belongs.
///
/// # Errors
/// The kernel's: `EADDRINUSE` if a socket has the device's port.
pub(crate) fn set_up(netlink: &mut Netlink, index: u32, owner: &str) -> io::Result<()> {
    let mut link = up(index);
    link.attributes.push(LinkAttribute::IfAlias(owner.to_owned()));
    netlink.change(RouteNetlinkMessage::NewLink(link))
}

/// Sets the MTU of a link, bytes.
///
/// # Errors
/// The kernel's.
pub(crate) fn set_mtu(netlink: &mut Netlink, index: u32, mtu: u16) -> io::Result<()> {
    let mut link = indexed(index);
    link.attributes.push(LinkAttribute::Mtu(mtu.into()));
    netlink.change(RouteNetlinkMessage::NewLink(link))
}

/// The tunnel devices of an owner: their indexes.
///
/// # Errors
/// No answer.
pub(crate) fn owned(netlink: &mut Netlink, owner: &str) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    netlink.list(RouteNetlinkMessage::GetLink(LinkMessage::default()), |answer| {
        let RouteNetlinkMessage::NewLink(link) = answer else { return };
        let is_owned = |it: &LinkAttribute| matches!(it, LinkAttribute::IfAlias(by) if by == owner);
        if link.attributes.iter().any(is_owned) {
            found.push(link.header.index);
        }
    })?;
    Ok(found)
}

/// A network's way into a tunnel device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// The network.
    pub(crate) network: Ipv4Net,
    /// The device.
    pub(crate) device: u32,
    /// The address of ours that packets of this host have.
    pub(crate) source: Option<Ipv4Addr>,
    /// Where outer packets go, and from which address if it is a certain one; for devices that do not
    /// know it themselves.
    pub(crate) outer: Option<(Ipv4Addr, Option<Ipv4Addr>)>,
}

/// Puts a route before all others to the same network. Before Linux 5.14, the first address of a bridge's
/// network is a broadcast address, and no route may have it as source. Then the device gets the address, too,
/// and the kernel takes it from there.
///
/// # Errors
/// The kernel's.
pub(crate) fn prepend(netlink: &mut Netlink, way: &Way) -> io::Result<()> {
    let done = netlink.prepend(RouteNetlinkMessage::NewRoute(route(way)));
    match (done, way.source) {
        (Err(error), Some(source)) if error.raw_os_error() == Some(libc::EINVAL) => {
            add_address(netlink, way.device, source)?;
            let way = Way { source: None, ..*way };
            netlink.prepend(RouteNetlinkMessage::NewRoute(route(&way)))
        }
        (done, _) => done,
    }
}

/// Gives a device an address, if it does not have it.
fn add_address(netlink: &mut Netlink, device: u32, address: Ipv4Addr) -> io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.index = device;
    message.attributes =
        vec![AddressAttribute::Local(address.into()), AddressAttribute::Address(address.into())];
    match netlink.create(RouteNetlinkMessage::NewAddress(message)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

/// Removes a route, whatever source it has.
///
/// # Errors
/// The kernel's: `ESRCH` if there is none.
pub(crate) fn remove_route(netlink: &mut Netlink, way: &Way) -> io::Result<()> {
    let way = Way { source: None, ..*way };
    netlink.change(RouteNetlinkMessage::DelRoute(route(&way)))
}

fn route(way: &Way) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.destination_prefix_length = way.network.prefix_len();
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Other(PROTOCOL);
    route.header.scope = RouteScope::Link;
    route.header.kind = RouteType::Unicast;
    route.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(way.network.network())),
        RouteAttribute::Oif(way.device),
    ];
    route
        .attributes
        .extend(way.source.map(|source| RouteAttribute::PrefSource(RouteAddress::Inet(source))));
    if let Some((to, from)) = way.outer {
        let mut outer = vec![RouteIpTunnel::Destination(to), RouteIpTunnel::Ttl(TTL)];
        outer.extend(from.map(RouteIpTunnel::Source));
        let outer = outer.into_iter().map(RouteLwTunnelEncap::Ip).collect();
        route.attributes.push(RouteAttribute::EncapType(RouteLwEnCapType::Ip));
        route.attributes.push(RouteAttribute::Encap(outer));
    }
    route
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ioctl::interface_index;
    use twill_testbed::Testbed;

    #[test]
    fn a_route_goes_before_another_one_and_leaves_it_there() {
        let Some(bed) = Testbed::for_test("routes into tunnels") else { return };
        let hosts = bed.hosts(2, &twill_testbed::Underlay::default()).unwrap();
        hosts[0].ip("route add 10.7.0.0/16 via 192.0.2.2").unwrap();
        let look = || hosts[0].run("ip", &["route", "get", "10.7.1.1"]).unwrap();
        let way = |netlink: &mut Netlink| {
            let device = interface_index("lo").unwrap();
            set_up(netlink, device, "a test's").unwrap();
            assert_eq!(owned(netlink, "a test's").unwrap(), [device]);
            let network = "10.7.0.0/16".parse().unwrap();
            Way { network, device, source: Some([192, 0, 2, 1].into()), outer: None }
        };

        hosts[0].enter(|| {
            let mut netlink = Netlink::open().unwrap();
            let way = way(&mut netlink);
            prepend(&mut netlink, &way).unwrap();
        });
        let there = look();
        hosts[0].enter(|| {
            let mut netlink = Netlink::open().unwrap();
            let way = way(&mut netlink);
            remove_route(&mut netlink, &way).unwrap();
            assert_eq!(
                remove_route(&mut netlink, &way).unwrap_err().raw_os_error(),
                Some(libc::ESRCH)
            );
        });

        assert!(there.contains("dev lo src 192.0.2.1"), "{there}");
        assert!(look().contains("via 192.0.2.2"));
    }

    #[test]
    fn a_source_that_the_kernel_refuses_for_a_route_becomes_an_address_of_the_device() {
        let Some(bed) = Testbed::for_test("routes into tunnels") else { return };
        let host = &bed.hosts(1, &twill_testbed::Underlay::default()).unwrap()[0];
        // Every kernel refuses one that no device has.
        let source = Some([10, 5, 1, 0].into());
        let each = |act: fn(&mut Netlink, &Way) -> io::Result<()>| {
            host.enter(|| {
                let mut netlink = Netlink::open().unwrap();
                let device = interface_index("lo").unwrap();
                for network in ["10.7.0.0/16", "10.8.0.0/16"] {
                    let network = network.parse().unwrap();
                    act(&mut netlink, &Way { network, device, source, outer: None }).unwrap();
                }
            });
        };

        each(prepend);
        let there = ["10.7.1.1", "10.8.1.1"].map(|to| host.run("ip", &["route", "get", to]));
        each(remove_route);

        for route in there {
            let route = route.unwrap();
            assert!(route.contains("dev lo src 10.5.1.0"), "{route}");
        }
        let left = host.run("ip", &["route", "show", "proto", &PROTOCOL.to_string()]).unwrap();
        assert_eq!(left, "");
    }
}
