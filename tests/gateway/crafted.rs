//! A million crafted packets from a peer, a stranger and a pod: nothing that is forbidden is delivered.
//!
//! ```text
//! pod 0 ─ crafted ─> gateway 0 ── sentinel ─> gateway 1 ── sentinel ─> pod 1
//!                        ^── crafted ── peer (host 1), stranger (host 2)
//! ```
//! A sentinel is tcpdump at a TUN device that prints what a gateway must never write there.

use crate::fast::carried;
use crate::numbered::beside;
use crate::with;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use twill_testbed::pair::{DEVICE, PATIENCE, Pair, Setup};
use twill_testbed::{Background, engines, packets, process::resident_kib};

/// Crafted packets that each engine takes in, both directions of both gateways together.
const PACKETS: u64 = 1_000_000;
/// Packets between two looks at the clock of the one who paces.
const BURST: u32 = 64;
/// The gateways' port.
const PORT: u16 = 8285;

#[test]
fn of_a_million_crafted_packets_none_that_is_forbidden_is_delivered() {
    for engine in engines() {
        let Some(pair) = started("crafted", engine, "probe_seconds = 0") else { return };
        assert_safe(&pair, engine);
    }
}

#[test]
fn programs_in_the_kernel_deliver_nothing_that_is_forbidden_either() {
    let lines = "probe_seconds = 0\nfast_path = \"bpf\"";
    let Some(pair) = started("crafted_fast", "auto", lines) else { return };
    let before = carried(&pair, 0);

    assert_safe(&pair, "the fast path");

    let through = carried(&pair, 0)[1] - before[1];
    println!("the fast path delivered {through} packets of a million crafted ones");
    assert!(through > 1000, "{through}: the programs were not put to the test");
}

/// Peer, stranger and pod send a million packets. What must not be delivered is not, the books balance,
/// and the gateways go on.
fn assert_safe(pair: &Pair, engine: &str) {
    let sentinels = [0, 1].map(|index| Sentinel::start(pair, index));
    let memory = [0, 1].map(|index: usize| resident_kib(pair.gateways[index].process.pid()));
    let lines = pair.logs().lines().count();
    let before = taken_in(pair);

    attack(pair, || taken_in(pair) - before >= PACKETS);

    let taken = taken_in(pair) - before;
    println!("{engine}: {taken} crafted packets");
    assert!(taken >= PACKETS, "{engine}: {taken}");
    pair.assert_books_balance();
    for (direction, reasons) in EXPECTED {
        for reason in reasons {
            assert!(pair.drops(0, direction, reason) > 0, "{engine}: no {direction} {reason}");
        }
        let through = pair.status(0)[direction]["packets_out"].as_u64().unwrap();
        assert!(
            through > 1000,
            "{engine}: only {through} {direction}: nothing was put to the test"
        );
    }
    for sentinel in sentinels {
        let seen = sentinel.finish();
        assert!(seen.is_empty(), "{engine}: forbidden packets were delivered:\n{seen}");
    }
    for (index, before) in memory.into_iter().enumerate() {
        let grown = resident_kib(pair.gateways[index].process.pid()).saturating_sub(before);
        assert!(grown < 4096, "{engine}: gateway {index} grew by {grown} KiB");
    }
    let lines = pair.logs().lines().count() - lines;
    assert!(lines < 200, "{engine}: {lines} log lines about {taken} packets");
    pair.assert_connected();
    pair.assert_tcp_carries(2, 1 << 20);
}

/// Without this, a sentinel that is blind would find every gateway safe.
#[test]
fn a_sentinel_sees_what_a_gateway_without_checks_lets_through() {
    let lines = "probe_seconds = 0\ningress_check = \"off\"";
    let Some(pair) = started("blind sentinel", "epoll", lines) else { return };
    let sentinel = Sentinel::start(&pair, 0);
    let before = taken_in(&pair);

    attack(&pair, || taken_in(&pair) - before >= 2000);

    let seen = sentinel.finish();
    assert!(seen.lines().count() > 100, "{seen}");
}

/// Reasons for which the first gateway must have dropped something; else the craft is too weak.
const EXPECTED: [(&str, &[&str]); 2] = [
    // The host routes only packets of peers into the tunnel, and discards malformed ones itself.
    ("egress", &["ttl"]),
    (
        "ingress",
        &[
            "short",
            "version",
            "ihl",
            "truncated",
            "totlen",
            "family",
            "unknown_peer",
            "src_mismatch",
            "martian",
            "dst_scope",
            "ttl",
        ],
    ),
];

