//! Round trips through the tunnel: ICMP echo to the peer's gateway.
//!
//! A probe takes the path of every packet: into the TUN device, through a worker, over the network,
//! and out of the device on the other side, where the kernel answers. The peer's address inside the
//! tunnel is not configured: flanneld gives its device the first address of the network, people
//! mostly the second one. Until one of them answers, a probe asks both at once, and is lost only if
//! neither answers. A peer is asked by IPv4 if it and this gateway have it inside the tunnel, else by
//! IPv6. The control plane sends and times probes, never a worker, so a round trip
//! includes the control plane's own scheduling delay.

mod sockets;

use self::sockets::Sockets;
use super::histogram::Distribution;
use super::instruments::PEER_RTT;
use super::observer::Observer;
use super::past::PastProbes;
use super::status::ProbeStatus;
use crate::sys::clock;
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use twill_datapath::route::View;

/// Peers that are probed, the first by index: each has a histogram of 20 KiB.
const MAX_PROBED: usize = 1024;
/// A probe without an answer for this long is lost.
const PATIENCE_NS: u64 = 5_000_000_000;

/// Round trips by peer.
#[derive(Debug, Default)]
pub(crate) struct Probes(Mutex<BTreeMap<Arc<str>, Probed>>);

#[derive(Debug)]
struct Probed {
    sent: u64,
    lost: u64,
    /// When the probe that ended last was sent, if it was lost; nanoseconds of the monotonic clock.
    last_lost_ns: Option<u64>,
    rtt: Distribution,
}

impl Probed {
    fn lose(&mut self, sent_ns: u64) {
        self.lost += 1;
        self.last_lost_ns = Some(sent_ns);
    }

    /// A peer that was heard of after the lost probe lives.
    fn is_silent(&self, seen_ns: u64) -> bool {
        self.last_lost_ns.is_some_and(|sent_ns| seen_ns < sent_ns)
    }

    fn answer(&mut self, took_ns: u64) {
        self.rtt.record(took_ns, 1);
        self.last_lost_ns = None;
    }
}

impl Probes {
    /// The probes of a peer that was last heard of at `seen_ns`; none if it is not probed.
    #[must_use]
    pub(crate) fn status(&self, peer: &str, seen_ns: u64) -> Option<ProbeStatus> {
        let probes = self.locked();
        let probed = probes.get(peer)?;
        let last_lost = probed.is_silent(seen_ns);
        let Probed { sent, lost, rtt, .. } = probed;
        Some(ProbeStatus { sent: *sent, lost: *lost, last_lost, rtt: rtt.summary() })
    }

    /// Round trips by peer.
    #[must_use]
    pub(crate) fn distributions(&self) -> BTreeMap<String, Distribution> {
        let probes = self.locked();
        probes.iter().map(|(name, probed)| (name.to_string(), probed.rtt.clone())).collect()
    }

    /// What a successor goes on from.
    pub(crate) fn past(&self) -> BTreeMap<String, PastProbes> {
        let past = |probed: &Probed| PastProbes {
            sent: probed.sent,
            lost: probed.lost,
            last_lost_ns: probed.last_lost_ns,
            rtt: probed.rtt.clone(),
        };
        self.locked().iter().map(|(name, probed)| (name.to_string(), past(probed))).collect()
    }

    /// Goes on from what a predecessor probed; peers that are gone are forgotten with the next probes.
    pub(crate) fn inherit(&self, past: &BTreeMap<String, PastProbes>) {
        for (name, past) in past.iter().filter(|(_, past)| past.rtt.has(PEER_RTT.layout)) {
            let PastProbes { sent, lost, last_lost_ns, rtt } = past.clone();
            self.locked().insert(name.as_str().into(), Probed { sent, lost, last_lost_ns, rtt });
        }
    }

    fn change(&self, peer: &Arc<str>, change: impl FnOnce(&mut Probed)) {
        let mut probes = self.locked();
        let probed = probes.entry(Arc::clone(peer)).or_insert_with(|| Probed {
            sent: 0,
            lost: 0,
            last_lost_ns: None,
            rtt: Distribution::new(PEER_RTT.layout),
        });
        change(probed);
    }

    /// Whether a peer that was last heard of at `seen_ns` is silent; none if it is not probed.
    #[must_use]
    pub(crate) fn is_silent(&self, peer: &str, seen_ns: u64) -> Option<bool> {
        self.locked().get(peer).map(|probed| probed.is_silent(seen_ns))
    }

