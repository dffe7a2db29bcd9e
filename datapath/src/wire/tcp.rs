//! TCP (RFC 9293), the header.
//!
//! ```text
//! |          Source Port          |       Destination Port        |
//! |                        Sequence Number                        |
//! |                    Acknowledgment Number                      |
//! | Offset| Rsrvd |C|E|U|A|P|R|S|F|            Window             |
//! |           Checksum            |         Urgent Pointer        |
//! |                    Options (Offset > 5)                       |
//! ```

use super::{Malformed, read_u16, read_u32};

/// The header without options, bytes.
pub const HEADER_LEN: usize = 20;
/// The checksum's offset within the header, bytes.
pub const CHECKSUM_OFFSET: usize = 16;

const SEQUENCE: usize = 4;
const DATA_OFFSET: usize = 12;
const FLAGS: usize = 13;

/// Control bits, the header's fourteenth octet.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push function.
    pub const PSH: u8 = 0x08;
    /// The acknowledgment field is significant.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is significant.
    pub const URG: u8 = 0x20;
    /// ECN echo (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// A TCP segment whose data offset lies within its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Segment<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Segment<T> {
    /// Checks the lengths.
    ///
    /// # Errors
    /// [`Malformed::Short`] or [`Malformed::HeaderLength`].
    #[inline]
    pub fn parse(bytes: T) -> Result<Self, Malformed> {
        let b = bytes.as_ref();
        if b.len() < HEADER_LEN {
            return Err(Malformed::Short);
        }
        let header_len = usize::from(b[DATA_OFFSET] >> 4) * 4;
        if header_len < HEADER_LEN || header_len > b.len() {
            return Err(Malformed::HeaderLength);
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

    /// Sequence number of the first payload byte.
    #[inline]
    pub fn sequence(&self) -> u32 {
        read_u32(self.b(), SEQUENCE)
    }

    /// Header with options, bytes (20 to 60).
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.b()[DATA_OFFSET] >> 4) * 4
    }

    /// Control bits, see [`flags`].
    #[inline]
    pub fn flags(&self) -> u8 {
        self.b()[FLAGS]
    }

    /// Checksum as it stands in the segment.
    #[inline]
    pub fn checksum(&self) -> u16 {
        read_u16(self.b(), CHECKSUM_OFFSET)
    }

    /// The header, options included.
    #[inline]
    pub fn header(&self) -> &[u8] {
        &self.b()[..self.header_len()]
    }

    /// The data.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.b()[self.header_len()..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Segment<T> {
    /// Sets the sequence number.
    #[inline]
    pub fn set_sequence(&mut self, sequence: u32) {
        self.bytes.as_mut()[SEQUENCE..SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
    }

    /// Sets the control bits.
    #[inline]
    pub fn set_flags(&mut self, flags: u8) {
        self.bytes.as_mut()[FLAGS] = flags;
    }

    /// Sets the checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        self.bytes.as_mut()[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2]
            .copy_from_slice(&checksum.to_be_bytes());
    }
}

/// A header without options, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number of the first payload byte.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// Control bits, see [`flags`].
    pub flags: u8,
    /// Window.
    pub window: u16,
}

impl Repr {
    /// Writes the header to the first [`HEADER_LEN`] bytes; its checksum and its urgent pointer are
    /// 0.
    ///
    /// # Panics
    /// When there are fewer bytes.
    pub fn emit(&self, bytes: &mut [u8]) {
        let offset = (HEADER_LEN as u8 / 4) << 4;
        let bytes = &mut bytes[..HEADER_LEN];
        bytes[..2].copy_from_slice(&self.source_port.to_be_bytes());
        bytes[2..SEQUENCE].copy_from_slice(&self.destination_port.to_be_bytes());
        bytes[SEQUENCE..8].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[8..DATA_OFFSET].copy_from_slice(&self.acknowledgment.to_be_bytes());
        bytes[DATA_OFFSET..14].copy_from_slice(&[offset, self.flags]);
        bytes[14..CHECKSUM_OFFSET].copy_from_slice(&self.window.to_be_bytes());
        bytes[CHECKSUM_OFFSET..].fill(0);
    }
}
