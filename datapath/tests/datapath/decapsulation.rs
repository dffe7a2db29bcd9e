//! What comes out of datagrams: cases D1 to D23, each with its counter and nothing else.

use crate::harness::*;
use twill_datapath::DropReason;
use twill_datapath::IngressCheck;
use twill_datapath::batch::Flaw;

#[test]
fn d1_an_empty_datagram_is_short() {
    assert_all_dropped("D1");
}

#[test]
fn d2_less_than_an_ip_header_is_short() {
    assert_all_dropped("D2");
}

#[test]
fn d3_a_version_that_is_no_ip_is_dropped() {
    assert_all_dropped("D3");
}

#[test]
fn d4_a_header_length_below_twenty_is_dropped() {
    assert_all_dropped("D4");
}

#[test]
fn d5_a_header_longer_than_the_packet_is_dropped() {
    assert!(bad("D5").iter().all(|(packet, _)| packet.len() == 40));
    assert_all_dropped("D5");
}

#[test]
fn d6_a_total_length_beyond_the_datagram_is_dropped() {
    assert_all_dropped("D6");
}

#[test]
fn d7_a_total_length_below_the_header_is_dropped() {
    assert_all_dropped("D7");
}

#[test]
fn d8_trailing_bytes_are_trimmed() {
    let packet = packet();
    let mut host = Setup::default().host();

    let written = host.receive(A, &[&packet[..], b"junk behind it"].concat());

    assert_eq!(written, [one_hop_less(&packet)]);
    assert_eq!(host.ingress.tally.packets_out, 1);
    assert_eq!(host.ingress.tally.bytes_out, packet.len() as u64);
    assert_eq!(host.ingress.tally.dropped(), 0);
}

#[test]
fn d9_an_unknown_outer_source_is_dropped_and_can_be_named() {
    for check in [IngressCheck::Strict, IngressCheck::Peer] {
        let mut host = Setup { check, ..Setup::default() }.host();

        let written = host.receive("203.0.113.9:8285", &packet());

        assert!(written.is_empty());
        let books = dropped(DropReason::UnknownPeer, 1, packet().len());
        assert_eq!(host.ingress.tally, books, "{check}");
    }
}

#[test]
fn d9_without_checks_an_unknown_outer_source_is_as_good_as_any() {
    let mut host = Setup { check: IngressCheck::Off, ..Setup::default() }.host();

    assert_eq!(host.receive("203.0.113.9:8285", &packet()), [one_hop_less(&packet())]);
}

#[test]
fn d9_a_listed_outer_network_may_speak_for_any_peer_but_not_for_us() {
    let peer_sources = vec!["203.0.113.0/24".parse().unwrap()];
    for check in [IngressCheck::Strict, IngressCheck::Peer] {
        let mut host =
            Setup { check, peer_sources: peer_sources.clone(), ..Setup::default() }.host();

        assert_eq!(host.receive("203.0.113.9:8285", &packet()), [one_hop_less(&packet())]);
        assert_eq!(host.receive("203.0.113.9:8285", &udp(AT_B, HERE, 9, b"")).len(), 1);
        assert!(host.receive("203.0.114.9:8285", &packet()).is_empty());
    }

    let mut strict = Setup { peer_sources, ..Setup::default() }.host();
    let spoof = udp(HERE, HERE, 64, b"");

    assert!(strict.receive("203.0.113.9:8285", &spoof).is_empty());
    assert_eq!(strict.ingress.tally, dropped(DropReason::SourceMismatch, 1, spoof.len()));
}

#[test]
fn d10_an_inner_source_of_another_peer_is_dropped_in_strict_mode_only() {
    let spoof = udp(AT_B, HERE, 64, b"from A");

    assert_dropped(&spoof, DropReason::SourceMismatch);
    assert_delivered_without_strict(&spoof);
}

#[test]
fn d10_peers_behind_one_outer_address_are_told_apart_by_their_networks() {
    let mut setup = Setup::default();
    setup.overlay.peers[1].endpoint = "192.0.2.1:9999".parse().unwrap();
    let mut host = setup.host();

    assert_eq!(host.receive(A, &udp(AT_A, HERE, 64, b"")).len(), 1);
    assert_eq!(host.receive(A, &udp(AT_B, HERE, 64, b"")).len(), 1);
    assert!(host.receive(A, &udp([10, 10, 3, 5], HERE, 64, b"")).is_empty());
}

