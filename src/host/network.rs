//! Links, addresses and routes, by netlink.
//!
//! Does every step of a change that can be done, and returns all failures.

use super::events::{self, HostEvents};
use super::survey;
use crate::sys::netlink::PROTOCOL;
use futures_util::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Connect(io::Error),
    /// A request failed.
    #[error("{what}: {source}{cure}", cure = cure(source, *is_v6))]
    Request {
        /// What was tried.
        what: String,
        /// Whether it was about IPv6.
        is_v6: bool,
        /// What came back.
        source: rtnetlink::Error,
    },
    /// The host routes a network elsewhere already.
    #[error(
        "cannot route {network}: it has a route already, {by}: remove that route (ip route del \
         {network}), or the subnet"
    )]
    Routed {
        /// The network.
        network: IpNet,
        /// The device of that route.
        by: String,
    },
    /// Several steps failed; the others are done.
    #[error("{}", join(.0))]
    Several(Vec<Self>),
}

impl HostError {
    /// The failures, one by one.
    #[must_use]
    pub fn each(self) -> Vec<Self> {
        match self {
            Self::Several(failures) => failures,
            one => vec![one],
        }
    }

    /// All failures as one result.
    fn all(mut failures: Vec<Self>) -> Result<(), Self> {
        match failures.len() {
            0 => Ok(()),
            1 => Err(failures.remove(0)),
            _ => Err(Self::Several(failures)),
        }
    }
}

fn join(failures: &[HostError]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn cure(error: &rtnetlink::Error, is_v6: bool) -> &'static str {
    match errno(error) {
        Some(libc::EPERM) => ": run as root, or grant CAP_NET_ADMIN",
        Some(libc::ENODEV) => ": the device is gone",
        Some(libc::EACCES | libc::EINVAL | libc::EOPNOTSUPP) if is_v6 => {
            ": is IPv6 disabled (sysctl net.ipv6.conf.all.disable_ipv6)?"
        }
        _ => "",
    }
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(-message.raw_code()),
        _ => None,
    }
}

/// The host's network configuration.
#[derive(Clone, Debug)]
pub struct Network {
    pub(super) handle: Handle,
}

impl Network {
    /// Connects to the kernel; needs a tokio runtime, on which it keeps two tasks. Requests have a
    /// socket of their own: the kernel drops an answer that finds the buffer full of notifications.
    ///
    /// # Errors
    /// [`HostError::Connect`].
    pub fn connect() -> Result<(Self, HostEvents), HostError> {
        let (requests, handle, _) = rtnetlink::new_connection().map_err(HostError::Connect)?;
        tokio::spawn(requests);
        Ok((Self { handle }, events::follow()?))
    }

    /// Sets how many packets may wait for a device (`txqueuelen`).
    ///
    /// # Errors
    /// [`HostError::Request`].
    pub(crate) async fn set_queue_length(&self, index: u32, packets: u32) -> Result<(), HostError> {
        let link = LinkUnspec::new_with_index(index).txqueuelen(packets).build();
        let request = self.handle.link().set(link).execute().await;
        request.map_err(|source| failed(format!("cannot set txqueuelen {packets}"), source))
    }

    /// Sets the MTU of a device.
    ///
    /// # Errors
    /// [`HostError::Request`].
    pub(crate) async fn set_mtu(&self, index: u32, mtu: u16) -> Result<(), HostError> {
        let link = LinkUnspec::new_with_index(index).mtu(mtu.into()).build();
        let request = self.handle.link().set(link).execute().await;
        request.map_err(|source| failed(format!("cannot set mtu {mtu}"), source))
    }

    /// Brings a device up.
    ///
    /// # Errors
    /// [`HostError::Request`].
    pub(crate) async fn set_up(&self, index: u32) -> Result<(), HostError> {
        let link = LinkUnspec::new_with_index(index).up().build();
        let request = self.handle.link().set(link).execute().await;
        request.map_err(|source| failed(format!("cannot bring link {index} up"), source))
    }

    /// Adds an address to a device; succeeds if it is there already.
    ///
    /// # Errors
    /// [`HostError::Request`].
    pub(crate) async fn add_address(&self, index: u32, address: IpNet) -> Result<(), HostError> {
        let request = self.handle.address().add(index, address.addr(), address.prefix_len());
        let done = request.replace().execute().await;
        done.map_err(|source| failed_for(address, format!("cannot add address {address}"), source))
    }

