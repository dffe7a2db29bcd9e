//! The kernel's own tunnel devices as a fast path: bareudp, or ipip in FOU. Both speak the wire format.
//!
//! Owns the devices, the routes into them and a table of nftables that checks datagrams; what there must
//! be is decided in [`wanted`]. The kernel has the UDP port meanwhile, so the gateway's sockets have
//! another one: they send what has no route into a device, and receive nothing.
//!
//! ```text
//!  pods ──route──> device ──> underlay      underlay ──rules──> UDP port of the kernel ──> device ──> pods
//!        └─route──> TUN device ──> workers ──> underlay       (peers that a device cannot reach)
//! ```

mod wanted;

use super::attached::{FastPathError, Spec};
use crate::sys::ioctl::interface_index;
use crate::sys::netlink::Netlink;
use crate::sys::tunnel::{self, Way};
use crate::sys::{fou, route, tool};
use crate::telemetry::fast::FastCounts;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use twill_datapath::DropReason;
use twill_datapath::route::{PeerIndex, View};
use wanted::{Fixed, Wanted, table};

/// Which devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One device for all peers, and the peer's address in each route.
    Bareudp,
    /// A device for each peer.
    Fou,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bareudp => "bareudp",
            Self::Fou => "fou",
        })
    }
}

/// Says what failed.
fn cannot(what: impl fmt::Display) -> impl FnOnce(io::Error) -> FastPathError {
    let what = what.to_string();
    move |source| FastPathError::Module { what, source }
}

/// Why this kernel has no such devices; nothing if it has them.
///
/// # Errors
/// The reason, with what to do.
pub(crate) fn probe(kind: Kind) -> Result<(), String> {
    let probed = match kind {
        Kind::Bareudp => probe_bareudp(),
        Kind::Fou => fou::probe().or_else(|_| {
            // Unlike that of a link, nobody loads this module when it is asked for.
            let _ = tool::run("modprobe", &["fou"], "");
            fou::probe()
        }),
    };
    probed.map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => format!("cannot ask for {kind}: {error}: grant CAP_NET_ADMIN"),
        _ => format!(
            "this kernel has no {kind} ({error}): run `modprobe {kind}`, or use a kernel with that module"
        ),
    })
}

/// Creates a device that is never up, and removes it.
fn probe_bareudp() -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let name = format!("twp{}", std::process::id());
    // Port 9 discards: nobody's tunnel has it.
    let index = tunnel::create_bareudp(&mut netlink, &name, 1280, 9)?;
    route::remove_link(&mut netlink, index)
}

/// Removes what a gateway with this device that was killed has left: devices, routes, rules, and the port.
/// Returns whether there was anything.
///
/// # Errors
/// The kernel's.
pub(crate) fn clear(device: &str, port: u16) -> io::Result<bool> {
    let mut netlink = Netlink::open()?;
    let links = tunnel::owned(&mut netlink, &owner(device))?;
    for link in &links {
        route::remove_link(&mut netlink, *link)?;
    }
    let table = table(device);
    let has_rules = tool::run("nft", &["list", "table", "ip", &table], "").is_ok();
    if has_rules {
        // A port says of nobody that it is his: the rules do.
        let _ = fou::remove(port);
        tool::run("nft", &["delete", "table", "ip", &table], "")?;
    }
    Ok(has_rules || !links.is_empty())
}

/// What the alias of a link says.
fn owner(device: &str) -> String {
    format!("twill {device}")
}

/// A device toward a peer, or toward all of them.
#[derive(Clone, Copy, Debug)]
struct Link {
    index: u32,
    /// The peer's port.
    port: u16,
}

/// Devices, routes and rules that carry packets. They are removed when this is dropped.
pub(crate) struct Modules {
    kind: Kind,
    spec: Spec,
    wanted: Wanted,
    /// bareudp's device.
    common: Option<Link>,
    /// fou's devices.
    links: BTreeMap<Ipv4Addr, Link>,
    /// Routes that are there.
    ways: BTreeMap<ipnet::Ipv4Net, Way>,
    /// Rules that are there.
    rules: Option<String>,
    /// Whether the kernel has the port for fou.
    has_port: bool,
    /// What devices had counted that are gone.
    gone: FastCounts,
    /// What was said last of what failed.
    said: Option<String>,
    /// The address that packets of this host have.
    source: Option<Ipv4Addr>,
}

