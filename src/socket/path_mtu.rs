//! What the kernel knows of the path to a peer.

use crate::sys::sockopt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

/// The MTU of the path to an address, bytes, from the route and from what ICMP taught the kernel
/// (`IP_MTU` of a connected socket; nothing is sent).
///
/// # Errors
/// The kernel's: no route, no socket.
pub fn path_mtu(to: SocketAddr) -> io::Result<u16> {
    let (any, level, option): (SocketAddr, _, _) = match to {
        SocketAddr::V4(_) => ((Ipv4Addr::UNSPECIFIED, 0).into(), libc::IPPROTO_IP, libc::IP_MTU),
        SocketAddr::V6(_) => {
            ((Ipv6Addr::UNSPECIFIED, 0).into(), libc::IPPROTO_IPV6, libc::IPV6_MTU)
        }
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    let mtu = sockopt::int(socket.as_fd(), level, option)?;
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}
