//! Packets as hosts send them. etherparse and RFC 1071's own words compute their checksums, not the
//! code under test.
//!
//! ```
//! use twill_testbed::overlay::{AT_A, HERE};
//! use twill_testbed::packets::{one_hop_less, udp};
//!
//! let packet = udp(HERE, AT_A, 64, b"hello");
//! assert_eq!(one_hop_less(&packet), udp(HERE, AT_A, 63, b"hello"));
//! ```

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod aggregate;
mod recipe;

pub use aggregate::{
    apart, behind_options, coalesce, cut, gather, plain, tso, with_partial_checksum, with_vnet_hdr,
};
pub use recipe::{DESTINATION_V4, Recipe, TIMESTAMPS};
pub use twill_datapath::wire::tcp::flags::{ACK, CWR, ECE, FIN, PSH, SYN, URG};

use etherparse::PacketBuilder;
use std::net::Ipv6Addr;

/// A UDP packet.
#[must_use]
pub fn udp(from: [u8; 4], to: [u8; 4], ttl: u8, payload: &[u8]) -> Vec<u8> {
    let recipe = Recipe { from: from.into(), to: to.into(), hops: ttl, ..Recipe::udp(false, 0) };
    Recipe { ports: [4000, 4001], id: 0, ..recipe }.carrying(payload)
}

/// A UDP packet over IPv6.
///
/// # Panics
/// When an address is none.
#[must_use]
pub fn udp6(from: &str, to: &str, hops: u8, payload: &[u8]) -> Vec<u8> {
    let address = |text: &str| text.parse::<Ipv6Addr>().unwrap().into();
    let recipe = Recipe { from: address(from), to: address(to), hops, ..Recipe::udp(true, 0) };
    Recipe { ports: [4000, 4001], ..recipe }.carrying(payload)
}

/// A TCP packet with a timestamp option.
#[must_use]
pub fn tcp(from: [u8; 4], to: [u8; 4], ttl: u8, sequence: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    let recipe = Recipe { from: from.into(), to: to.into(), hops: ttl, ..Recipe::tcp(false, 0) };
    Recipe { ports: [4000, 80], id: 0, sequence, flags, ..recipe }.carrying(data)
}

/// An ICMP echo request.
///
/// # Panics
/// Never.
#[must_use]
pub fn ping(from: [u8; 4], to: [u8; 4], ttl: u8) -> Vec<u8> {
    let builder = PacketBuilder::ipv4(from, to, ttl).icmpv4_echo_request(7, 1);
    let mut packet = Vec::new();
    builder.write(&mut packet, b"twill").unwrap();
    packet
}

/// So many bytes, of which no two neighbours are alike.
#[must_use]
pub fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index % 251) as u8).collect()
}

/// The packet after changing its IPv4 header by `edit` and computing the header checksum anew.
#[must_use]
pub fn with_header(mut packet: Vec<u8>, edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
    edit(&mut packet);
    fix_checksum(&mut packet);
    packet
}

/// The packet with another total length.
#[must_use]
pub fn with_total_len(packet: Vec<u8>, len: usize) -> Vec<u8> {
    with_header(packet, |header| header[2..4].copy_from_slice(&(len as u16).to_be_bytes()))
}

/// The packet with another identification.
#[must_use]
pub fn with_id(packet: Vec<u8>, id: u16) -> Vec<u8> {
    with_header(packet, |header| header[4..6].copy_from_slice(&id.to_be_bytes()))
}

/// The packet without its identification where that means nothing, because DF is set (RFC 6864). One
/// with a wrong header checksum stays as it is, and so does IPv6.
#[must_use]
pub fn without_meaningless_id(packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 != 4 {
        return packet;
    }
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    let valid = internet_checksum(&packet[..header_len]) == 0;
    if packet[6] & 0x40 != 0 && valid { with_id(packet, 0) } else { packet }
}

/// The packet as a gateway passes it on: one hop less.
#[must_use]
pub fn one_hop_less(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 6 {
        packet[7] -= 1;
        return packet;
    }
    with_header(packet, |header| header[8] -= 1)
}

/// Writes the IPv4 header checksum, word by word as in RFC 1071.
pub fn fix_checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    let checksum = internet_checksum(&packet[..header_len.min(packet.len())]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// The Internet checksum, RFC 1071 section 4.1.
#[must_use]
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

/// The pseudo-header of the transport checksum of a packet without options.
#[must_use]
pub fn pseudo_header(packet: &[u8]) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        let mut bytes = packet[8..40].to_vec();
        bytes.extend_from_slice(&(packet.len() as u32 - 40).to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, packet[6]]);
        return bytes;
    }
    let mut bytes = packet[12..20].to_vec();
    bytes.extend_from_slice(&[0, packet[9]]);
    bytes.extend_from_slice(&(packet.len() as u16 - 20).to_be_bytes());
    bytes
}
