//! What leaves for peers: cases T1 to T9, each with its counter and nothing else.

use crate::harness::*;
use twill_datapath::batch::{Datagrams, Frames, Pieces, RunLimits, Slot, TunFrame};
use twill_datapath::offload::vnet_hdr::{GsoType, VnetHdr};
use twill_datapath::{DropReason, World};

#[test]
fn a_packet_goes_bare_to_the_holder_of_its_destination_with_one_hop_less() {
    let packet = udp(HERE, AT_B, 64, b"payload");
    let mut host = Setup::default().host();

    let sent = host.transmit(&packet);

    assert_eq!(sent.datagrams, [(B.parse().unwrap(), one_hop_less(&packet))]);
    assert!(sent.replies.is_empty());
    assert_eq!(host.egress.tally, forwarded(1, packet.len()));
}

#[test]
fn every_hop_count_above_one_goes_down_by_one_with_a_valid_checksum() {
    let mut host = Setup::default().host();

    for ttl in 2..=255 {
        let sent = host.transmit(&udp(HERE, AT_A, ttl, b""));

        assert_eq!(sent.datagrams[0].1, udp(HERE, AT_A, ttl - 1, b""));
    }
}

#[test]
fn the_last_hop_ends_here_and_the_sender_is_told() {
    let packet = udp(HERE, AT_A, 1, b"");
    let mut host = Setup::default().host();

    let sent = host.transmit(&packet);

    assert!(sent.datagrams.is_empty());
    assert_eq!(sent.replies.len(), 1);
    assert_eq!(sent.replies[0][20..22], [11, 0], "time exceeded in transit");
    assert_eq!(host.egress.tally, dropped(DropReason::Ttl, 1, packet.len()));
}

#[test]
fn a_packet_without_hops_is_dropped_and_does_not_wrap() {
    assert_dropped(&udp(HERE, AT_A, 0, b""), DropReason::Ttl);
}

#[test]
fn the_most_specific_network_decides_where_a_packet_goes() {
    let mut setup = Setup::default();
    setup.overlay.peers[0].subnets = vec!["10.10.0.0/16".parse().unwrap()];
    let mut host = setup.host();

    assert_eq!(host.transmit(&udp(HERE, AT_B, 9, b"")).datagrams[0].0, B.parse().unwrap());
    let other = udp(HERE, [10, 10, 9, 9], 9, b"");
    assert_eq!(host.transmit(&other).datagrams[0].0, A.parse().unwrap());
}

#[test]
fn trailing_bytes_stay_here() {
    let packet = udp(HERE, AT_A, 64, b"payload");

    let sent = Setup::default().host().transmit(&[&packet[..], b"junk"].concat());

    assert_eq!(sent.datagrams[0].1, one_hop_less(&packet));
}

#[test]
fn the_outer_socket_takes_no_mark_of_the_inner_packet() {
    let marked = with_header(udp(HERE, AT_A, 64, b""), |header| header[1] = 0b1011_1011);

    let sent = Setup::default().host().transmit(&marked);

    assert_eq!(sent.datagrams[0].1, one_hop_less(&marked), "it stays inside");
}

#[test]
fn t1_what_the_kernel_says_in_ipv6_is_dropped_without_an_answer() {
    let solicitation = udp6("fe80::1", "ff02::2", 255, b"");
    let mut host = Setup::default().host();

    assert_eq!(host.transmit(&solicitation), Sent::default());
    assert_eq!(host.egress.tally, dropped(DropReason::Family, 1, solicitation.len()));
}

#[test]
fn t2_a_destination_without_lease_is_answered_net_unreachable() {
    let packet = udp(HERE, [10, 10, 99, 1], 64, b"payload");
    let mut host = Setup::default().host();

    let sent = host.transmit(&packet);

    assert!(sent.datagrams.is_empty());
    assert_eq!(sent.replies.len(), 1);
    assert_eq!(sent.replies[0][20..22], [3, 0]);
    assert_eq!(host.egress.tally, dropped(DropReason::NoRoute, 1, packet.len()));
}

#[test]
fn t3_a_destination_without_lease_is_not_answered_where_the_rules_forbid() {
    for (reason, silent) in unanswerable() {
        let mut host = Setup::default().host();

        assert_eq!(host.transmit(&silent), Sent::default());
        assert_eq!(host.egress.tally, dropped(reason, 1, silent.len()));
    }
}

