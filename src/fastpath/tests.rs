//! The programs beside `twill-datapath`: the same packets through both, by BPF_PROG_TEST_RUN.
//!
//! A program either does what the datapath does, byte for byte, or leaves the packet as it is.

mod leases;

use super::layout::SOURCE_PORTS;
use super::programs::{EARLY, Globals, Programs};
use super::tables::{self, Reach};
use crate::telemetry::fast::Depth;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use twill_datapath::batch::{Datagrams, Frames, Pieces, RunLimits, Slot, Train, TunFrame};
use twill_datapath::route::{Overlay, View};
use twill_datapath::{
    Egress, EgressRules, Ingress, IngressCheck, IngressRules, Progress, Tally, World,
};
use twill_testbed::cases::wire::{Given, bytes, cases};
use twill_testbed::cases::{MARTIANS, OUT_OF_SCOPE, bad_datagrams};
use twill_testbed::overlay::{AT_A, HERE, MTU, with_a_and_b};
use twill_testbed::packets::{gather, internet_checksum, tcp, udp, with_header};

const LISTEN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 100), 8285);
const PORTS: [u16; 2] = [8285, 40001];
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 7];
const ETHERNET: usize = 14;
const OUTER: usize = 28;
/// What the programs answer: the next program's turn, and packets that are on their way elsewhere.
const GO_ON: u32 = -1i32 as u32;
const REDIRECT: u32 = 7;
/// The same of the program for drivers: on to `ingress`, unwrapped or not.
const PASS: u32 = 2;
/// What it puts in front of a frame that it has unwrapped: a number of its own, and the peer's.
const MARK: usize = 8;

/// What became of a packet: where it went and its bytes, or nothing if it was left to user space.
type Carried = Option<(SocketAddr, Vec<u8>)>;

/// One gateway twice.
struct Both {
    programs: RefCell<Programs>,
    view: View,
    check: IngressCheck,
}

impl Both {
    /// None where programs cannot be loaded, which is said.
    fn new(overlay: Overlay, check: IngressCheck) -> Option<Self> {
        twill_testbed::Testbed::for_test("programs in the kernel")?;
        let view = View::new(overlay);
        let globals = Globals {
            listen: LISTEN,
            source_ports: PORTS.to_vec(),
            check,
            device: 1,
            gateway: 7,
            link_header: ETHERNET as u8,
            near: 1,
            far: FAR,
            early: true,
        };
        let mut programs = Programs::load(&globals, MTU).unwrap();
        let reach = |_| Some(Reach { device: 1, source: *LISTEN.ip(), mtu: 1500 });
        programs.maps.publish(&tables::table(&view, reach)).unwrap();
        Some(Self { programs: RefCell::new(programs), view, check })
    }

    /// Runs a program; its verdict and the frame afterwards.
    fn run(&self, name: &'static str, frame: &[u8]) -> (u32, Vec<u8>) {
        let mut out = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let mut programs = self.programs.borrow_mut();
        let program = programs.loaded().unwrap().program_mut(name).unwrap();
        let result = if name == EARLY {
            <&mut Xdp>::try_from(program).unwrap().test_run(options)
        } else {
            <&mut SchedClassifier>::try_from(program).unwrap().test_run(options)
        };
        let result = result.unwrap();
        let len = result.data_size_out as usize;
        out.truncate(len);
        (result.return_value, out)
    }

    /// Feeds a packet to the program at the TUN device's egress.
    fn transmit(&self, packet: &[u8]) -> Carried {
        let given = frame(packet);
        let (verdict, frame) = self.run("egress", &given);
        if verdict != REDIRECT {
            assert_eq!(verdict, GO_ON);
            assert_eq!(frame, given, "what is left to user space is as it was");
            return None;
        }
        let (outer, packet) = frame[ETHERNET..].split_at(OUTER);
        let (ip, udp) = outer.split_at(20);
        let number = |at: &[u8]| u16::from_be_bytes([at[0], at[1]]);
        assert_eq!(internet_checksum(ip), 0);
        assert_eq!((ip[0], ip[1], &ip[6..10]), (0x45, 0, &[0x40, 0, 64, 17][..]));
        assert_eq!(ip[12..16], LISTEN.ip().octets());
        assert_eq!(usize::from(number(&ip[2..])), packet.len() + OUTER);
        assert_eq!(usize::from(number(&udp[4..])), packet.len() + 8);
        assert!(PORTS.contains(&number(udp)) && number(&udp[6..]) == 0);
        let to = Ipv4Addr::new(ip[16], ip[17], ip[18], ip[19]);
        Some(((to, number(&udp[2..])).into(), packet.to_vec()))
    }

