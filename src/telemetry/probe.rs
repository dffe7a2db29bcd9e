//! Round trips through the tunnel: ICMP echo to the peer's gateway.
//!
//! A probe takes the path of every packet: into the TUN device, through a worker, over the network,
//! and out of the device on the other side, where the kernel answers. The peer's address inside the
//! tunnel is not configured: flanneld gives its device the first address of the network, people
//! mostly the second one. Until one of them answers, a probe asks both at once, and is lost only if
//! neither answers. The control plane sends and times probes, never a worker, so a round trip
//! includes the control plane's own scheduling delay.

use super::histogram::Distribution;
use super::instruments::PEER_RTT;
use super::observer::Observer;
use super::past::PastProbes;
use super::status::ProbeStatus;
use crate::sys::clock;
use ipnet::{IpNet, Ipv4Net};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};
use twill_datapath::route::View;
use twill_datapath::wire::icmp;
use twill_datapath::wire::icmp::kind::{ECHO_REPLY, ECHO_REQUEST};

/// Peers that are probed, the first by index: each has a histogram of 20 KiB.
const MAX_PROBED: usize = 1024;
/// A probe without an answer for this long is lost.
const PATIENCE_NS: u64 = 5_000_000_000;

/// ICMP header, and a cookie that nobody else's echo carries.
const MESSAGE: usize = 8 + 8;

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
    /// An ICMP socket: the type only says that it sends and receives messages.
    socket: UdpSocket,
    /// What is received begins with an IP header.
    raw: bool,
    every: Duration,
    cookie: u64,
    sequence: u16,
    underway: HashMap<u16, Underway>,
    aims: HashMap<Arc<str>, Aim>,
}

/// A peer's gateway, and the network that it has one of the first two addresses of.
#[derive(Clone, Debug)]
struct Target {
    name: Arc<str>,
    network: Ipv4Net,
}

/// A gateway's address inside the tunnel: the one that answered last, or one of two.
#[derive(Debug)]
struct Aim {
    network: Ipv4Net,
    answers: Option<Ipv4Addr>,
}

impl Aim {
    fn at(network: Ipv4Net) -> Self {
        Self { network, answers: None }
    }