#[test]
fn t4_a_packet_for_ourselves_is_not_sent_round() {
    for destination in [HERE, OWN.octets(), [10, 10, 0, 255], [255, 255, 255, 255]] {
        assert_dropped(&udp(HERE, destination, 64, b""), DropReason::LocalLoop);
    }
}

#[test]
fn t4_our_own_datagrams_to_a_peer_are_not_wrapped_again() {
    let mut setup = Setup::default();
    setup.overlay.peers[0].endpoint = "10.10.2.9:4001".parse().unwrap();
    let mut host = setup.host();
    let loops = udp(HERE, [10, 10, 2, 9], 64, b"a wrapped packet");
    let passes = udp(HERE, AT_B, 64, b"to another host there");

    assert_eq!(host.transmit(&loops), Sent::default());
    assert_eq!(host.egress.tally, dropped(DropReason::LocalLoop, 1, loops.len()));
    assert_eq!(host.transmit(&passes).datagrams.len(), 1);
    let first = with_header(loops.clone(), |header| header[6] = 0x20);
    assert_eq!(
        host.transmit(&first),
        Sent::default(),
        "or its fragments would be wrapped for ever"
    );
    let later = with_header(loops.clone(), |header| header[7] = 1);
    assert_eq!(host.transmit(&later).datagrams.len(), 1, "its first bytes are no ports");
    let other_port = with_header(loops, |packet| packet[23] ^= 1);
    assert_eq!(host.transmit(&other_port).datagrams.len(), 1);
}

#[test]
fn t5_a_packet_of_exactly_the_mtu_passes() {
    let packet = udp(HERE, AT_A, 64, &vec![0; usize::from(MTU) - 28]);

    assert_eq!(packet.len(), usize::from(MTU));
    assert_eq!(Setup::default().host().transmit(&packet).datagrams.len(), 1);
}

#[test]
fn t5_a_packet_that_no_datagram_carries_is_dropped() {
    let longest = udp(HERE, AT_A, 64, &vec![0; 65_507 - 28]);
    let longer = udp(HERE, AT_A, 64, &vec![0; 65_508 - 28]);
    let mut longest_v6 = udp6("fd00:a::5", "fd00:a:1::5", 64, &[]);
    longest_v6.resize(40 + 65_535, 0);
    longest_v6[4..6].fill(0xff);

    assert_eq!(Setup::default().host().transmit(&longest).datagrams.len(), 1);
    for longer in [longer, longest_v6] {
        let mut host = Setup::dual_stack().host();

        assert_eq!(host.transmit(&longer), Sent::default());
        assert_eq!(host.egress.tally, dropped(DropReason::TooBig, 1, longer.len()));
    }
}

#[test]
fn t5_the_sender_of_a_datagram_too_long_for_its_path_is_told() {
    let packet = with_header(udp(HERE, AT_A, 64, &[0; 1400]), |header| header[6] = 0x40);
    let mut host = Setup::default().host();
    host.transmit(&packet);

    let replies = too_long(&mut host, &packet, 1280);

    assert_eq!(replies[0][20..22], [3, 4], "fragmentation needed");
    assert_eq!(replies[0][24..28], [0, 0, 5, 0], "1280 bytes");
    assert_eq!(replies[0][28..], packet[..28]);
}

#[test]
fn t5_only_what_its_sender_lets_be_fragmented_may_be_and_shares_no_run_with_the_rest() {
    let bound = with_header(udp(HERE, AT_A, 64, &[0; 1400]), |header| header[6] = 0x40);
    let free = with_header(bound.clone(), |header| header[6] = 0);
    let v6 = udp6("fd00:a::5", "fd00:a:1::5", 64, &[0; 1380]);
    assert_eq!(v6.len(), free.len());
    let Host { view, mut egress, .. } = Setup::dual_stack().host();
    let world = World { view: &view, now_ns: 0 };
    let mut out = Datagrams::new(RunLimits { datagrams: 9, bytes: 65_507 }, 9, Pieces::new(9, 0));
    let mut replies = Frames::new(1, Pieces::new(1, 0));

    for (slot, packet) in [bound.clone(), bound, free, v6].iter_mut().enumerate() {
        let frame =
            TunFrame { slot: Slot(slot as u16), start: 0, len: packet.len() as u32, read_ns: 0 };
        egress.frame(&world, frame, packet, &mut out, &mut replies);
    }

    let runs = out.runs().iter().map(|run| (run.datagrams, run.destination.may_fragment));
    assert_eq!(runs.collect::<Vec<_>>(), [(2, false), (1, true), (1, false)]);
}