    /// Feeds a datagram to the program in the underlay's driver.
    fn receive_early(&self, given: &[u8]) -> Option<Vec<u8>> {
        let (verdict, out) = self.run(EARLY, given);
        assert_eq!(verdict, PASS);
        if out.len() == given.len() {
            assert_eq!(out, given, "what is left to the next program is as it was");
            return None;
        }
        // Newer kernels show what is in front of the frame, too.
        let frame = &out[out.len() - (given.len() - OUTER)..];
        assert!([frame.len(), frame.len() + MARK].contains(&out.len()));
        assert_eq!(frame[..ETHERNET], given[..ETHERNET]);
        Some(frame[ETHERNET..].to_vec())
    }

    /// Feeds a datagram to the programs at the underlay, in its driver and behind it, which must agree.
    fn receive(&self, from: SocketAddrV4, tos: u8, datagram: &[u8]) -> Carried {
        let given = frame(&outer(from, LISTEN, tos, datagram));
        let early = self.receive_early(&given);
        let carried = self.receive_late(from, &given);
        assert_eq!(early, carried.as_ref().map(|(_, packet)| packet.clone()));
        carried
    }

    fn receive_late(&self, from: SocketAddrV4, given: &[u8]) -> Carried {
        let (verdict, frame) = self.run("ingress", given);
        if verdict != REDIRECT {
            assert_eq!(verdict, GO_ON);
            assert_eq!(frame, given, "what is left to user space is as it was");
            return None;
        }
        assert_eq!(frame[..6], FAR);
        Some((from.into(), frame[ETHERNET..].to_vec()))
    }

    /// What the datapath makes of a packet from the TUN device.
    fn datapath_transmits(&self, packet: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut egress = Egress::new(EgressRules { vnet_hdr: false });
        let limits = RunLimits { datagrams: 127, bytes: 65507 };
        let mut out = Datagrams::new(limits, 8, Pieces::new(64, 4096));
        let mut replies = Frames::new(8, Pieces::new(64, 4096));
        let mut slot = packet.to_vec();
        let frame = TunFrame { slot: Slot(0), start: 0, len: packet.len() as u32, read_ns: 0 };
        let world = World { view: &self.view, now_ns: 0 };
        let progress = egress.frame(&world, frame, &mut slot, &mut out, &mut replies);
        assert_eq!(progress, Progress::Done);
        let bytes = |chain| gather(&out.pieces, chain, |_| &slot[..]);
        out.runs().iter().map(|run| (run.destination.to, bytes(&run.chain))).collect()
    }

    /// What the datapath makes of a datagram.
    fn datapath_receives(&self, from: SocketAddrV4, tos: u8, datagram: &[u8]) -> Vec<Vec<u8>> {
        let rules = IngressRules {
            check: self.check,
            peer_sources: Vec::new(),
            vnet_hdr: false,
            coalesce_tcp: false,
            coalesce_udp: false,
        };
        let mut ingress = Ingress::new(rules, 8);
        let mut out = Frames::new(8, Pieces::new(64, 4096));
        let mut slot = datagram.to_vec();
        let train = Train {
            slot: Slot(0),
            start: 0,
            len: datagram.len() as u32,
            from: from.into(),
            segment: 0,
            tos,
            received_ns: 0,
            flaw: None,
        };
        ingress.train(&World { view: &self.view, now_ns: 0 }, &train, &mut slot, &mut out);
        ingress.flush(&mut out);
        out.frames().iter().map(|frame| gather(&out.pieces, &frame.chain, |_| &slot[..])).collect()
    }

    /// Whether the program carried the packet, which it may only as the datapath does.
    fn agree_on_packet(&self, packet: &[u8]) -> bool {
        let carried = self.transmit(packet);
        if let Some(carried) = &carried {
            let expected = std::slice::from_ref(carried);
            assert_eq!(self.datapath_transmits(packet), expected, "{packet:02x?}");
        }
        carried.is_some()
    }

    /// The same for a datagram.
    fn agree_on_datagram(&self, from: SocketAddrV4, tos: u8, datagram: &[u8]) -> bool {
        let carried = self.receive(from, tos, datagram);
        if let Some((_, packet)) = &carried {
            assert_eq!(
                self.datapath_receives(from, tos, datagram),
                [&packet[..]],
                "{datagram:02x?}"
            );
        }
        carried.is_some()
    }

