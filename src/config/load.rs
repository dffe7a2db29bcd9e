//! From a file's words to settings: the part that asks the host.

use super::file::{self, Endpoint, File, FileError, Queues};
use super::{Mtu, OVERHEAD_V4, OVERHEAD_V6, QueueCount, Settings, SourcePorts};
use crate::socket::path_mtu;
use crate::subnet::{Peer, PeerSet};
use crate::sys::affinity;
use ipnet::IpNet;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything that `twill run` needs to know.
#[derive(Clone, Debug)]
pub struct Standalone {
    /// The data plane.
    pub settings: Settings,
    /// The peers.
    pub peers: PeerSet,
    /// The control socket.
    pub socket: PathBuf,
    /// Where to serve metrics.
    pub metrics: Option<SocketAddr>,
    /// Time between two probes of a peer.
    pub probe: Option<Duration>,
}

/// Why a file gives no settings.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("reading {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// It is wrong.
    #[error(transparent)]
    File(#[from] FileError),
    /// The host cannot say how many CPUs there are.
    #[error("counting CPUs: {0}")]
    Cpus(io::Error),
}

/// Reads and resolves a file.
///
/// # Errors
/// [`LoadError`].
pub fn load(path: &Path, change: impl Fn(&mut file::Interface)) -> Result<Standalone, LoadError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    let name = path.display().to_string();
    let mut file = file::parse(&name, &text)?;
    change(&mut file.interface);
    resolve(&file).map_err(|error| match error {
        Unresolved::At(span, message) => file::error_at(&name, &text, span, message).into(),
        Unresolved::Cpus(error) => LoadError::Cpus(error),
    })
}

enum Unresolved {
    At(std::ops::Range<usize>, String),
    Cpus(io::Error),
}

fn resolve(file: &File) -> Result<Standalone, Unresolved> {
    let interface = &file.interface;
    let local = match interface.local.as_slice() {
        [] => interface.address.iter().map(IpNet::trunc).collect(),
        local => local.to_vec(),
    };
    let mut peers = PeerSet::default();
    for peer in &file.peers {
        let span = peer.endpoint.span();
        let endpoint = address(peer.endpoint.get_ref(), interface.listen)
            .map_err(|message| Unresolved::At(span.clone(), message))?;
        let subnets = peer.subnets.iter().map(IpNet::trunc).collect();
        peers.insert(Peer { name: peer.name(), endpoint, subnets });
        // One at a time, so that the place of the peer that does not fit is known.
        peers
            .check(interface.listen, &local)
            .map_err(|error| Unresolved::At(span, error.to_string()))?;
    }
    let place = Place {
        addresses: interface.address.clone(),
        mtu: device_mtu(file, &peers),
        listen: interface.listen,
        local,
    };
    let settings = settings(interface, place).map_err(Unresolved::Cpus)?;
    let socket = interface.socket.clone().unwrap_or_else(|| default_socket(&interface.name));
    Ok(Standalone { settings, peers, socket, metrics: interface.metrics, probe: interface.probe() })
}

/// Where a gateway stands in the network.
#[derive(Clone, Debug)]
pub struct Place {
    /// Addresses of the TUN device.
    pub addresses: Vec<IpNet>,
    /// Its MTU.
    pub mtu: Mtu,
    /// Where to receive.
    pub listen: SocketAddr,
    /// Inner networks behind the gateway.
    pub local: Vec<IpNet>,
}

/// The settings of a gateway that stands at `place`; of the interface, what says how it works.
///
/// # Errors
/// When the CPUs cannot be counted.
pub fn settings(interface: &file::Interface, place: Place) -> io::Result<Settings> {
    let Place { addresses, mtu, listen, local } = place;
    let queues = match interface.queues {
        Queues::Count(count) => count,
        Queues::Auto => {
            let cpus = affinity::allowed_cpus()?.len().clamp(1, usize::from(QueueCount::MAX));
            QueueCount::try_from(cpus as u32).map_err(io::Error::other)?
        }
    };
    let spread = if queues == QueueCount::ONE { SourcePorts::Fixed } else { SourcePorts::Spread };
    Ok(Settings {
        device: interface.name.clone(),
        addresses,
        mtu,
        listen,
        local,
        queues,
        engine: interface.engine,
        offloads: interface.features(),
        gso_forced: interface.forces(crate::offload::feature::Feature::Gso),
        ingress_check: interface.ingress_check,
        peer_sources: interface.peer_sources.clone(),
        source_ports: interface.source_ports.unwrap_or(spread),
        pinning: interface.pinning,
        socket_buffer: interface.socket_buffer,
        device_queue: interface.device_queue,
        telemetry: interface.telemetry,
    })
}

/// Where a gateway's control socket is unless the file says otherwise.
#[must_use]
pub fn default_socket(device: &str) -> PathBuf {
    PathBuf::from(format!("/run/twill/{device}.sock"))
}

/// What the file says, or the smallest MTU on the way to the peers as far as the host knows it now,
/// less what the tunnel adds. Ethernet's 1500 when there is no peer to ask about.
fn device_mtu(file: &File, peers: &PeerSet) -> Mtu {
    let interface = &file.interface;
    if let Some(mtu) = interface.mtu {
        return mtu;
    }
    let v6 = interface.listen.is_ipv6();
    let overhead = if v6 { OVERHEAD_V6 } else { OVERHEAD_V4 };
    let known = || peers.iter().filter_map(|peer| path_mtu(peer.endpoint).ok()).min();
    let underlay = interface.underlay_mtu.or_else(known).unwrap_or(1500);
    Mtu::at_most(underlay.saturating_sub(overhead))
}

/// The address of an endpoint, of the family that the socket has.
///
/// # Errors
/// What to do when there is none.
pub fn address(endpoint: &Endpoint, listen: SocketAddr) -> Result<SocketAddr, String> {
    let port = endpoint.port.unwrap_or(listen.port());
    let found = (endpoint.host.as_str(), port)
        .to_socket_addrs()
        .map_err(|error| format!("{:?} cannot be resolved: {error}", endpoint.host))?;
    let mut others = None;
    for address in found {
        if address.is_ipv6() == listen.is_ipv6() {
            return Ok(address);
        }
        others = Some(address);
    }
    Err(match others {
        Some(other) => format!("{other} cannot be reached from {listen}: listen on its family"),
        None => format!("{:?} has no address", endpoint.host),
    })
}