fn started(test: &str, engine: &str, lines: &str) -> Option<Pair> {
    let pair = Pair::start(test, &Setup { hosts: 3, lines, ..with(engine) })?;
    pair.assert_connected();
    Some(pair)
}

/// Packets that arrived at both gateways, from either side.
fn taken_in(pair: &Pair) -> u64 {
    let directions = [0, 1].into_iter().flat_map(|index| {
        let status = pair.status(index);
        ["egress", "ingress"].map(|direction| status[direction]["packets_in"].as_u64().unwrap())
    });
    directions.sum()
}

/// Peer, stranger and pod send what they like until it is enough.
fn attack(pair: &Pair, enough: impl Fn() -> bool) {
    let gateway = SocketAddrV4::new(pair.hosts[0].address(), PORT);
    let raw = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)));
    let pod = pair.pods[0].enter(|| raw().unwrap());
    let [here, there] = [0, 1].map(|index: usize| pair.pods[index].address());
    let foreign = pair.hosts[1].address();
    let outside = |host: usize, seed, done: &AtomicBool| {
        let host = &pair.hosts[host];
        let socket = host.enter(|| UdpSocket::bind((host.address(), 0)).unwrap());
        let (bare, from) = (host.enter(|| raw().unwrap()), host.address());
        let mut craft = Craft::new(seed, there, here, foreign);
        let mut number = 0u32;
        send(done, || {
            let datagram = craft.datagram();
            number += 1;
            // A full socket buffer or queue loses a packet, as on any network.
            if number.is_multiple_of(2) {
                let _ = socket.send_to(&datagram, gateway);
            } else {
                let packet = without_checksum(from, gateway, &datagram);
                let _ = bare.send_to(&packet, &SockAddr::from(gateway));
            }
        });
    };
    let from_pod = |done: &AtomicBool| {
        let mut craft = Craft::new(3, here, there, foreign);
        send(done, || {
            let packet = craft.packet();
            let to = SocketAddrV4::new(Craft::destination(&packet), 0);
            // The kernel refuses what no host may send, such as broadcasts.
            let _ = pod.send_to(&packet, &SockAddr::from(to));
        });
    };
    beside(
        |done| outside(1, 1, done),
        || {
            beside(
                |done| outside(2, 2, done),
                || {
                    beside(from_pod, || {
                        while !enough() {
                            std::thread::sleep(Duration::from_millis(20));
                        }
                    });
                },
            );
        },
    );
}

/// A datagram in an IPv4 packet, as the fast path sends them: UDP without a checksum. The kernel fills in
/// that of IP.
fn without_checksum(from: Ipv4Addr, to: SocketAddrV4, datagram: &[u8]) -> Vec<u8> {
    let len = (datagram.len() as u16 + 8).to_be_bytes();
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
    packet.extend([from.octets(), to.ip().octets()].concat());
    packet.extend([PORT.to_be_bytes(), to.port().to_be_bytes(), len, [0, 0]].concat());
    packet.extend(datagram);
    packet
}