    fn tallies(&self) -> [Tally; 2] {
        self.programs.borrow().maps.counts(0, &self.view, Depth::Totals).unwrap().tallies
    }
}

/// An Ethernet frame; the kernel takes none that is too short for an IP header.
fn frame(packet: &[u8]) -> Vec<u8> {
    [&[0; 12][..], &[8, 0], packet].concat()
}

/// An IPv4 packet with a UDP datagram, without a checksum of UDP.
fn outer(from: SocketAddrV4, to: SocketAddrV4, tos: u8, payload: &[u8]) -> Vec<u8> {
    let len = |header: usize| ((payload.len() + header) as u16).to_be_bytes();
    let mut packet = vec![0x45, tos];
    packet.extend(len(OUTER));
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    let checksum = internet_checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&checksum);
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(len(8));
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

fn strict() -> Option<Both> {
    Both::new(with_a_and_b(), IngressCheck::Strict)
}

fn v4(address: &str) -> SocketAddrV4 {
    address.parse().unwrap()
}

fn a() -> SocketAddrV4 {
    v4(twill_testbed::overlay::A)
}

#[test]
fn packets_of_all_flannel_cases_come_out_as_the_datapath_has_them() {
    let Some(both) = Both::new(with_a_and_b(), IngressCheck::Off) else { return };
    let mut carried = Vec::new();
    for case in cases() {
        let was = match case.given {
            // BPF_PROG_TEST_RUN takes no frame without a whole IP header.
            Given::FromTun(dump) if bytes(dump).len() < 20 => continue,
            Given::FromTun(dump) => both.agree_on_packet(&bytes(dump)),
            Given::FromPeer(from, dump) => both.agree_on_datagram(v4(from), 0, &bytes(dump)),
        };
        carried.extend(was.then_some(case.name));
    }

    for usual in ["a UDP packet to a lease loses one hop", "a peer's packet loses one hop"] {
        assert!(carried.contains(&usual), "{carried:?}");
    }
    for unusual in ["header options stay", "a first fragment passes", "a peer's last hop"] {
        assert!(!carried.contains(&unusual), "{unusual}");
    }
}

#[test]
fn bad_datagrams_are_left_to_user_space() {
    let Some(both) = strict() else { return };
    for (case, datagram, _) in bad_datagrams() {
        assert!(!both.agree_on_datagram(a(), 0, &datagram), "{case}");
    }
    for from in MARTIANS {
        assert!(!both.agree_on_datagram(a(), 0, &udp(from, HERE, 64, b"x")), "from {from:?}");
    }
    for to in OUT_OF_SCOPE {
        assert!(!both.agree_on_datagram(a(), 0, &udp(AT_A, to, 64, b"x")), "to {to:?}");
    }
    let packet = udp(AT_A, HERE, 64, b"x");
    assert!(!both.agree_on_datagram(v4("203.0.113.7:8285"), 0, &packet), "a stranger");
    assert!(!both.agree_on_datagram(v4("192.0.2.2:8285"), 0, &packet), "another peer");
    assert!(both.agree_on_datagram(v4("192.0.2.1:50000"), 0, &packet));
}

#[test]
fn congestion_is_told_inside_as_the_datapath_tells_it() {
    let Some(both) = strict() else { return };
    for outer in 0..4 {
        for inner in 0..4 {
            let packet = with_header(udp(AT_A, HERE, 64, b"x"), |header| header[1] = 0xb8 | inner);

            let is_carried = both.agree_on_datagram(a(), outer, &packet);

            assert_eq!(is_carried, (outer, inner) != (3, 0), "outer {outer}, inner {inner}");
        }
    }
}

#[test]
fn what_a_path_does_not_carry_in_one_piece_is_left_to_user_space() {
    let Some(both) = strict() else { return };
    let of = |len: usize| udp(HERE, AT_A, 64, &vec![7; len - OUTER]);

    assert!(both.agree_on_packet(&of(1472)));
    assert!(!both.agree_on_packet(&of(1473)));
    let from_a = |len: usize| udp(AT_A, HERE, 64, &vec![7; len - OUTER]);
    assert!(both.agree_on_datagram(a(), 0, &from_a(MTU.into())));
    assert!(!both.agree_on_datagram(a(), 0, &from_a(usize::from(MTU) + 1)));
}