impl Modules {
    /// Creates what a view needs. It blocks for as long as the kernel and nft take.
    ///
    /// # Errors
    /// The first thing that failed; nothing is left then.
    pub(crate) fn start(kind: Kind, spec: Spec, view: &View) -> Result<Self, FastPathError> {
        let (device, port) = (spec.device.0.clone(), spec.listen.port());
        if view.carries_v6() {
            return Err(FastPathError::InnerV6(kind));
        }
        clear(&device, port).map_err(cannot("removing what an earlier gateway left"))?;
        let mut netlink = Netlink::open().map_err(cannot("opening netlink"))?;
        let mut modules = Self {
            kind,
            spec,
            wanted: Wanted::default(),
            common: None,
            links: BTreeMap::new(),
            ways: BTreeMap::new(),
            rules: None,
            has_port: false,
            gone: FastCounts::default(),
            said: None,
            source: source(view),
        };
        // Before the port: nothing enters unchecked.
        modules.wanted = Wanted::new(&modules.fixed(), view);
        modules.apply_rules()?;
        match kind {
            Kind::Bareudp => {
                let index = modules.create(&mut netlink, Ipv4Addr::UNSPECIFIED, port)?;
                modules.common = Some(Link { index, port });
            }
            Kind::Fou => {
                fou::add(port).map_err(cannot(format_args!("giving UDP port {port} to fou")))?;
                modules.has_port = true;
            }
        }
        modules.apply()?;
        Ok(modules)
    }

    /// Has packets follow a view from now on.
    ///
    /// # Errors
    /// What failed; all else is done.
    pub(crate) fn follow(&mut self, view: &View) -> Result<(), FastPathError> {
        self.source = source(view);
        self.wanted = Wanted::new(&self.fixed(), view);
        self.said = None;
        self.refresh()?;
        if view.carries_v6() { Err(FastPathError::InnerV6(self.kind)) } else { Ok(()) }
    }

    /// Tries again what has failed.
    ///
    /// # Errors
    /// What fails, the first time.
    pub(crate) fn refresh(&mut self) -> Result<(), FastPathError> {
        let failed = self.apply_rules().and(self.apply());
        let Err(error) = failed else {
            self.said = None;
            return Ok(());
        };
        let said = Some(error.to_string());
        if self.said == said {
            return Ok(());
        }
        self.said = said;
        Err(error)
    }