    /// Forgets peers that are gone.
    fn retain(&self, targets: &[Target]) {
        self.locked().retain(|name, _| targets.iter().any(|target| target.name == *name));
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Probed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends and receives probes.
#[derive(Debug)]
pub(crate) struct Prober {
    sockets: Sockets,
    every: Duration,
    sequence: u16,
    underway: HashMap<u16, Underway>,
    aims: HashMap<Arc<str>, Aim>,
}

/// A peer's gateway, and the network that it has one of the first two addresses of.
#[derive(Clone, Debug)]
struct Target {
    name: Arc<str>,
    network: IpNet,
}

/// A gateway's address inside the tunnel: the one that answered last, or one of two.
#[derive(Debug)]
struct Aim {
    network: IpNet,
    answers: Option<IpAddr>,
}

impl Aim {
    fn at(network: IpNet) -> Self {
        Self { network, answers: None }
    }

    /// The addresses to ask.
    fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let first = self.network.network();
        let second = match first {
            IpAddr::V4(first) => IpAddr::from(Ipv4Addr::from_bits(first.to_bits().wrapping_add(1))),
            IpAddr::V6(first) => IpAddr::from(Ipv6Addr::from_bits(first.to_bits().wrapping_add(1))),
        };
        let second = Some(second).filter(|second| self.network.contains(second));
        let (known, unknown) = match self.answers {
            Some(known) => (Some(known), [None, None]),
            None => (None, [Some(first), second]),
        };
        known.into_iter().chain(unknown.into_iter().flatten())
    }

    /// An address answered.
    fn answered(&mut self, from: IpAddr) {
        if self.network.contains(&from) {
            self.answers = Some(from);
        }
    }

    /// Nothing answered: the gateway may have another address by now.
    fn lost(&mut self) {
        self.answers = None;
    }
}

#[derive(Debug)]
struct Underway {
    peer: Arc<str>,
    sent_ns: u64,
}

impl Prober {
    /// Opens sockets, bound to the device and to its addresses. Call it on a tokio runtime.
    ///
    /// # Errors
    /// What the kernel answers: EPERM or EACCES without CAP_NET_RAW and outside of
    /// `net.ipv4.ping_group_range`.
    pub(crate) fn open(
        device: Option<&str>,
        sources: &[IpAddr],
        every: Duration,
    ) -> io::Result<Self> {
        Ok(Self {
            sockets: Sockets::open(device, sources)?,
            every,
            sequence: 0,
            underway: HashMap::new(),
            aims: HashMap::new(),
        })
    }

    /// Probes every peer once per interval, evenly spread, for as long as it is polled.
    pub(crate) async fn run(mut self, observer: Arc<Observer>) {
        self.sockets.are_writable().await;
        loop {
            let targets = targets(&observer.view(), |network| self.sockets.reach(network));
            observer.probes.retain(&targets);
            self.follow(&targets);
            let pause = self.every / targets.len().max(1) as u32;
            for target in &targets {
                self.send(&target.name, &observer.probes);
                self.receive(Instant::now() + pause, &observer.probes).await;
            }
            if targets.is_empty() {
                self.receive(Instant::now() + pause, &observer.probes).await;
            }
            self.give_up(&observer.probes);
        }
    }

    fn send(&mut self, peer: &Arc<str>, probes: &Probes) {
        let Some(aim) = self.aims.get(peer) else { return };
        self.sequence = self.sequence.wrapping_add(1);
        let sent_ns = clock::monotonic_ns();
        probes.change(peer, |probed| probed.sent += 1);
        for address in aim.addresses() {
            self.sockets.ask(address, self.sequence);
        }
        let underway = Underway { peer: Arc::clone(peer), sent_ns };
        if let Some(forgotten) = self.underway.insert(self.sequence, underway) {
            probes.change(&forgotten.peer, |probed| probed.lose(forgotten.sent_ns));
        }
    }

    /// Keeps one aim per target; one whose network has changed starts anew.
    fn follow(&mut self, targets: &[Target]) {
        let mut known = std::mem::take(&mut self.aims);
        let aims = targets.iter().map(|Target { name, network }| {
            let aim = known.remove(name).filter(|aim| aim.network == *network);
            (Arc::clone(name), aim.unwrap_or_else(|| Aim::at(*network)))
        });
        self.aims = aims.collect();
    }

