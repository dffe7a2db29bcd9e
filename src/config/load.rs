//! Turns a parsed file into settings: asks the host for MTUs, addresses of names and CPUs.
//!
//! May block for as long as a name server takes to answer.

use super::file::{self, Endpoint, File, FileErrors, Mistake, Queues};
use super::{Mtu, QueueCount, Settings, SourcePorts, overhead};
use crate::socket::{anywhere, path_to};
use crate::subnet::{InvalidPeers, PeerSet, PeerSpec, Site, reaches};
use crate::sys::affinity;
use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use nix::unistd::Group;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The smallest MTU of a device with IPv6 (RFC 8200, section 5).
pub(crate) const MIN_MTU_V6: u16 = 1280;
/// The MTU of Ethernet, for hosts without a route.
const ETHERNET: u16 = 1500;

/// Stands for the address of a peer whose name does not resolve.
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// The configuration of `twill run`.
#[derive(Clone, Debug)]
pub struct Standalone {
    /// The data plane.
    pub settings: Settings,
    /// The peers.
    pub peers: PeerSet,
    /// The control socket.
    pub socket: PathBuf,
    /// The number of a group whose members may send read-only requests.
    pub socket_group: Option<u32>,
    /// The address that serves metrics and health pages.
    pub metrics: Option<SocketAddr>,
    /// The interval between probes of a peer.
    pub probe: Option<Duration>,
    /// The settings as written.
    pub interface: file::Interface,
    /// Settings that work, but probably not as intended.
    pub warnings: Vec<String>,
    /// Peers that are left out, because their names do not resolve at the moment.
    pub unresolved: Vec<Unresolved>,
}

impl Standalone {
    /// The names of all peers of the file, with or without an address.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        let unresolved = self.unresolved.iter().map(|peer| &peer.name);
        self.peers.iter().map(|peer| &peer.name).chain(unresolved)
    }
}

/// A peer whose endpoint has no address at the moment.
#[derive(Clone, Debug)]
pub struct Unresolved {
    /// The name of the peer.
    pub name: String,
    endpoint: Endpoint,
    subnets: Vec<IpNet>,
}

impl Unresolved {
    /// Whether this is the peer's name or one of its subnets.
    pub(crate) fn is_called(&self, which: &str) -> bool {
        let subnet = which.parse::<IpNet>().ok().map(|subnet| subnet.trunc());
        self.name == which || subnet.is_some_and(|subnet| self.subnets.contains(&subnet))
    }

    /// Tries again. May block for as long as a name server takes to answer.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn resolve(&self, listen: SocketAddr) -> Result<PeerSpec, AddressError> {
        let endpoint = address(&self.endpoint, listen)?;
        Ok(PeerSpec { name: self.name.clone(), endpoint, subnets: self.subnets.clone() })
    }
}

/// Why an endpoint has no address.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Its name does not resolve, which may change.
    #[error("cannot resolve {host:?}: {reason}")]
    Unresolved {
        /// The name.
        host: String,
        /// Why.
        reason: String,
    },
    /// It has addresses of the other family only.
    #[error(
        "cannot reach {found} from {listen}: listen on [::]:{port}, which is for both families",
        port = listen.port()
    )]
    Family {
        /// One of its addresses.
        found: SocketAddr,
        /// Where the gateway receives.
        listen: SocketAddr,
    },
}

/// Why a file gives no settings.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// The file has mistakes.
    #[error(transparent)]
    File(#[from] FileErrors),
    /// The host cannot say how many CPUs there are.
    #[error("cannot count CPUs: {0}")]
    Cpus(io::Error),
}

