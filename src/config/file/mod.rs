//! The configuration file of `twill run`: TOML, one `[interface]` and any number of `[[peer]]`.
//!
//! Parsing is pure, and finds all mistakes at once. `super::load` adds what only the host knows: the
//! MTU of its uplink and the addresses of names.

mod endpoint;
mod mistake;
mod read;
mod reload;
mod save;
mod tables;
#[cfg(test)]
mod tests;

pub use endpoint::{Endpoint, InvalidEndpoint};
pub use mistake::{FileErrors, Located, Mistake};
pub use read::{address, network};
pub use reload::{ON_RELOAD, OnReload};
pub use save::{Live, Saved, save};
pub use tables::parse;

use super::{
    BusyPoll, FastPath, InvalidValue, Mtu, Pinning, QueueCount, Scheduling, SourcePorts, Steering,
};
use crate::engine::EngineChoice;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use toml::Spanned;
use twill_datapath::IngressCheck;
use twill_datapath::offload::feature::{Feature, FeatureSet};

/// UDP port of flannel's `udp` backend.
pub const DEFAULT_PORT: u16 = 8285;

/// A parsed file.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// The gateway itself.
    pub interface: Interface,
    /// Its peers.
    pub peers: Vec<FilePeer>,
    /// Positions of `[interface]` and its keys in the text; empty for missing ones.
    pub places: Places,
}

/// Positions of `[interface]` and of each of its keys in the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    table: Range<usize>,
    keys: BTreeMap<&'static str, Range<usize>>,
}

impl Places {
    /// Position of a key's value; of the table's header if the key is missing.
    #[must_use]
    pub fn of(&self, key: &str) -> Range<usize> {
        self.keys.get(key).unwrap_or(&self.table).clone()
    }

    /// Whether the file has a key.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }
}

/// `[interface]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name of the TUN device.
    pub name: String,
    /// Addresses of the TUN device.
    pub address: Vec<IpNet>,
    /// Inner networks behind this gateway; the default is the networks of `address`.
    pub local: Vec<IpNet>,
    /// MTU of the TUN device.
    pub mtu: Option<Mtu>,
    /// MTU of the network between the gateways; the tunnel's overhead is subtracted.
    pub underlay_mtu: Option<u16>,
    /// The address to receive at.
    pub listen: SocketAddr,
    /// Workers.
    pub queues: Queues,
    /// The engine.
    pub engine: EngineChoice,
    /// Offloads switched on or off.
    pub offloads: BTreeMap<FeatureName, bool>,
    /// How ingress validates the source of datagrams.
    pub ingress_check: IngressCheck,
    /// Outer networks from which any peer's datagrams may come.
    pub peer_sources: Vec<IpNet>,
    /// From which port workers send; the default with more than one queue is `spread`.
    pub source_ports: Option<SourcePorts>,
    /// How datagrams are distributed over workers.
    pub steering: Steering,
    /// Whether packets cross the gateway without leaving the kernel.
    pub fast_path: FastPath,
    /// Whether the fast path goes on when the gateway ends.
    pub keep_forwarding: bool,
    /// Whether workers are bound to CPUs.
    pub pinning: Pinning,
    /// How the scheduler treats workers.
    pub scheduling: Scheduling,
    /// How long a worker polls for packets before it sleeps.
    pub busy_poll: BusyPoll,
    /// Receive and send buffer of each socket, bytes.
    pub socket_buffer: u32,
    /// Queue length of the TUN device, packets.
    pub device_queue: u32,
    /// The control socket; the default is `/run/twill/NAME.sock`.
    pub socket: Option<PathBuf>,
    /// Name or number of a group whose members may send read-only requests.
    pub socket_group: Option<String>,
    /// The address that serves `/metrics`, `/healthz` and `/readyz`.
    pub metrics: Option<SocketAddr>,
    /// Keep histograms and counters by peer.
    pub telemetry: bool,
    /// Seconds between two probes of a peer, 0 for none.
    pub probe_seconds: u32,
}

