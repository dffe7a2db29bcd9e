//! The host's interfaces, addresses and routes, read by netlink.

use super::network::{HostError, Network, failed};
use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The host's IP configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Interfaces by index.
    pub interfaces: Vec<Interface>,
    /// The routes of the main table in the kernel's order: of two to one network, the preferred
    /// first.
    pub routes: Vec<Route>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<Address>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address and the network that it is in.
    pub network: IpNet,
    /// Set by hand, not by DHCP for a time.
    pub permanent: bool,
    /// Not the first of its network; of IPv6, one that changes for privacy.
    pub secondary: bool,
    /// Not to be used for anything new.
    pub deprecated: bool,
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// By which interface, the first if there are several.
    pub interface: Option<u32>,
}

/// How the host reaches an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// By which interface.
    pub interface: u32,
    /// From which of its own addresses.
    pub source: IpAddr,
}

impl Survey {
    /// The host's addresses and routes inside an inner network of a peer, one sentence for each:
    /// packets for them would take the wrong way. Those inside `ours` belong there.
    #[must_use]
    pub fn inside(&self, network: IpNet, ours: &[IpNet]) -> Vec<String> {
        let mut found = Vec::new();
        let at_home = |net: &IpNet| ours.iter().any(|ours| ours.contains(net));
        for interface in &self.interfaces {
            for address in interface.addresses.iter().map(|address| address.network.addr()) {
                if network.contains(&address) && !at_home(&address.into()) {
                    let name = &interface.name;
                    found.push(format!("address {address} of {name} is inside {network}"));
                }
            }
        }
        for to in self.routes.iter().map(|route| route.destination) {
            if network.contains(&to) && to != network && !at_home(&to) {
                found.push(format!("the host's route to {to} is inside {network}"));
            }
        }
        found
    }
}

impl Survey {
    /// Leaves interfaces out, with their routes.
    #[cfg(feature = "etcd")]
    pub(crate) fn leave_out(&mut self, is_out: impl Fn(&str) -> bool) {
        let out = |interface: &Interface| is_out(&interface.name);
        let gone: Vec<_> = self.interfaces.iter().filter(|it| out(it)).map(|it| it.index).collect();
        self.interfaces.retain(|interface| !out(interface));
        self.routes.retain(|route| route.interface.is_none_or(|index| !gone.contains(&index)));
    }
}

impl Network {
    /// Looks at interfaces, addresses and routes.
    ///
    /// # Errors
    /// [`HostError::Request`].
    pub async fn survey(&self) -> Result<Survey, HostError> {
        let links: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|source| failed("cannot list links".to_owned(), source))?;
        let mut interfaces: Vec<_> = links.iter().map(interface).collect();
        let addresses: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|source| failed("cannot list addresses".to_owned(), source))?;
        for message in &addresses {
            let index = message.header.index;
            let owner = interfaces.iter_mut().find(|interface| interface.index == index);
            if let (Some(owner), Some(address)) = (owner, address(message)) {
                owner.addresses.push(address);
            }
        }
        interfaces.sort_by_key(|interface| interface.index);
        let mut routes = Vec::new();
        self.each_route(|message| routes.extend(route(&message))).await?;
        Ok(Survey { interfaces, routes })
    }

    /// Asks how the host would reach an address.
    ///
    /// # Errors
    /// [`HostError::Request`], also when there is no route.
    pub async fn path_to(&self, address: IpAddr) -> Result<Path, HostError> {
        let what = || format!("cannot look up the route to {address}");
        let mut question = match address {
            IpAddr::V4(v4) => {
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4, 32).build()
            }
            IpAddr::V6(v6) => {
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6, 128).build()
            }
        };
        // The builder's defaults are for adding.
        question.header.table = RouteHeader::RT_TABLE_UNSPEC;
        question.header.protocol = RouteProtocol::Unspec;
        question.header.scope = RouteScope::Universe;
        question.header.kind = RouteType::Unspec;
        let mut answers = Box::pin(self.handle.route().get(question).execute());
        let answer = answers.try_next().await.map_err(|source| failed(what(), source))?;
        let path = answer.as_ref().and_then(|answer| {
            let source = answer.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::PrefSource(RouteAddress::Inet(source)) => Some((*source).into()),
                RouteAttribute::PrefSource(RouteAddress::Inet6(source)) => Some((*source).into()),
                _ => None,
            });
            Some(Path { interface: outgoing(answer)?, source: source? })
        });
        path.ok_or_else(|| failed(what(), rtnetlink::Error::RequestFailed))
    }

    /// Adds a route that drops packets to addresses of a network without a more specific route;
    /// succeeds if it exists. Says whether it did not.
    ///
    /// # Errors
    /// [`HostError::Request`].
    pub async fn ensure_blackhole(&self, network: IpNet) -> Result<bool, HostError> {
        match self.handle.route().add(blackhole(network)).execute().await {
            Ok(()) => Ok(true),
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EEXIST => {
                Ok(false)
            }
            Err(source) => Err(failed(format!("cannot add blackhole route {network}"), source)),
        }
    }

    /// Removes the blackhole route of a former subnet, which would swallow the packets of its next
    /// owner; succeeds if it does not exist. Says whether it did.
    ///
    /// # Errors
    /// [`HostError::Request`].
    pub async fn remove_blackhole(&self, network: IpNet) -> Result<bool, HostError> {
        match self.handle.route().del(blackhole(network)).execute().await {
            Ok(()) => Ok(true),
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ESRCH => {
                Ok(false)
            }
            Err(source) => Err(failed(format!("cannot remove blackhole route {network}"), source)),
        }
    }
}

