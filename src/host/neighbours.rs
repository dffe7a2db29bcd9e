//! Next hops on the host's links, as ARP and neighbour discovery know them.

use super::network::{HostError, Network, failed};
use futures_util::TryStreamExt;
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use std::collections::BTreeSet;
use std::net::IpAddr;

impl Network {
    /// The neighbours that do not answer: the kernel asks for them, or has given up.
    ///
    /// # Errors
    /// [`HostError::Request`].
    pub(crate) async fn unanswering(&self) -> Result<BTreeSet<IpAddr>, HostError> {
        let mut messages = self.handle.neighbours().get().execute();
        let mut silent = BTreeSet::new();
        while let Some(message) = messages
            .try_next()
            .await
            .map_err(|source| failed("cannot list neighbours".to_owned(), source))?
        {
            if !matches!(message.header.state, NeighbourState::Incomplete | NeighbourState::Failed)
            {
                continue;
            }
            silent.extend(message.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                    Some(IpAddr::from(*v4))
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                    Some(IpAddr::from(*v6))
                }
                _ => None,
            }));
        }
        Ok(silent)
    }
}
