//! Many datagrams per system call: recvmmsg(2), sendmmsg(2), and writev(2) by raw `iovec`s.
//!
//! The first two are called by number: musl's `sendmmsg` makes one call for each datagram, because its
//! headers may have garbage where the kernel's fields are wider. Headers here start as zeroes.
#![allow(unsafe_code, reason = "message headers hold pointers")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Receives into as many headers as datagrams are there, at least one; returns how many.
///
/// # Safety
/// Every pointer in every header is valid for writes of the length beside it and nothing else uses
/// that memory during the call.
///
/// # Errors
/// The kernel's; `WouldBlock` when nothing is there.
pub unsafe fn receive(socket: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    // SAFETY: the slice is valid for its length; the caller vouches for what the headers point at.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_recvmmsg,
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut::<libc::timespec>(),
        )
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc as usize) }
}

/// Sends headers in order and returns how many were taken; an error is that of the first one.
///
/// # Safety
/// Every pointer in every header is valid for reads of the length beside it.
///
/// # Errors
/// The kernel's, for the first header.
pub unsafe fn send(socket: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    // SAFETY: the slice is valid for its length; the caller vouches for what the headers point at.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_sendmmsg,
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            libc::MSG_DONTWAIT,
        )
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc as usize) }
}

/// Writes one packet from scattered bytes.
///
/// # Safety
/// Every `iovec` is valid for reads of its length.
///
/// # Errors
/// The kernel's.
pub unsafe fn write(device: BorrowedFd<'_>, pieces: &[libc::iovec]) -> io::Result<usize> {
    // SAFETY: the slice is valid for its length; the caller vouches for what it points at.
    let rc =
        unsafe { libc::writev(device.as_raw_fd(), pieces.as_ptr(), pieces.len() as libc::c_int) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc as usize) }
}