#[test]
fn d10_the_most_specific_network_decides_whose_source_it_is() {
    let mut setup = Setup::default();
    setup.overlay.peers[0].subnets = vec!["10.10.0.0/16".parse().unwrap()];
    let mut host = setup.host();

    assert_eq!(host.receive(A, &udp([10, 10, 9, 9], HERE, 64, b"")).len(), 1);
    assert!(host.receive(A, &udp(AT_B, HERE, 64, b"")).is_empty());
    assert_eq!(host.receive(B, &udp(AT_B, HERE, 64, b"")).len(), 1);
}

#[test]
fn d11_our_own_network_as_inner_source_is_dropped() {
    assert_dropped(&udp(HERE, HERE, 64, b""), DropReason::SourceMismatch);
    assert_dropped(&udp(OWN.octets(), HERE, 64, b""), DropReason::SourceMismatch);
}

#[test]
fn d12_an_inner_source_that_no_host_has_is_a_martian() {
    for source in MARTIANS {
        assert_dropped(&udp(source, HERE, 64, b""), DropReason::Martian);
        assert_delivered_without_strict(&udp(source, HERE, 64, b""));
    }
}

#[test]
fn d12_a_martian_stays_one_where_a_peer_holds_everything() {
    let mut setup = Setup::default();
    setup.overlay.peers[0].subnets = vec!["0.0.0.0/0".parse().unwrap()];
    let mut host = setup.host();
    let martian = udp([127, 0, 0, 1], HERE, 64, b"");

    assert!(host.receive(A, &martian).is_empty());
    assert_eq!(host.ingress.tally, dropped(DropReason::Martian, 1, martian.len()));
    assert_eq!(host.receive(A, &udp([8, 8, 8, 8], HERE, 64, b"")).len(), 1);
}

#[test]
fn d13_an_inner_destination_that_is_not_behind_us_is_dropped_in_strict_mode_only() {
    for destination in OUT_OF_SCOPE {
        assert_dropped(&udp(AT_A, destination, 64, b""), DropReason::DestinationScope);
        assert_delivered_without_strict(&udp(AT_A, destination, 64, b""));
    }
}

#[test]
fn d13_our_tun_address_is_behind_us() {
    let packet = ping(AT_A, OWN.octets(), 64);

    assert_eq!(Setup::default().host().receive(A, &packet), [one_hop_less(&packet)]);
}

#[test]
fn d13_reserved_destinations_stay_out_where_everything_is_local() {
    let mut setup = Setup::default();
    setup.overlay.local = vec!["0.0.0.0/0".parse().unwrap()];
    let mut host = setup.host();

    assert_eq!(host.receive(A, &udp(AT_A, [8, 8, 8, 8], 64, b"")).len(), 1);
    for destination in [[127, 0, 0, 1], [169, 254, 169, 254], [224, 0, 0, 1]] {
        assert!(host.receive(A, &udp(AT_A, destination, 64, b"")).is_empty());
    }
    assert_eq!(host.ingress.tally.drops[DropReason::DestinationScope as usize], 3);
}

#[test]
fn d14_a_peer_may_send_from_any_port() {
    let mut host = Setup::default().host();

    for port in [1, 8284, 8285, 49152, 65535] {
        assert_eq!(host.receive(&format!("192.0.2.1:{port}"), &packet()).len(), 1);
    }
    assert_eq!(host.ingress.tally, forwarded(5, 5 * packet().len()));
}

#[test]
fn d14_a_dual_stack_socket_names_peers_by_mapped_addresses() {
    let written = Setup::default().host().receive("[::ffff:192.0.2.1]:8285", &packet());

    assert_eq!(written, [one_hop_less(&packet())]);
}

#[test]
fn d15_a_packet_without_hops_is_dropped_and_does_not_wrap() {
    assert_dropped(&udp(AT_A, HERE, 0, b""), DropReason::Ttl);
}

#[test]
fn d15_the_last_hop_is_left_to_the_kernel_to_answer() {
    let packet = udp(AT_A, HERE, 1, b"");
    let mut host = Setup::default().host();

    assert_eq!(host.receive(A, &packet), std::slice::from_ref(&packet));
    assert_eq!(host.ingress.tally, forwarded(1, packet.len()));
}

