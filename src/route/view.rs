//! A consistent picture of all peers at one moment, immutable once published.

use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A peer's number. It stays the same while the peer exists, so counters are arrays; it may be used
/// again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerIndex(pub u32);

/// A gateway that holds subnets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number.
    pub index: PeerIndex,
    /// Its name in files and reports.
    pub name: Arc<str>,
    /// Its UDP address.
    pub endpoint: SocketAddr,
    /// The inner networks behind it.
    pub subnets: Vec<IpNet>,
}

/// What the datapath knows of the overlay at one moment.
#[derive(Debug, Default)]
pub struct View {
    /// Inner networks behind this gateway (the lease, or the static local subnets).
    pub local: Vec<IpNet>,
    /// This gateway's own inner addresses, the TUN device's.
    pub addresses: Vec<IpAddr>,
}
