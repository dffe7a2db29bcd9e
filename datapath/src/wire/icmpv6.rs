//! ICMP for IPv6 (RFC 4443), the messages that a tunnel end point originates or must recognise.

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
    /// Redirect (RFC 4861), which must not cause an error either.
    pub const REDIRECT: u8 = 137;
}
