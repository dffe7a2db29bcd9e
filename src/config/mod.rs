//! What a gateway is to do, valid by construction: the only thing that the planes see of files,
//! flags and variables.

pub mod file;
#[cfg(feature = "etcd")]
pub mod flanneld;
pub mod load;
mod values;

pub use values::{InvalidValue, MAX_BUSY_POLL_US, Mtu, Pinning, QueueCount, SourcePorts, Steering};

use crate::engine::EngineChoice;
use ipnet::{IpNet, Ipv4Net};
use std::net::SocketAddr;
use std::time::Duration;
use twill_datapath::IngressCheck;
use twill_datapath::offload::feature::FeatureSet;

/// Bytes that the tunnel adds to a packet over IPv4: IP header and UDP header.
pub const OVERHEAD_V4: u16 = 28;
/// Bytes that the tunnel adds to a packet over IPv6.
pub const OVERHEAD_V6: u16 = 48;

/// The data plane of one gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of the TUN device, or a pattern with one `%d` (`flannel%d`) that the kernel numbers.
    pub device: String,
    /// Addresses of the TUN device.
    pub addresses: Vec<IpNet>,
    /// MTU of the TUN device.
    pub mtu: Mtu,
    /// Where to receive.
    pub listen: SocketAddr,
    /// Inner networks behind this gateway: destinations that ingress accepts.
    pub local: Vec<IpNet>,
    /// Workers, each with its TUN queue and its socket.
    pub queues: QueueCount,
    /// Which engine.
    pub engine: EngineChoice,
    /// Offloads to use where the kernel has them.
    pub offloads: FeatureSet,
    /// Send runs even where this kernel is known to mangle them.
    pub gso_forced: bool,
    /// What ingress demands of a datagram.
    pub ingress_check: IngressCheck,
    /// Outer networks from which any peer's datagrams may come (`--peer-source`).
    pub peer_sources: Vec<IpNet>,
    /// Whether flows are spread over source ports.
    pub source_ports: SourcePorts,
    /// How arrivals are spread over workers.
    pub steering: Steering,
    /// How long a worker looks for arrivals before it sleeps; zero: not at all.
    pub busy_poll: Duration,
    /// Whether workers are bound to CPUs.
    pub pinning: Pinning,
    /// Receive buffer of each socket, bytes; the kernel doubles it for its own books.
    pub socket_buffer: u32,
    /// Queue length of the TUN device, packets (`txqueuelen`).
    pub device_queue: u32,
    /// Keep histograms and numbers by peer; books of packets and drops are always kept.
    pub telemetry: bool,
}

impl Settings {
    /// The device's first IPv4 address, with its network.
    #[must_use]
    pub fn first_v4(&self) -> Option<Ipv4Net> {
        self.addresses.iter().find_map(|address| match address {
            IpNet::V4(address) => Some(*address),
            IpNet::V6(_) => None,
        })
    }
}
