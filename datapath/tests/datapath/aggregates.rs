//! Super-packets from the TUN device (cases T6 to T8), trains that are joined for it (D17 to D19),
//! and joined frames that it refuses.

use crate::harness::*;
use etherparse::PacketBuilder;
use twill_datapath::offload::vnet_hdr::{GsoType, VnetHdr};
use twill_datapath::{DropReason, Progress};

#[test]
fn t6_a_tcp_super_packet_leaves_as_the_segments_that_the_kernel_would_have_made() {
    for gso_size in [1, 8, 536, 1432] {
        for len in [gso_size, gso_size * 3 + 1, gso_size * 7] {
            let payload = payload(len);
            let frame = tso(gso_size, &tcp(HERE, AT_A, 64, 1000, ACK | PSH | FIN | ECE, &payload));
            let mut host = with_offloads();

            let sent = host.transmit(&frame);

            let count = len.div_ceil(gso_size);
            let segments = payload.chunks(gso_size).enumerate().map(|(index, chunk)| {
                let last = if index + 1 == count { PSH | FIN } else { 0 };
                let sequence = 1000 + (index * gso_size) as u32;
                let segment = tcp(HERE, AT_A, 63, sequence, ACK | ECE | last, chunk);
                (A.parse().unwrap(), with_id(segment, index as u16))
            });
            assert_eq!(sent.datagrams, segments.collect::<Vec<_>>(), "{len} by {gso_size}");
            let bytes = len + count * 52;
            assert_eq!(host.egress.tally, forwarded(count as u64, bytes));
        }
    }
}

#[test]
fn t6_a_window_reduction_rides_on_the_first_segment_only() {
    let packet = tcp(HERE, AT_A, 64, 1, ACK | CWR, &payload(300));
    let mut frame = tso(100, &packet);
    frame[1] |= 0x80;

    let sent = with_offloads().transmit(&frame);

    let flags: Vec<_> = sent.datagrams.iter().map(|(_, segment)| segment[33]).collect();
    assert_eq!(flags, [ACK | CWR, ACK, ACK]);
}

#[test]
fn t6_a_full_size_super_packet_leaves_in_two_even_runs() {
    let frame = tso(1420, &tcp(HERE, AT_A, 64, 1, ACK, &payload(45 * 1420)));
    let mut host = with_offloads();

    let sent = host.transmit(&frame);

    assert_eq!(sent.runs, [23, 22], "not 44 and a crumb");
    assert_eq!(sent.datagrams.len(), 45);
}

#[test]
fn t6_a_super_packet_longer_than_the_batch_loses_and_repeats_nothing() {
    let frame = tso(100, &tcp(HERE, AT_A, 64, 1, ACK, &payload(6400)));
    let whole = with_offloads().transmit(&frame);
    for batch in [1, 2, 3, 7] {
        let mut host = Setup { vnet_hdr: true, coalesce: true, batch, ..Setup::default() }.host();

        let sent = host.transmit(&frame);

        assert_eq!(sent.datagrams, whole.datagrams, "hops are taken once, nothing is sent twice");
        assert_eq!(host.egress.tally, forwarded(64, 6400 + 64 * 52));
        assert!(host.batches > 0);
    }
}

#[test]
fn t6_a_super_packet_is_decided_once_however_many_batches_it_takes() {
    use twill_datapath::batch::{Datagrams, Frames, Pieces, RunLimits, Slot, TunFrame};
    use twill_datapath::{Egress, EgressRules, World};
    let view = Setup::default().host().view;
    let mut bytes = tso(100, &tcp(HERE, AT_A, 64, 1, ACK, &payload(1000)));
    let frame = TunFrame { slot: Slot(0), start: 0, len: bytes.len() as u32, read_ns: 0 };
    let mut egress = Egress::new(EgressRules { vnet_hdr: true });
    let limits = RunLimits { datagrams: 64, bytes: 65507 };
    let mut out = Datagrams::new(limits, 4, Pieces::new(8, 4096));
    let mut replies = Frames::new(4, Pieces::new(4, 4096));

    let world = World { view: &view, now_ns: 0 };
    let mut progress = egress.frame(&world, frame, &mut bytes, &mut out, &mut replies);
    let decided = bytes.clone();
    let mut sent = vec![out.runs().iter().map(|run| run.datagrams).sum::<u16>()];
    while let Progress::Full(rest) = progress {
        out.clear();
        progress = egress.resume(rest, &bytes, &mut out);
        sent.push(out.runs().iter().map(|run| run.datagrams).sum());
    }

    assert_eq!(sent, [4, 4, 2]);
    assert_eq!(bytes, decided);
    assert_eq!(egress.tally, forwarded(10, 1000 + 10 * 52));
}