/// Sends bursts with pauses, so that three senders leave the gateway some CPU.
fn send(done: &AtomicBool, mut one: impl FnMut()) {
    while !done.load(Ordering::Relaxed) {
        for _ in 0..BURST {
            one();
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Makes packets: good ones, of which most are then spoilt.
struct Craft {
    random: SmallRng,
    good: Vec<Vec<u8>>,
    addresses: Vec<Ipv4Addr>,
}

impl Craft {
    fn new(seed: u64, from: Ipv4Addr, to: Ipv4Addr, foreign: Ipv4Addr) -> Self {
        let [source, destination] = [from, to].map(|address| address.octets());
        let payload = packets::payload(1200);
        let good = vec![
            packets::udp(source, destination, 64, &payload[..20]),
            packets::udp(source, destination, 2, &payload),
            packets::tcp(source, destination, 64, 7, packets::ACK, &payload),
            packets::tcp(source, destination, 64, 7, packets::SYN, b""),
            packets::ping(source, destination, 64),
            packets::udp6("fd00:10:244:1::2", "fd00:10:244:2::2", 64, b"six"),
        ];
        let elsewhere = ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "240.0.0.1"];
        let elsewhere = elsewhere.into_iter().chain(["169.254.1.1", "10.244.9.9", "198.51.100.1"]);
        let mut addresses: Vec<Ipv4Addr> =
            elsewhere.map(|address| address.parse().unwrap()).collect();
        let broadcast = |of: Ipv4Addr| Ipv4Addr::from(u32::from(of) | 0xff);
        addresses.extend([from, to, broadcast(from), broadcast(to), foreign]);
        Self { random: SmallRng::seed_from_u64(seed), good, addresses }
    }

    /// What may be inside a datagram: a packet, or bytes that are none.
    fn datagram(&mut self) -> Vec<u8> {
        let mut packet = self.packet();
        match self.random.random_range(0..12) {
            0 => packet.truncate(self.random.random_range(0..packet.len())),
            1 => packet.extend([0; 9]),
            2 => self.random.fill(&mut packet[..]),
            _ => {}
        }
        packet
    }

    /// A packet with up to three faults; its lengths may lie.
    fn packet(&mut self) -> Vec<u8> {
        let mut packet = self.good[self.random.random_range(0..self.good.len())].clone();
        for _ in 0..self.random.random_range(0..4) {
            self.spoil(&mut packet);
        }
        if self.random.random_ratio(2, 3) && packet[0] >> 4 == 4 && packet[0] & 15 >= 5 {
            let header = usize::from(packet[0] & 15) * 4;
            if header <= packet.len() {
                packets::fix_checksum(&mut packet);
            }
        }
        packet
    }

    fn spoil(&mut self, packet: &mut [u8]) {
        let v4 = packet[0] >> 4 == 4;
        let byte: u8 = self.random.random();
        match self.random.random_range(0..10) {
            0 if v4 => packet[12..16].copy_from_slice(&self.address().octets()),
            1 if v4 => packet[16..20].copy_from_slice(&self.address().octets()),
            2 if v4 => packet[8] = byte % 3,
            3 => packet[0] = byte,
            4 if v4 => packet[0] = 0x40 | byte & 15,
            5 => packet[2..4].copy_from_slice(&u16::from(byte).to_be_bytes()),
            6 if v4 => packet[6] = byte,
            7 => packet[1] = byte,
            8 if v4 => packet[9] = byte,
            _ => {
                let at = self.random.random_range(0..packet.len().min(60));
                packet[at] = byte;
            }
        }
    }

    fn address(&mut self) -> Ipv4Addr {
        self.addresses[self.random.random_range(0..self.addresses.len())]
    }

    /// Where a packet is for, if it were one of IPv4.
    fn destination(packet: &[u8]) -> Ipv4Addr {
        Ipv4Addr::from(<[u8; 4]>::try_from(&packet[16..20]).unwrap())
    }
}

/// tcpdump that prints what the gateway of a host writes into its device and must not.
struct Sentinel(Background);

impl Sentinel {
    fn start(pair: &Pair, index: usize) -> Self {
        let (here, there) = (pair.hosts[index].pod_network(), pair.hosts[1 - index].pod_network());
        // A packet from another network than the peer's, to another than ours, used up, or malformed.
        // The gateway's own ICMP errors come from its device's address.
        let allowed = format!(
            "(ip and src net {there}/24 and dst net {here}/24 and not dst host {broadcast} \
             and ip[8] > 0 and ip[0] & 0xf0 = 0x40 and ip[0] & 0xf >= 5) \
             or (icmp and src host {here} and (icmp[0] = 3 or icmp[0] = 11))",
            broadcast = Ipv4Addr::from(u32::from(here) | 0xff),
        );
        let mut command = pair.hosts[index].command("tcpdump");
        command.args(["-i", DEVICE, "-Q", "in", "-n", "-l", "-x", "--immediate-mode"]);
        command.arg(format!("not ({allowed})"));
        let name = format!("sentinel{index}");
        let mut tcpdump = pair.hosts[index].spawn(&name, &mut command).unwrap();
        tcpdump.wait_for("listening on", PATIENCE).unwrap();
        Self(tcpdump)
    }

    /// What it saw.
    fn finish(mut self) -> String {
        std::thread::sleep(Duration::from_millis(200));
        self.0.signal(Signal::INT).unwrap();
        self.0.stop(PATIENCE).unwrap();
        let log = self.0.log();
        let seen = log.lines().filter(|line| line.contains(" > ") || line.contains("0x0000:"));
        seen.map(|line| format!("{line}\n")).collect()
    }
}
