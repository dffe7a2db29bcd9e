//! What the kernel knows of the path to a peer.

use crate::sys::sockopt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

/// A path through the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Its MTU, bytes: the route's, or what ICMP taught the kernel.
    pub mtu: u16,
    /// The address of ours that it begins at; the destination's own when that is ours too.
    pub source: IpAddr,
}

/// The path to an address (`IP_MTU` and `getsockname` of a connected socket; nothing is sent).
///
/// # Errors
/// The kernel's: no route, no socket.
pub fn path_to(to: SocketAddr) -> io::Result<Path> {
    let (any, level, option): (SocketAddr, _, _) = match to {
        SocketAddr::V4(_) => ((Ipv4Addr::UNSPECIFIED, 0).into(), libc::IPPROTO_IP, libc::IP_MTU),
        SocketAddr::V6(_) => {
            ((Ipv6Addr::UNSPECIFIED, 0).into(), libc::IPPROTO_IPV6, libc::IPV6_MTU)
        }
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    let mtu = sockopt::int(socket.as_fd(), level, option)?;
    let source = socket.local_addr()?.ip();
    Ok(Path { mtu: u16::try_from(mtu).unwrap_or(u16::MAX), source })
}

/// An address of a family to which only the default route leads (RFC 5737, RFC 3849).
#[must_use]
pub fn anywhere(family: SocketAddr) -> SocketAddr {
    match family {
        SocketAddr::V4(_) => (Ipv4Addr::new(198, 51, 100, 1), 9).into(),
        SocketAddr::V6(_) => (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into(),
    }
}
