//! What the kernel may refuse: each packet leaves once or is counted.

use super::*;
use crate::engine::loopback::Refusal;
use proptest::prelude::*;
use twill_datapath::offload::vnet_hdr::{GsoType, VnetHdr};

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

/// Packets that a frame stands for.
fn packets_in(frame: &[u8]) -> u64 {
    let (header, packet) = VnetHdr::parse(frame).unwrap();
    let headers = usize::from(header.hdr_len);
    match header.gso_type {
        GsoType::None => 1,
        _ => (packet.len() - headers).div_ceil(usize::from(header.gso_size)) as u64,
    }
}

/// Whether this is the one packet in so many that a test picks.
fn is_one_in(many: u32, bytes: &[u8]) -> bool {
    bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>().is_multiple_of(many)
}
