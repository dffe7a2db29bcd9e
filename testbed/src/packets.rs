//! Packets as hosts send them, with checksums that etherparse or RFC 1071's own words compute, and
//! the books that they lead to. Shared by the cases of the datapath alone and those of every engine.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use crate::overlay::{AT_A, AT_B, HERE};
use etherparse::PacketBuilder;
use twill_datapath::batch::{Frames, Pieces};
use twill_datapath::offload::vnet_hdr::{self, GsoType, VnetHdr};
use twill_datapath::{DropReason, Progress, Tally, unjoin};

/// TCP flags.
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const URG: u8 = 0x20;
pub const ECE: u8 = 0x40;
pub const CWR: u8 = 0x80;

/// The books of one arrival that was dropped: `packets` in with `bytes`, all for one reason.
pub fn dropped(reason: DropReason, packets: u64, bytes: usize) -> Tally {
    let mut tally = Tally { packets_in: packets, bytes_in: bytes as u64, ..Tally::default() };
    tally.drop(reason, packets);
    tally
}

/// The books of arrivals that were all forwarded unchanged in length.
pub fn forwarded(packets: u64, bytes: usize) -> Tally {
    Tally {
        packets_in: packets,
        bytes_in: bytes as u64,
        packets_out: packets,
        bytes_out: bytes as u64,
        ..Tally::default()
    }
}

/// A UDP packet, its checksums computed by etherparse.
pub fn udp(from: [u8; 4], to: [u8; 4], ttl: u8, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ipv4(from, to, ttl).udp(4000, 4001);
    let mut packet = Vec::new();
    builder.write(&mut packet, payload).unwrap();
    packet
}

/// A UDP packet over IPv6.
pub fn udp6(from: &str, to: &str, hops: u8, payload: &[u8]) -> Vec<u8> {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let builder = PacketBuilder::ipv6(address(from), address(to), hops).udp(4000, 4001);
    let mut packet = Vec::new();
    builder.write(&mut packet, payload).unwrap();
    packet
}

/// An ICMP echo request.
pub fn ping(from: [u8; 4], to: [u8; 4], ttl: u8) -> Vec<u8> {
    let builder = PacketBuilder::ipv4(from, to, ttl).icmpv4_echo_request(7, 1);
    let mut packet = Vec::new();
    builder.write(&mut packet, b"twill").unwrap();
    packet
}

/// The packet after changing its header by `edit` and computing the header checksum anew.
pub fn with_header(mut packet: Vec<u8>, edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
    edit(&mut packet);
    fix_checksum(&mut packet);
    packet
}

/// The packet as a gateway passes it on: one hop less.
pub fn one_hop_less(packet: &[u8]) -> Vec<u8> {
    with_header(packet.to_vec(), |header| header[8] -= 1)
}

/// Writes the IPv4 header checksum, word by word as in RFC 1071.
pub fn fix_checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    let checksum = internet_checksum(&packet[..header_len.min(packet.len())]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// RFC 1071 section 4.1.
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// What a host behind this gateway is told about a packet to nowhere, in the form of flannel's proxy.
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

/// A frame as a TUN device with `IFF_VNET_HDR` hands it out.
pub fn with_vnet_hdr(header: VnetHdr, packet: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(vnet_hdr::LEN + packet.len());
    frame.extend_from_slice(&header.to_bytes());
    frame.extend_from_slice(packet);
    frame
}

/// A TCP packet with a timestamp option, its checksums computed by etherparse.
pub fn tcp(from: [u8; 4], to: [u8; 4], ttl: u8, sequence: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let mut builder = PacketBuilder::ipv4(from, to, ttl)
        .tcp(4000, 80, sequence, 1000)
        .options_raw(&[1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9])
        .unwrap();
    for (flag, set) in [
        (FIN, etherparse::PacketBuilderStep::fin as fn(_) -> _),
        (SYN, etherparse::PacketBuilderStep::syn),
        (PSH, etherparse::PacketBuilderStep::psh),
        (ECE, etherparse::PacketBuilderStep::ece),
        (CWR, etherparse::PacketBuilderStep::cwr),
    ] {
        if flags & flag != 0 {
            builder = set(builder);
        }
    }
    if flags & ACK != 0 {
        builder = builder.ack(9);
    }
    if flags & URG != 0 {
        builder = builder.urg(3);
    }
    builder.write(&mut packet, data).unwrap();
    packet
}

/// A TCP packet from A to here with this timestamp.
pub fn stamped(stamp: u8, sequence: u32) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4(AT_A, HERE, 64)
        .tcp(4000, 80, sequence, 1000)
        .ack(9)
        .options_raw(&[1, 1, 8, 10, 0, 0, 0, stamp, 0, 0, 0, 1])
        .unwrap()
        .write(&mut packet, &payload(100))
        .unwrap();
    packet
}