#[test]
fn t6_a_super_packet_is_dropped_by_its_segments_and_answered_once() {
    let nowhere = tso(100, &tcp(HERE, [10, 10, 99, 1], 64, 1, ACK, &payload(1000)));
    let hopless = tso(100, &tcp(HERE, AT_A, 1, 1, ACK, &payload(1000)));
    for (frame, reason) in [(nowhere, DropReason::NoRoute), (hopless, DropReason::Ttl)] {
        let mut host = with_offloads();

        let sent = host.transmit(&frame);

        assert!(sent.datagrams.is_empty());
        assert_eq!(sent.replies.len(), 1);
        assert_eq!(host.egress.tally, dropped(reason, 10, 1000 + 10 * 52));
    }
}

#[test]
fn t6_udp_super_packets_leave_as_datagrams_of_their_own() {
    let payload = payload(2 * 500 + 7);
    let packet = udp(HERE, AT_B, 64, &payload);
    let header = VnetHdr {
        needs_csum: true,
        gso_type: GsoType::UdpL4,
        gso_size: 500,
        csum_start: 20,
        csum_offset: 6,
        ..VnetHdr::PLAIN
    };
    let mut host = with_offloads();

    let sent = host.transmit(&with_vnet_hdr(header, &packet));

    let expected = payload.chunks(500).enumerate().map(|(index, chunk)| {
        (B.parse().unwrap(), with_id(udp(HERE, AT_B, 63, chunk), index as u16))
    });
    assert_eq!(sent.datagrams, expected.collect::<Vec<_>>());
    assert_eq!(host.egress.tally, forwarded(3, payload.len() + 3 * 28));
}

#[test]
fn t6_ipv6_super_packets_are_dropped_or_carried_like_any_ipv6() {
    let from = "fd00:a::5".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let to = "fd00:a:1::5".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let segment = |hops, sequence, payload: &[u8]| {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv6(from, to, hops).tcp(4000, 80, sequence, 1000).ack(9);
        builder.write(&mut packet, payload).unwrap();
        packet
    };
    let payload = payload(250);
    let header = VnetHdr {
        needs_csum: true,
        gso_type: GsoType::TcpV6,
        gso_size: 100,
        csum_start: 40,
        csum_offset: 16,
        ..VnetHdr::PLAIN
    };
    let frame = with_vnet_hdr(header, &segment(64, 7, &payload));
    let mut v4_only = with_offloads();
    let mut dual = Setup { vnet_hdr: true, ..Setup::dual_stack() }.host();

    assert!(v4_only.transmit(&frame).datagrams.is_empty());
    let sent = dual.transmit(&frame);

    assert_eq!(v4_only.egress.tally, dropped(DropReason::Family, 3, 250 + 3 * 60));
    let expected = payload
        .chunks(100)
        .enumerate()
        .map(|(index, chunk)| (A.parse().unwrap(), segment(63, 7 + index as u32 * 100, chunk)));
    assert_eq!(sent.datagrams, expected.collect::<Vec<_>>());
}

#[test]
fn t7_a_virtio_header_that_does_not_fit_the_packet_is_dropped() {
    let packet = tcp(HERE, AT_A, 64, 1, ACK, &payload(1000));
    for header in misfits(packet.len()) {
        let mut host = with_offloads();

        assert_eq!(host.transmit(&with_vnet_hdr(header, &packet)), Sent::default(), "{header:?}");
        assert_eq!(host.egress.tally, dropped(DropReason::GsoInvalid, 1, packet.len()));
    }
}

