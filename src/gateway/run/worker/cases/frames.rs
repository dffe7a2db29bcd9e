//! T1 to T9: what the TUN device hands out.

use super::*;
use etherparse::PacketBuilder;
use twill_datapath::offload::vnet_hdr::GsoType;
use twill_testbed::cases::{dropped, forwarded, misfits, net_unreachable, unanswerable};
use twill_testbed::packets::{
    ACK, CWR, ECE, FIN, PSH, one_hop_less, payload, tcp, tso, udp, udp6, with_header, with_id,
    with_partial_checksum,
};

/// A host whose gateway nobody runs.
const NOWHERE: [u8; 4] = [10, 10, 99, 1];

#[test]
fn t1_what_the_kernel_says_in_ipv6_is_dropped_without_an_answer() {
    every_engine(STRICT, |rig| {
        for (case, packet) in [
            ("T1, router solicitation", router_solicitation()),
            ("T1, listener report", listener_report()),
            ("T1, anything else", udp6("fe80::1", "ff02::2", 255, b"")),
        ] {
            assert_dropped(rig, case, &packet, DropReason::Family);
        }
        assert_sends(rig);
    });
}

#[test]
fn t2_a_destination_without_lease_is_answered_with_no_more_than_was_received() {
    let long = udp(HERE, NOWHERE, 64, b"payload");
    let short = with_header(udp(HERE, NOWHERE, 64, b""), |header| header[3] = 23);

    every_engine(STRICT, |rig| {
        for (case, packet, quoted) in [("T2", &long[..], 28), ("T2, short", &short[..23], 23)] {
            let (frame, reply) = (rig.plain(packet), net_unreachable(&packet[..quoted]));
            let books = dropped(DropReason::NoRoute, 1, packet.len());
            rig.egress(case, &frame, &[], &[reply], books);
        }
        assert_eq!(rig.instruments.books.read().counters.icmp_sent, 2);
        assert_sends(rig);
    });
}

#[test]
fn t3_a_destination_without_lease_is_not_answered_where_the_rules_forbid() {
    every_engine(STRICT, |rig| {
        for (index, (reason, packet)) in unanswerable().into_iter().enumerate() {
            assert_dropped(rig, &format!("T3, {index}"), &packet, reason);
        }
        assert_sends(rig);
    });
}

#[test]
fn t4_a_packet_for_ourselves_is_not_sent_round() {
    every_engine(STRICT, |rig| {
        for destination in [HERE, OWN.octets(), [10, 10, 0, 255], [255; 4]] {
            let packet = udp(HERE, destination, 64, b"");
            assert_dropped(rig, &format!("T4, {destination:?}"), &packet, DropReason::LocalLoop);
        }
        assert_sends(rig);
    });
}

#[test]
fn t4_our_own_datagrams_to_a_peer_are_not_wrapped_again() {
    let wrapped = udp(HERE, [10, 10, 2, 9], 64, b"a wrapped packet");

    every_engine(STRICT, |rig| {
        let mut overlay = overlay(&rig.a, &rig.b);
        overlay.peers[0].endpoint = "10.10.2.9:4001".parse().unwrap();
        rig.views.store(Arc::new(View::new(overlay)));
        assert_dropped(rig, "T4, nested", &wrapped, DropReason::LocalLoop);
        assert_sends(rig);
    });
}

#[test]
fn t5_a_packet_of_exactly_the_mtu_passes() {
    let packet = udp(HERE, AT_A, 64, &vec![0; usize::from(MTU) - 28]);

    every_engine(STRICT, |rig| {
        let (frame, sent) = (rig.plain(&packet), (Sender::A, one_hop_less(&packet)));
        rig.egress("T5", &frame, &[sent], &[], forwarded(1, packet.len()));
    });
}

