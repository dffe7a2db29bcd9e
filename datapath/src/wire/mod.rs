//! Packet formats: views over bytes, nothing else.
//!
//! Every format has one file and one repeatable form, after the RFC that defines it: `parse` checks
//! the lengths once and says what is [`Malformed`], accessors then read fields without failing,
//! setters exist on mutable bytes only. A `Repr` has the fields of a header without options, and its
//! `emit` writes all of the header's bytes, whatever was there before. Numbers are in host byte
//! order, lengths in bytes.

pub mod checksum;
pub mod flow;
pub mod icmp;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod tcp;
pub mod udp;

/// Why bytes are not a packet of the format they were parsed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Fewer bytes than the fixed header.
    #[error("shorter than the fixed header")]
    Short,
    /// The version field names another IP version.
    #[error("wrong IP version")]
    Version,
    /// The header length field is below the minimum or reaches beyond the bytes.
    #[error("header length out of range")]
    HeaderLength,
    /// The length field is shorter than the header it counts.
    #[error("length field shorter than its header")]
    TotalLength,
    /// The length field promises more bytes than there are.
    #[error("length field longer than the packet")]
    Truncated,
}

/// IP protocol numbers that twill looks into (IANA "Assigned Internet Protocol Numbers").
pub mod protocol {
    /// IPv6 hop-by-hop options, RFC 8200.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4, RFC 792.
    pub const ICMP: u8 = 1;
    /// TCP, RFC 9293.
    pub const TCP: u8 = 6;
    /// UDP, RFC 768.
    pub const UDP: u8 = 17;
    /// IPv6 fragment header, RFC 8200.
    pub const FRAGMENT: u8 = 44;
    /// ICMP for IPv6, RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options, RFC 8200.
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// Explicit congestion notification codepoints, the two low bits of the TOS or traffic class octet
/// (RFC 3168).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ecn {
    /// The transport does not understand ECN.
    NotEct = 0b00,
    /// ECN-capable transport, codepoint 1.
    Ect1 = 0b01,
    /// ECN-capable transport, codepoint 0.
    Ect0 = 0b10,
    /// Congestion experienced.
    Ce = 0b11,
}

impl Ecn {
    /// The codepoint in the low bits of a TOS or traffic class octet.
    #[must_use]
    pub const fn from_tos(tos: u8) -> Self {
        match tos & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }
}

/// Reads a big-endian 16-bit field; the caller's `parse` has proved that it is there.
#[inline]
fn read_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Reads a big-endian 32-bit field; the caller's `parse` has proved that it is there.
#[inline]
fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    /// Memory that holds what an earlier turn left.
    fn poisoned<const LEN: usize>() -> [u8; LEN] {
        [0xa5; LEN]
    }

    #[test]
    fn an_ipv4_header_is_written_whole_over_poisoned_memory() {
        let mut bytes = poisoned::<24>();

        ipv4::Repr {
            tos: 0x28,
            id: 0x1234,
            dont_fragment: true,
            ttl: 64,
            protocol: protocol::UDP,
            source: Ipv4Addr::new(10, 0, 0, 1),
            destination: Ipv4Addr::new(10, 0, 0, 2),
            payload_len: 4,
        }
        .emit(&mut bytes);

        let golden =
            [0x45, 0x28, 0, 24, 0x12, 0x34, 0x40, 0, 64, 17, 0x14, 0x77, 10, 0, 0, 1, 10, 0, 0, 2];
        assert_eq!(bytes[..20], golden);
        assert_eq!(bytes[20..], [0xa5; 4], "the payload is the caller's");
        assert!(ipv4::Packet::parse(&bytes).unwrap().checksum_is_valid());
    }

    #[test]
    fn an_ipv6_header_is_written_whole_over_poisoned_memory() {
        let mut bytes = poisoned::<44>();

        ipv6::Repr {
            traffic_class: 0x28,
            next_header: protocol::ICMPV6,
            hop_limit: 64,
            source: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
            destination: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
            payload_len: 4,
        }
        .emit(&mut bytes);

        let mut golden = [0; 40];
        golden[..9].copy_from_slice(&[0x62, 0x80, 0, 0, 0, 4, 58, 64, 0xfd]);
        (golden[23], golden[24], golden[39]) = (1, 0xfd, 2);
        assert_eq!(bytes[..40], golden);
        assert_eq!(bytes[40..], [0xa5; 4], "the payload is the caller's");
    }

    #[test]
    fn an_icmp_header_is_written_whole_over_poisoned_memory() {
        let mut bytes = poisoned::<12>();

        icmp::Repr { kind: icmp::kind::ECHO_REQUEST, code: 0, rest: [0, 7, 0, 9] }.emit(&mut bytes);

        assert_eq!(bytes, [8, 0, 0xac, 0xa4, 0, 7, 0, 9, 0xa5, 0xa5, 0xa5, 0xa5]);
        assert_eq!(checksum::Sum::default().bytes(&bytes).finish(), 0);
    }

    #[test]
    fn an_icmpv6_header_is_written_whole_over_poisoned_memory() {
        let (from, to) = (Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED);
        let mut bytes = poisoned::<12>();

        icmpv6::Repr { kind: 2, code: 0, rest: [0, 0, 5, 0] }.emit(&mut bytes, from, to);

        assert_eq!(bytes, [2, 0, 0xad, 0x6d, 0, 0, 5, 0, 0xa5, 0xa5, 0xa5, 0xa5]);
        let pseudo = checksum::Sum::default().pseudo_v6(from, to, protocol::ICMPV6, 12);
        assert_eq!(pseudo.bytes(&bytes).finish(), 0);
    }

    #[test]
    fn a_tcp_header_is_written_whole_over_poisoned_memory() {
        let mut bytes = poisoned::<22>();

        tcp::Repr {
            source_port: 0x0102,
            destination_port: 0x0304,
            sequence: 0x0506_0708,
            acknowledgment: 0x090a_0b0c,
            flags: tcp::flags::ACK,
            window: 0x0d0e,
        }
        .emit(&mut bytes);

        let golden = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x50, 0x10, 13, 14, 0, 0, 0, 0];
        assert_eq!(bytes[..20], golden);
        assert_eq!(bytes[20..], [0xa5; 2], "the data is the caller's");
    }

    #[test]
    fn a_udp_header_is_written_whole_over_poisoned_memory() {
        let mut bytes = poisoned::<10>();

        udp::Repr { source_port: 0x0102, destination_port: 0x0304, length: 10 }.emit(&mut bytes);

        assert_eq!(bytes, [1, 2, 3, 4, 0, 10, 0, 0, 0xa5, 0xa5]);
    }
}
