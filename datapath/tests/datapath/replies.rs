//! ICMP errors for inner senders: flannel's form, RFC 1122's rules, a limited rate.

use crate::harness::*;
use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};
use twill_datapath::batch::{Datagrams, Frames, Pieces, RunLimits, Slot, TunFrame};
use twill_datapath::{DropReason, Egress, EgressRules, World};

const NOWHERE: [u8; 4] = [10, 10, 99, 1];

#[test]
fn net_unreachable_has_the_form_of_flannels_proxy() {
    let packet = with_header(udp(HERE, NOWHERE, 64, b"more than eight bytes"), |header| {
        header[1] = 0x28;
        header[4..6].copy_from_slice(&0x1234u16.to_be_bytes());
        header[6] = 0x40;
    });

    let reply = only_reply(&mut Setup::default().host(), &packet);

    assert_eq!(reply, net_unreachable(&packet[..28]));
}

#[test]
fn a_reply_quotes_only_bytes_that_were_received() {
    let packet = with_header(udp(HERE, NOWHERE, 64, b""), |header| header[3] = 23);

    let reply = only_reply(&mut Setup::default().host(), &packet[..23]);

    assert_eq!(reply[28..], packet[..23]);
    assert_eq!(reply.len(), 51);
}

#[test]
fn a_reply_quotes_header_options_but_for_the_longest_as_flannel_does() {
    for words in 6..=14u8 {
        let reply = only_reply(&mut Setup::default().host(), &with_options(words));

        assert_eq!(reply.len(), 28 + usize::from(words) * 4 + 8);
    }
    assert!(Setup::default().host().transmit(&with_options(15)).replies.is_empty());
}

#[test]
fn time_exceeded_answers_echo_requests_too_so_that_traceroute_works() {
    let reply = only_reply(&mut Setup::default().host(), &ping(HERE, AT_A, 1));

    let packet = SlicedPacket::from_ip(&reply).unwrap();
    let Some(TransportSlice::Icmpv4(icmp)) = packet.transport else { panic!("not ICMP") };
    assert!(matches!(icmp.icmp_type(), Icmpv4Type::TimeExceeded(_)));
    assert_eq!(reply[28..], ping(HERE, AT_A, 1)[..28], "as it arrived, its last hop included");
    assert_eq!(internet_checksum(&reply[20..]), 0);
    assert_eq!(internet_checksum(&reply[..20]), 0);
}

#[test]
fn icmp_errors_are_never_answered_with_errors() {
    for kind in [3, 4, 5, 11, 12] {
        let error = with_header(ping(HERE, AT_A, 1), |packet| packet[20] = kind);

        assert!(Setup::default().host().transmit(&error).replies.is_empty(), "type {kind}");
    }
}

#[test]
fn an_icmp_message_without_a_type_is_not_answered() {
    let bare = with_header(ping(HERE, AT_A, 1), |header| header[3] = 20);

    assert!(Setup::default().host().transmit(&bare[..20]).replies.is_empty());
}

#[test]
fn without_an_address_of_our_own_nobody_is_answered() {
    let mut setup = Setup::default();
    setup.overlay.addresses = vec!["fd00:a::1".parse().unwrap()];

    assert!(setup.host().transmit(&udp(HERE, NOWHERE, 64, b"")).replies.is_empty());
}

#[test]
fn a_device_with_virtio_headers_gets_one_before_each_reply() {
    let mut host = Setup { vnet_hdr: true, ..Setup::default() }.host();
    let packet = udp(HERE, NOWHERE, 64, b"");

    let frame = with_vnet_hdr(twill_datapath::offload::vnet_hdr::VnetHdr::PLAIN, &packet);
    let with_header = only_reply(&mut host, &frame);

    assert_eq!(with_header, only_reply(&mut Setup::default().host(), &packet));
}

#[test]
fn replies_are_limited_to_a_burst_and_then_to_a_rate() {
    let packet = udp(HERE, NOWHERE, 64, b"");
    let mut host = Setup::default().host();
    let flood =
        |host: &mut Host| (0..1000).map(|_| host.transmit(&packet).replies.len()).sum::<usize>();

    assert_eq!(flood(&mut host), 50, "a burst");
    assert_eq!(flood(&mut host), 0, "no time has passed");
    host.now_ns += 100_000_000;
    assert_eq!(flood(&mut host), 10, "a tenth of a second's worth");
    host.now_ns += 3600 * 1_000_000_000;
    assert_eq!(flood(&mut host), 50, "an hour saves up no more than a burst");

    assert_eq!(host.egress.replies().sent, 110);
    assert_eq!(host.egress.replies().limited, 3890);
    assert_eq!(host.egress.tally.dropped(), 4000, "all are dropped, answered or not");
}