#[test]
fn t5_the_longest_datagram_leaves_and_a_longer_packet_is_dropped() {
    let longest = udp(HERE, AT_A, 64, &vec![0; 65_507 - 28]);
    let longer = udp(HERE, AT_A, 64, &vec![0; 65_508 - 28]);

    // A read of `classic` ends at the MTU, which no packet exceeds on a device without offloads.
    every_engine_with_offloads(STRICT, |rig| {
        let (frame, sent) = (rig.plain(&longest), (Sender::A, one_hop_less(&longest)));
        rig.egress("T5, longest", &frame, &[sent], &[], forwarded(1, longest.len()));
        assert_dropped(rig, "T5, longer", &longer, DropReason::TooBig);
    });
}

#[test]
fn t6_a_tcp_super_packet_leaves_as_the_segments_that_the_kernel_would_have_made() {
    every_engine_with_offloads(STRICT, |rig| {
        for gso_size in [1, 8, 536, 1420] {
            for len in [gso_size, gso_size * 3 + 1, gso_size * 45] {
                let payload = payload(len);
                let count = len.div_ceil(gso_size);
                let segments: Vec<_> = payload
                    .chunks(gso_size)
                    .enumerate()
                    .map(|(index, chunk)| {
                        let first = if index == 0 { CWR } else { 0 };
                        let last = if index + 1 == count { PSH | FIN } else { 0 };
                        let sequence = 1000 + (index * gso_size) as u32;
                        let flags = ACK | ECE | first | last;
                        let segment = tcp(HERE, AT_A, 63, sequence, flags, chunk);
                        (Sender::A, with_id(segment, index as u16))
                    })
                    .collect();
                let flags = ACK | ECE | CWR | PSH | FIN;
                let mut frame = tso(gso_size, &tcp(HERE, AT_A, 64, 1000, flags, &payload));
                frame[1] |= 0x80;

                let case = format!("T6, {len} by {gso_size}");
                let books = forwarded(count as u64, len + count * 52);
                rig.egress(&case, &frame, &segments, &[], books);
            }
        }
    });
}

#[test]
fn t6_a_udp_super_packet_leaves_as_datagrams_of_its_own() {
    let payload = payload(2 * 500 + 7);
    let frame = with_vnet_hdr(gso(GsoType::UdpL4, 500, 20, 6), &udp(HERE, AT_B, 64, &payload));
    let datagrams = payload
        .chunks(500)
        .enumerate()
        .map(|(index, chunk)| (Sender::B, with_id(udp(HERE, AT_B, 63, chunk), index as u16)));
    let datagrams: Vec<_> = datagrams.collect();

    every_engine_with_offloads(STRICT, |rig| {
        let books = forwarded(3, payload.len() + 3 * 28);
        rig.egress("T6, UDP", &frame, &datagrams, &[], books);
    });
}

#[test]
fn t6_a_super_packet_is_dropped_by_its_segments_and_answered_once() {
    let nowhere = tcp(HERE, NOWHERE, 64, 1, ACK, &payload(1000));
    let mut v6 = Vec::new();
    let from = "fd00:a::5".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let to = "fd00:a:1::5".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let builder = PacketBuilder::ipv6(from, to, 64).tcp(4000, 80, 7, 1000).ack(9);
    builder.write(&mut v6, &payload(250)).unwrap();

    every_engine_with_offloads(STRICT, |rig| {
        let books = dropped(DropReason::NoRoute, 10, 1000 + 10 * 52);
        let reply = net_unreachable(&nowhere[..28]);
        rig.egress("T6, nowhere", &tso(100, &nowhere), &[], &[reply], books);
        let frame = with_vnet_hdr(gso(GsoType::TcpV6, 100, 40, 16), &v6);
        let books = dropped(DropReason::Family, 3, 250 + 3 * 60);
        rig.egress("T6, IPv6", &frame, &[], &[], books);
    });
}