#[test]
fn t7_a_super_packet_shorter_than_its_headers_is_dropped() {
    let packet = tcp(HERE, AT_A, 64, 1, ACK, &payload(10));
    for len in 0..52 {
        let mut host = with_offloads();

        assert_eq!(host.transmit(&tso(100, &packet[..len])), Sent::default(), "{len} bytes");
        assert_eq!(host.egress.tally, dropped(DropReason::GsoInvalid, 1, len));
    }
}

#[test]
fn t8_a_partial_checksum_is_completed() {
    let whole = udp(HERE, AT_A, 64, b"checksum me");
    let partial = with_partial_checksum(&whole);
    let header = VnetHdr { needs_csum: true, csum_start: 20, csum_offset: 6, ..VnetHdr::PLAIN };
    let mut host = with_offloads();

    let sent = host.transmit(&with_vnet_hdr(header, &partial));

    assert_eq!(sent.datagrams, [(A.parse().unwrap(), one_hop_less(&whole))]);
    assert_eq!(host.egress.tally, forwarded(1, whole.len()));
}

#[test]
fn t8_a_udp_checksum_of_zero_is_stored_as_ffff() {
    // A payload word that makes the sum come out as zero.
    let mut whole = udp(HERE, AT_A, 64, &[0, 0]);
    let checksum = [whole[26], whole[27]];
    whole[28..30].copy_from_slice(&checksum);
    let partial = with_partial_checksum(&whole);
    let header = VnetHdr { needs_csum: true, csum_start: 20, csum_offset: 6, ..VnetHdr::PLAIN };

    let sent = with_offloads().transmit(&with_vnet_hdr(header, &partial));

    assert_eq!(sent.datagrams[0].1[26..28], [0xff, 0xff]);
}

#[test]
fn t8_bytes_behind_the_packet_do_not_count_into_its_checksum() {
    let whole = udp(HERE, AT_A, 64, b"checksum me");
    let mut partial = with_partial_checksum(&whole);
    partial.extend_from_slice(b"junk");
    let header = VnetHdr { needs_csum: true, csum_start: 20, csum_offset: 6, ..VnetHdr::PLAIN };

    let sent = with_offloads().transmit(&with_vnet_hdr(header, &partial));

    assert_eq!(sent.datagrams[0].1, one_hop_less(&whole));
}

#[test]
fn a_bulk_train_becomes_one_write_and_comes_apart_again_as_it_was() {
    let train: Vec<_> = (0..20u16)
        .map(|index| {
            let segment = tcp(AT_A, HERE, 64, 5 + u32::from(index) * 1000, ACK, &payload(1000));
            with_id(segment, index)
        })
        .collect();
    let mut host = with_offloads();

    let written = host.arrive(&Arrival::train(A, &train));

    assert_eq!(written.len(), 1);
    assert_eq!(written[0].0.gso_type, GsoType::TcpV4);
    assert_eq!(host.ingress.tally, forwarded(20, train.concat().len()));
    let packets = apart(&written[0], 256);
    assert_eq!(packets, train.iter().map(|packet| one_hop_less(packet)).collect::<Vec<_>>());
}

#[test]
fn a_refused_joined_frame_comes_apart_whatever_room_there_is() {
    let train: Vec<_> =
        (0..9u16).map(|index| with_id(udp(AT_A, HERE, 64, &payload(300)), index)).collect();
    let written = with_offloads().arrive(&Arrival::train(A, &train));
    assert_eq!(written.len(), 1);

    for room in [1, 2, 5, 64] {
        let packets = apart(&written[0], room);
        assert_eq!(packets, train.iter().map(|packet| one_hop_less(packet)).collect::<Vec<_>>());
    }
}

#[test]
fn a_frame_of_one_packet_comes_apart_as_itself() {
    let packet = udp(AT_A, HERE, 64, b"alone");

    assert_eq!(apart(&(VnetHdr::PLAIN, packet.clone()), 1), [packet]);
}