#[test]
fn t5_the_sender_of_an_ipv6_packet_is_told_too() {
    let packet = udp6("fd00:a::5", "fd00:a:1::5", 64, &[0; 1400]);
    let mut host = Setup::dual_stack().host();
    host.transmit(&packet);

    let replies = too_long(&mut host, &packet, 1300);

    assert_eq!(replies[0][40..42], [2, 0], "packet too big");
    assert_eq!(replies[0][44..48], 1300u32.to_be_bytes());
    assert_eq!(replies[0].len(), 1280);
    assert_eq!(replies[0][48..], packet[..1232]);
}

#[test]
fn t5_no_ipv6_sender_is_told_an_mtu_that_its_host_would_ignore() {
    let packet = udp6("fd00:a::5", "fd00:a:1::5", 64, &[0; 1400]);

    for path in [68, 1252, 1279, 1280] {
        let replies = too_long(&mut Setup::dual_stack().host(), &packet, path);

        assert_eq!(replies[0][44..48], 1280u32.to_be_bytes(), "a path of {path} bytes");
    }
}

#[test]
fn t5_ipv6_packets_of_the_least_mtu_may_leave_in_outer_fragments() {
    let datagrams = udp6("fd00:a::5", "fd00:a:1::5", 64, &[0; 6000]);
    for (len, may_fragment) in [(40 + 8, true), (1280, true), (1281, false)] {
        let single = plain(&udp6("fd00:a::5", "fd00:a:1::5", 64, &vec![0; len - 48]));
        let gso_size = (len - 48).max(1) as u16;
        let header = VnetHdr { gso_type: GsoType::UdpL4, gso_size, ..VnetHdr::PLAIN };
        for mut frame in [single, with_vnet_hdr(header, &datagrams)] {
            let Host { view, mut egress, .. } =
                Setup { vnet_hdr: true, ..Setup::dual_stack() }.host();
            let limits = RunLimits { datagrams: 99, bytes: 65_507 };
            let mut out = Datagrams::new(limits, 99, Pieces::new(20_000, 1 << 19));
            let whole = TunFrame { slot: Slot(0), start: 0, len: frame.len() as u32, read_ns: 0 };
            let world = World { view: &view, now_ns: 0 };
            let mut replies = Frames::new(1, Pieces::new(1, 0));

            egress.frame(&world, whole, &mut frame, &mut out, &mut replies);

            assert!(!out.is_empty());
            let all = out.runs().iter().all(|run| run.destination.may_fragment == may_fragment);
            assert!(all, "{len} bytes");
        }
    }
}

#[test]
fn t5_a_path_is_asked_for_its_mtu_only_when_the_sender_will_be_told() {
    let packet = udp(HERE, AT_A, 64, &[0; 1400]);
    let Host { view, mut egress, .. } = Setup::default().host();
    let world = World { view: &view, now_ns: 0 };
    let mut replies = Frames::new(1000, Pieces::new(1000, 100_000));
    let mut asked = 0;
    let mut ask = || {
        asked += 1;
        1280
    };

    for _ in 0..500 {
        egress.too_long(&world, &packet[..28], &mut ask, &mut replies);
    }
    // An error about an ICMP error is never sent.
    let error = with_header(ping(HERE, AT_A, 64), |packet| packet[20] = 3);
    egress.too_long(&world, &error, &mut ask, &mut replies);

    assert_eq!(asked, replies.frames().len());
    assert_eq!(asked, 50, "a burst");
}

#[test]
fn t9_a_read_shorter_than_the_virtio_header_is_short() {
    for len in 0..10 {
        let mut host = Setup { vnet_hdr: true, ..Setup::default() }.host();

        assert_eq!(host.transmit(&vec![0; len]), Sent::default());
        assert_eq!(host.egress.tally, dropped(DropReason::Short, 1, 0));
    }
}

#[test]
fn t9_an_empty_or_short_packet_is_short() {
    for len in 0..20 {
        let mut host = Setup::default().host();

        assert_eq!(host.transmit(&vec![0x45; len]), Sent::default());
        assert_eq!(host.egress.tally, dropped(DropReason::Short, 1, len));
    }
}

#[test]
fn malformed_packets_from_the_tun_device_are_dropped_like_any_other() {
    let packet = udp(HERE, AT_A, 64, b"payload");
    let changed = |at: usize, value: u8| {
        let mut packet = packet.clone();
        packet[at] = value;
        packet
    };
    for (bad, reason) in [
        (changed(0, 0x75), DropReason::Version),
        (changed(0, 0x44), DropReason::HeaderLength),
        (changed(3, 19), DropReason::TotalLength),
        (changed(3, 200), DropReason::Truncated),
    ] {
        let mut host = Setup::default().host();

        assert_eq!(host.transmit(&bad), Sent::default());
        assert_eq!(host.egress.tally, dropped(reason, 1, bad.len()));
    }
}

