//! The settings of a gateway, valid by construction. The planes see settings only, never files, flags
//! or variables.

pub mod file;
#[cfg(feature = "etcd")]
pub mod flanneld;
pub mod load;
mod values;

pub use crate::subnet::{Addresses, Subnets};
pub use values::{
    BusyPoll, FastPath, InvalidValue, Mtu, Pinning, QueueCount, Scheduling, SourcePorts, Steering,
    Succession,
};

use crate::engine::EngineChoice;
use crate::socket;
use ipnet::{IpNet, Ipv4Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use twill_datapath::IngressCheck;
use twill_datapath::offload::feature::FeatureSet;

/// The largest MTU of common Ethernet, bytes.
const JUMBO: u16 = 9000;
/// Bytes that the tunnel adds to a packet over IPv4: IP header and UDP header.
const OVERHEAD_V4: u16 = 28;
/// Bytes that the tunnel adds to a packet over IPv6.
const OVERHEAD_V6: u16 = 48;

/// Bytes that the tunnel adds to a packet to an address.
#[must_use]
pub(crate) fn overhead(to: IpAddr) -> u16 {
    if to.is_ipv6() { OVERHEAD_V6 } else { OVERHEAD_V4 }
}

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
    /// The address to receive at; at `[::]`, datagrams of both IP families arrive and leave.
    pub listen: SocketAddr,
    /// The host's IPv6 address from which peers of IPv6 are reached beside those of IPv4, which are
    /// reached from `listen`. Sockets are bound to `[::]` then.
    pub listen_v6: Option<Ipv6Addr>,
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
    /// How the scheduler treats workers.
    pub scheduling: Scheduling,
    /// Receive buffer of each socket, bytes; the kernel doubles it for its own bookkeeping.
    pub socket_buffer: u32,
    /// Queue length of the TUN device, packets (`txqueuelen`).
    pub device_queue: u32,
    /// Keep histograms and counters by peer; packets and drops are always counted.
    pub telemetry: bool,
}

impl Settings {
    /// The address that sockets are bound to.
    #[must_use]
    pub(crate) fn bound(&self) -> SocketAddr {
        match self.listen_v6 {
            Some(_) => (Ipv6Addr::UNSPECIFIED, self.listen.port()).into(),
            None => self.listen,
        }
    }

    /// Whether each worker sends from a port of its own.
    #[must_use]
    pub(crate) fn spreads(&self) -> bool {
        self.source_ports == SourcePorts::Spread
    }

    /// Whether peers of both IP families can be reached.
    #[must_use]
    pub(crate) fn has_both_families(&self) -> bool {
        socket::has_both_families(self.bound())
    }

    /// The host's addresses from which datagrams leave; unspecified where the kernel chooses.
    #[must_use]
    pub(crate) fn sources(&self) -> Addresses {
        match self.listen.ip() {
            IpAddr::V4(v4) => Addresses { v4: Some(v4), v6: self.listen_v6 },
            IpAddr::V6(v6) => {
                let v4 = self.has_both_families().then_some(Ipv4Addr::UNSPECIFIED);
                Addresses { v4, v6: Some(v6) }
            }
        }
    }

    /// The same at other addresses of the host, of the same families.
    #[cfg(any(feature = "etcd", test))]
    #[must_use]
    pub(crate) fn at(&self, now: Addresses) -> Self {
        let ip = now.outer().unwrap_or(self.listen.ip());
        let listen = SocketAddr::new(ip, self.listen.port());
        Self { listen, listen_v6: now.v4.and(now.v6), ..self.clone() }
    }

    /// A source that is not the one of a gateway that started now, and that one.
    #[cfg(any(feature = "etcd", test))]
    #[must_use]
    pub(crate) fn moved(&self, now: Addresses) -> Option<(IpAddr, IpAddr)> {
        let before = self.sources().iter();
        let mut pairs = before.flat_map(|from| now.iter().map(move |to| (from, to)));
        pairs.find(|(from, to)| from.is_ipv4() == to.is_ipv4() && from != to)
    }

    /// The MTU for which buffers have room: jumbo frames of Ethernet, if the MTU may grow.
    #[must_use]
    pub(crate) fn largest_mtu(&self) -> Mtu {
        let overhead = if self.sources().v4.is_some() { OVERHEAD_V4 } else { OVERHEAD_V6 };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{Addressing, settings};

    /// A gateway that receives there.
    fn at(listen: &str, listen_v6: Option<&str>) -> Settings {
        let addressing = Addressing {
            addresses: Vec::new(),
            mtu: Mtu::at_most(1400),
            follows_paths: true,
            listen: listen.parse().unwrap(),
            listen_v6: listen_v6.map(|address| address.parse().unwrap()),
            local: Vec::new(),
        };
        settings(&file::Interface::default(), addressing).unwrap()
    }

    #[test]
    fn where_sockets_are_bound_and_datagrams_leave_depends_on_the_families() {
        let table = [
            ("0.0.0.0:7", None, ("0.0.0.0:7", "0.0.0.0", 8972)),
            ("192.0.2.1:7", None, ("192.0.2.1:7", "192.0.2.1", 8972)),
            ("[2001:db8::1]:7", None, ("[2001:db8::1]:7", "2001:db8::1", 8952)),
            ("[::]:7", None, ("[::]:7", "0.0.0.0, ::", 8972)),
            ("192.0.2.1:7", Some("2001:db8::1"), ("[::]:7", "192.0.2.1, 2001:db8::1", 8972)),
        ];
        for (listen, v6, (bound, sources, largest)) in table {
            let settings = at(listen, v6);

            assert_eq!(settings.bound(), bound.parse().unwrap(), "{listen}");
            assert_eq!(settings.sources(), sources.parse().unwrap(), "{listen}");
            assert_eq!(settings.has_both_families(), bound == "[::]:7", "{listen}");
            assert_eq!(settings.largest_mtu().bytes(), largest, "{listen}");
        }
    }

    #[test]
    fn at_other_addresses_of_the_same_families_all_else_is_the_same() {
        for (listen, v6, now) in [
            ("192.0.2.1:7", None, "192.0.2.9"),
            ("[2001:db8::1]:7", None, "2001:db8::9"),
            ("192.0.2.1:7", Some("2001:db8::1"), "192.0.2.1, 2001:db8::9"),
        ] {
            let (before, now) = (at(listen, v6), now.parse().unwrap());

            let moved = before.at(now);

            assert_eq!(moved.sources(), now, "{listen}");
            assert_eq!(moved.at(before.sources()), before, "{listen}");
        }
    }

    #[test]
    fn a_source_has_moved_where_the_host_has_another_one_of_its_family() {
        let settings = at("192.0.2.1:7", Some("2001:db8::1"));
        let moved = |now: &str| {
            settings.moved(now.parse().unwrap()).map(|(from, to)| format!("{from} {to}"))
        };

        assert_eq!(moved("192.0.2.1, 2001:db8::1"), None);
        assert_eq!(moved("192.0.2.1"), None, "it is missing, and may come back");
        assert_eq!(moved("192.0.2.9, 2001:db8::1").unwrap(), "192.0.2.1 192.0.2.9");
        assert_eq!(moved("192.0.2.1, 2001:db8::9").unwrap(), "2001:db8::1 2001:db8::9");
        assert_eq!(settings.moved(Addresses::default()), None);
    }
}
