//! Packet formats: views over bytes, nothing else.
//!
//! Every format has one file and one repeatable form, after the RFC that defines it: `parse` checks
//! the lengths once and says what is [`Malformed`], accessors then read fields without failing,
//! setters exist on mutable bytes only. Numbers are in host byte order, lengths in bytes.

pub mod checksum;
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
