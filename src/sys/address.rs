//! Socket addresses as the kernel writes them, read without trusting their length; and what to do
//! about one that cannot be had.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of the longest address that a UDP socket reports, `sockaddr_in6`.
pub const LEN: usize = size_of::<libc::sockaddr_in6>();

/// Reads a `sockaddr_in` or `sockaddr_in6`; the port and the IPv4 address are in network order.
#[inline]
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]);
    let port = u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]);
    match i32::from(family) {
        libc::AF_INET => {
            let octets: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some((Ipv4Addr::from(octets), port).into())
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            Some((Ipv6Addr::from(octets), port).into())
        }
        _ => None,
    }
}

/// What to do about an address that cannot be bound, where the error tells.
#[must_use]
pub(crate) fn bind_cure(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            Some("another process has this port: stop it, or listen elsewhere")
        }
        io::ErrorKind::AddrNotAvailable => Some("no interface of this host has this address"),
        io::ErrorKind::PermissionDenied => {
            Some("ports below 1024 need root or CAP_NET_BIND_SERVICE")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        let mut v4 = [0u8; LEN];
        v4[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        v4[2..8].copy_from_slice(&[0x20, 0x5d, 192, 0, 2, 7]);
        let mut v6 = [0u8; LEN];
        v6[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        v6[2..4].copy_from_slice(&[0x20, 0x5d]);
        v6[8..12].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);

        assert_eq!(parse(&v4), "192.0.2.7:8285".parse().ok());
        assert_eq!(parse(&v6), "[2001:db8::]:8285".parse().ok());
        assert_eq!(parse(&v4[..7]), None);
        assert_eq!(parse(&v6[..23]), None);
        assert_eq!(parse(&[0; LEN]), None);
    }
}
