//! Workers on an engine without a kernel: whole turns, and what the kernel may refuse.

use super::*;
use crate::engine::loopback::{Loopback, Refusal, Wires};
use ipnet::IpNet;
use proptest::prelude::*;
use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use twill_datapath::IngressCheck;
use twill_datapath::offload::vnet_hdr::{GsoType, VnetHdr};
use twill_datapath::route::{Overlay, Peer, PeerIndex};
use twill_datapath::{DropReason, Tally};
use twill_testbed::packets::{self, ACK, plain, tcp, tso};

/// A host at the near gateway, and one at the far one.
const NEAR: [u8; 4] = [10, 10, 0, 5];
const FAR: [u8; 4] = [10, 10, 1, 5];
/// A network whose gateway nobody runs.
const ELSEWHERE: [u8; 4] = [10, 10, 2, 5];
/// The far gateway's UDP address, on a host that every test machine can reach.
const FAR_ENDPOINT: &str = "127.0.0.2:8285";
const NEAR_ENDPOINT: &str = "127.0.0.1:8285";

#[test]
fn one_turn_carries_both_directions() {
    let mut side = Side::near();
    side.wires.borrow_mut().from_tun.push_back(plain(&udp(NEAR, FAR, b"out")));
    let arrival = udp(FAR, NEAR, b"in");
    side.arrives(0, arrival);

    side.turn();

    let wires = side.wires.borrow();
    assert_eq!(wires.to_udp.len(), 1);
    assert_eq!(wires.to_tun.len(), 1);
    assert_eq!((side.egress().packets_out, side.ingress().packets_out), (1, 1));
}

#[test]
fn what_an_engine_holds_when_its_worker_ends_leaves_first() {
    let mut side = Side::near();
    for number in 0..2 * BATCH {
        let packet = plain(&udp(NEAR, FAR, format!("{number}").as_bytes()));
        side.wires.borrow_mut().from_tun.push_back(packet);
    }
    side.worker.stop.store(true, Ordering::Relaxed);

    side.worker.turns().unwrap();

    assert!(!side.wires.borrow().has_arrivals());
    assert_eq!(side.egress().packets_out, 2 * BATCH as u64);
}

#[test]
fn a_bulk_stream_crosses_two_gateways_whole_and_in_order() {
    let (mut near, mut far) = (Side::near(), Side::far());
    let stream: Vec<u8> = (0..40u32 * 64 * 1024).map(|at| (at / 7) as u8).collect();
    for (index, part) in stream.chunks(64_000).enumerate() {
        near.wires
            .borrow_mut()
            .from_tun
            .push_back(tso(1400, &tcp(NEAR, FAR, 64, (index * 64_000) as u32, ACK, part)));
    }

    near.turns();
    for train in trains(&near) {
        far.wires.borrow_mut().from_udp.push_back(train);
    }
    far.turns();

    let frames = far.wires.borrow().to_tun.clone();
    assert!(frames.len() < 60, "{} frames: nothing was joined", frames.len());
    let received: Vec<u8> = frames.iter().flat_map(|frame| frame[10 + 52..].to_vec()).collect();
    assert!(received == stream, "the stream was cut, repeated or reordered");
    assert_eq!(near.egress().imbalance(), 0);
    assert_eq!(far.ingress().packets_in, near.egress().packets_out);
    assert_eq!(far.ingress().dropped(), 0);
}

#[test]
fn a_packet_passes_the_bulk_of_other_flows_in_both_directions() {
    let mut side = Side::near();
    let bulk = |from, to| tcp(from, to, 64, 1, ACK, &vec![7; 60_000]);
    for _ in 0..20 {
        side.wires.borrow_mut().from_tun.push_back(tso(1400, &bulk(NEAR, FAR)));
        side.arrives(0, bulk(FAR, NEAR));
    }
    side.wires.borrow_mut().from_tun.push_back(plain(&udp(NEAR, FAR, b"out")));
    side.arrives(0, udp(FAR, NEAR, b"in"));

    side.turn();

    let wires = side.wires.borrow();
    assert!(wires.to_udp[0].1.ends_with(b"out"), "it leaves first");
    assert!(wires.to_tun[0].ends_with(b"in"), "it is written first");
    assert!(side.ingress().packets_out < 8, "a turn is short");
    assert!(wires.to_udp.len() < 100, "{} segments: a turn is short", wires.to_udp.len());
}

