//! The table through twill's datapath.

use etherparse::{IpSlice, Ipv4HeaderSlice};
use twill_datapath::IngressCheck;
use twill_datapath::batch::{Datagrams, Frames, Pieces, RunLimits, Slot, Train, TunFrame};
use twill_datapath::route::View;
use twill_datapath::wire::ipv4;
use twill_datapath::{Egress, EgressRules, Ingress, IngressRules, World};
use twill_testbed::cases::wire::{Case, Given, Outcome, Stock, bytes, cases};
use twill_testbed::overlay::with_a_and_b;
use twill_testbed::packets::gather;

#[test]
fn every_packet_leaves_as_the_table_says() {
    for case in cases() {
        assert_eq!(replay(case.given), expected(case.twill), "{}", case.name);
    }
}

#[test]
fn where_stock_differs_it_does_and_the_table_says_why() {
    for case in cases() {
        match case.stock {
            Stock::Same => {}
            Stock::Differs(stock, why) => {
                assert_ne!(replay(case.given), expected(stock), "{}", case.name);
                assert!(why.contains("stock") || why.contains("RFC"), "{}: {why}", case.name);
            }
            Stock::Undefined(why) => assert!(why.starts_with("stock "), "{}", case.name),
        }
    }
}

#[test]
fn the_tables_packets_are_what_their_names_say() {
    let spoiled = ["less than", "shorter", "empty", "IPv6", "wrong checksum", "cut short"];
    for Case { name, given, .. } in cases() {
        if spoiled.iter().any(|word| name.contains(word)) {
            continue;
        }
        let (Given::FromTun(dump) | Given::FromPeer(_, dump)) = given;
        let packet = bytes(dump);

        let header = Ipv4HeaderSlice::from_slice(&packet).unwrap();
        assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum(), "{name}");
        assert!(IpSlice::from_slice(&packet).is_ok(), "{name}");
    }
}

#[test]
fn a_hop_is_taken_off_with_flannels_arithmetic_whatever_the_checksum() {
    for checksum in 0..=u16::MAX {
        for ttl in [2, 64, 255] {
            let mut bytes = bytes("4500 0014 0000 0000 0011 0000 0a0a 0005 0a0a 0105");
            bytes[8] = ttl;
            bytes[10..12].copy_from_slice(&checksum.to_be_bytes());

            ipv4::Packet::parse(&mut bytes[..]).unwrap().decrement_ttl();

            // flannel's `decrement_ttl`: 0x0100 is added, and the carry at the other end.
            let carry = u16::from(checksum >= 0xffff - 0x100);
            let flannels = checksum.wrapping_add(0x100).wrapping_add(carry);
            assert_eq!(bytes[10..12], flannels.to_be_bytes(), "{checksum:04x}, ttl {ttl}");
        }
    }
}

/// What came out: for each packet the peer it went to, or `None` for the TUN device.
type Left = Vec<(Option<String>, Vec<u8>)>;

fn expected(outcome: Outcome) -> Left {
    match outcome {
        Outcome::Silence => Vec::new(),
        Outcome::ToPeer(to, dump) => vec![(Some(to.to_owned()), bytes(dump))],
        Outcome::ToTun(dump) => vec![(None, bytes(dump))],
    }
}

fn replay(given: Given) -> Left {
    let view = View::new(with_a_and_b());
    let world = World { view: &view, now_ns: 1 };
    let limits = RunLimits { datagrams: 64, bytes: 65507 };
    let mut datagrams = Datagrams::new(limits, 4, Pieces::new(16, 1024));
    let mut frames = Frames::new(4, Pieces::new(16, 1024));
    let mut slot = match given {
        Given::FromTun(dump) | Given::FromPeer(_, dump) => bytes(dump),
    };
    let len = slot.len() as u32;
    match given {
        Given::FromTun(_) => {
            let mut egress = Egress::new(EgressRules { vnet_hdr: false });
            let frame = TunFrame { slot: Slot(0), start: 0, len, read_ns: 0 };
            egress.frame(&world, frame, &mut slot, &mut datagrams, &mut frames);
        }
        Given::FromPeer(from, _) => {
            let rules = IngressRules {
                check: IngressCheck::Off,
                peer_sources: Vec::new(),
                vnet_hdr: false,
                coalesce_tcp: false,
                coalesce_udp: false,
            };
            let mut ingress = Ingress::new(rules, 4);
            let train = Train {
                slot: Slot(0),
                start: 0,
                len,
                from: from.parse().unwrap(),
                segment: 0,
                tos: 0,
                received_ns: 0,
                flaw: None,
            };
            ingress.train(&world, &train, &mut slot, &mut frames);
            ingress.flush(&mut frames);
        }
    }
    let to_peers = datagrams.runs().iter().map(|run| {
        assert_eq!(run.datagrams, 1);
        (Some(run.destination.to.to_string()), gather(&datagrams.pieces, &run.chain, |_| &slot))
    });
    let to_tun =
        frames.frames().iter().map(|frame| (None, gather(&frames.pieces, &frame.chain, |_| &slot)));
    to_peers.chain(to_tun).collect()
}