    /// Receives answers until a point in time.
    async fn receive(&mut self, until: Instant, probes: &Probes) {
        while let Ok(received) = timeout_at(until, self.sockets.receive()).await {
            let received_ns = clock::monotonic_ns();
            let Some((sequence, from)) = received else { continue };
            if let Some(answered) = self.underway.remove(&sequence) {
                let took_ns = received_ns.saturating_sub(answered.sent_ns);
                if let Some(aim) = self.aims.get_mut(&answered.peer) {
                    aim.answered(from);
                }
                probes.change(&answered.peer, |probed| probed.answer(took_ns));
            }
        }
    }

    fn give_up(&mut self, probes: &Probes) {
        let now_ns = clock::monotonic_ns();
        self.underway.retain(|_, underway| {
            let lost = now_ns.saturating_sub(underway.sent_ns) > PATIENCE_NS;
            if lost {
                if let Some(aim) = self.aims.get_mut(&underway.peer) {
                    aim.lost();
                }
                probes.change(&underway.peer, |probed| probed.lose(underway.sent_ns));
            }
            !lost
        });
    }
}

/// The gateways behind a view's peers, each with its first network of IPv4, or else of IPv6, among
/// those that can be reached.
fn targets(view: &View, can_reach: impl Fn(&IpNet) -> bool) -> Vec<Target> {
    let is_v6 = |network: &&IpNet| network.addr().is_ipv6();
    view.peers()
        .filter_map(|peer| {
            let reached = peer.subnets.iter().filter(|network| can_reach(network));
            let network = reached.min_by_key(is_v6)?.trunc();
            Some(Target { name: Arc::clone(&peer.name), network })
        })
        .take(MAX_PROBED)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use twill_datapath::route::{Overlay, Peer, PeerIndex};

    #[test]
    fn the_first_two_addresses_are_asked_at_once_until_one_answers() {
        let [first, second]: [IpAddr; 2] = ["10.1.2.0", "10.1.2.1"].map(|it| it.parse().unwrap());
        let asked = |aim: &Aim| aim.addresses().collect::<Vec<_>>();
        let mut aim = Aim::at("10.1.2.0/24".parse().unwrap());
        assert_eq!(asked(&aim), [first, second]);

        aim.answered([192, 0, 2, 1].into());
        assert_eq!(asked(&aim), [first, second], "an address outside of the network");
        aim.answered(second);
        assert_eq!(asked(&aim), [second]);
        aim.lost();
        assert_eq!(asked(&aim), [first, second], "the gateway may have got the other address");
    }

    #[test]
    fn a_network_of_one_address_has_no_second() {
        let aim = Aim::at("255.255.255.255/32".parse().unwrap());
        assert_eq!(aim.addresses().collect::<Vec<_>>(), [IpAddr::from(Ipv4Addr::BROADCAST)]);
        let aim = Aim::at("fd00::7/128".parse().unwrap());
        assert_eq!(aim.addresses().collect::<Vec<_>>(), ["fd00::7".parse::<IpAddr>().unwrap()]);
        let aim = Aim::at("fd00::/64".parse().unwrap());
        let both: [IpAddr; 2] = ["fd00::", "fd00::1"].map(|address| address.parse().unwrap());
        assert_eq!(aim.addresses().collect::<Vec<_>>(), both);
    }

    #[test]
    fn a_gateway_is_sought_in_its_first_ipv4_network_or_else_in_its_first_ipv6_network() {
        let peer = |index, name: &str, subnets: &[&str]| Peer {
            index: PeerIndex(index),
            name: name.into(),
            endpoint: "192.0.2.9:8285".parse().unwrap(),
            subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
        };
        let peers = vec![
            peer(0, "dual", &["fd00::/64", "10.10.5.0/24", "10.10.6.0/24"]),
            peer(1, "v6", &["fd01::/64"]),
        ];

        let view = View::new(Overlay { peers, ..Overlay::default() });
        let found = |can_reach: fn(&IpNet) -> bool| {
            let targets = targets(&view, can_reach);
            targets.iter().map(|it| format!("{} {}", it.name, it.network)).collect::<Vec<_>>()
        };

        assert_eq!(found(|_| true), ["dual 10.10.5.0/24", "v6 fd01::/64"]);
        assert_eq!(found(|network| network.addr().is_ipv4()), ["dual 10.10.5.0/24"]);
        assert_eq!(found(|network| network.addr().is_ipv6()), ["dual fd00::/64", "v6 fd01::/64"]);
    }
}