    /// Takes over the MTU of the TUN device.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn set_mtu(&mut self, mtu: u16) -> Result<(), FastPathError> {
        self.spec.mtu = mtu;
        let mut netlink = Netlink::open().map_err(cannot("opening netlink"))?;
        for link in self.links.values().chain(&self.common) {
            let cannot = cannot(format!("setting MTU {mtu}"));
            tunnel::set_mtu(&mut netlink, link.index, mtu).map_err(cannot)?;
        }
        Ok(())
    }

    /// What the devices have counted. A super-packet that leaves counts once.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn counts(&self) -> Result<FastCounts, FastPathError> {
        let mut netlink = Netlink::open().map_err(cannot("opening netlink"))?;
        let mut counts = self.gone.clone();
        for (address, link) in &self.links {
            let peer = self.wanted.peers.get(address).map(|(_, peer)| *peer);
            add(&mut netlink, link, peer, &mut counts).map_err(cannot("reading counters"))?;
        }
        if let Some(link) = &self.common {
            add(&mut netlink, link, None, &mut counts).map_err(cannot("reading counters"))?;
        }
        if self.rules.is_some() {
            let table = table(&self.spec.device.0);
            let said = tool::run("nft", &["list", "counters", "table", "ip", &table], "");
            let refused = refused(&said.map_err(cannot("reading counters"))?);
            for (reason, packets) in refused {
                counts.tallies[1].packets_in += packets;
                counts.tallies[1].drop(reason, packets);
            }
        }
        Ok(counts)
    }

    fn fixed(&self) -> Fixed<'_> {
        let Spec { device, listen, check, .. } = &self.spec;
        Fixed { kind: self.kind, device: &device.0, listen: *listen, check: *check }
    }

    fn apply_rules(&mut self) -> Result<(), FastPathError> {
        if self.rules != self.wanted.rules {
            let text = self.wanted.rules.as_deref().unwrap_or_default();
            tool::run("nft", &["-f", "-"], text).map_err(cannot("setting rules"))?;
            self.rules.clone_from(&self.wanted.rules);
        }
        Ok(())
    }

    /// Removes what is not wanted and creates what is missing; returns the first failure, after all else.
    fn apply(&mut self) -> Result<(), FastPathError> {
        let mut netlink = Netlink::open().map_err(cannot("opening netlink"))?;
        let mut done = self.remove_links(&mut netlink);
        if self.kind == Kind::Fou {
            for (address, (port, _)) in self.wanted.peers.clone() {
                if !self.links.contains_key(&address) {
                    match self.create(&mut netlink, address, port) {
                        Ok(index) => drop(self.links.insert(address, Link { index, port })),
                        Err(error) => done = done.and(Err(error)),
                    }
                }
            }
        }
        done.and(self.apply_routes(&mut netlink))
    }

    fn apply_routes(&mut self, netlink: &mut Netlink) -> Result<(), FastPathError> {
        let wanted: BTreeMap<_, _> = self
            .wanted
            .routes
            .iter()
            .filter_map(|(net, to)| Some((*net, self.way(*net, *to)?)))
            .collect();
        let mut done = Ok(());
        let stale: Vec<_> = self
            .ways
            .iter()
            .filter(|(network, way)| wanted.get(network) != Some(way))
            .map(|(network, way)| (*network, *way))
            .collect();
        for (network, way) in stale {
            // It may be gone with its device or its address.
            let _ = tunnel::remove_route(netlink, &way);
            self.ways.remove(&network);
        }
        for (network, way) in wanted {
            if self.ways.contains_key(&network) {
                continue;
            }
            match tunnel::prepend(netlink, &way) {
                Ok(()) => drop(self.ways.insert(network, way)),
                Err(source) => {
                    done = done.and(Err(cannot(format_args!("routing {network}"))(source)));
                }
            }
        }
        done
    }

    fn way(&self, network: ipnet::Ipv4Net, to: Ipv4Addr) -> Option<Way> {
        let from = Some(*self.spec.listen.ip()).filter(|ip| !ip.is_unspecified());
        let source = self.source;
        match self.kind {
            Kind::Bareudp => {
                let device = self.common?.index;
                Some(Way { network, device, source, outer: Some((to, from)) })
            }
            Kind::Fou => {
                let device = self.links.get(&to)?.index;
                Some(Way { network, device, source, outer: None })
            }
        }
    }

    /// Removes devices whose peers are gone or have another port.
    fn remove_links(&mut self, netlink: &mut Netlink) -> Result<(), FastPathError> {
        let peers = &self.wanted.peers;
        let is_stale = |address: &Ipv4Addr, link: &Link| {
            peers.get(address).is_none_or(|(port, _)| *port != link.port)
        };
        let stale: Vec<_> = self
            .links
            .iter()
            .filter(|(address, link)| is_stale(address, link))
            .map(|it| *it.0)
            .collect();
        for address in stale {
            let Some(link) = self.links.remove(&address) else { continue };
            // Without its counters, if somebody has removed it.
            let _ = add(netlink, &link, None, &mut self.gone);
            let _ = route::remove_link(netlink, link.index);
            self.ways.retain(|_, way| way.device != link.index);
        }
        Ok(())
    }

    /// Creates a device and brings it up.
    fn create(&self, netlink: &mut Netlink, to: Ipv4Addr, port: u16) -> Result<u32, FastPathError> {
        let Spec { device: (device, _), mtu, listen, .. } = &self.spec;
        let name = free_name(device, self.kind);
        let cannot = || {
            let what = match self.kind {
                Kind::Bareudp => format!("creating the link {name} at UDP port {port}"),
                Kind::Fou => format!("creating the link {name} to {to}"),
            };
            cannot(what)
        };
        let created = match self.kind {
            Kind::Bareudp => tunnel::create_bareudp(netlink, &name, *mtu, port),
            Kind::Fou => {
                let from = Some(*listen.ip()).filter(|ip| !ip.is_unspecified());
                tunnel::create_fou(netlink, &name, *mtu, (from, to), port)
            }
        };
        let index = created.map_err(cannot())?;
        if let Err(error) = tunnel::set_up(netlink, index, &owner(device)) {
            let _ = route::remove_link(netlink, index);
            return Err(cannot()(error));
        }
        Ok(index)
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        // Whatever is gone already was removed by somebody else, or its namespace ends.
        if let Ok(mut netlink) = Netlink::open() {
            for link in self.links.values().chain(&self.common) {
                let _ = route::remove_link(&mut netlink, link.index);
            }
        }
        if self.has_port {
            let _ = fou::remove(self.spec.listen.port());
        }
        if self.rules.is_some() {
            let _ = tool::run("nft", &["delete", "table", "ip", &table(&self.spec.device.0)], "");
        }
    }
}

