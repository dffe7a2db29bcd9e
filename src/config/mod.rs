//! The settings of a gateway, valid by construction. The planes see settings only, never files, flags
//! or variables.

pub mod file;
#[cfg(feature = "etcd")]
pub mod flanneld;
pub mod load;
mod values;

pub use crate::subnet::{Addresses, Subnets};
pub use values::{
    BusyPoll, FastPath, InvalidValue, Mtu, Pinning, QueueCount, SourcePorts, Steering, Succession,
};

use crate::engine::EngineChoice;
use ipnet::{IpNet, Ipv4Net};
use std::net::SocketAddr;
use twill_datapath::IngressCheck;
use twill_datapath::offload::feature::FeatureSet;

/// The largest MTU of common Ethernet, bytes.
const JUMBO: u16 = 9000;
/// Bytes that the tunnel adds to a packet over IPv4: IP header and UDP header.
pub(crate) const OVERHEAD_V4: u16 = 28;
/// Bytes that the tunnel adds to a packet over IPv6.
pub(crate) const OVERHEAD_V6: u16 = 48;

/// Whether a device's name is one that the kernel makes of a pattern (`flannel%d`).
pub(crate) fn is_numbered(pattern: &str, device: &str) -> bool {
    pattern.split_once("%d").is_some_and(|(before, after)| {
        let number = device.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    })
}

/// The data plane of one gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of the TUN device, or a pattern with one `%d` (`flannel%d`) that the kernel numbers.
    pub device: String,
    /// Addresses of the TUN device.
    pub addresses: Vec<IpNet>,
    /// MTU of the TUN device.
    pub mtu: Mtu,
    /// Whether the device's MTU follows that of the paths to peers while the gateway runs.
    pub follows_paths: bool,
    /// The address to receive at.
    pub listen: SocketAddr,
    /// Inner networks behind this gateway: destinations that ingress accepts.
    pub local: Vec<IpNet>,
    /// Workers, each with its TUN queue and its socket.
    pub queues: QueueCount,
    /// The engine.
    pub engine: EngineChoice,
    /// Offloads to use where the kernel has them.
    pub offloads: FeatureSet,
    /// Use GSO even if this kernel is known to corrupt UDP_SEGMENT sends.
    pub gso_forced: bool,
    /// How ingress validates the source of datagrams.
    pub ingress_check: IngressCheck,
    /// Outer networks from which any peer's datagrams may come (`--peer-source`).
    pub peer_sources: Vec<IpNet>,
    /// From which port workers send.
    pub source_ports: SourcePorts,
    /// How datagrams are distributed over workers.
    pub steering: Steering,
    /// Whether packets cross the gateway without leaving the kernel.
    pub fast_path: FastPath,
    /// Whether the fast path goes on when the gateway ends.
    pub keep_forwarding: bool,
    /// How long a worker polls for packets before it sleeps.
    pub busy_poll: BusyPoll,
    /// Whether workers are bound to CPUs.
    pub pinning: Pinning,
    /// Receive buffer of each socket, bytes; the kernel doubles it for its own bookkeeping.
    pub socket_buffer: u32,
    /// Queue length of the TUN device, packets (`txqueuelen`).
    pub device_queue: u32,
    /// Keep histograms and counters by peer; packets and drops are always counted.
    pub telemetry: bool,
}

impl Settings {
    /// The MTU for which buffers have room: jumbo frames of Ethernet, if the MTU may grow.
    #[must_use]
    pub(crate) fn largest_mtu(&self) -> Mtu {
        let overhead = if self.listen.is_ipv6() { OVERHEAD_V6 } else { OVERHEAD_V4 };
        match self.follows_paths {
            true => self.mtu.max(Mtu::at_most(JUMBO - overhead)),
            false => self.mtu,
        }
    }

    /// The device's first IPv4 address, with its network.
    #[must_use]
    pub(crate) fn first_v4(&self) -> Option<Ipv4Net> {
        self.addresses.iter().find_map(|address| match address {
            IpNet::V4(address) => Some(*address),
            IpNet::V6(_) => None,
        })
    }
}