#[test]
fn bulk_alone_leaves_in_one_turn_and_beside_little_in_short_ones_for_a_while() {
    let mut side = Side::near();
    let bulk = tso(1400, &tcp(NEAR, FAR, 64, 1, ACK, &vec![7; 56_000]));
    let mut after_a_turn = |own: &[u8], with_little: bool| {
        let before = side.egress().packets_out;
        side.wires.borrow_mut().from_tun.extend(vec![bulk.clone(); 20]);
        if with_little {
            side.wires.borrow_mut().from_tun.push_back(plain(own));
        }
        side.turn();
        let left = side.egress().packets_out - before;
        side.turns();
        (left, side.worker.backlog.short_until_ns)
    };
    let own = tcp(NEAR, FAR, 64, 9, ACK, b"the same flow's");
    let ack = tcp(NEAR, [10, 10, 1, 9], 64, 1, ACK, b"");
    let little = udp(NEAR, FAR, b"waited for");

    assert_eq!(after_a_turn(&[], false), (800, 0));
    assert_eq!(after_a_turn(&own, true), (801, 0), "a short end of bulk is bulk");
    assert_eq!(after_a_turn(&ack, true), (801, 0), "nobody waits for an acknowledgement");
    let (left, short_until_ns) = after_a_turn(&little, true);
    assert!(left < 100, "{left} packets in a short turn");
    assert!(short_until_ns > clock::monotonic_ns());
    let (left, _) = after_a_turn(&[], false);
    assert!(left < 100, "{left} packets: the next little one may come soon");
    side.worker.backlog.short_until_ns = clock::monotonic_ns();
    side.wires.borrow_mut().from_tun.extend(vec![bulk.clone(); 20]);
    let before = side.egress().packets_out;
    side.turn();
    assert_eq!(side.egress().packets_out - before, 800);
}

#[test]
fn what_arrives_during_a_long_queue_passes_it_and_flows_stay_in_order() {
    let mut side = Side::near();
    side.worker.backlog.short_until_ns = u64::MAX;
    for number in 0..30 {
        let segment = tcp(NEAR, FAR, 64, number * 60_000, ACK, &vec![7; 60_000]);
        side.wires.borrow_mut().from_tun.push_back(tso(1400, &segment));
    }

    let mut at_once = 0;
    for number in 0..20u8 {
        side.turn();
        let before = side.wires.borrow().to_udp.len();
        side.wires.borrow_mut().from_tun.push_back(plain(&udp(NEAR, FAR, &[number])));
        side.turn();
        let wires = side.wires.borrow();
        at_once += usize::from(wires.to_udp[before].1[28..] == [number]);
    }
    side.turns();

    assert_eq!(at_once, 20, "each left at once");
    let wires = side.wires.borrow();
    let stream = wires.to_udp.iter().filter(|(_, bytes)| bytes[9] == 6);
    let sequence = |bytes: &[u8]| u32::from_be_bytes(bytes[24..28].try_into().unwrap());
    let sequences: Vec<u32> = stream.map(|(_, bytes)| sequence(bytes)).collect();
    assert!(sequences.is_sorted(), "the stream was reordered");
    let numbers: Vec<u8> =
        wires.to_udp.iter().filter(|it| it.1[9] == 17).map(|it| it.1[28]).collect();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
}

#[test]
fn a_new_view_counts_from_the_next_turn_on() {
    let mut side = Side::near();
    let packet = plain(&udp(NEAR, [10, 10, 77, 1], b""));
    side.wires.borrow_mut().from_tun.push_back(packet.clone());
    side.turn();
    assert_eq!(side.egress().drops[DropReason::NoRoute as usize], 1);

    let mut overlay = overlay([10, 10, 0, 0]);
    overlay.peers.push(peer(7, "127.0.0.9:8285", [10, 10, 77, 0]));
    side.views.store(Arc::new(View::new(overlay)));
    side.wires.borrow_mut().from_tun.push_back(packet);
    side.turn();

    assert_eq!(side.wires.borrow().to_udp[0].0, "127.0.0.9:8285".parse().unwrap());
}

#[test]
fn a_sender_without_a_route_is_told_through_the_device() {
    let mut side = Side::near();
    let packet = udp(NEAR, [10, 10, 77, 1], b"");
    side.wires.borrow_mut().from_tun.push_back(plain(&packet));

    side.turn();

    let wires = side.wires.borrow();
    assert_eq!(wires.to_tun.len(), 1);
    assert_eq!(wires.to_tun[0][10 + 28..], packet[..28]);
    assert_eq!(side.ingress(), Tally::default(), "a reply is nobody's packet");
}

