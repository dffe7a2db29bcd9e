//! Sending packets in the host's own name.
//!
//! A packet that is written to the TUN device with one of the host's own addresses as its source is
//! a martian to the kernel (`fib_validate_source`): it is dropped, unless the device's
//! `accept_local` is set, and then every peer's packet may carry such a source. The same packet
//! from a raw socket simply is the host's.

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Raw sockets for whole packets (`IPPROTO_RAW`, raw(7)). The kernel writes an IPv4 packet's
/// checksum, and its identification if that is 0.
#[derive(Debug)]
pub struct Originator {
    v4: Socket,
    /// Missing where the kernel has no IPv6.
    v6: Option<Socket>,
}

impl Originator {
    /// Opens the sockets; needs CAP_NET_RAW.
    ///
    /// # Errors
    /// What the kernel answers, EPERM above all.
    pub fn open() -> io::Result<Self> {
        let open = |domain| {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
            socket.set_nonblocking(true)?;
            io::Result::Ok(socket)
        };
        Ok(Self { v4: open(Domain::IPV4)?, v6: open(Domain::IPV6).ok() })
    }

    /// Sends one packet, headers and all, to the destination that it names.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] when the bytes are no packet, or what the kernel answers.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        let to = destination(packet).ok_or(io::ErrorKind::InvalidInput)?;
        let socket = match to {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?,
        };
        socket.send_to(packet, &SockAddr::from(SocketAddr::new(to, 0)))?;
        Ok(())
    }
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => {
            let octets: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some(IpAddr::V4(Ipv4Addr::from(octets)))
        }
        6 => {
            let octets: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            Some(IpAddr::V6(Ipv6Addr::from(octets)))
        }
        _ => None,
    }
}
