//! IPv6 (RFC 8200), the fixed header. Of extension headers twill looks behind options only.
//!
//! ```text
//! |Version| Traffic Class |           Flow Label                  |
//! |         Payload Length        |  Next Header  |   Hop Limit   |
//! |                         Source Address (16)                   |
//! |                      Destination Address (16)                 |
//! ```

use super::checksum::Sum;
use super::{Malformed, protocol, read_u16};
use core::net::Ipv6Addr;

/// The fixed header, bytes.
pub const HEADER_LEN: usize = 40;
/// The MTU that every link has at least, bytes (RFC 8200 section 5).
pub const MIN_MTU: u16 = 1280;

const PAYLOAD_LEN: usize = 4;
const NEXT_HEADER: usize = 6;
const HOP_LIMIT: usize = 7;
/// Offset of the source address.
pub const SOURCE: usize = 8;
/// Offset of the destination address.
pub const DESTINATION: usize = 24;

/// Number and offset of the first header of a packet that is neither the fixed one nor options
/// (RFC 8200, sections 4.3 and 4.6): those leave a transport's checksum and place as they are.
/// Nothing when the packet ends before.
#[must_use]
pub fn upper_layer(packet: &[u8]) -> Option<(u8, usize)> {
    let (mut number, mut at) = (*packet.get(NEXT_HEADER)?, HEADER_LEN);
    while matches!(number, protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS) {
        let [next, units] = *packet.get(at..)?.first_chunk()?;
        number = next;
        at += 8 * (1 + usize::from(units));
    }
    (at <= packet.len()).then_some((number, at))
}

/// An IPv6 packet whose payload length lies within its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Packet<T> {
    /// Checks version and length.
    ///
    /// # Errors
    /// [`Malformed`], in the order of the fields.
    #[inline]
    pub fn parse(bytes: T) -> Result<Self, Malformed> {
        let b = bytes.as_ref();
        if b.is_empty() {
            return Err(Malformed::Short);
        }
        if b[0] >> 4 != 6 {
            return Err(Malformed::Version);
        }
        if b.len() < HEADER_LEN {
            return Err(Malformed::Short);
        }
        if HEADER_LEN + usize::from(read_u16(b, PAYLOAD_LEN)) > b.len() {
            return Err(Malformed::Truncated);
        }
        Ok(Self { bytes })
    }

    /// A view over bytes whose lengths the caller has proved, or is about to write. Fields are then
    /// read and set without a check; one that lies outside the bytes panics.
    #[inline]
    pub fn trusted(bytes: T) -> Self {
        Self { bytes }
    }

    fn b(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// The packet, trimmed to its own length.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.b()[..self.total_len()]
    }

    /// Header and payload, bytes.
    #[inline]
    pub fn total_len(&self) -> usize {
        HEADER_LEN + usize::from(read_u16(self.b(), PAYLOAD_LEN))
    }

    /// DSCP and ECN octet.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (read_u16(self.b(), 0) >> 4) as u8
    }

    /// Number of what follows the fixed header.
    #[inline]
    pub fn next_header(&self) -> u8 {
        self.b()[NEXT_HEADER]
    }

    /// Hops left.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.b()[HOP_LIMIT]
    }

    /// Source address.
    #[inline]
    pub fn source(&self) -> Ipv6Addr {
        address(self.b(), SOURCE)
    }

    /// Destination address.
    #[inline]
    pub fn destination(&self) -> Ipv6Addr {
        address(self.b(), DESTINATION)
    }

    /// [`upper_layer`] of this packet.
    pub fn upper_layer(&self) -> Option<(u8, usize)> {
        upper_layer(&self.b()[..self.total_len()])
    }

    /// The fixed header.
    #[inline]
    pub fn header(&self) -> &[u8] {
        &self.b()[..HEADER_LEN]
    }

    /// What follows the fixed header, trimmed to the payload length.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.b()[HEADER_LEN..self.total_len()]
    }

    /// The pseudo-header sum of a transport checksum over `len` bytes of header and payload.
    #[inline]
    pub fn pseudo_sum(&self, len: u32) -> Sum {
        Sum::default().pseudo_v6(self.source(), self.destination(), self.next_header(), len)
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Sets the payload length, bytes after the fixed header.
    #[inline]
    pub fn set_payload_len(&mut self, len: u16) {
        self.bytes.as_mut()[PAYLOAD_LEN..PAYLOAD_LEN + 2].copy_from_slice(&len.to_be_bytes());
    }

    /// Takes one hop off; returns the hops left. A packet that arrives with none is left as it is.
    #[inline]
    pub fn decrement_hop_limit(&mut self) -> u8 {
        let hops = &mut self.bytes.as_mut()[HOP_LIMIT];
        *hops = hops.saturating_sub(1);
        *hops
    }

    /// Sets the ECN codepoint.
    #[inline]
    pub fn set_ecn(&mut self, ecn: super::Ecn) {
        let octet = &mut self.bytes.as_mut()[1];
        *octet = (*octet & !0x30) | ((ecn as u8) << 4);
    }
}

/// The fixed header, as numbers; the flow label is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// DSCP and ECN octet.
    pub traffic_class: u8,
    /// Number of what follows the header.
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// Bytes behind the header.
    pub payload_len: u16,
}

impl Repr {
    /// Writes the header to the first [`HEADER_LEN`] bytes.
    ///
    /// # Panics
    /// When there are fewer bytes.
    pub fn emit(&self, bytes: &mut [u8]) {
        let first = 0x6000_0000 | u32::from(self.traffic_class) << 20;
        let bytes = &mut bytes[..HEADER_LEN];
        bytes[..PAYLOAD_LEN].copy_from_slice(&first.to_be_bytes());
        bytes[PAYLOAD_LEN..NEXT_HEADER].copy_from_slice(&self.payload_len.to_be_bytes());
        bytes[NEXT_HEADER] = self.next_header;
        bytes[HOP_LIMIT] = self.hop_limit;
        bytes[SOURCE..DESTINATION].copy_from_slice(&self.source.octets());
        bytes[DESTINATION..].copy_from_slice(&self.destination.octets());
    }
}

fn address(b: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&b[at..at + 16]);
    Ipv6Addr::from(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet with this chain of next-header numbers, each behind options of 8 bytes.
    fn chain(numbers: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60; HEADER_LEN + 8 * (numbers.len() - 1)];
        packet[NEXT_HEADER] = numbers[0];
        for (index, next) in numbers[1..].iter().enumerate() {
            packet[HEADER_LEN + 8 * index..][..2].copy_from_slice(&[*next, 0]);
        }
        packet
    }

    #[test]
    fn options_are_looked_behind_and_nothing_else() {
        const ROUTING: u8 = 43;
        use protocol::{DESTINATION_OPTIONS, HOP_BY_HOP, TCP};

        assert_eq!(upper_layer(&chain(&[TCP])), Some((TCP, 40)));
        let options = chain(&[HOP_BY_HOP, DESTINATION_OPTIONS, TCP]);
        assert_eq!(upper_layer(&options), Some((TCP, 56)));
        assert_eq!(upper_layer(&chain(&[HOP_BY_HOP, ROUTING, TCP])), Some((ROUTING, 48)));
        assert_eq!(upper_layer(&options[..55]), None, "it ends before");
        assert_eq!(upper_layer(&options[..41]), None);
        assert_eq!(upper_layer(&[]), None);
    }
}