/// Reads a file and resolves its names; `change` applies the command line. A peer whose name does not
/// resolve is left out, with a warning: it must not keep the others from being served.
///
/// # Errors
/// [`LoadError`], with all mistakes of the file.
pub(crate) fn load(
    path: &Path,
    change: impl Fn(&mut file::Interface),
) -> Result<Standalone, LoadError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    let name = path.display().to_string();
    let wrong = |mistakes: Vec<Mistake>| FileErrors::new(&name, &text, &mistakes);
    let (mut file, mut mistakes) = file::parse(&text).map_err(wrong)?;
    change(&mut file.interface);
    let (peers, unresolved) = peers(&file, &mut mistakes);
    let (mtu, mut warnings) = device_mtu(&file, &peers);
    check_interface(&file, mtu, &mut mistakes);
    let socket_group = socket_group(&file, &mut mistakes);
    if !mistakes.is_empty() {
        return Err(wrong(mistakes).into());
    }
    warnings.extend(unresolved.iter().map(|(peer, error)| {
        format!("peer {:?} is left out until its name resolves: {error}", peer.name)
    }));

    let interface = file.interface;
    let addressing = Addressing {
        addresses: interface.address.clone(),
        mtu,
        follows_paths: interface.mtu.is_none() && interface.underlay_mtu.is_none(),
        listen: interface.listen,
        listen_v6: None,
        local: interface.local(),
    };
    Ok(Standalone {
        settings: settings(&interface, addressing).map_err(LoadError::Cpus)?,
        peers,
        socket: interface.socket.clone().unwrap_or_else(|| default_socket(&interface.name)),
        socket_group,
        metrics: interface.metrics,
        probe: interface.probe(),
        interface,
        warnings,
        unresolved: unresolved.into_iter().map(|(peer, _)| peer).collect(),
    })
}

/// What `[interface]` lacks, and what does not fit the host.
fn check_interface(file: &File, mtu: Mtu, mistakes: &mut Vec<Mistake>) {
    let interface = &file.interface;
    if interface.address.is_empty() && !file.places.has("address") {
        let message = "[interface] needs an address, such as address = \"10.10.1.0/32\"";
        mistakes.push(Mistake::at(file.places.of("address"), message));
    }
    let overhead = overhead(interface.listen.ip());
    let smallest = overhead + Mtu::MIN;
    if interface.underlay_mtu.is_some_and(|underlay| underlay < smallest) {
        let message = format!(
            "underlay_mtu is too small: the tunnel adds {overhead} bytes, so at least {smallest}"
        );
        mistakes.push(Mistake::at(file.places.of("underlay_mtu"), message));
    } else if interface.address.iter().any(|net| net.addr().is_ipv6()) && mtu.bytes() < MIN_MTU_V6 {
        let key = if interface.mtu.is_some() { "mtu" } else { "underlay_mtu" };
        let message = format!("mtu {mtu} is too small for an IPv6 address: at least {MIN_MTU_V6}");
        mistakes.push(Mistake::at(file.places.of(key), message));
    }
}

fn socket_group(file: &File, mistakes: &mut Vec<Mistake>) -> Option<u32> {
    let word = file.interface.socket_group.as_deref()?;
    let named = || Group::from_name(word).ok()?.map(|group| group.gid.as_raw());
    let number = word.parse().ok().or_else(named);
    if number.is_none() {
        let message = format!(
            "group {word:?} does not exist: create it (groupadd {word}), or remove this line"
        );
        mistakes.push(Mistake::at(file.places.of("socket_group"), message));
    }
    number
}

/// The peers with their addresses, and those that have none at the moment, each with the reason.
fn peers(file: &File, mistakes: &mut Vec<Mistake>) -> (PeerSet, Vec<(Unresolved, AddressError)>) {
    let listen = file.interface.listen;
    let mut places = HashMap::with_capacity(file.peers.len());
    let (mut peers, mut unresolved) = (PeerSet::default(), Vec::new());
    for peer in &file.peers {
        let name = peer.name.clone();
        let subnets: Vec<_> = peer.subnets.iter().map(|subnet| subnet.get_ref().trunc()).collect();
        let endpoint = match address(peer.endpoint.get_ref(), listen) {
            Ok(endpoint) => endpoint,
            Err(error @ AddressError::Unresolved { .. }) => {
                let (name, endpoint) = (name.clone(), peer.endpoint.get_ref().clone());
                let subnets = subnets.clone();
                unresolved.push((Unresolved { name, endpoint, subnets }, error));
                NO_ADDRESS
            }
            Err(error) => {
                mistakes.push(Mistake::at(peer.endpoint.span(), error));
                continue;
            }
        };
        places.insert(name.clone(), peer);
        peers.insert(PeerSpec { name, endpoint, subnets });
    }
    let local = file.interface.local();
    let mut conflicts = peers.conflicts(Site { listen, local: &local });
    for (Unresolved { name, .. }, _) in &unresolved {
        // Its subnets are checked with the others', its endpoint when it has an address.
        conflicts.retain(|conflict| conflict.place() != (name, None));
        peers.remove(name);
    }
    let misplaced = peers.iter().filter_map(|peer| misplaced(peer, listen));
    for conflict in conflicts.into_iter().chain(misplaced) {
        let (name, subnet) = conflict.place();
        if let Some(peer) = places.get(name) {
            mistakes.push(Mistake::at(place(peer, subnet), conflict));
        }
    }
    (peers, unresolved)
}