#[test]
fn one_refused_destination_harms_no_other() {
    let mut side = Side::near();
    for number in 0..10 {
        let to = if number % 2 == 0 { FAR } else { ELSEWHERE };
        side.wires.borrow_mut().from_tun.push_back(plain(&udp(NEAR, to, &[number])));
    }
    side.wires.borrow_mut().refuse_send =
        |datagram| (datagram[16..20] == ELSEWHERE).then_some(libc::EHOSTUNREACH);

    side.turn();

    let sent: Vec<_> =
        side.wires.borrow().to_udp.iter().map(|(_, datagram)| datagram[28]).collect();
    assert_eq!(sent, [0, 2, 4, 6, 8]);
    let books = side.egress();
    assert_eq!((books.packets_in, books.packets_out), (10, 5));
    assert_eq!(books.drops[DropReason::SendUnreachable as usize], 5);
    assert_eq!(books.bytes_out, 5 * 29);
}

#[test]
fn a_datagram_beyond_its_path_is_answered_or_leaves_in_fragments() {
    let mut side = Side::near();
    let mut free = udp(NEAR, FAR, &[1; 1000]);
    free[6] = 0;
    let bound = udp(NEAR, FAR, &[2; 1000]);
    side.wires.borrow_mut().from_tun.extend([plain(&free), plain(&bound)]);
    side.wires.borrow_mut().refuse_send = |_| Some(libc::EMSGSIZE);

    side.turn();

    let wires = side.wires.borrow();
    let sent: Vec<_> = wires.to_udp.iter().map(|(_, it)| it[28]).collect();
    assert_eq!((sent, &wires.fragmented), (vec![1], &vec![0]));
    assert_eq!(wires.to_tun.len(), 1);
    assert_eq!(wires.to_tun[0][10 + 20..10 + 22], [3, 4], "fragmentation needed");
    assert_eq!(wires.to_tun[0][10 + 28 + 6], 0x40, "about the packet that forbids it");
    let books = side.egress();
    assert_eq!((books.packets_out, books.drops[DropReason::SendTooBig as usize]), (1, 1));
}

#[test]
fn what_leaves_in_fragments_keeps_its_place_in_its_flow() {
    let mut side = Side::near();
    let packets = (0..30).map(|number| {
        let mut packet = udp(NEAR, FAR, &vec![number; if number % 3 == 0 { 1000 } else { 90 }]);
        packet[6] = 0;
        plain(&packet)
    });
    side.wires.borrow_mut().from_tun.extend(packets);
    side.wires.borrow_mut().refuse_send = |it| (it.len() > 1000).then_some(libc::EMSGSIZE);

    side.turn();

    let wires = side.wires.borrow();
    let sent: Vec<_> = wires.to_udp.iter().map(|(_, datagram)| datagram[28]).collect();
    assert_eq!(sent, (0..30).collect::<Vec<_>>());
    assert_eq!(wires.fragmented, (0..30).step_by(3).collect::<Vec<_>>());
    assert_eq!(side.egress().packets_out, 30);
}

#[test]
fn a_device_that_refuses_joined_frames_gets_every_packet_once_and_no_joined_frame_again() {
    let mut side = Side::near();
    let train = |first: u8| -> Vec<u8> {
        (first..first + 20).flat_map(|number| udp(FAR, NEAR, &[number; 100])).collect()
    };
    side.wires.borrow_mut().refuse_write = |frame| (frame[1] != 0).then_some(libc::EINVAL);
    side.arrives(128, train(0));
    side.arrives(128, train(20));

    side.turn();
    side.arrives(128, train(40));
    side.turn();

    let written: Vec<_> = side.wires.borrow().to_tun.iter().map(|frame| frame[10 + 28]).collect();
    assert_eq!(written, (0..60).collect::<Vec<_>>());
    assert_eq!(side.ingress().packets_out, 60);
    assert_eq!(side.ingress().dropped(), 0);
    assert_eq!(side.worker.pipeline.ingress.coalesces(), (true, false));
}

#[test]
fn a_device_that_is_down_costs_packets_and_is_counted() {
    let mut side = Side::near();
    side.wires.borrow_mut().refuse_write = |_| Some(libc::EIO);
    let train = (0..20).flat_map(|number| udp(FAR, NEAR, &[number; 100])).collect();
    side.arrives(128, train);

    side.turn();

    let books = side.ingress();
    assert_eq!((books.packets_in, books.packets_out, books.bytes_out), (20, 0, 0));
    assert_eq!(books.drops[DropReason::TunDown as usize], 20);
}

