//! Changes of the host's network, as the kernel tells them.

use super::network::HostError;
use super::survey;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use ipnet::IpNet;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NLM_F_REPLACE, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkFlags;
use std::net::IpAddr;

/// A change of links, addresses or routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// A link changed.
    Link {
        /// Its index.
        index: u32,
        /// Whether it exists and is up.
        up: bool,
    },
    /// An address appeared, changed or went away.
    Address {
        /// The index of its link.
        index: u32,
        /// The address.
        address: IpAddr,
        /// Whether it went away.
        gone: bool,
    },
    /// A route appeared or went away.
    Route {
        /// Its destination.
        network: IpNet,
        /// The index of its link.
        index: Option<u32>,
        /// What happened to it.
        change: RouteChange,
    },
    /// The kernel dropped notifications: anything may have changed.
    Missed,
}

/// A change of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// It is new.
    Added,
    /// It took the place of another route.
    Replaced,
    /// It went away.
    Gone,
}

/// Changes as they happen.
pub type HostEvents = BoxStream<'static, HostEvent>;

/// Follows the changes; keeps a task on the caller's tokio runtime.
pub(super) fn follow() -> Result<HostEvents, HostError> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, _, messages) =
        rtnetlink::new_multicast_connection(&groups).map_err(HostError::Connect)?;
    tokio::spawn(connection);
    Ok(messages.filter_map(|(message, _)| async move { event(&message) }).boxed())
}

fn event(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<HostEvent> {
    let inner = match &message.payload {
        NetlinkPayload::InnerMessage(inner) => inner,
        NetlinkPayload::Overrun(_) => return Some(HostEvent::Missed),
        _ => return None,
    };
    match inner {
        RouteNetlinkMessage::NewLink(link) => {
            let up = link.header.flags.contains(LinkFlags::Up);
            Some(HostEvent::Link { index: link.header.index, up })
        }
        RouteNetlinkMessage::DelLink(link) => {
            Some(HostEvent::Link { index: link.header.index, up: false })
        }
        RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message) => {
            Some(HostEvent::Address {
                index: message.header.index,
                address: survey::own_address(message)?.addr(),
                gone: matches!(inner, RouteNetlinkMessage::DelAddress(_)),
            })
        }
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route)
            if survey::is_main(route) =>
        {
            let change = match inner {
                RouteNetlinkMessage::DelRoute(_) => RouteChange::Gone,
                _ if message.header.flags & NLM_F_REPLACE != 0 => RouteChange::Replaced,
                _ => RouteChange::Added,
            };
            let network = survey::destination(route)?;
            Some(HostEvent::Route { network, index: survey::outgoing(route), change })
        }
        _ => None,
    }
}