/// The first name that no link has.
fn free_name(device: &str, kind: Kind) -> String {
    // Five digits, for the most peers that there can be.
    let short = &device[..device.len().min(libc::IFNAMSIZ - 1 - 2 - 5)];
    let first = match kind {
        Kind::Bareudp => Some(format!("{short}-udp")),
        Kind::Fou => None,
    };
    let numbered = (1..=u16::MAX).map(|number| format!("{short}-f{number}"));
    let mut names = first.into_iter().chain(numbered);
    names.find(|name| interface_index(name).is_none()).unwrap_or_default()
}

/// The address of ours that packets of this host have: the TUN device's.
fn source(view: &View) -> Option<Ipv4Addr> {
    view.addresses().iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    })
}

/// Adds what a link has counted; to a peer's traffic if it is that of one peer.
fn add(
    netlink: &mut Netlink,
    link: &Link,
    peer: Option<PeerIndex>,
    counts: &mut FastCounts,
) -> io::Result<()> {
    let counted = route::statistics(netlink, link.index)?;
    let [egress, ingress] = &mut counts.tallies;
    let lost = counted.tx_dropped + counted.tx_errors;
    egress.packets_in += counted.tx_packets + lost;
    egress.bytes_in += counted.tx_bytes;
    egress.packets_out += counted.tx_packets;
    egress.bytes_out += counted.tx_bytes;
    egress.drop(DropReason::SendNoBuffers, lost);
    let lost = counted.rx_dropped + counted.rx_errors;
    ingress.packets_in += counted.rx_packets + lost;
    ingress.bytes_in += counted.rx_bytes;
    ingress.packets_out += counted.rx_packets;
    ingress.bytes_out += counted.rx_bytes;
    ingress.drop(DropReason::TunOther, lost);
    if let Some(PeerIndex(peer)) = peer {
        let traffic =
            [(counted.tx_packets, counted.tx_bytes), (counted.rx_packets, counted.rx_bytes)];
        counts.peers.insert(peer, traffic);
    }
    Ok(())
}

