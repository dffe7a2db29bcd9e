//! How much a socket may hold.

use crate::sys::sockopt;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Sets the receive buffer, bytes: beyond `net.core.rmem_max` with CAP_NET_ADMIN, up to it without. The
/// kernel doubles it for its own books.
///
/// # Errors
/// The kernel's.
pub(super) fn set_receive_buffer(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    set(socket, [libc::SO_RCVBUFFORCE, libc::SO_RCVBUF], bytes)
}

/// Sets the send buffer, as [`set_receive_buffer`] does the other (`net.core.wmem_max`).
///
/// # Errors
/// The kernel's.
pub(crate) fn set_send_buffer(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    set(socket, [libc::SO_SNDBUFFORCE, libc::SO_SNDBUF], bytes)
}

fn set(socket: BorrowedFd<'_>, [force, ask]: [libc::c_int; 2], bytes: u32) -> io::Result<()> {
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
    sockopt::set_int(socket, libc::SOL_SOCKET, force, bytes)
        .or_else(|_| sockopt::set_int(socket, libc::SOL_SOCKET, ask, bytes))
}

/// Sets both buffers of a socket that is open already. A send buffer that was enlarged since stays.
pub(crate) fn set_buffers(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    set_receive_buffer(socket, bytes)?;
    if send_buffer(socket) / 2 < bytes { set_send_buffer(socket, bytes) } else { Ok(()) }
}

/// The send buffer as the kernel counts it, bytes.
pub(crate) fn send_buffer(socket: BorrowedFd<'_>) -> u32 {
    let bytes = sockopt::int(socket, libc::SOL_SOCKET, libc::SO_SNDBUF);
    bytes.ok().and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or_default()
}

/// Waits until a socket holds less than half of its send buffer (`sock_writeable`); whether it does.
pub(crate) fn wait_for_room(socket: BorrowedFd<'_>, at_most: Duration) -> bool {
    let timeout = Timespec { tv_sec: 0, tv_nsec: at_most.subsec_nanos().into() };
    let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::OUT)];
    matches!(poll(&mut fds, Some(&timeout)), Ok(1..))
}