#[test]
fn ipv6_goes_to_its_holder_where_the_overlay_has_it() {
    let mut host = Setup::dual_stack().host();
    let packet = udp6("fd00:a::5", "fd00:a:2::5", 64, b"six");

    let sent = host.transmit(&packet);

    let expected = udp6("fd00:a::5", "fd00:a:2::5", 63, b"six");
    assert_eq!(sent.datagrams, [(B.parse().unwrap(), expected)]);
    assert_eq!(host.egress.tally, forwarded(1, packet.len()));
}

#[test]
fn small_packets_of_one_size_to_one_peer_share_a_run() {
    use twill_datapath::{Egress, EgressRules, Progress};
    let view = Setup::default().host().view;
    let world = World { view: &view, now_ns: 0 };
    let mut egress = Egress::new(EgressRules { vnet_hdr: false });
    let limits = RunLimits { datagrams: 64, bytes: 65507 };
    let mut out = Datagrams::new(limits, 8, Pieces::new(64, 0));
    let mut replies = Frames::new(1, Pieces::new(1, 0));

    for (slot, destination) in [AT_A, AT_B, AT_A, AT_B, AT_A].into_iter().enumerate() {
        let mut bytes = udp([10, 10, 0, slot as u8], destination, 64, b"same size");
        let frame =
            TunFrame { slot: Slot(slot as u16), start: 0, len: bytes.len() as u32, read_ns: 0 };
        let done = egress.frame(&world, frame, &mut bytes, &mut out, &mut replies);
        assert_eq!(done, Progress::Done);
    }

    let runs: Vec<_> =
        out.runs().iter().map(|run| (run.destination.peer.0, run.datagrams)).collect();
    assert_eq!(runs, [(0, 3), (1, 2)]);
}

#[test]
fn what_the_kernel_refuses_moves_from_out_to_drops() {
    use twill_datapath::batch::{Chain, Failure};
    use twill_datapath::{Egress, EgressRules};
    let view = Setup::default().host().view;
    let world = World { view: &view, now_ns: 0 };
    let mut egress = Egress::new(EgressRules { vnet_hdr: false });
    let limits = RunLimits { datagrams: 64, bytes: 65507 };
    let mut out = Datagrams::new(limits, 8, Pieces::new(64, 0));
    let mut replies = Frames::new(1, Pieces::new(1, 0));
    for (slot, payload) in [40, 40, 40, 7].into_iter().enumerate() {
        let mut bytes = udp(HERE, AT_A, 64, &vec![0; payload]);
        let frame =
            TunFrame { slot: Slot(slot as u16), start: 0, len: bytes.len() as u32, read_ns: 0 };
        egress.frame(&world, frame, &mut bytes, &mut out, &mut replies);
    }
    let run = out.runs()[0];
    assert_eq!(run.chain.count(), Chain::EMPTY.count() + 4);

    egress.refused(&run, &Failure { item: 0, first: 2, count: 2, errno: libc::ENOBUFS });

    let mut expected = forwarded(4, 3 * 68 + 35);
    expected.refuse(DropReason::SendNoBuffers, 2, 68 + 35);
    assert_eq!(egress.tally, expected);
    assert_eq!(egress.tally.imbalance(), 0);
}

fn too_long(host: &mut Host, packet: &[u8], mtu: u16) -> Vec<Vec<u8>> {
    let mut replies = Frames::new(4, Pieces::new(4, 8192));
    let world = World { view: &host.view, now_ns: host.now_ns };
    let head = &packet[..packet.len().min(twill_datapath::Egress::HEAD)];
    host.egress.too_long(&world, head, || mtu, &mut replies);
    let replies = replies.frames().iter().map(|frame| {
        let mut bytes = vec![0; frame.len as usize];
        replies.pieces.copy(&frame.chain, 0, &mut bytes, |_, _| unreachable!());
        bytes
    });
    replies.collect()
}

/// Nothing leaves, no one is told, one packet is booked under the reason.
#[track_caller]
fn assert_dropped(packet: &[u8], reason: DropReason) {
    let mut host = Setup::default().host();

    assert_eq!(host.transmit(packet), Sent::default());
    assert_eq!(host.egress.tally, dropped(reason, 1, packet.len()));
}