#[test]
fn d15_every_other_hop_count_goes_down_by_one_with_a_valid_checksum() {
    let mut host = Setup::default().host();

    for ttl in 2..=255 {
        let packet = udp(AT_A, HERE, ttl, b"");

        assert_eq!(host.receive(A, &packet), [udp(AT_A, HERE, ttl - 1, b"")]);
    }
}

#[test]
fn d16_congestion_marks_are_carried_inwards_as_rfc_6040_says() {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    // Figure 4: inner, then outer Not-ECT, ECT(0), ECT(1), CE.
    let table = [
        (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
        (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
        (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
        (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
    ];
    for check in [IngressCheck::Strict, IngressCheck::Peer, IngressCheck::Off] {
        for (inner, row) in table {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                let dscp = 0b1011_1000;
                let packet = with_header(packet(), |header| header[1] = dscp | inner);
                let mut host = Setup { check, ..Setup::default() }.host();
                let arrival = Arrival { tos: outer, ..Arrival::datagram(A, &packet) };

                let written = host.arrive(&arrival);

                let at = format!("inner {inner:02b}, outer {outer:02b}");
                match expected {
                    Some(ecn) => {
                        let marked = with_header(packet, |header| header[1] = dscp | ecn);
                        assert_eq!(written[0].1, one_hop_less(&marked), "{at}");
                    }
                    None => {
                        assert!(written.is_empty(), "{at}");
                        let books = dropped(DropReason::Ecn, 1, packet.len());
                        assert_eq!(host.ingress.tally, books, "{at}");
                    }
                }
            }
        }
    }
}

#[test]
fn d17_a_wrong_header_checksum_stays_wrong_and_is_left_to_the_kernel() {
    let mut wrong = packet();
    wrong[10] ^= 0x40;
    let mut host = Setup { coalesce: true, vnet_hdr: true, ..Setup::default() }.host();

    let train = [packet(), wrong.clone(), packet()];
    let written = host.arrive(&Arrival::train(A, &train));

    let delivered: Vec<_> =
        written.iter().filter(|(_, packet)| packet.len() == wrong.len()).collect();
    assert!(
        delivered.iter().any(|(_, packet)| internet_checksum(&packet[..20]) != 0),
        "the wrong one is alone, and still wrong"
    );
    assert_eq!(host.ingress.tally, forwarded(3, 3 * wrong.len()));
}

#[test]
fn d18_fragments_are_delivered_in_order_and_alone() {
    let fragments = fragments();
    let tiny = tiny_fragment();
    let mut host = Setup { coalesce: true, vnet_hdr: true, ..Setup::default() }.host();

    let written = host.arrive(&Arrival::train(A, &fragments));
    let alone = host.arrive(&Arrival::datagram(A, &tiny));

    let packets: Vec<_> = written.into_iter().map(|(_, packet)| packet).collect();
    assert_eq!(packets, fragments.map(|fragment| one_hop_less(&fragment)));
    assert_eq!(alone[0].1, one_hop_less(&tiny));
    assert_eq!(host.ingress.tally.packets_out, 4);
    assert_eq!(host.ingress.tally.dropped(), 0);
}

#[test]
fn d20_trains_of_every_length_arrive_whole_and_in_order() {
    for count in 1..=64u8 {
        let mut train: Vec<_> =
            (0..count).map(|number| udp(AT_A, HERE, 64, &[number; 100])).collect();
        train.push(udp(AT_A, HERE, 64, &[count; 3]));
        let mut host = Setup::default().host();

        let written = host.arrive(&Arrival::train(A, &train));

        let packets: Vec<_> = written.into_iter().map(|(_, packet)| packet).collect();
        let expected: Vec<_> = train.iter().map(|packet| one_hop_less(packet)).collect();
        assert_eq!(packets, expected);
        assert_eq!(host.ingress.tally, forwarded(u64::from(count) + 1, train.concat().len()));
    }
}

#[test]
fn d20_one_bad_segment_costs_itself_only() {
    let mut train: Vec<_> = (0..9).map(|number| udp(AT_A, HERE, 64, &[number; 40])).collect();
    train[4][0] = 0x95;
    let mut host = Setup::default().host();

    let written = host.arrive(&Arrival::train(A, &train));

    train.remove(4);
    let packets: Vec<_> = written.into_iter().map(|(_, packet)| packet).collect();
    assert_eq!(packets, train.iter().map(|packet| one_hop_less(packet)).collect::<Vec<_>>());
    assert_eq!(host.ingress.tally.packets_in, 9);
    assert_eq!(host.ingress.tally.packets_out, 8);
    assert_eq!(host.ingress.tally.dropped(), 1);
    assert_eq!(host.ingress.tally.drops[DropReason::Version as usize], 1);
}

#[test]
fn d20_a_train_longer_than_the_batch_loses_and_repeats_nothing() {
    let train: Vec<_> = (0..64).map(|number| udp(AT_A, HERE, 64, &[number; 40])).collect();
    for batch in [1, 2, 7, 63] {
        let mut host = Setup { batch, ..Setup::default() }.host();

        let written = host.arrive(&Arrival::train(A, &train));

        let packets: Vec<_> = written.into_iter().map(|(_, packet)| packet).collect();
        assert_eq!(packets, train.iter().map(|packet| one_hop_less(packet)).collect::<Vec<_>>());
        assert_eq!(host.ingress.tally, forwarded(64, train.concat().len()));
        assert!(host.batches > 0, "the batch of {batch} was never full");
    }
}

#[test]
fn d21_a_train_without_its_control_data_is_dropped() {
    let train = [packet(), packet()].concat();
    let mut host = Setup::default().host();
    let flaw = Some(Flaw::ControlTruncated);

    assert!(host.arrive(&Arrival { flaw, ..Arrival::datagram(A, &train) }).is_empty());
    assert_eq!(host.ingress.tally, dropped(DropReason::ControlTruncated, 1, train.len()));
}

#[test]
fn d21_a_segment_size_of_zero_or_beyond_the_train_means_one_datagram() {
    for segment in [0, packet().len() as u16 + 1, u16::MAX] {
        let mut host = Setup::default().host();

        let written = host.arrive(&Arrival { segment, ..Arrival::datagram(A, &packet()) });

        assert_eq!(written[0].1, one_hop_less(&packet()));
        assert_eq!(host.ingress.tally, forwarded(1, packet().len()));
    }
}

#[test]
fn d22_a_datagram_that_the_buffer_cut_is_dropped() {
    let mut host = Setup::default().host();
    let flaw = Some(Flaw::MessageTruncated);

    assert!(host.arrive(&Arrival { flaw, ..Arrival::datagram(A, &packet()) }).is_empty());
    assert_eq!(host.ingress.tally, dropped(DropReason::MessageTruncated, 1, packet().len()));
}

#[test]
fn d22_a_packet_longer_than_the_devices_mtu_is_delivered_whole() {
    for len in [usize::from(MTU) + 1, 8972] {
        let longer = udp(AT_A, HERE, 64, &vec![0; len - 28]);

        assert_eq!(Setup::default().host().receive(A, &longer), [one_hop_less(&longer)]);
    }
}

#[test]
fn d23_ipv6_inside_an_ipv4_overlay_is_dropped() {
    assert_dropped(&udp6("fd00:a:1::5", "fd00:a::5", 64, b""), DropReason::Family);
}

#[test]
fn d23_a_mixed_train_loses_its_ipv6_only() {
    let train = mixed_train();
    assert!(train.iter().all(|packet| packet.len() == train[0].len()));
    let mut host = Setup::default().host();

    let written = host.arrive(&Arrival::train(A, &train));

    assert_eq!(written.len(), 2);
    assert_eq!(host.ingress.tally.packets_out, 2);
    assert_eq!(host.ingress.tally.dropped(), 1);
    assert_eq!(host.ingress.tally.drops[DropReason::Family as usize], 1);
}

#[test]
fn ipv6_is_carried_and_checked_where_the_overlay_has_it() {
    let cases = [
        ("fd00:a:1::5", "fd00:a::5", None),
        ("fd00:a:2::5", "fd00:a::5", Some(DropReason::SourceMismatch)),
        ("fd00:a::6", "fd00:a::5", Some(DropReason::SourceMismatch)),
        ("::1", "fd00:a::5", Some(DropReason::Martian)),
        ("fe80::1", "fd00:a::5", Some(DropReason::Martian)),
        ("ff02::1", "fd00:a::5", Some(DropReason::Martian)),
        ("::ffff:10.10.1.5", "fd00:a::5", Some(DropReason::Martian)),
        ("fd00:a:1::5", "fd00:a:2::5", Some(DropReason::DestinationScope)),
        ("fd00:a:1::5", "ff02::1", Some(DropReason::DestinationScope)),
        ("fd00:a:1::5", "::1", Some(DropReason::DestinationScope)),
    ];
    for (from, to, expected) in cases {
        let mut host = Setup::dual_stack().host();
        let packet = udp6(from, to, 64, b"six");

        let written = host.receive(A, &packet);

        match expected {
            None => {
                assert_eq!(written, [udp6(from, to, 63, b"six")]);
                assert_eq!(host.ingress.tally, forwarded(1, packet.len()));
            }
            Some(reason) => {
                assert!(written.is_empty(), "{from} to {to}");
                assert_eq!(host.ingress.tally, dropped(reason, 1, packet.len()), "{from} to {to}");
            }
        }
    }
}

#[test]
fn ipv6_lengths_hops_and_marks_follow_the_same_rules() {
    let packet = udp6("fd00:a:1::5", "fd00:a::5", 64, b"six");
    let receive = |bytes: &[u8], tos| {
        let mut host = Setup::dual_stack().host();
        let written = host.arrive(&Arrival { tos, ..Arrival::datagram(A, bytes) });
        (written.into_iter().map(|(_, packet)| packet).next(), host.ingress.tally)
    };
    let changed = |at: usize, value: u8| {
        let mut packet = packet.clone();
        packet[at] = value;
        packet
    };

    assert_eq!(receive(&packet[..39], 0), (None, dropped(DropReason::Short, 1, 39)));
    let truncated = changed(5, packet[5] + 1);
    assert_eq!(receive(&truncated, 0), (None, dropped(DropReason::Truncated, 1, packet.len())));
    let hopless = changed(7, 0);
    assert_eq!(receive(&hopless, 0), (None, dropped(DropReason::Ttl, 1, packet.len())));
    let last_hop = changed(7, 1);
    assert_eq!(receive(&last_hop, 0).0, Some(last_hop));
    assert_eq!(receive(&packet, 3), (None, dropped(DropReason::Ecn, 1, packet.len())));
    let capable = changed(1, 0x20);
    let mut marked = changed(1, 0x30);
    marked[7] -= 1;
    assert_eq!(receive(&capable, 3).0, Some(marked));
}

#[test]
fn what_the_tun_device_refuses_moves_from_out_to_drops() {
    use twill_datapath::batch::{Chain, Failure, Frame, FrameKind};
    let mut host = Setup::default().host();
    host.receive(A, &packet());
    host.receive(A, &packet());
    let frame = Frame {
        chain: Chain::EMPTY,
        len: packet().len() as u32,
        packets: 1,
        packet_bytes: packet().len() as u32,
        kind: FrameKind::Single,
    };

    host.ingress.refused(&frame, &Failure { item: 0, first: 0, count: 1, errno: libc::EIO });

    let mut expected = forwarded(2, 2 * packet().len());
    expected.refuse(DropReason::TunDown, 1, packet().len() as u64);
    assert_eq!(host.ingress.tally, expected);
    assert_eq!(host.ingress.tally.imbalance(), 0);
}

/// The bad datagrams of one case, with the reasons for which they are dropped.
fn bad(case: &str) -> Vec<(Vec<u8>, DropReason)> {
    let of_case = |name: &str| name == case || name.starts_with(&format!("{case},"));
    let all = bad_datagrams().into_iter().filter(|(name, ..)| of_case(name));
    all.map(|(_, datagram, reason)| (datagram, reason)).collect()
}

/// The bad datagrams of a case, each as [`assert_dropped`] wants it.
#[track_caller]
fn assert_all_dropped(case: &str) {
    assert!(!bad(case).is_empty(), "no case {case}");
    for (datagram, reason) in bad(case) {
        assert_dropped(&datagram, reason);
    }
}

/// In strict mode, from A, alone: nothing is written, one packet is booked under the reason.
#[track_caller]
fn assert_dropped(datagram: &[u8], reason: DropReason) {
    let mut host = Setup::default().host();

    let written = host.receive(A, datagram);

    assert!(written.is_empty(), "it was delivered");
    assert_eq!(host.ingress.tally, dropped(reason, 1, datagram.len()));
}

/// From A in the laxer modes: delivered with one hop less.
#[track_caller]
fn assert_delivered_without_strict(packet: &[u8]) {
    for check in [IngressCheck::Peer, IngressCheck::Off] {
        let mut host = Setup { check, ..Setup::default() }.host();

        assert_eq!(host.receive(A, packet), [one_hop_less(packet)], "{check}");
        assert_eq!(host.ingress.tally, forwarded(1, packet.len()));
    }
}
