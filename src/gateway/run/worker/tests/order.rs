//! Which packets leave first, in how long turns, and that each flow keeps its order.

use super::*;
use proptest::prelude::*;

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