/// The packet as the kernel hands it out for segmentation. Its checksum is complete where the
/// kernel's would be partial; segmentation computes it anew either way.
pub fn tso(gso_size: usize, packet: &[u8]) -> Vec<u8> {
    let header = VnetHdr {
        needs_csum: true,
        gso_type: GsoType::TcpV4,
        gso_size: gso_size as u16,
        csum_start: 20,
        csum_offset: 16,
        ..VnetHdr::PLAIN
    };
    with_vnet_hdr(header, packet)
}

/// The packets of a frame, cut by `unjoin` in batches of so many frames.
pub fn apart((header, packet): &(VnetHdr, Vec<u8>), room: usize) -> Vec<Vec<u8>> {
    let frame = with_vnet_hdr(*header, packet);
    let mut out = Frames::new(room, Pieces::new(room, 2000 * room));
    let mut packets = Vec::new();
    let mut next = 0;
    loop {
        let progress = unjoin(&frame, next, &mut out).unwrap();
        for frame in out.frames() {
            let mut bytes = vec![0; frame.len as usize];
            out.pieces.copy(&frame.chain, 0, &mut bytes, |_, _| unreachable!());
            assert_eq!(bytes[..10], VnetHdr::PLAIN.to_bytes());
            assert_eq!((frame.packets, frame.packet_bytes), (1, frame.len - 10));
            packets.push(bytes[10..].to_vec());
        }
        out.clear();
        match progress {
            Progress::Done => return packets,
            Progress::Full { next: resume } => next = resume,
        }
    }
}

/// A packet from A to here that breaks no rule.
pub fn packet() -> Vec<u8> {
    udp(AT_A, HERE, 64, b"payload")
}

pub fn with_total_len(packet: Vec<u8>, len: usize) -> Vec<u8> {
    with_header(packet, |header| header[2..4].copy_from_slice(&(len as u16).to_be_bytes()))
}

pub fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index % 251) as u8).collect()
}

pub fn with_id(packet: Vec<u8>, id: u16) -> Vec<u8> {
    with_header(packet, |header| header[4..6].copy_from_slice(&id.to_be_bytes()))
}

/// The packet without its identification where that means nothing, because DF is set (RFC 6864). One
/// with a wrong header checksum stays as it is.
pub fn without_meaningless_id(packet: Vec<u8>) -> Vec<u8> {
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    let valid = internet_checksum(&packet[..header_len]) == 0;
    if packet[6] & 0x40 != 0 && valid { with_id(packet, 0) } else { packet }
}

/// The pseudo-header of an IPv4 packet's transport checksum.
pub fn pseudo_header(packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet[12..20].to_vec();
    bytes.extend_from_slice(&[0, packet[9]]);
    bytes.extend_from_slice(&(packet.len() as u16 - 20).to_be_bytes());
    bytes
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

/// The first, a middle and the last fragment of one packet, all of one length.
pub fn fragments() -> [Vec<u8>; 3] {
    [fragment(0, true, &[1; 600]), fragment(608, true, &[2; 600]), fragment(1216, false, &[3; 600])]
}

/// A first fragment without all of its UDP header.
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
pub fn unanswerable() -> Vec<Vec<u8>> {
    let nowhere = [10, 10, 99, 1];
    let fragment = with_header(udp(HERE, nowhere, 64, b""), |header| header[7] = 1);
    let icmp_error = with_header(ping(HERE, nowhere, 64), |packet| packet[20] = 3);
    vec![
        fragment,
        icmp_error,
        ping(HERE, nowhere, 64),
        udp([224, 0, 0, 1], nowhere, 64, b""),
        udp([0, 0, 0, 0], nowhere, 64, b""),
        udp([127, 0, 0, 1], nowhere, 64, b""),
        udp([255, 255, 255, 255], nowhere, 64, b""),
        udp(HERE, [224, 0, 0, 22], 64, b""),
    ]
}

/// Virtio headers that do not fit a TCP packet of so many bytes.
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

/// The packet with the sum of its pseudo-header where its UDP checksum belongs.
pub fn with_partial_checksum(whole: &[u8]) -> Vec<u8> {
    let mut partial = whole.to_vec();
    let sum = !internet_checksum(&pseudo_header(whole));
    partial[26..28].copy_from_slice(&sum.to_be_bytes());
    partial
}