    /// Gives a device its addresses and routes. One that the kernel refuses takes no other along: an
    /// IPv6 address fails where IPv6 is disabled, and IPv4 goes on.
    ///
    /// # Errors
    /// [`HostError`], of every address and route that is missing now.
    pub async fn configure(
        &self,
        index: u32,
        addresses: &[IpNet],
        networks: &[IpNet],
    ) -> Result<(), HostError> {
        let mut failures = Vec::new();
        for address in addresses {
            failures.extend(self.add_address(index, *address).await.err());
        }
        let refused = self.add_routes(index, networks).await.err();
        failures.extend(refused.into_iter().flat_map(HostError::each));
        HostError::all(failures)
    }

    /// Removes the addresses of a device but these, and the routes to it that a gateway has added but
    /// those of these networks.
    ///
    /// # Errors
    /// [`HostError`], of every address and route that is still there.
    pub(crate) async fn prune(
        &self,
        index: u32,
        addresses: &[IpNet],
        networks: &[IpNet],
    ) -> Result<(), HostError> {
        let wanted: HashSet<_> = networks.iter().map(IpNet::trunc).collect();
        let mut stale = HashSet::new();
        self.each_route(|route| {
            let is_ours = route.header.protocol == RouteProtocol::Boot
                && survey::outgoing(&route) == Some(index);
            let to = survey::destination(&route).filter(|to| is_ours && !wanted.contains(to));
            stale.extend(to);
        })
        .await?;
        let mut failures = Vec::new();
        for network in stale {
            failures.extend(self.remove_route(index, network).await.err());
        }
        let mut messages = Box::pin(self.handle.address().get().execute());
        while let Some(message) = messages
            .try_next()
            .await
            .map_err(|source| failed("cannot list addresses".to_owned(), source))?
        {
            let Some(own) = survey::own_address(&message) else { continue };
            if message.header.index != index || addresses.contains(&own) {
                continue;
            }
            let done = self.handle.address().del(message).execute().await;
            failures.extend(
                done.err()
                    .map(|source| failed_for(own, format!("cannot remove address {own}"), source)),
            );
        }
        HostError::all(failures)
    }

    /// Routes networks to a device; succeeds for routes that are there already, and on a device that
    /// is down: the kernel keeps no routes to it, add them when it comes up.
    ///
    /// # Errors
    /// [`HostError`], of every route that is missing now; the others are there.
    pub async fn add_routes(&self, index: u32, networks: &[IpNet]) -> Result<(), HostError> {
        let (mut there, mut failures) = (Vec::new(), Vec::new());
        for network in networks {
            let request = self.handle.route().add(route(index, *network));
            let Err(source) = request.execute().await else { continue };
            match errno(&source) {
                Some(libc::EEXIST) => there.push(*network),
                Some(libc::ENETDOWN) => return HostError::all(failures),
                _ => failures.push(failed_for(*network, format!("cannot route {network}"), source)),
            }
        }
        if there.is_empty() {
            return HostError::all(failures);
        }
        let owners = self.route_owners(&there).await?;
        for network in there {
            let by = match owners.get(&network) {
                Some(Some(owner)) if *owner == index => continue,
                Some(Some(owner)) => format!("through {}", self.link_name(*owner).await),
                Some(None) => "through no device".to_owned(),
                // Only a fast path has one, which goes before this one.
                None => match self.append_route(index, network).await {
                    Err(source) if errno(&source) != Some(libc::EEXIST) => {
                        failures.push(failed_for(
                            network,
                            format!("cannot route {network}"),
                            source,
                        ));
                        continue;
                    }
                    _ => continue,
                },
            };
            failures.push(HostError::Routed { network, by });
        }
        HostError::all(failures)
    }

