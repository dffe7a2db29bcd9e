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

/// The path to an address from whatever address of ours it begins at.
///
/// # Errors
/// The kernel has no route, or no descriptor is left.
pub fn path_to(to: SocketAddr) -> io::Result<Path> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    path_between((any, 0).into(), to)
}

/// The path to an address from one of ours, whose port does not matter (`IP_MTU` and `getsockname`
/// of a connected socket; nothing is sent).
///
/// # Errors
/// The kernel's: no route, no socket, no such address.
pub(crate) fn path_between(from: SocketAddr, to: SocketAddr) -> io::Result<Path> {
    let socket = UdpSocket::bind((from.ip(), 0))?;
    socket.connect(to)?;
    let source = socket.local_addr()?.ip();
    Ok(Path { mtu: connected_mtu(&socket, to)?, source })
}

/// A socket that asks for the MTU of one path after another. It is opened once, so that later on no
/// answer needs a free descriptor.
#[derive(Debug)]
pub struct PathAsker(UdpSocket);

impl PathAsker {
    /// Opens it at one of our addresses, where the paths begin.
    ///
    /// # Errors
    /// The kernel's: no socket, no such address.
    pub fn open(from: IpAddr) -> io::Result<Self> {
        UdpSocket::bind((from, 0)).map(Self)
    }

    /// The MTU of the path to an address, bytes.
    ///
    /// # Errors
    /// The kernel's: no route.
    pub fn mtu(&self, to: SocketAddr) -> io::Result<u16> {
        // The address of ours that the last path began at may not be the one of this path.
        rustix::net::connect_unspec(&self.0)?;
        self.0.connect(to)?;
        connected_mtu(&self.0, to)
    }
}

/// The MTU of the path of a connected socket.
fn connected_mtu(socket: &UdpSocket, to: SocketAddr) -> io::Result<u16> {
    let (level, option) = match to {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mtu = sockopt::int(socket.as_fd(), level, option)?;
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}

/// An address of a family to which only the default route leads (RFC 5737, RFC 3849).
#[must_use]
pub(crate) fn anywhere(family: SocketAddr) -> SocketAddr {
    match family {
        SocketAddr::V4(_) => (Ipv4Addr::new(198, 51, 100, 1), 9).into(),
        SocketAddr::V6(_) => (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into(),
    }
}