/// The position of a peer's network, or of its endpoint, in the file; of two positions the later.
fn place(peer: &file::FilePeer, subnet: Option<IpNet>) -> Range<usize> {
    let mut places = peer.subnets.iter().rev();
    let found = places.find(|other| Some(other.get_ref().trunc()) == subnet);
    found.map_or_else(|| peer.endpoint.span(), toml::Spanned::span)
}

/// Why a peer cannot be where it is said to be, as this host's addresses are now: datagrams would come
/// back to a gateway that listens on all addresses, or go to all hosts of a network.
#[must_use]
pub(crate) fn misplaced(peer: &PeerSpec, listen: SocketAddr) -> Option<InvalidPeers> {
    let PeerSpec { name, endpoint, .. } = peer;
    let comes_back = listen.ip().is_unspecified()
        && endpoint.port() == listen.port()
        && path_to(*endpoint).is_ok_and(|path| path.source == endpoint.ip());
    if comes_back {
        return Some(InvalidPeers::Ourselves(name.clone()));
    }
    // Only a route of this kind is refused so; a route that prohibits may change.
    let refused = path_to(*endpoint).err().and_then(|error| error.raw_os_error());
    // The kernel has a broadcast route for the last address of each network, whatever is configured.
    let is_broadcast = || {
        getifaddrs().into_iter().flatten().any(|interface| {
            let ip = |address: Option<SockaddrStorage>| Some(address?.as_sockaddr_in()?.ip());
            let last = ip(interface.address).zip(ip(interface.netmask));
            let last = last.map(|(own, mask)| Ipv4Addr::from(u32::from(own) | !u32::from(mask)));
            [last, ip(interface.broadcast)].into_iter().flatten().any(|all| endpoint.ip() == all)
        })
    };
    (refused == Some(libc::EACCES) && is_broadcast())
        .then(|| InvalidPeers::Broadcast { name: name.clone(), endpoint: *endpoint })
}

/// The addresses by which a gateway is part of two networks: the overlay and the one below.
#[derive(Clone, Debug)]
pub struct Addressing {
    /// Addresses of the TUN device.
    pub addresses: Vec<IpNet>,
    /// Its MTU.
    pub mtu: Mtu,
    /// Whether the MTU follows that of the paths to peers while the gateway runs.
    pub follows_paths: bool,
    /// Where to receive.
    pub listen: SocketAddr,
    /// The IPv6 address beside it.
    pub listen_v6: Option<Ipv6Addr>,
    /// Inner networks behind the gateway.
    pub local: Vec<IpNet>,
}

/// The settings of a gateway with this addressing; of the interface, what says how it works.
///
/// # Errors
/// When the CPUs cannot be counted.
pub fn settings(interface: &file::Interface, addressing: Addressing) -> io::Result<Settings> {
    let Addressing { addresses, mtu, follows_paths, listen, listen_v6, local } = addressing;
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
        follows_paths,
        listen,
        listen_v6,
        local,
        queues,
        engine: interface.engine,
        offloads: interface.features(),
        gso_forced: interface.forces(twill_datapath::offload::feature::Feature::Gso),
        ingress_check: interface.ingress_check,
        peer_sources: interface.peer_sources.clone(),
        source_ports: interface.source_ports.unwrap_or(spread),
        steering: interface.steering,
        fast_path: interface.fast_path,
        keep_forwarding: interface.keep_forwarding,
        busy_poll: interface.busy_poll,
        pinning: interface.pinning,
        scheduling: interface.scheduling,
        socket_buffer: interface.socket_buffer,
        device_queue: interface.device_queue,
        telemetry: interface.telemetry,
    })
}