#[test]
fn d19_what_may_not_be_joined_is_passed_on_byte_for_byte() {
    for (_, odd) in unjoinable() {
        let train = vec![odd.clone(), odd.clone(), odd];
        let mut host = with_offloads();

        let written = host.arrive(&Arrival::train(A, &train));

        let packets = written.into_iter().map(|(header, packet)| {
            assert_eq!(header, VnetHdr::PLAIN);
            packet
        });
        let packets: Vec<_> = packets.collect();
        assert_eq!(packets, train.iter().map(|packet| one_hop_less(packet)).collect::<Vec<_>>());
        assert_eq!(host.ingress.tally, forwarded(3, train.concat().len()));
    }
}

#[test]
fn d19_segments_with_different_timestamps_stay_apart() {
    let train = [stamped(1, 0), stamped(1, 100), stamped(2, 200), stamped(2, 300)];
    let mut host = with_offloads();

    let written = host.arrive(&Arrival::train(A, &train));

    assert_eq!(written.len(), 2);
    let packets: Vec<_> = written.iter().flat_map(|frame| apart(frame, 64)).collect();
    assert_eq!(payloads(&packets), payloads(&train));
    assert_eq!(host.ingress.tally.packets_out, 4);
}

#[test]
fn books_count_every_segment_that_was_joined_when_the_device_refuses_the_frame() {
    use twill_datapath::batch::{Chain, Failure, Frame, FrameKind};
    let train: Vec<_> =
        (0..5u16).map(|index| with_id(udp(AT_A, HERE, 64, &payload(50)), index)).collect();
    let mut host = with_offloads();
    host.arrive(&Arrival::train(A, &train));
    let bytes = train.concat().len();
    let frame = Frame {
        chain: Chain::EMPTY,
        len: 10 + 28 + 250,
        packets: 5,
        packet_bytes: bytes as u32,
        kind: FrameKind::Udp,
    };

    host.ingress.refused(&frame, &Failure { item: 0, first: 0, count: 5, errno: libc::EIO });

    assert_eq!(host.ingress.tally, dropped(DropReason::TunDown, 5, bytes));
}

#[test]
fn joining_ends_when_the_device_refuses_what_comes_of_it() {
    use twill_datapath::Unwritten;
    use twill_datapath::batch::{Chain, Failure, Frame, FrameKind};
    let train: Vec<_> =
        (0..5u16).map(|index| with_id(udp(AT_A, HERE, 64, &payload(50)), index)).collect();
    let mut host = with_offloads();
    assert_eq!(host.arrive(&Arrival::train(A, &train)).len(), 1);
    let books = host.ingress.tally;
    let frame = Frame {
        chain: Chain::EMPTY,
        len: 288,
        packets: 5,
        packet_bytes: 390,
        kind: FrameKind::Udp,
    };
    let failure = Failure { item: 0, first: 0, count: 5, errno: libc::EINVAL };

    assert_eq!(host.ingress.refused(&frame, &failure), Unwritten::WriteSingly);

    assert_eq!(host.ingress.tally, books, "the packets are still on their way");
    assert_eq!(host.ingress.coalesces(), (true, false), "TCP is not to blame");
    assert_eq!(host.arrive(&Arrival::train(A, &train)).len(), 5);

    let single = Frame { packets: 1, packet_bytes: 78, kind: FrameKind::Single, ..frame };
    assert_eq!(host.ingress.refused(&single, &failure), Unwritten::Dropped);
    assert_eq!(host.ingress.tally.drops[DropReason::TunOther as usize], 1);
    assert_eq!(host.ingress.tally.imbalance(), 0);
}

/// A host whose device has virtio headers and takes joined packets.
fn with_offloads() -> Host {
    Setup { vnet_hdr: true, coalesce: true, ..Setup::default() }.host()
}

/// Transport headers and data: all but the identification and its checksum.
fn payloads(packets: &[Vec<u8>]) -> Vec<&[u8]> {
    packets.iter().map(|packet| &packet[20..]).collect()
}