    /// The addresses to ask.
    fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let first = self.network.network();
        let second = Ipv4Addr::from(u32::from(first).wrapping_add(1));
        let second = Some(second).filter(|second| self.network.contains(second));
        let (known, unknown) = match self.answers {
            Some(known) => (Some(known), [None, None]),
            None => (None, [Some(first), second]),
        };
        known.into_iter().chain(unknown.into_iter().flatten())
    }

    /// An address answered.
    fn answered(&mut self, from: Ipv4Addr) {
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
    /// Opens the socket, bound to the device and to its address. Call it on a tokio runtime.
    ///
    /// # Errors
    /// What the kernel answers: EPERM or EACCES without CAP_NET_RAW and outside of
    /// `net.ipv4.ping_group_range`.
    pub(crate) fn open(
        device: Option<&str>,
        source: Ipv4Addr,
        every: Duration,
    ) -> io::Result<Self> {
        let icmp = Some(Protocol::ICMPV4);
        let (socket, raw) = match Socket::new(Domain::IPV4, Type::RAW, icmp) {
            Ok(socket) => (socket, true),
            Err(_) => (Socket::new(Domain::IPV4, Type::DGRAM, icmp)?, false),
        };
        socket.set_nonblocking(true)?;
        if let Some(device) = device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        socket.bind(&SockAddr::from(SocketAddrV4::new(source, 0)))?;
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            raw,
            every,
            cookie: rand::random(),
            sequence: 0,
            underway: HashMap::new(),
            aims: HashMap::new(),
        })
    }

    /// Probes every peer once per interval, evenly spread, for as long as it is polled.
    pub(crate) async fn run(mut self, observer: Arc<Observer>) {
        // The runtime takes a new socket for full until it has looked at it once.
        let _ = self.socket.writable().await;
        loop {
            let targets = targets(&observer.view());
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
        let message = request(self.sequence, self.cookie);
        let sent_ns = clock::monotonic_ns();
        probes.change(peer, |probed| probed.sent += 1);
        for address in aim.addresses() {
            // A probe that cannot be sent gets no answer and is lost like any other.
            let _ = self.socket.try_send_to(&message, SocketAddrV4::new(address, 0).into());
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
        let mut buffer = [0; 128];
        while let Ok(received) = timeout_at(until, self.socket.recv_from(&mut buffer)).await {
            let received_ns = clock::monotonic_ns();
            // An error belongs to an earlier probe, which gets no answer.
            let Ok((len, SocketAddr::V4(from))) = received else { continue };
            let Some(sequence) = reply(&buffer[..len], self.raw, self.cookie) else { continue };
            if let Some(answered) = self.underway.remove(&sequence) {
                let took_ns = received_ns.saturating_sub(answered.sent_ns);
                if let Some(aim) = self.aims.get_mut(&answered.peer) {
                    aim.answered(*from.ip());
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

/// The gateways behind a view's peers, each with its first IPv4 network.
fn targets(view: &View) -> Vec<Target> {
    let v4 = |subnet: &IpNet| match subnet {
        IpNet::V4(network) => Some(network.trunc()),
        IpNet::V6(_) => None,
    };
    view.peers()
        .filter_map(|peer| {
            let network = peer.subnets.iter().find_map(v4)?;
            Some(Target { name: Arc::clone(&peer.name), network })
        })
        .take(MAX_PROBED)
        .collect()
}

/// An echo request (RFC 792). The identifier is zero: a ping socket puts its own there.
fn request(sequence: u16, cookie: u64) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    message[icmp::HEADER_LEN..].copy_from_slice(&cookie.to_be_bytes());
    let rest = u32::from(sequence).to_be_bytes();
    icmp::Repr { kind: ECHO_REQUEST, code: 0, rest }.emit(&mut message);
    message
}

/// The sequence number of an answer to one of ours.
fn reply(mut received: &[u8], raw: bool, cookie: u64) -> Option<u16> {
    if raw {
        let header = usize::from(received.first()? & 0x0f) * 4;
        received = received.get(header..)?;
    }
    let message = icmp::Message::parse(received.get(..MESSAGE)?).ok()?;
    let ours = message.kind() == ECHO_REPLY && message.payload() == cookie.to_be_bytes();
    let [_, _, high, low] = message.rest();
    ours.then(|| u16::from_be_bytes([high, low]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use twill_datapath::route::{Overlay, Peer, PeerIndex};

    #[test]
    fn only_answers_to_our_own_probes_count() {
        let mut answer = request(0x1234, 77);
        assert_eq!(reply(&answer, false, 77), None, "a request");
        answer[0] = ECHO_REPLY;

        assert_eq!(reply(&answer, false, 77), Some(0x1234));
        assert_eq!(reply(&answer, false, 78), None, "another program's");
        assert_eq!(reply(&answer[..15], false, 77), None);
        let packet = [&[0x46; 24][..], &answer].concat();
        assert_eq!(reply(&packet, true, 77), Some(0x1234), "behind a header with options");
        assert_eq!(reply(&[0x4f], true, 77), None);
        assert_eq!(reply(&[], true, 77), None);
    }

    #[test]
    fn the_first_two_addresses_are_asked_at_once_until_one_answers() {
        let [first, second] = [Ipv4Addr::new(10, 1, 2, 0), Ipv4Addr::new(10, 1, 2, 1)];
        let asked = |aim: &Aim| aim.addresses().collect::<Vec<_>>();
        let mut aim = Aim::at("10.1.2.0/24".parse().unwrap());
        assert_eq!(asked(&aim), [first, second]);

        aim.answered(Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(asked(&aim), [first, second], "an address outside of the network");
        aim.answered(second);
        assert_eq!(asked(&aim), [second]);
        aim.lost();
        assert_eq!(asked(&aim), [first, second], "the gateway may have got the other address");
    }

    #[test]
    fn a_network_of_one_address_has_no_second() {
        let aim = Aim::at("255.255.255.255/32".parse().unwrap());
        assert_eq!(aim.addresses().collect::<Vec<_>>(), [Ipv4Addr::BROADCAST]);
    }

    #[test]
    fn a_gateway_is_sought_in_its_first_ipv4_network() {
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

        let targets = targets(&View::new(Overlay { peers, ..Overlay::default() }));

        let found: Vec<_> = targets.iter().map(|it| (&*it.name, it.network.to_string())).collect();
        assert_eq!(found, [("dual", "10.10.5.0/24".to_owned())]);
    }
}
