//! Links, addresses and routes, by netlink.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use ipnet::IpNet;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkFlags;
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder};
use std::io;
use std::net::IpAddr;

/// What the kernel refused: what was tried and what came back.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No netlink socket.
    #[error("opening a netlink socket: {0}")]
    Connect(io::Error),
    /// A request failed.
    #[error("{what}: {source}: run as root, or grant CAP_NET_ADMIN")]
    Request {
        /// What was tried.
        what: String,
        /// What came back.
        source: rtnetlink::Error,
    },
}

/// A link that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkEvent {
    /// The link's index.
    pub index: u32,
    /// Whether it exists and is up.
    pub up: bool,
}

/// Link changes as they happen.
pub type LinkEvents = BoxStream<'static, LinkEvent>;

/// The host's network configuration.
#[derive(Clone, Debug)]
pub struct Network {
    pub(super) handle: Handle,
}

impl Network {
    /// Connects to the kernel; needs a tokio runtime, on which it keeps a task.
    ///
    /// # Errors
    /// [`HostError::Connect`].
    pub fn connect() -> Result<(Self, LinkEvents), HostError> {
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link])
                .map_err(HostError::Connect)?;
        tokio::spawn(connection);
        let events = messages.filter_map(|(message, _)| async move {
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    let up = link.header.flags.contains(LinkFlags::Up);
                    Some(LinkEvent { index: link.header.index, up })
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                    Some(LinkEvent { index: link.header.index, up: false })
                }
                _ => None,
            }
        });
        Ok((Self { handle }, events.boxed()))
    }

    /// Sets how many packets may wait for a device (`txqueuelen`).
    ///
    /// # Errors
    /// [`HostError::Request`].
    pub async fn set_queue_length(&self, index: u32, packets: u32) -> Result<(), HostError> {
        let link = LinkUnspec::new_with_index(index).txqueuelen(packets).build();
        let request = self.handle.link().set(link).execute().await;
        request.map_err(|source| failed(format!("setting txqueuelen {packets}"), source))
    }

    /// Brings a device up.
    ///
    /// # Errors
    /// [`HostError::Request`].
    pub async fn set_up(&self, index: u32) -> Result<(), HostError> {
        let link = LinkUnspec::new_with_index(index).up().build();
        let request = self.handle.link().set(link).execute().await;
        request.map_err(|source| failed(format!("bringing link {index} up"), source))
    }

    /// Adds an address to a device; one that is there already is fine.
    ///
    /// # Errors
    /// [`HostError::Request`].
    pub async fn add_address(&self, index: u32, address: IpNet) -> Result<(), HostError> {
        let request = self.handle.address().add(index, address.addr(), address.prefix_len());
        let done = request.replace().execute().await;
        done.map_err(|source| failed(format!("adding address {address}"), source))
    }

    /// Routes a network to a device, in place of another route to it.
    ///
    /// # Errors
    /// [`HostError::Request`].
    pub async fn add_route(&self, index: u32, network: IpNet) -> Result<(), HostError> {
        let request = self.handle.route().add(route(index, network)).replace().execute().await;
        request.map_err(|source| failed(format!("routing {network}"), source))
    }

    /// Takes the route of a network to a device away; one that is gone already is fine.
    ///
    /// # Errors
    /// [`HostError::Request`].
    pub async fn remove_route(&self, index: u32, network: IpNet) -> Result<(), HostError> {
        match self.handle.route().del(route(index, network)).execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ESRCH => {
                Ok(())
            }
            done => done.map_err(|source| failed(format!("removing route {network}"), source)),
        }
    }
}

/// `NETWORK dev INDEX`, without a gateway or a preferred source, as flannel sets it.
fn route(index: u32, network: IpNet) -> RouteMessage {
    let (address, len) = (network.network(), network.prefix_len());
    let scope = RouteScope::Universe;
    let protocol = RouteProtocol::Boot;
    match address {
        IpAddr::V4(address) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(address, len)
            .output_interface(index)
            .scope(scope)
            .protocol(protocol)
            .build(),
        IpAddr::V6(address) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(address, len)
            .output_interface(index)
            .scope(scope)
            .protocol(protocol)
            .build(),
    }
}

pub(super) fn failed(what: String, source: rtnetlink::Error) -> HostError {
    HostError::Request { what, source }
}
