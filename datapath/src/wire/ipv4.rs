//! IPv4 (RFC 791).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! |Version|  IHL  |      TOS      |          Total Length         |
//! |         Identification        |Flags|     Fragment Offset     |
//! |      TTL      |   Protocol    |        Header Checksum        |
//! |                         Source Address                        |
//! |                      Destination Address                      |
//! |                    Options (IHL > 5)                          |
//! ```

use super::checksum::{self, Sum};
use super::{Malformed, read_u16};
use core::net::Ipv4Addr;

/// The header without options, bytes.
pub const HEADER_LEN: usize = 20;
/// The MTU that every link has at least, bytes (RFC 791).
pub const MIN_MTU: u16 = 68;

const TOS: usize = 1;
const TOTAL_LEN: usize = 2;
const ID: usize = 4;
const FRAGMENT: usize = 6;
const TTL: usize = 8;
const PROTOCOL: usize = 9;
const CHECKSUM: usize = 10;
/// Offset of the source address.
pub const SOURCE: usize = 12;
/// Offset of the destination address.
pub const DESTINATION: usize = 16;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// An IPv4 packet whose lengths are consistent: header within total length within bytes.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Packet<T> {
    /// Checks version and lengths; the header checksum is [`Packet::checksum_is_valid`]'s matter.
    ///
    /// # Errors
    /// [`Malformed`], in the order of the fields.
    #[inline]
    pub fn parse(bytes: T) -> Result<Self, Malformed> {
        let b = bytes.as_ref();
        if b.len() < HEADER_LEN {
            return Err(Malformed::Short);
        }
        if b[0] >> 4 != 4 {
            return Err(Malformed::Version);
        }
        let header_len = usize::from(b[0] & 0x0f) * 4;
        if header_len < HEADER_LEN || header_len > b.len() {
            return Err(Malformed::HeaderLength);
        }
        let total_len = usize::from(read_u16(b, TOTAL_LEN));
        if total_len < header_len {
            return Err(Malformed::TotalLength);
        }
        if total_len > b.len() {
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

    /// Header with options, bytes (20 to 60).
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.b()[0] & 0x0f) * 4
    }

    /// Header and payload, bytes; what lies beyond is not part of the packet.
    #[inline]
    pub fn total_len(&self) -> usize {
        usize::from(read_u16(self.b(), TOTAL_LEN))
    }

    /// DSCP and ECN octet.
    #[inline]
    pub fn tos(&self) -> u8 {
        self.b()[TOS]
    }

    /// Identification.
    #[inline]
    pub fn id(&self) -> u16 {
        read_u16(self.b(), ID)
    }

    /// DF: routers must not fragment.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        read_u16(self.b(), FRAGMENT) & DONT_FRAGMENT != 0
    }

    /// Whether this is a piece of a larger packet: MF set or offset above zero.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        read_u16(self.b(), FRAGMENT) & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    /// Whether the payload begins with the transport's header: no fragment, or the first one.
    #[inline]
    pub fn begins_datagram(&self) -> bool {
        read_u16(self.b(), FRAGMENT) & OFFSET_MASK == 0
    }

    /// Hops left.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.b()[TTL]
    }

    /// Number of the payload's protocol, see [`super::protocol`].
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.b()[PROTOCOL]
    }

    /// Header checksum as it stands in the packet.
    #[inline]
    pub fn checksum(&self) -> u16 {
        read_u16(self.b(), CHECKSUM)
    }

    /// Source address.
    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        let b = self.b();
        Ipv4Addr::new(b[SOURCE], b[SOURCE + 1], b[SOURCE + 2], b[SOURCE + 3])
    }

    /// Destination address.
    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        let b = self.b();
        Ipv4Addr::new(b[DESTINATION], b[DESTINATION + 1], b[DESTINATION + 2], b[DESTINATION + 3])
    }

    /// The header, options included.
    #[inline]
    pub fn header(&self) -> &[u8] {
        &self.b()[..self.header_len()]
    }

    /// The payload, trimmed to the total length.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.b()[self.header_len()..self.total_len()]
    }

    /// Whether the header sums to zero with its checksum.
    #[inline]
    pub fn checksum_is_valid(&self) -> bool {
        Sum::default().bytes(self.header()).finish() == 0
    }

    /// The pseudo-header sum of a transport checksum over `len` bytes of header and payload.
    #[inline]
    pub fn pseudo_sum(&self, len: u16) -> Sum {
        Sum::default().pseudo_v4(self.source(), self.destination(), self.protocol(), len)
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    fn set_u16(&mut self, at: usize, value: u16) {
        self.bytes.as_mut()[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }

    /// Sets the total length; the checksum is left to [`Packet::fill_checksum`].
    #[inline]
    pub fn set_total_len(&mut self, len: u16) {
        self.set_u16(TOTAL_LEN, len);
    }

    /// Sets the identification; the checksum is left to [`Packet::fill_checksum`].
    #[inline]
    pub fn set_id(&mut self, id: u16) {
        self.set_u16(ID, id);
    }

    /// Takes one hop off and patches the checksum as flannel's proxy does (RFC 1624); returns the
    /// hops left. A packet that arrives with TTL 0 is left as it is.
    #[inline]
    pub fn decrement_ttl(&mut self) -> u8 {
        let old = read_u16(self.b(), TTL);
        if old >> 8 == 0 {
            return 0;
        }
        let new = old - 0x0100;
        let patched = checksum::update(self.checksum(), old, new);
        self.set_u16(TTL, new);
        self.set_u16(CHECKSUM, patched);
        (new >> 8) as u8
    }

    /// Sets the ECN codepoint and patches the checksum.
    #[inline]
    pub fn set_ecn(&mut self, ecn: super::Ecn) {
        let old = read_u16(self.b(), 0);
        let new = (old & !0b11) | ecn as u16;
        let patched = checksum::update(self.checksum(), old, new);
        self.set_u16(0, new);
        self.set_u16(CHECKSUM, patched);
    }

    /// Computes the header checksum anew.
    #[inline]
    pub fn fill_checksum(&mut self) {
        self.set_u16(CHECKSUM, 0);
        let sum = Sum::default().bytes(self.header()).finish();
        self.set_u16(CHECKSUM, sum);
    }
}

/// A header without options, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// DSCP and ECN octet.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// DF: routers must not fragment.
    pub dont_fragment: bool,
    /// Hops left.
    pub ttl: u8,
    /// Number of the payload's protocol.
    pub protocol: u8,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Bytes behind the header.
    pub payload_len: u16,
}

impl Repr {
    /// Writes the header to the first [`HEADER_LEN`] bytes, its checksum included.
    ///
    /// # Panics
    /// When there are fewer bytes.
    pub fn emit(&self, bytes: &mut [u8]) {
        let mut packet = Packet::trusted(&mut bytes[..HEADER_LEN]);
        packet.set_u16(0, 0x4500 | u16::from(self.tos));
        packet.set_total_len(HEADER_LEN as u16 + self.payload_len);
        packet.set_id(self.id);
        packet.set_u16(FRAGMENT, if self.dont_fragment { DONT_FRAGMENT } else { 0 });
        packet.set_u16(TTL, u16::from_be_bytes([self.ttl, self.protocol]));
        packet.bytes[SOURCE..DESTINATION].copy_from_slice(&self.source.octets());
        packet.bytes[DESTINATION..].copy_from_slice(&self.destination.octets());
        packet.fill_checksum();
    }
}
