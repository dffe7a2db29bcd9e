//! Socket options whose value is an `int`, and filters.
#![allow(unsafe_code, reason = "socket options that socket2 does not have")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets an option (setsockopt(2)).
///
/// # Errors
/// The kernel's.
pub fn set_int(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the kernel reads one `int` and keeps no pointer to it.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Reads an option (getsockopt(2)).
///
/// # Errors
/// The kernel's.
pub fn int(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `value`, and the new `len`.
    let rc = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut len)
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// A number that no other network namespace has until the next boot, of the one that a socket is in
/// (`SO_NETNS_COOKIE`, Linux 5.14).
///
/// # Errors
/// The kernel's.
#[cfg(feature = "fast-path")]
pub(crate) fn network_namespace(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut value = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `value`, and the new `len`.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// One instruction of a classic BPF program.
pub use libc::sock_filter as Instruction;

/// Lets a program choose the socket of a reuseport group for each datagram
/// (`SO_ATTACH_REUSEPORT_CBPF`).
///
/// # Errors
/// The kernel's, which checks the program.
pub(crate) fn attach_to_group(socket: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies `len` instructions, which the slice has, and writes none.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