    /// Adds a route behind those to the same network.
    async fn append_route(&self, index: u32, network: IpNet) -> Result<(), rtnetlink::Error> {
        let mut request =
            NetlinkMessage::from(RouteNetlinkMessage::NewRoute(route(index, network)));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND;
        let mut answers = self.handle.clone().request(request)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(rtnetlink::Error::NetlinkError(error));
            }
        }
        Ok(())
    }

    /// The addresses of the host, each with the index of its link.
    ///
    /// # Errors
    /// [`HostError::Request`].
    pub async fn addresses(&self) -> Result<Vec<(u32, IpNet)>, HostError> {
        let mut messages = Box::pin(self.handle.address().get().execute());
        let mut addresses = Vec::new();
        while let Some(message) = messages
            .try_next()
            .await
            .map_err(|source| failed("cannot list addresses".to_owned(), source))?
        {
            let own = survey::own_address(&message);
            addresses.extend(own.map(|own| (message.header.index, own)));
        }
        Ok(addresses)
    }

    /// Those of these networks that are not routed to a device.
    ///
    /// # Errors
    /// [`HostError::Request`].
    pub(crate) async fn unrouted(
        &self,
        index: u32,
        networks: &[IpNet],
    ) -> Result<Vec<IpNet>, HostError> {
        let owners = self.route_owners(networks).await?;
        let is_missing = |network: &&IpNet| owners.get(&network.trunc()) != Some(&Some(index));
        Ok(networks.iter().filter(is_missing).copied().collect())
    }

    /// Through which link each of these networks is routed, if through any; routes of a fast path, which
    /// goes before the TUN device, do not count.
    async fn route_owners(
        &self,
        networks: &[IpNet],
    ) -> Result<HashMap<IpNet, Option<u32>>, HostError> {
        let wanted: HashSet<_> = networks.iter().map(IpNet::trunc).collect();
        let mut owners = HashMap::new();
        self.each_route(|route| {
            let Some(to) = survey::destination(&route) else { return };
            let is_fast = route.header.protocol == RouteProtocol::Other(PROTOCOL);
            if wanted.contains(&to) && !is_fast {
                // The kernel lists the route that it uses first.
                owners.entry(to).or_insert(survey::outgoing(&route));
            }
        })
        .await?;
        Ok(owners)
    }

    /// The routes of the main table, in the kernel's order.
    pub(super) async fn each_route(
        &self,
        mut each: impl FnMut(RouteMessage),
    ) -> Result<(), HostError> {
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        for all in [v4, v6] {
            let mut routes = self.handle.route().get(all).execute();
            while let Some(route) = routes
                .try_next()
                .await
                .map_err(|source| failed("cannot list routes".to_owned(), source))?
            {
                if survey::is_main(&route) {
                    each(route);
                }
            }
        }
        Ok(())
    }

    async fn link_name(&self, index: u32) -> String {
        let mut links = self.handle.link().get().match_index(index).execute();
        let link = links.try_next().await.ok().flatten();
        let name = link.and_then(|link| {
            link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
        });
        name.unwrap_or_else(|| format!("link {index}"))
    }

    /// Removes the route of a network to a device; succeeds if it does not exist.
    ///
    /// # Errors
    /// [`HostError::Request`].
    pub(crate) async fn remove_route(&self, index: u32, network: IpNet) -> Result<(), HostError> {
        match self.handle.route().del(route(index, network)).execute().await {
            Err(source) if errno(&source) == Some(libc::ESRCH) => Ok(()),
            done => done.map_err(|source| {
                failed_for(network, format!("cannot remove route {network}"), source)
            }),
        }
    }
}

/// `NETWORK dev INDEX`, without a gateway or a preferred source, as flannel sets it.
fn route(index: u32, network: IpNet) -> RouteMessage {
    let (address, len) = (network.network(), network.prefix_len());
    let scope = RouteScope::Universe;
    let protocol = RouteProtocol::Boot;
    match address {
        IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, len)
            .output_interface(index)
            .scope(scope)
            .protocol(protocol)
            .build(),
        IpAddr::V6(address) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(address, len)
            .output_interface(index)
            .scope(scope)
            .protocol(protocol)
            .build(),
    }
}

pub(super) fn failed(what: String, source: rtnetlink::Error) -> HostError {
    HostError::Request { what, is_v6: false, source }
}

fn failed_for(network: IpNet, what: String, source: rtnetlink::Error) -> HostError {
    HostError::Request { what, is_v6: matches!(network, IpNet::V6(_)), source }
}
