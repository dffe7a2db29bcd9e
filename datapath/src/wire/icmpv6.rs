//! ICMP for IPv6 (RFC 4443), the messages that a tunnel end point originates or must recognise.
//!
//! ```text
//! |     Type      |     Code      |           Checksum            |
//! |              depends on the type and the code                 |
//! |                          payload                              |
//! ```

use super::checksum::Sum;
use super::protocol;
use super::{Malformed, read_u16};
use core::net::Ipv6Addr;

/// The header before the quoted packet, bytes.
pub const HEADER_LEN: usize = 8;

/// Message types.
pub mod kind {
    /// Destination unreachable; code 0 is "no route to destination".
    pub const UNREACHABLE: u8 = 1;
    /// Packet too big; carries the next hop's MTU.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Time exceeded; code 0 is "hop limit exceeded in transit".
    pub const TIME_EXCEEDED: u8 = 3;
    /// The first informational type: all below are errors.
    pub const FIRST_INFORMATIONAL: u8 = 128;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Redirect (RFC 4861), which must not cause an error either.
    pub const REDIRECT: u8 = 137;
}

const CODE: usize = 1;
const CHECKSUM: usize = 2;
const REST: usize = 4;

/// A message that has all of its header.
#[derive(Clone, Copy, Debug)]
pub struct Message<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Message<T> {
    /// Checks the length.
    ///
    /// # Errors
    /// [`Malformed::Short`].
    pub fn parse(bytes: T) -> Result<Self, Malformed> {
        if bytes.as_ref().len() < HEADER_LEN { Err(Malformed::Short) } else { Ok(Self { bytes }) }
    }

    /// The type, see [`kind`].
    pub fn kind(&self) -> u8 {
        self.bytes.as_ref()[0]
    }

    /// The code.
    pub fn code(&self) -> u8 {
        self.bytes.as_ref()[CODE]
    }

    /// Checksum as it stands in the message.
    pub fn checksum(&self) -> u16 {
        read_u16(self.bytes.as_ref(), CHECKSUM)
    }

    /// The header's second word: its meaning depends on the type and the code.
    pub fn rest(&self) -> [u8; 4] {
        let b = self.bytes.as_ref();
        [b[REST], b[REST + 1], b[REST + 2], b[REST + 3]]
    }

    /// What follows the header.
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[HEADER_LEN..]
    }
}

/// A header, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// The type, see [`kind`].
    pub kind: u8,
    /// The code.
    pub code: u8,
    /// The header's second word.
    pub rest: [u8; 4],
}

impl Repr {
    /// Writes the header before the payload, which is there already, and the checksum over both.
    ///
    /// # Panics
    /// When there are fewer than [`HEADER_LEN`] bytes.
    pub fn emit(&self, message: &mut [u8], source: Ipv6Addr, destination: Ipv6Addr) {
        let len = message.len() as u32;
        let pseudo = Sum::default().pseudo_v6(source, destination, protocol::ICMPV6, len);
        message[..CHECKSUM].copy_from_slice(&[self.kind, self.code]);
        message[CHECKSUM..REST].fill(0);
        message[REST..HEADER_LEN].copy_from_slice(&self.rest);
        let checksum = pseudo.bytes(message).finish();
        message[CHECKSUM..REST].copy_from_slice(&checksum.to_be_bytes());
    }
}