/// Reads what `nft list counters` prints: packets that rules refused.
fn refused(listing: &str) -> HashMap<DropReason, u64> {
    let reasons = [
        (wanted::UNKNOWN_PEER, DropReason::UnknownPeer),
        (wanted::SOURCE, DropReason::SourceMismatch),
        (wanted::DESTINATION, DropReason::DestinationScope),
    ];
    let mut words = listing.split_whitespace();
    let (mut refused, mut reason) = (HashMap::new(), None);
    while let Some(word) = words.next() {
        match word {
            "counter" => {
                let name = words.next().unwrap_or_default();
                reason = reasons.iter().find(|(known, _)| *known == name).map(|it| it.1);
            }
            "packets" => {
                let packets = words.next().and_then(|number| number.parse().ok());
                refused.extend(reason.zip(packets));
            }
            _ => {}
        }
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddrV4, UdpSocket};
    use std::time::Duration;
    use twill_datapath::IngressCheck;
    use twill_datapath::route::{Overlay, Peer};
    use twill_testbed::{Testbed, Underlay};

    /// A gateway at 192.0.2.2 with 10.1.0.0/16, and peers at 192.0.2.1 and 192.0.2.3.
    fn overlay() -> View {
        let peer = |index, host, subnet: &str| Peer {
            index: PeerIndex(index),
            name: subnet.into(),
            endpoint: ([192, 0, 2, host], 8285).into(),
            subnets: vec![subnet.parse().unwrap()],
        };
        View::new(Overlay {
            peers: vec![peer(0, 1, "10.2.0.0/16"), peer(1, 3, "10.2.7.0/24")],
            local: vec!["10.1.0.0/16".parse().unwrap()],
            addresses: vec!["10.1.0.0".parse().unwrap()],
        })
    }

    #[test]
    fn rules_let_in_what_the_datapath_lets_in_and_count_the_rest() {
        let Some(bed) = Testbed::for_test("rules for devices") else { return };
        let hosts = bed.hosts(4, &Underlay::default()).unwrap();
        let listen = SocketAddrV4::new(hosts[1].address(), 8285);
        let fixed = Fixed { kind: Kind::Fou, device: "tw0", listen, check: IngressCheck::Strict };
        let rules = Wanted::new(&fixed, &overlay()).rules.unwrap();
        let socket = hosts[1].enter(|| {
            // Twice: a change of peers does not begin anew.
            for _ in 0..2 {
                tool::run("nft", &["-f", "-"], &rules).unwrap();
            }
            UdpSocket::bind(listen).unwrap()
        });
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let packet = |source: [u8; 4], destination: [u8; 4]| {
            let header = [0x45, 0, 0, 20, 0, 1, 0, 0, 9, 253, 0, 0];
            [&header[..], &source, &destination].concat()
        };
        let send = |from: usize, bytes: &[u8]| {
            hosts[from]
                .enter(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(bytes, listen))
                .unwrap();
        };
        let (ours, last) = ([10, 1, 0, 9], packet([10, 2, 1, 1], [10, 1, 0, 0]));
        let good = [(0, packet([10, 2, 1, 1], ours)), (2, packet([10, 2, 7, 1], ours))];
        let bad = [
            // Another peer's, a stranger's, our own, none at all.
            (0, packet([10, 2, 7, 1], ours)),
            (3, packet([10, 2, 1, 1], ours)),
            (0, packet(ours, ours)),
            (0, vec![0x45]),
            // To nobody, and to all.
            (0, packet([10, 2, 1, 1], [10, 9, 9, 9])),
            (0, packet([10, 2, 1, 1], [10, 1, 255, 255])),
        ];

        for (from, bytes) in bad.iter().chain(&good) {
            send(*from, bytes);
        }
        send(0, &last);

        let mut arrived = Vec::new();
        let mut bytes = [0; 64];
        while arrived.last() != Some(&last) {
            let len = socket.recv(&mut bytes).unwrap();
            arrived.push(bytes[..len].to_vec());
        }
        assert_eq!(arrived, [good[0].1.clone(), good[1].1.clone(), last]);
        let listing = hosts[1].run("nft", &["list", "counters"]).unwrap();
        let refused = refused(&listing);
        let expected = [
            (DropReason::UnknownPeer, 1),
            (DropReason::SourceMismatch, 3),
            (DropReason::DestinationScope, 2),
        ];
        assert_eq!(refused, HashMap::from(expected), "{listing}");
    }

    #[test]
    fn counters_of_rules_are_drop_reasons() {
        let listing = "table ip twill-tw0 {\n\tcounter unknown_peer {\n\t\tpackets 3 bytes 84\n\t}\n\
                       \tcounter src_mismatch {\n\t\tpackets 0 bytes 0\n\t}\n\
                       \tcounter other { packets 9 bytes 9 }\n}\n";

        let refused = refused(listing);

        assert_eq!(refused.len(), 2, "{refused:?}");
        assert_eq!(refused[&DropReason::UnknownPeer], 3);
        assert_eq!(refused[&DropReason::SourceMismatch], 0);
    }

    #[test]
    fn a_link_has_a_name_that_is_free_and_short_enough() {
        let name = free_name("flannel-of-long", Kind::Fou);

        assert_eq!(name, "flannel--f1");
        assert_eq!(free_name("tw0", Kind::Bareudp), "tw0-udp");
    }

    #[test]
    fn a_kernel_without_the_module_is_told_so() {
        for kind in [Kind::Bareudp, Kind::Fou] {
            if let Err(said) = probe(kind) {
                assert!(said.contains(&kind.to_string()), "{said}");
            }
        }
    }
}