/// The folder of control sockets.
pub(crate) const SOCKET_FOLDER: &str = "/run/twill";

/// The default control socket of a device.
#[must_use]
pub(crate) fn default_socket(device: &str) -> PathBuf {
    Path::new(SOCKET_FOLDER).join(format!("{device}.sock"))
}

/// The MTU that the file sets, or the smallest path MTU to a peer that the host knows now, less what
/// the tunnel adds; without peers, that of the default route. Warns of an MTU that does not fit.
fn device_mtu(file: &File, peers: &PeerSet) -> (Mtu, Vec<String>) {
    let interface = &file.interface;
    let narrowest = peers
        .iter()
        .filter_map(|peer| Some((inner_mtu(peer.endpoint)?, peer)))
        .min_by_key(|(fits, _)| *fits);
    let said = interface.mtu.or_else(|| {
        let underlay = interface.underlay_mtu?;
        Some(Mtu::at_most(underlay.saturating_sub(overhead(interface.listen.ip()))))
    });
    let Some(mtu) = said else {
        return (fitting_mtu(interface.listen, narrowest.map(|(fits, _)| fits)), Vec::new());
    };
    let too_large = narrowest.filter(|(fits, _)| mtu.bytes() > *fits);
    let warnings = too_large.map(|(fits, peer)| {
        let overhead = overhead(peer.endpoint.ip());
        let underlay = fits.saturating_add(overhead);
        format!(
            "mtu {mtu} plus {overhead} bytes of the tunnel exceed the path MTU {underlay} to peer {:?}: \
             full packets will be dropped; remove `mtu`, or set it to {fits}",
            peer.name
        )
    });
    (mtu, warnings.into_iter().collect())
}

/// The MTU that fits the narrowest of the paths to some peers, as the host knows them now.
#[must_use]
pub(crate) fn path_mtu(listen: SocketAddr, peers: &[SocketAddr]) -> Mtu {
    fitting_mtu(listen, peers.iter().filter_map(|peer| inner_mtu(*peer)).min())
}

/// Bytes of the longest inner packet that the path to a peer takes, if the host has one.
fn inner_mtu(to: SocketAddr) -> Option<u16> {
    Some(path_to(to).ok()?.mtu.saturating_sub(overhead(to.ip())))
}

/// The MTU of the narrowest path, or that of the default route if there is none.
fn fitting_mtu(listen: SocketAddr, narrowest: Option<u16>) -> Mtu {
    let fits = narrowest.or_else(|| inner_mtu(anywhere(listen)));
    Mtu::at_most(fits.unwrap_or(ETHERNET - overhead(listen.ip())))
}

/// The address of an endpoint: the first that the host's resolver names, of a family that the socket has.
///
/// # Errors
/// [`AddressError`].
pub(crate) fn address(endpoint: &Endpoint, listen: SocketAddr) -> Result<SocketAddr, AddressError> {
    let host = endpoint.host.clone();
    let port = endpoint.port.unwrap_or(listen.port());
    let found = match (host.as_str(), port).to_socket_addrs() {
        Ok(found) => found,
        Err(error) => return Err(AddressError::Unresolved { host, reason: error.to_string() }),
    };
    let mut others = None;
    for address in found {
        if reaches(listen, address) {
            return Ok(address);
        }
        others = Some(address);
    }
    Err(match others {
        Some(found) => AddressError::Family { found, listen },
        None => AddressError::Unresolved { host, reason: "it has no address".to_owned() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mtu_that_is_larger_than_any_path_is_no_overflow() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "[interface]\naddress = \"10.10.1.0/32\"\nlisten = \"[::1]:8285\"\nmtu = 65500\n\
            [[peer]]\nendpoint = \"[::1]:9\"\nsubnets = [\"10.10.2.0/24\"]\n";
        std::fs::write(file.path(), text).unwrap();

        let loaded = load(file.path(), |_| {}).unwrap();

        assert_eq!(loaded.settings.mtu.bytes(), 65500);
    }
}
