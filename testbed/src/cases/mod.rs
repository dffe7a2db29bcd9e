//! What bad input must come to: the cases D1 to D25 and T1 to T9, shared by the tests of the
//! datapath alone and those of every engine. All are about the [`overlay`](crate::overlay).

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

pub mod wire;

use crate::overlay::{AT_A, AT_B, HERE, OWN};
use crate::packets::{
    ACK, FIN, Recipe, SYN, URG, internet_checksum, payload, ping, tcp, udp, udp6, with_header,
    with_total_len,
};
use twill_datapath::offload::vnet_hdr::{GsoType, VnetHdr};
use twill_datapath::{DropReason, Tally};

/// The books of one arrival that was dropped: `packets` in with `bytes`, all for one reason.
#[must_use]
pub fn dropped(reason: DropReason, packets: u64, bytes: usize) -> Tally {
    let mut tally = Tally { packets_in: packets, bytes_in: bytes as u64, ..Tally::default() };
    tally.drop(reason, packets);
    tally
}

/// The books of arrivals that were all forwarded unchanged in length.
#[must_use]
pub fn forwarded(packets: u64, bytes: usize) -> Tally {
    Tally {
        packets_in: packets,
        bytes_in: bytes as u64,
        packets_out: packets,
        bytes_out: bytes as u64,
        ..Tally::default()
    }
}

/// What a host behind this gateway is told about a packet to nowhere, in the form of flannel's proxy.
#[must_use]
pub fn net_unreachable(quoted: &[u8]) -> Vec<u8> {
    let mut reply = vec![
        0x45, 0, 0, 0, 0, 0, 0, 0, 8, 1, 0, 0, 10, 10, 0, 0, 10, 10, 0, 5, // IP
        3, 0, 0, 0, 0, 0, 0, 0, // ICMP
    ];
    reply.extend_from_slice(quoted);
    let len = reply.len();
    let mut reply = with_total_len(reply, len);
    let checksum = internet_checksum(&reply[20..]);
    reply[22..24].copy_from_slice(&checksum.to_be_bytes());
    reply
}

/// A packet from A to here that breaks no rule.
#[must_use]
pub fn packet() -> Vec<u8> {
    udp(AT_A, HERE, 64, b"payload")
}

/// A TCP packet from A to here with this timestamp.
#[must_use]
pub fn stamped(stamp: u8, sequence: u32) -> Vec<u8> {
    let timestamps = Some([stamp.into(), 1]);
    let recipe = Recipe { from: AT_A.into(), to: HERE.into(), ..Recipe::tcp(false, 0) };
    Recipe { ports: [4000, 80], id: 0, sequence, timestamps, ..recipe }.carrying(&payload(100))
}

/// Inner sources that no host has.
pub const MARTIANS: [[u8; 4]; 10] = [
    [0, 0, 0, 0],
    [0, 1, 2, 3],
    [127, 0, 0, 1],
    [127, 1, 0, 0],
    [169, 254, 1, 1],
    [224, 0, 0, 1],
    [239, 255, 255, 255],
    [240, 0, 0, 1],
    [255, 255, 255, 255],
    [10, 10, 0, 255],
];

/// Inner destinations that are not behind this gateway.
pub const OUT_OF_SCOPE: [[u8; 4]; 9] = [
    [127, 0, 0, 1],
    [169, 254, 169, 254],
    [224, 0, 0, 1],
    [192, 0, 2, 100],
    [255, 255, 255, 255],
    [0, 0, 0, 0],
    [10, 10, 0, 255],
    AT_A,
    AT_B,
];

/// Datagrams of peer A that are dropped in strict mode, for which reason, by case.
#[must_use]
pub fn bad_datagrams() -> Vec<(String, Vec<u8>, DropReason)> {
    use DropReason::*;
    let header =
        |edit: fn(&mut [u8], u8), value: u8| with_header(packet(), |header| edit(header, value));
    let mut all = vec![("D1".to_owned(), Vec::new(), Short)];
    let mut add = |case: String, datagram, reason| all.push((case, datagram, reason));
    for len in 1..20 {
        add(format!("D2, {len} bytes"), packet()[..len].to_vec(), Short);
    }
    for version in (0..16).filter(|version| ![4, 6].contains(version)) {
        let datagram = header(|header, it| header[0] = it << 4 | 5, version);
        add(format!("D3, version {version}"), datagram, Version);
    }
    for words in 0..5 {
        let datagram = header(|header, it| header[0] = 0x40 | it, words);
        add(format!("D4, {words} words"), datagram, HeaderLength);
    }
    let forty = udp(AT_A, HERE, 64, b"twelve bytes");
    add("D5".into(), with_header(forty, |header| header[0] = 0x4f), HeaderLength);
    for excess in [1, 2, 1000, 65535 - 35] {
        let datagram = with_total_len(packet(), packet().len() + excess);
        add(format!("D6, {excess} more"), datagram, Truncated);
    }
    for len in [0, 1, 19] {
        add(format!("D7, {len}"), with_total_len(packet(), len), TotalLength);
    }
    add("D10".into(), udp(AT_B, HERE, 64, b""), SourceMismatch);
    for source in [HERE, OWN.octets()] {
        add(format!("D11, from {source:?}"), udp(source, HERE, 64, b""), SourceMismatch);
    }
    for source in MARTIANS {
        add(format!("D12, from {source:?}"), udp(source, HERE, 64, b""), Martian);
    }
    for destination in OUT_OF_SCOPE {
        let datagram = udp(AT_A, destination, 64, b"");
        add(format!("D13, to {destination:?}"), datagram, DestinationScope);
    }
    add("D15".into(), udp(AT_A, HERE, 0, b""), Ttl);
    add("D23".into(), udp6("fd00:a:1::5", "fd00:a::5", 64, b""), Family);
    all
}