proptest! {
    #[test]
    fn every_packet_leaves_once_or_is_counted_whatever_the_kernel_refuses(
        frames in prop::collection::vec((0usize..3, 0usize..9000, 1u16..1500), 1..100),
        trains in prop::collection::vec((0usize..3, 1usize..30, 0usize..100), 1..100),
        refuse_send in 0usize..4, refuse_write in 0usize..4,
    ) {
        const SENDS: [Refusal; 4] = [
            |_| None,
            |bytes| is_one_in(3, bytes).then_some(libc::ENOBUFS),
            |bytes| is_one_in(5, bytes).then_some(libc::EMSGSIZE),
            |_| Some(libc::EPERM),
        ];
        const WRITES: [Refusal; 4] = [
            |_| None,
            |frame| (frame[1] != 0).then_some(libc::EINVAL),
            |bytes| is_one_in(3, bytes).then_some(libc::EIO),
            |_| Some(libc::EINVAL),
        ];
        let mut side = Side::near();
        let destinations = [FAR, ELSEWHERE, [10, 10, 77, 1]];
        let sources = [FAR, ELSEWHERE, [8, 8, 8, 8]];
        {
            let mut wires = side.wires.borrow_mut();
            wires.refuse_send = SENDS[refuse_send];
            wires.refuse_write = WRITES[refuse_write];
            for (to, len, gso_size) in &frames {
                let segments = tcp(NEAR, destinations[*to], 64, 1, ACK, &vec![7; *len]);
                wires.from_tun.push_back(tso(usize::from(*gso_size), &segments));
            }
        }
        for (from, count, len) in &trains {
            let packet = udp(sources[*from], NEAR, &vec![9; *len]);
            side.arrives(packet.len() as u16, packet.repeat(*count));
        }

        side.turns();

        let (egress, ingress) = (side.egress(), side.ingress());
        let wires = side.wires.borrow();
        prop_assert_eq!(egress.imbalance(), 0);
        prop_assert_eq!(ingress.imbalance(), 0);
        prop_assert_eq!(egress.packets_out, wires.to_udp.len() as u64);
        let sent = wires.to_udp.iter();
        prop_assert_eq!(egress.bytes_out, sent.map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
        let segments: usize =
            frames.iter().map(|(_, len, gso)| len.div_ceil(usize::from(*gso)).max(1)).sum();
        prop_assert_eq!(egress.packets_in, segments as u64);
        let datagrams: usize = trains.iter().map(|(_, count, _)| count).sum();
        prop_assert_eq!(ingress.packets_in, datagrams as u64);
        let replies = side.worker.pipeline.egress.replies().sent;
        let written: u64 = wires.to_tun.iter().map(|frame| packets_in(frame)).sum();
        // The device may have refused replies too.
        prop_assert!(written >= ingress.packets_out && written <= ingress.packets_out + replies);
    }
}

proptest! {
    #[test]
    fn flows_stay_in_order_while_turns_become_short_and_long_again(
        batches in prop::collection::vec(
            (any::<bool>(), prop::collection::vec((0u8..4, any::<bool>()), 0..25)), 1..8,
        ),
    ) {
        let mut side = Side::near();
        let mut number = 0u32;
        for (is_short, arrivals) in &batches {
            side.worker.backlog.short_until_ns = if *is_short { u64::MAX } else { 0 };
            for (host, is_bulk) in arrivals {
                // Further than any data reaches: nothing is joined.
                number += 60_000;
                let data = vec![7; if *is_bulk { 30_000 } else { 20 }];
                let segment = tcp([10, 10, 0, *host], FAR, 64, number, ACK, &data);
                side.wires.borrow_mut().from_tun.push_back(tso(30_000, &segment));
                let segment = tcp(FAR, [10, 10, 0, *host], 64, number, ACK, &data);
                side.arrives(0, segment);
            }
            side.turn();
        }
        side.turns();

        let wires = side.wires.borrow();
        let sent = wires.to_udp.iter().map(|(_, bytes)| (bytes[15], &bytes[24..28]));
        let written = wires.to_tun.iter().map(|frame| (frame[10 + 19], &frame[10 + 24..10 + 28]));
        let arrived = batches.iter().map(|(_, arrivals)| arrivals.len()).sum::<usize>();
        prop_assert_eq!((sent.len(), written.len()), (arrived, arrived));
        for host in 0..4 {
            prop_assert!(sent.clone().filter(|it| it.0 == host).is_sorted());
            prop_assert!(written.clone().filter(|it| it.0 == host).is_sorted());
        }
    }
}

/// A worker and the wires it is on.
struct Side {
    worker: Worker,
    wires: Rc<RefCell<Wires>>,
    views: Arc<ArcSwap<View>>,
}

impl Side {
    fn near() -> Self {
        Self::with(overlay([10, 10, 0, 0]))
    }

    fn far() -> Self {
        Self::with(overlay([10, 10, 1, 0]))
    }

    fn with(overlay: Overlay) -> Self {
        let wires = Wires::new();
        let views = Arc::new(ArcSwap::from_pointee(View::new(overlay)));
        let common = Common {
            views: Arc::clone(&views),
            stop: Arc::default(),
            limits: RunLimits { datagrams: 63, bytes: 65_507 },
            egress: EgressRules { vnet_hdr: true },
            ingress: IngressRules {
                check: IngressCheck::Strict,
                peer_sources: Vec::new(),
                vnet_hdr: true,
                coalesce_tcp: true,
                coalesce_udp: true,
            },
            originator: None,
            sources: Ipv4Addr::LOCALHOST.into(),
            busy_poll: BusyPoll::Never,
            telemetry: true,
        };
        let engine = Loopback::new(Rc::clone(&wires), BATCH);
        Self { worker: Worker::new(Box::new(engine), common, Arc::default()), wires, views }
    }

    fn turn(&mut self) {
        self.worker.turn().unwrap();
    }

    /// Turns until everything that arrived is done.
    fn turns(&mut self) {
        while self.wires.borrow().has_arrivals() || !self.worker.backlog.inbox.is_empty() {
            self.turn();
        }
    }

    /// A receive from the far gateway.
    fn arrives(&self, segment: u16, bytes: Vec<u8>) {
        let from = FAR_ENDPOINT.parse().unwrap();
        self.wires.borrow_mut().from_udp.push_back((from, segment, bytes));
    }

    fn egress(&self) -> Tally {
        self.worker.pipeline.egress.tally
    }

    fn ingress(&self) -> Tally {
        self.worker.pipeline.ingress.tally
    }
}

/// The overlay as the gateway with this subnet sees it.
fn overlay(own: [u8; 4]) -> Overlay {
    let peers = [
        peer(0, NEAR_ENDPOINT, [10, 10, 0, 0]),
        peer(1, FAR_ENDPOINT, [10, 10, 1, 0]),
        peer(2, "127.0.0.3:8285", [10, 10, 2, 0]),
    ];
    let own_subnet = subnet(own);
    Overlay {
        peers: peers.into_iter().filter(|peer| peer.subnets != [own_subnet]).collect(),
        local: vec![own_subnet],
        addresses: vec![IpAddr::from(own)],
    }
}

fn peer(index: u32, endpoint: &str, network: [u8; 4]) -> Peer {
    Peer {
        index: PeerIndex(index),
        name: endpoint.into(),
        endpoint: endpoint.parse().unwrap(),
        subnets: vec![subnet(network)],
    }
}

fn subnet(address: [u8; 4]) -> IpNet {
    IpNet::new_assert(IpAddr::from(address), 24)
}

/// What a side sent, as its receiver's kernel joins it: neighbours of one size, the last shorter.
fn trains(side: &Side) -> Vec<(SocketAddr, u16, Vec<u8>)> {
    let from = NEAR_ENDPOINT.parse().unwrap();
    let mut trains: Vec<(SocketAddr, u16, Vec<u8>)> = Vec::new();
    for (_, datagram) in &side.wires.borrow().to_udp {
        match trains.last_mut() {
            Some((_, segment, bytes))
                if datagram.len() <= usize::from(*segment)
                    && bytes.len() % usize::from(*segment) == 0
                    && bytes.len() < 40_000 =>
            {
                bytes.extend_from_slice(datagram);
            }
            _ => trains.push((from, datagram.len() as u16, datagram.clone())),
        }
    }
    trains
}

/// Packets that a frame stands for.
fn packets_in(frame: &[u8]) -> u64 {
    let (header, packet) = VnetHdr::parse(frame).unwrap();
    let headers = usize::from(header.hdr_len);
    match header.gso_type {
        GsoType::None => 1,
        _ => (packet.len() - headers).div_ceil(usize::from(header.gso_size)) as u64,
    }
}

fn udp(from: [u8; 4], to: [u8; 4], data: &[u8]) -> Vec<u8> {
    packets::udp(from, to, 64, data)
}

/// Whether this is the one packet in so many that a test picks.
fn is_one_in(many: u32, bytes: &[u8]) -> bool {
    bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>().is_multiple_of(many)
}