#[test]
fn t7_a_virtio_header_that_does_not_fit_the_packet_is_dropped_and_not_fatal() {
    let packet = tcp(HERE, AT_A, 64, 1, ACK, &payload(1000));

    every_engine_with_offloads(STRICT, |rig| {
        for header in misfits(packet.len()) {
            let books = dropped(DropReason::GsoInvalid, 1, packet.len());
            let frame = with_vnet_hdr(header, &packet);
            rig.egress(&format!("T7, {header:?}"), &frame, &[], &[], books);
        }
        for len in [0, 19, 20, 51] {
            let books = dropped(DropReason::GsoInvalid, 1, len);
            rig.egress(&format!("T7, {len}"), &tso(100, &packet[..len]), &[], &[], books);
        }
        assert_sends(rig);
    });
}

#[test]
fn t8_a_partial_checksum_is_completed_and_zero_stored_as_ffff() {
    let header = VnetHdr { needs_csum: true, csum_start: 20, csum_offset: 6, ..VnetHdr::PLAIN };
    let whole = udp(HERE, AT_A, 64, b"checksum me");
    // A payload word that makes the sum come out as zero.
    let mut zero = udp(HERE, AT_A, 64, &[0, 0]);
    zero.copy_within(26..28, 28);
    zero[26..28].fill(0xff);

    every_engine_with_offloads(STRICT, |rig| {
        for (case, packet) in [("T8", &whole), ("T8, zero", &zero)] {
            let frame = with_vnet_hdr(header, &with_partial_checksum(packet));
            let sent = (Sender::A, one_hop_less(packet));
            rig.egress(case, &frame, &[sent], &[], forwarded(1, packet.len()));
        }
    });
}

#[test]
fn t9_a_read_shorter_than_its_headers_is_short() {
    every_engine(STRICT, |rig| {
        let headers = if rig.has_offloads() { vnet_hdr::LEN } else { 0 };
        // A TUN queue has no empty reads.
        for len in 1..headers + 20 {
            let books = dropped(DropReason::Short, 1, len.saturating_sub(headers));
            rig.egress(&format!("T9, {len}"), &vec![0; len], &[], &[], books);
        }
        assert_sends(rig);
    });
}

/// A header for segmentation.
fn gso(gso_type: GsoType, gso_size: u16, csum_start: u16, csum_offset: u16) -> VnetHdr {
    VnetHdr { needs_csum: true, gso_type, gso_size, csum_start, csum_offset, ..VnetHdr::PLAIN }
}

/// RFC 4861 section 4.1, as a kernel sends it when a device comes up.
fn router_solicitation() -> Vec<u8> {
    let (from, to) = link_local("fe80::1", "ff02::2");
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv6(from, to, 255).icmpv6_raw(133, 0, [0; 4]);
    builder.write(&mut packet, &[]).unwrap();
    packet
}

/// RFC 3810 section 5.2 with no record, behind a hop-by-hop header with the router alert.
fn listener_report() -> Vec<u8> {
    let (from, to) = link_local("fe80::1", "ff02::16");
    let mut packet = vec![0x60, 0, 0, 0, 0, 16, 0, 1];
    packet.extend_from_slice(&from);
    packet.extend_from_slice(&to);
    packet.extend_from_slice(&[58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 0]);
    packet
}

fn link_local(from: &str, to: &str) -> ([u8; 16], [u8; 16]) {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    (address(from), address(to))
}

/// Nothing is sent or answered; one packet is booked under the reason.
#[track_caller]
fn assert_dropped(rig: &mut Rig, case: &str, packet: &[u8], reason: DropReason) {
    let frame = rig.plain(packet);
    rig.egress(case, &frame, &[], &[], dropped(reason, 1, packet.len()));
}

/// The engine goes on: a packet that breaks no rule arrives at its peer.
#[track_caller]
fn assert_sends(rig: &mut Rig) {
    let packet = udp(HERE, AT_B, 64, b"payload");
    let (frame, sent) = (rig.plain(&packet), (Sender::B, one_hop_less(&packet)));
    rig.egress("good", &frame, &[sent], &[], forwarded(1, packet.len()));
}