#[test]
fn neither_a_traceroute_without_end_nor_another_pod_stops_path_mtu_discovery() {
    let view = Setup::default().host().view;
    let world = World { view: &view, now_ns: 1_000_000_000 };
    let mut egress = Egress::new(EgressRules { vnet_hdr: false });
    let mut out = Datagrams::new(RunLimits { datagrams: 1, bytes: 65507 }, 1, Pieces::new(1, 0));
    let room = || Frames::new(4000, Pieces::new(4000, 1 << 18));
    let (mut flood, mut answers) = (room(), room());
    for _ in 0..1000 {
        let mut hopless = udp(HERE, AT_A, 1, b"");
        let frame = TunFrame { slot: Slot(0), start: 0, len: hopless.len() as u32, read_ns: 0 };
        egress.frame(&world, frame, &mut hopless, &mut out, &mut flood);
        egress.too_long(&world, &udp([10, 10, 0, 77], AT_A, 64, &[0; 99]), || 1400, &mut flood);
    }
    assert_eq!(flood.frames().len(), 2 * 50, "both floods are limited");

    egress.too_long(&world, &udp(HERE, AT_A, 64, &[0; 99]), || 1400, &mut answers);

    assert_eq!(answers.frames().len(), 1);
}

#[test]
fn packets_to_multicast_groups_have_a_reason_of_their_own() {
    let report = udp6("fe80::1", "ff02::16", 1, b"");
    let discovery = udp(HERE, [239, 255, 255, 250], 4, b"");
    for packet in [report, discovery] {
        let mut host = Setup::dual_stack().host();

        let sent = host.transmit(&packet);

        assert!(sent.datagrams.is_empty() && sent.replies.is_empty());
        assert_eq!(host.egress.tally, dropped(DropReason::Multicast, 1, packet.len()));
    }
}

#[test]
fn a_full_batch_of_replies_keeps_one_back_and_counts_it() {
    let view = Setup::default().host().view;
    let world = World { view: &view, now_ns: 0 };
    let mut egress = Egress::new(EgressRules { vnet_hdr: false });
    let limits = RunLimits { datagrams: 64, bytes: 65507 };
    let mut out = Datagrams::new(limits, 8, Pieces::new(64, 0));
    let mut replies = Frames::new(1, Pieces::new(8, 1024));

    for _ in 0..3 {
        let mut bytes = udp(HERE, NOWHERE, 64, b"");
        let frame = TunFrame { slot: Slot(0), start: 0, len: bytes.len() as u32, read_ns: 0 };
        egress.frame(&world, frame, &mut bytes, &mut out, &mut replies);
    }

    assert_eq!(replies.frames().len(), 1);
    assert_eq!((egress.replies().sent, egress.replies().limited), (1, 2));
}

#[test]
fn the_same_packet_is_answered_the_same_again() {
    let mut host = Setup::default().host();
    let packet = udp(HERE, NOWHERE, 64, b"");

    let first = only_reply(&mut host, &packet);

    assert_eq!(only_reply(&mut host, &packet), first, "over memory that held the first");
}

#[test]
fn ipv6_senders_are_told_in_icmpv6() {
    let packet = udp6("fd00:a::5", "fd00:a:99::1", 64, &[7; 1400]);

    let reply = only_reply(&mut Setup::dual_stack().host(), &packet);

    let sliced = SlicedPacket::from_ip(&reply).unwrap();
    let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("not IPv6") };
    assert_eq!(ip.header().source_addr(), "fd00:a::1".parse::<std::net::Ipv6Addr>().unwrap());
    assert_eq!(ip.header().destination_addr(), "fd00:a::5".parse::<std::net::Ipv6Addr>().unwrap());
    let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!("not ICMPv6") };
    assert!(matches!(icmp.icmp_type(), Icmpv6Type::DestinationUnreachable(_)));
    assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
    assert_eq!(reply.len(), 1280, "within the minimum MTU");
    assert_eq!(reply[48..], packet[..1232]);
}

#[test]
fn ipv6_hops_that_end_here_are_told_too() {
    let packet = udp6("fd00:a::5", "fd00:a:1::1", 1, b"");

    let reply = only_reply(&mut Setup::dual_stack().host(), &packet);

    assert_eq!(reply[40..42], [3, 0]);
    assert_eq!(reply[48..], packet);
}

#[test]
fn ipv6_errors_and_multicast_are_not_answered() {
    let mut error = udp6("fd00:a::5", "fd00:a:99::1", 64, &[0; 8]);
    error[6] = 58;
    error[40] = 1;
    let mut redirect = error.clone();
    redirect[40] = 137;
    for silent in [
        error,
        redirect,
        udp6("fd00:a::5", "ff02::1", 64, b""),
        udp6("ff02::1", "fd00:a:99::1", 64, b""),
        udp6("::", "fd00:a:99::1", 64, b""),
    ] {
        assert!(Setup::dual_stack().host().transmit(&silent).replies.is_empty());
    }
}

#[track_caller]
fn only_reply(host: &mut Host, frame: &[u8]) -> Vec<u8> {
    let sent = host.transmit(frame);
    assert!(sent.datagrams.is_empty());
    let [reply] = &sent.replies[..] else { panic!("{} replies", sent.replies.len()) };
    reply.clone()
}

/// A packet to nowhere with a header of so many words, the options being padding.
fn with_options(words: u8) -> Vec<u8> {
    let mut packet = udp(HERE, NOWHERE, 64, b"payload");
    let options = vec![1; usize::from(words - 5) * 4];
    packet.splice(20..20, options);
    let len = packet.len() as u8;
    with_header(packet, |header| {
        header[0] = 0x40 | words;
        header[3] = len;
    })
}
