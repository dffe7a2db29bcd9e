//! UDP (RFC 768).
//!
//! ```text
//! |          Source Port          |       Destination Port        |
//! |            Length             |           Checksum            |
//! ```

use super::{Malformed, read_u16};

/// The header, bytes.
pub const HEADER_LEN: usize = 8;
/// The checksum's offset within the header, bytes.
pub const CHECKSUM_OFFSET: usize = 6;
/// The longest payload that one datagram over IPv4 carries, bytes: what its 16-bit total length
/// leaves beside both headers.
pub const MAX_PAYLOAD: u16 = u16::MAX - 20 - HEADER_LEN as u16;

const LENGTH: usize = 4;

/// A UDP datagram whose length field lies within its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Datagram<T> {
    /// Checks the lengths.
    ///
    /// # Errors
    /// [`Malformed::Short`], [`Malformed::TotalLength`] or [`Malformed::Truncated`].
    #[inline]
    pub fn parse(bytes: T) -> Result<Self, Malformed> {
        let b = bytes.as_ref();
        if b.len() < HEADER_LEN {
            return Err(Malformed::Short);
        }
        let len = usize::from(read_u16(b, LENGTH));
        if len < HEADER_LEN {
            return Err(Malformed::TotalLength);
        }
        if len > b.len() {
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

    /// Header and payload, bytes.
    #[inline]
    pub fn length(&self) -> u16 {
        read_u16(self.b(), LENGTH)
    }

    /// Checksum as it stands in the datagram; 0 means that the sender computed none.
    #[inline]
    pub fn checksum(&self) -> u16 {
        read_u16(self.b(), CHECKSUM_OFFSET)
    }

    /// The header.
    #[inline]
    pub fn header(&self) -> &[u8] {
        &self.b()[..HEADER_LEN]
    }

    /// The data, trimmed to the length field.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.b()[HEADER_LEN..usize::from(self.length())]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Datagram<T> {
    /// Sets the length field, header and payload, bytes.
    #[inline]
    pub fn set_length(&mut self, length: u16) {
        self.bytes.as_mut()[LENGTH..LENGTH + 2].copy_from_slice(&length.to_be_bytes());
    }

    /// Sets the checksum as given; a computed 0 must be stored as 0xffff (RFC 768), see
    /// [`nonzero`].
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        self.bytes.as_mut()[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2]
            .copy_from_slice(&checksum.to_be_bytes());
    }
}

/// A header, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Header and payload, bytes.
    pub length: u16,
}

impl Repr {
    /// Writes the header to the first [`HEADER_LEN`] bytes; its checksum is 0, which means "none"
    /// over IPv4.
    ///
    /// # Panics
    /// When there are fewer bytes.
    pub fn emit(&self, bytes: &mut [u8]) {
        let bytes = &mut bytes[..HEADER_LEN];
        bytes[..2].copy_from_slice(&self.source_port.to_be_bytes());
        bytes[2..LENGTH].copy_from_slice(&self.destination_port.to_be_bytes());
        bytes[LENGTH..CHECKSUM_OFFSET].copy_from_slice(&self.length.to_be_bytes());
        bytes[CHECKSUM_OFFSET..].fill(0);
    }
}

/// The form in which a computed checksum is transmitted: 0 would mean "none", so it becomes its
/// other form, 0xffff.
#[inline]
#[must_use]
pub const fn nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}
