//! Opening a tunnel socket.

use super::buffer::{set_receive_buffer, set_send_buffer};
use crate::sys::{address, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The socket to open.
#[derive(Clone, Copy, Debug)]
pub struct SocketSpec {
    /// Address and port to bind; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// Share the address with the gateway's other sockets (`SO_REUSEPORT`).
    pub shared: bool,
    /// Receive several datagrams at once (`UDP_GRO`).
    pub gro: bool,
    /// Size of the receive and the send buffer, bytes; the kernel doubles it for its own books.
    pub buffer: u32,
}

/// Whether the kernel may cut a datagram into IP fragments on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragmentation {
    /// Never: the outer packet has DF set, and one that is too long fails with EMSGSIZE, so that
    /// the inner sender can be told (RFC 8900).
    Refused,
    /// When it is longer than the path's MTU, as flannel's socket does.
    Allowed,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The address cannot be had.
    #[error("binding UDP {listen}: {source}: {cure}")]
    Bind {
        /// The address asked for.
        listen: SocketAddr,
        /// What came back.
        source: io::Error,
        /// What to do.
        cure: &'static str,
    },
    /// An option that twill cannot do without was refused.
    #[error("setting {option} on UDP {listen}: {source}")]
    Option {
        /// The option.
        option: &'static str,
        /// The socket's address.
        listen: SocketAddr,
        /// What came back.
        source: io::Error,
    },
}

impl SocketError {
    /// Whether the address is taken.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }
}

/// Fails when anybody has the address, with or without `SO_REUSEPORT`: a socket without the option
/// cannot be bound beside any other.
///
/// # Errors
/// [`SocketError::Bind`].
pub fn check_free(listen: SocketAddr) -> Result<(), SocketError> {
    let free = || {
        let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
        if listen.is_ipv6() {
            socket.set_only_v6(!has_both_families(listen))?;
        }
        socket.bind(&listen.into())
    };
    free().map_err(|source| cannot_bind(listen, source))
}

/// Whether sockets at an address send and receive by both IP families: those at `[::]` do, with
/// IPv4-mapped addresses (RFC 3493 section 3.7).
#[must_use]
pub(crate) fn has_both_families(listen: SocketAddr) -> bool {
    listen.is_ipv6() && listen.ip().is_unspecified()
}

/// Opens and binds a socket with all its options set.
///
/// # Errors
/// [`SocketError`].
pub fn open(spec: &SocketSpec) -> Result<OwnedFd, SocketError> {
    let listen = spec.listen;
    let option = |option| move |source| SocketError::Option { option, listen, source };

    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))
        .map_err(|source| cannot_bind(listen, source))?;
    socket.set_nonblocking(true).map_err(option("O_NONBLOCK"))?;
    if spec.shared {
        socket.set_reuse_port(true).map_err(option("SO_REUSEPORT"))?;
    }
    set_receive_buffer(socket.as_fd(), spec.buffer).map_err(option("SO_RCVBUF"))?;
    set_send_buffer(socket.as_fd(), spec.buffer).map_err(option("SO_SNDBUF"))?;
    let fd = socket.as_fd();
    if listen.is_ipv6() {
        socket.set_only_v6(!has_both_families(listen)).map_err(option("IPV6_V6ONLY"))?;
        socket.set_recv_tclass_v6(true).map_err(option("IPV6_RECVTCLASS"))?;
        set_fragmentation(fd, true, Fragmentation::Refused).map_err(option("IPV6_MTU_DISCOVER"))?;
    }
    // A socket of IPv6 has the options of IPv4 for its datagrams of that family.
    if listen.is_ipv4() || has_both_families(listen) {
        socket.set_recv_tos_v4(true).map_err(option("IP_RECVTOS"))?;
        set_fragmentation(fd, false, Fragmentation::Refused).map_err(option("IP_MTU_DISCOVER"))?;
    }
    sockopt::set_int(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)
        .map_err(option("SO_TIMESTAMPNS"))?;
    sockopt::set_int(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1).map_err(option("SO_RXQ_OVFL"))?;
    if spec.gro {
        sockopt::set_int(fd, libc::SOL_UDP, libc::UDP_GRO, 1).map_err(option("UDP_GRO"))?;
    }
    socket.bind(&listen.into()).map_err(|source| cannot_bind(listen, source))?;
    Ok(socket.into())
}

/// Opens the first socket of a gateway; those that share its address follow by [`open`].
///
/// Sockets that are bound with `SO_REUSEPORT` would let a second instance of the same user in
/// silently. So the first is bound without the option, which excludes whoever has the address by
/// then, and gets it afterwards: nobody else's first socket can be bound any more, and our own next
/// one makes the group, with this one as its first member (`reuseport_add_sock`).
///
/// # Errors
/// [`SocketError`].
pub fn open_first(spec: &SocketSpec) -> Result<OwnedFd, SocketError> {
    let socket = Socket::from(open(&SocketSpec { shared: false, ..*spec })?);
    if spec.shared {
        let refused =
            |source| SocketError::Option { option: "SO_REUSEPORT", listen: spec.listen, source };
        socket.set_reuse_port(true).map_err(refused)?;
    }
    Ok(socket.into())
}

/// Whether sockets here receive several datagrams at once; some containers' kernels do not.
///
/// # Errors
/// What the kernel says to `UDP_GRO`.
pub(crate) fn probe_gro() -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    sockopt::set_int(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Changes whether datagrams that are longer than the path's MTU are fragmented or refused.
///
/// # Errors
/// The kernel's.
pub(crate) fn set_fragmentation(
    socket: BorrowedFd<'_>,
    ipv6: bool,
    fragmentation: Fragmentation,
) -> io::Result<()> {
    let (level, option) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
    };
    let value = match fragmentation {
        Fragmentation::Refused => libc::IP_PMTUDISC_DO,
        Fragmentation::Allowed => libc::IP_PMTUDISC_WANT,
    };
    sockopt::set_int(socket, level, option, value)
}

fn cannot_bind(listen: SocketAddr, source: io::Error) -> SocketError {
    let cure = address::bind_cure(&source).unwrap_or("see `twill doctor`");
    SocketError::Bind { listen, source, cure }
}