#[test]
fn datagrams_that_are_not_the_gateways_are_not_touched_nor_counted() {
    let Some(both) = strict() else { return };
    let packet = udp(AT_A, HERE, 64, b"x");
    let fragment = {
        let mut packet = outer(a(), LISTEN, 0, &packet);
        packet[6] = 0x20;
        packet
    };
    let others = [
        outer(a(), v4("192.0.2.100:53"), 0, &packet),
        outer(a(), v4("192.0.2.99:8285"), 0, &packet),
        fragment,
        tcp([192, 0, 2, 1], [192, 0, 2, 100], 64, 1, 0, &packet),
    ];
    for other in others {
        assert_eq!(both.run("ingress", &frame(&other)), (GO_ON, frame(&other)));
        assert_eq!(both.run(EARLY, &frame(&other)), (PASS, frame(&other)));
    }

    assert_eq!(both.tallies(), [Tally::default(); 2]);
}

#[test]
fn a_datagram_with_a_checksum_that_nobody_has_verified_is_left_to_user_space() {
    let Some(both) = strict() else { return };
    let mut packet = outer(a(), LISTEN, 0, &udp(AT_A, HERE, 64, b"x"));
    packet[26..28].copy_from_slice(&[0x12, 0x34]);

    let (verdict, _) = both.run("ingress", &frame(&packet));

    assert_eq!(verdict, GO_ON);
    assert_eq!(both.receive_early(&frame(&packet)), None);
}

#[test]
fn flows_take_all_source_ports_and_each_flow_keeps_its_own() {
    let Some(both) = strict() else { return };
    let port = |source: u16| {
        let packet = with_port(udp(HERE, AT_A, 64, b"x"), source);
        let (_, frame) = both.run("egress", &frame(&packet));
        u16::from_be_bytes([frame[34], frame[35]])
    };
    let ports: std::collections::BTreeSet<_> = (0..SOURCE_PORTS as u16).map(port).collect();

    assert_eq!(ports.into_iter().collect::<Vec<_>>(), PORTS);
    assert_eq!(port(7), port(7));
}

fn with_port(mut packet: Vec<u8>, port: u16) -> Vec<u8> {
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet
}

#[test]
fn the_books_balance_over_generated_packets_of_both_directions() {
    let Some(both) = strict() else { return };
    let mut carried = [0u64; 2];
    let mut runner = TestRunner::new(Config { cases: 4000, ..Config::default() });
    let counts = RefCell::new(&mut carried);

    let done = runner.run(&(arb_packet(), any::<bool>(), 0u8..4), |(packet, out, tos)| {
        let is_carried = match out {
            true => both.agree_on_packet(&packet),
            false => both.agree_on_datagram(a(), tos, &packet),
        };
        counts.borrow_mut()[usize::from(!out)] += u64::from(is_carried);
        Ok(())
    });

    done.unwrap();
    for (tally, carried) in both.tallies().iter().zip(carried) {
        assert_eq!((tally.packets_in, tally.packets_out, tally.imbalance()), (carried, carried, 0));
        assert!(carried > 200, "the programs carry what is usual: {carried}");
    }
}

/// Packets of this overlay, most of them good, some with bytes changed, cut or extended.
fn arb_packet() -> impl Strategy<Value = Vec<u8>> {
    let address = || {
        prop_oneof![
            6 => (0u8..4, any::<u8>()).prop_map(|(subnet, host)| [10, 10, subnet, host]),
            1 => any::<[u8; 4]>(),
        ]
    };
    let hops = prop_oneof![Just(64u8), 0u8..3];
    let len = prop_oneof![4 => 0usize..80, 1 => 1400usize..1460];
    let edits = proptest::collection::vec((0usize..60, any::<u8>()), 0..3);
    let size = prop_oneof![4 => Just(None), 1 => (20usize..1600).prop_map(Some)];
    let host = |subnet: u8| any::<u8>().prop_map(move |host| [10, 10, subnet, host]);
    let ends = prop_oneof![
        3 => (host(1), host(0)),
        3 => (host(0), host(1)),
        2 => (address(), address()),
    ];
    (ends, hops, len, prop_oneof![2 => Just(Vec::new()), 1 => edits], size).prop_map(
        |((from, to), hops, len, edits, size)| {
            let mut packet = udp(from, to, hops, &vec![7; len]);
            for (at, value) in edits {
                if let Some(byte) = packet.get_mut(at) {
                    *byte = value;
                }
            }
            if let Some(size) = size {
                packet.resize(size, 0xee);
            }
            packet
        },
    )
}
