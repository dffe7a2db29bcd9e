//! Queues of a device that is there: more of them, fewer, and which packets go where.

use super::TunError;
use super::device::{open_queue, set_header_format};
use crate::sys::ioctl;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Whether the device of a queue can have several: it was created for several.
#[must_use]
pub fn has_room_for_queues(queue: BorrowedFd<'_>) -> bool {
    ioctl::interface_flags(queue).is_ok_and(|flags| flags & libc::IFF_MULTI_QUEUE != 0)
}

/// Opens one more queue of the device that `beside` is one of. It is the last.
///
/// # Errors
/// [`TunError`].
pub fn add_queue(name: &str, beside: BorrowedFd<'_>) -> Result<OwnedFd, TunError> {
    let flags = ioctl::interface_flags(beside).map_err(|source| TunError::create(name, source))?;
    let queue = open_queue()?;
    ioctl::set_interface(queue.as_fd(), name, flags & !libc::IFF_PERSIST)
        .map_err(|source| TunError::create(name, source))?;
    if flags & libc::IFF_VNET_HDR != 0 {
        set_header_format(name, queue.as_fd())?;
    }
    Ok(queue)
}

/// Takes a queue from its device, or gives it back as the last. Packets that wait in it are gone.
///
/// # Errors
/// The kernel's: it is so already.
pub fn set_attached(queue: BorrowedFd<'_>, is_attached: bool) -> io::Result<()> {
    ioctl::set_attached(queue, is_attached)
}

/// Has a program choose the queue of each packet from now on, or the driver if there is none.
///
/// # Errors
/// The kernel's.
pub fn steer(queue: BorrowedFd<'_>, program: Option<BorrowedFd<'_>>) -> io::Result<()> {
    ioctl::set_steering(queue, program)
}