impl Default for Interface {
    fn default() -> Self {
        Self {
            name: "twill0".to_owned(),
            address: Vec::new(),
            local: Vec::new(),
            mtu: None,
            underlay_mtu: None,
            listen: ([0, 0, 0, 0], DEFAULT_PORT).into(),
            queues: Queues::Count(QueueCount::ONE),
            engine: EngineChoice::Auto,
            offloads: BTreeMap::new(),
            ingress_check: IngressCheck::Strict,
            peer_sources: Vec::new(),
            source_ports: None,
            steering: Steering::Peers,
            fast_path: FastPath::Off,
            keep_forwarding: false,
            pinning: Pinning::None,
            scheduling: Scheduling::Normal,
            busy_poll: BusyPoll::Auto,
            socket_buffer: 4 << 20,
            device_queue: 2500,
            socket: None,
            socket_group: None,
            metrics: None,
            telemetry: true,
            probe_seconds: 10,
        }
    }
}

impl Interface {
    /// The interval between probes of a peer; none without probes.
    #[must_use]
    pub fn probe(&self) -> Option<Duration> {
        (self.probe_seconds > 0).then(|| Duration::from_secs(self.probe_seconds.into()))
    }

    /// The offloads to use where the kernel supports them.
    #[must_use]
    pub fn features(&self) -> FeatureSet {
        self.offloads.iter().fold(FeatureSet::ALL, |set, (name, on)| set.with(name.0, *on))
    }

    /// Whether the file or a flag switches an offload on explicitly.
    #[must_use]
    pub(crate) fn forces(&self, feature: Feature) -> bool {
        self.offloads.get(&FeatureName(feature)) == Some(&true)
    }

    /// The keys whose values differ.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let same = [
            ("name", self.name == other.name),
            ("address", self.address == other.address),
            ("local", self.local == other.local),
            ("mtu", self.mtu == other.mtu),
            ("underlay_mtu", self.underlay_mtu == other.underlay_mtu),
            ("listen", self.listen == other.listen),
            ("queues", self.queues == other.queues),
            ("engine", self.engine == other.engine),
            ("offload", self.offloads == other.offloads),
            ("ingress_check", self.ingress_check == other.ingress_check),
            ("peer_sources", self.peer_sources == other.peer_sources),
            ("source_ports", self.source_ports == other.source_ports),
            ("steering", self.steering == other.steering),
            ("fast_path", self.fast_path == other.fast_path),
            ("keep_forwarding", self.keep_forwarding == other.keep_forwarding),
            ("pinning", self.pinning == other.pinning),
            ("scheduling", self.scheduling == other.scheduling),
            ("busy_poll_us", self.busy_poll == other.busy_poll),
            ("socket_buffer", self.socket_buffer == other.socket_buffer),
            ("device_queue", self.device_queue == other.device_queue),
            ("socket", self.socket == other.socket),
            ("socket_group", self.socket_group == other.socket_group),
            ("metrics", self.metrics == other.metrics),
            ("telemetry", self.telemetry == other.telemetry),
            ("probe_seconds", self.probe_seconds == other.probe_seconds),
        ];
        same.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect()
    }

    /// The inner networks behind this gateway.
    #[must_use]
    pub fn local(&self) -> Vec<IpNet> {
        match self.local.as_slice() {
            [] => self.address.iter().map(IpNet::trunc).collect(),
            local => local.to_vec(),
        }
    }
}

/// `[[peer]]`.
#[derive(Clone, Debug)]
pub struct FilePeer {
    /// Its name; the default is the endpoint as written.
    pub name: String,
    /// Its UDP address.
    pub endpoint: Spanned<Endpoint>,
    /// The inner networks behind it.
    pub subnets: Vec<Spanned<IpNet>>,
}

/// `queues`: a number, or "auto".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queues {
    /// As many as the CPUs that the process may use.
    Auto,
    /// This many.
    Count(QueueCount),
}

impl FromStr for Queues {
    type Err = InvalidValue;

    fn from_str(word: &str) -> Result<Self, InvalidValue> {
        match word.parse::<u32>() {
            Ok(count) => count.try_into().map(Self::Count),
            Err(_) if word == "auto" => Ok(Self::Auto),
            Err(_) => Err(InvalidValue {
                what: "queues",
                given: word.to_owned(),
                allowed: "1 to 256, or auto",
            }),
        }
    }
}

/// An offload's name as a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureName(pub Feature);

impl Ord for FeatureName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0 as u8).cmp(&(other.0 as u8))
    }
}

impl PartialOrd for FeatureName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