/// A train of three, all of one length, of which the second is IPv6.
#[must_use]
pub fn mixed_train() -> [Vec<u8>; 3] {
    [
        udp(AT_A, HERE, 64, &[0; 20]),
        udp6("fd00:a:1::5", "fd00:a::5", 64, b""),
        udp(AT_A, HERE, 64, &[2; 20]),
    ]
}

/// The first, a middle and the last fragment of one packet, all of one length.
#[must_use]
pub fn fragments() -> [Vec<u8>; 3] {
    [fragment(0, true, &[1; 600]), fragment(608, true, &[2; 600]), fragment(1216, false, &[3; 600])]
}

/// A first fragment without all of its UDP header.
#[must_use]
pub fn tiny_fragment() -> Vec<u8> {
    let mut tiny = fragment(0, true, b"");
    tiny.truncate(24);
    with_total_len(tiny, 24)
}

fn fragment(offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    with_header(udp(AT_A, HERE, 64, payload), |header| {
        let field = (offset / 8) | if more { 0x2000 } else { 0 };
        header[4..6].copy_from_slice(&77u16.to_be_bytes());
        header[6..8].copy_from_slice(&field.to_be_bytes());
    })
}

/// Packets of which no two may be joined, by name.
#[must_use]
pub fn unjoinable() -> Vec<(&'static str, Vec<u8>)> {
    let stream = |flags, sequence| tcp(AT_A, HERE, 64, sequence, flags, &payload(100));
    let mut short_offset = stream(ACK, 1);
    short_offset[32] = 0x40;
    let mut no_checksum = udp(AT_A, HERE, 64, &payload(100));
    no_checksum[26..28].fill(0);
    let mut zero_length = udp(AT_A, HERE, 64, &payload(100));
    zero_length[24..26].fill(0);
    let mut options = udp(AT_A, HERE, 64, &payload(100));
    options.splice(20..20, [7, 3, 4, 0]);
    let len = options.len();
    let options = with_total_len(with_header(options, |header| header[0] = 0x46), len);
    vec![
        ("data offset", short_offset),
        ("no checksum", no_checksum),
        ("UDP length 0", zero_length),
        ("no data", udp(AT_A, HERE, 64, b"")),
        ("SYN", stream(SYN, 1)),
        ("FIN", stream(ACK | FIN, 1)),
        ("URG", stream(ACK | URG, 1)),
        ("IP options", options),
    ]
}

/// Packets to nowhere that get no answer.
#[must_use]
pub fn unanswerable() -> Vec<(DropReason, Vec<u8>)> {
    let nowhere = [10, 10, 99, 1];
    let fragment = with_header(udp(HERE, nowhere, 64, b""), |header| header[7] = 1);
    let icmp_error = with_header(ping(HERE, nowhere, 64), |packet| packet[20] = 3);
    let without_route = [
        fragment,
        icmp_error,
        ping(HERE, nowhere, 64),
        udp([224, 0, 0, 1], nowhere, 64, b""),
        udp([0, 0, 0, 0], nowhere, 64, b""),
        udp([127, 0, 0, 1], nowhere, 64, b""),
        udp([255, 255, 255, 255], nowhere, 64, b""),
    ];
    let mut packets: Vec<_> = without_route.map(|packet| (DropReason::NoRoute, packet)).into();
    packets.push((DropReason::Multicast, udp(HERE, [224, 0, 0, 22], 64, b"")));
    packets
}

/// Virtio headers that do not fit a TCP packet of so many bytes.
#[must_use]
pub fn misfits(len: usize) -> Vec<VnetHdr> {
    let tcp4 = VnetHdr {
        needs_csum: true,
        gso_type: GsoType::TcpV4,
        gso_size: 100,
        csum_start: 20,
        csum_offset: 16,
        ..VnetHdr::PLAIN
    };
    let partial = VnetHdr { needs_csum: true, csum_start: 20, csum_offset: 16, ..VnetHdr::PLAIN };
    let beyond = len as u16;
    vec![
        VnetHdr { gso_type: GsoType::Unknown(3), ..tcp4 },
        VnetHdr { gso_type: GsoType::Unknown(2), ..tcp4 },
        VnetHdr { gso_type: GsoType::Unknown(0x7f), ..tcp4 },
        VnetHdr { gso_type: GsoType::TcpV6, ..tcp4 },
        VnetHdr { gso_type: GsoType::UdpL4, ..tcp4 },
        VnetHdr { gso_size: 0, ..tcp4 },
        VnetHdr { csum_start: beyond, ..tcp4 },
        VnetHdr { csum_start: u16::MAX, csum_offset: u16::MAX, ..tcp4 },
        VnetHdr { csum_start: beyond - 17, ..partial },
        VnetHdr { csum_start: beyond, ..partial },
        VnetHdr { csum_start: u16::MAX, csum_offset: u16::MAX, ..partial },
    ]
}