fn blackhole(network: IpNet) -> RouteMessage {
    let len = network.prefix_len();
    match network.network() {
        IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, len)
            .kind(RouteType::BlackHole)
            .protocol(RouteProtocol::Boot)
            .scope(RouteScope::Universe)
            .build(),
        IpAddr::V6(address) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(address, len)
            .kind(RouteType::BlackHole)
            .protocol(RouteProtocol::Boot)
            .scope(RouteScope::Universe)
            .build(),
    }
}

fn interface(message: &LinkMessage) -> Interface {
    let mut interface = Interface {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        addresses: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            _ => {}
        }
    }
    interface
}

fn address(message: &AddressMessage) -> Option<Address> {
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        if let AddressAttribute::Flags(all) = attribute {
            flags = *all;
        }
    }
    Some(Address {
        network: own_address(message)?,
        permanent: flags.contains(AddressFlags::Permanent),
        secondary: flags.contains(AddressFlags::Secondary),
        deprecated: flags.contains(AddressFlags::Deprecated),
    })
}

/// The address that an interface has, IPv4 or IPv6, and the network that it is in.
pub(super) fn own_address(message: &AddressMessage) -> Option<IpNet> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link the other attribute, Address, is the far end's. IPv6 has no
            // Local elsewhere.
            AddressAttribute::Local(own) => local = Some(*own),
            AddressAttribute::Address(other) => address = Some(*other),
            _ => {}
        }
    }
    IpNet::new(local.or(address)?, message.header.prefix_len).ok()
}

fn route(message: &RouteMessage) -> Option<Route> {
    Some(Route { destination: destination(message)?, interface: outgoing(message) })
}

/// Where a route leads.
pub(super) fn destination(message: &RouteMessage) -> Option<IpNet> {
    let written = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    });
    let everywhere = || match message.header.address_family {
        AddressFamily::Inet => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        AddressFamily::Inet6 => Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        _ => None,
    };
    IpNet::new(written.or_else(everywhere)?, message.header.destination_prefix_length).ok()
}

/// Through which link it leads, the first if there are several.
pub(super) fn outgoing(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        RouteAttribute::MultiPath(hops) => hops.first().map(|hop| hop.interface_index),
        _ => None,
    })
}

/// Whether it is in the main table. What the kernel has learned of the path to one destination, such as its
/// MTU, is listed with that table's routes and is none.
pub(super) fn is_main(message: &RouteMessage) -> bool {
    if message.header.flags.contains(RouteFlags::Cloned) {
        return false;
    }
    let attributes = message.attributes.iter();
    let mut wide = attributes.filter_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let table = wide.next_back().unwrap_or(message.header.table.into());
    table == u32::from(RouteHeader::RT_TABLE_MAIN)
}
