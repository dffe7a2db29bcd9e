//! The TUN driver's ioctls (include/uapi/linux/if_tun.h).
#![allow(unsafe_code, reason = "ioctl has no safe form")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Checksum offload: packets may carry partial checksums.
pub const TUN_F_CSUM: u32 = 0x01;
/// TCP over IPv4 super-packets.
pub const TUN_F_TSO4: u32 = 0x02;
/// TCP over IPv6 super-packets.
pub const TUN_F_TSO6: u32 = 0x04;
/// TCP super-packets with CWR.
pub const TUN_F_TSO_ECN: u32 = 0x08;
/// UDP over IPv4 super-packets (Linux 6.2).
pub const TUN_F_USO4: u32 = 0x20;
/// UDP over IPv6 super-packets (Linux 6.2).
pub const TUN_F_USO6: u32 = 0x40;

/// A full queue stops whoever sends into the device, instead of dropping packets (Linux 7.3).
pub const IFF_BACKPRESSURE: i32 = 0x80;

/// `struct ifreq` with the flags member of its union.
#[repr(C)]
struct InterfaceFlags {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceFlags>() == size_of::<libc::ifreq>());

/// Attaches a queue to the device called `name`, which may hold one `%d`; returns the name that
/// the kernel chose (`TUNSETIFF`).
///
/// # Errors
/// The kernel's; `InvalidInput` when the name is longer than 15 bytes.
pub(crate) fn set_interface(queue: BorrowedFd<'_>, name: &str, flags: i32) -> io::Result<String> {
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is longer than 15 bytes"),
        ));
    }
    let mut request =
        InterfaceFlags { name: [0; libc::IFNAMSIZ], flags: flags as libc::c_short, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the kernel reads and writes one `struct ifreq`, whose size `InterfaceFlags` has, and
    // keeps no pointer to it.
    let rc = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    check(rc)?;
    let end = request.name.iter().position(|byte| *byte == 0).unwrap_or(libc::IFNAMSIZ);
    Ok(String::from_utf8_lossy(&request.name[..end]).into_owned())
}

/// The flags of a device that the driver knows, a mask of `IFF_*` (`TUNGETFEATURES`).
///
/// # Errors
/// The kernel's.
pub(crate) fn known_flags(queue: BorrowedFd<'_>) -> io::Result<i32> {
    let mut flags: libc::c_int = 0;
    // SAFETY: the kernel writes one `int` and keeps no pointer to it.
    let rc = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNGETFEATURES, &raw mut flags) };
    check(rc).map(|()| flags)
}

/// The flags of the device that a queue belongs to, a mask of `IFF_*` (`TUNGETIFF`).
///
/// # Errors
/// `EBADFD` when it belongs to none.
pub(crate) fn interface_flags(queue: BorrowedFd<'_>) -> io::Result<i32> {
    let mut request = InterfaceFlags { name: [0; libc::IFNAMSIZ], flags: 0, rest: [0; 22] };
    // SAFETY: the kernel writes one `struct ifreq`, whose size `InterfaceFlags` has, and keeps no
    // pointer to it.
    let rc = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNGETIFF, &raw mut request) };
    check(rc).map(|()| i32::from(request.flags))
}

/// Sets which super-packets the device may hand out, a mask of `TUN_F_*` (`TUNSETOFFLOAD`). The
/// mask belongs to the device, not to the queue.
///
/// # Errors
/// `EINVAL` when the kernel does not know one of the bits.
pub(crate) fn set_offload(queue: BorrowedFd<'_>, mask: u32) -> io::Result<()> {
    // SAFETY: the argument is a number, not a pointer.
    let rc =
        unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(mask)) };
    check(rc)
}

/// Sets the length of the virtio header in front of each packet (`TUNSETVNETHDRSZ`).
///
/// # Errors
/// The kernel's.
pub(crate) fn set_vnet_hdr_len(queue: BorrowedFd<'_>, len: usize) -> io::Result<()> {
    let len = len as libc::c_int;
    // SAFETY: the kernel reads one `int` and keeps no pointer to it.
    let rc = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) };
    check(rc)
}

/// Makes the virtio header's fields little-endian on every machine (`TUNSETVNETLE`).
///
/// # Errors
/// The kernel's.
pub(crate) fn set_vnet_little_endian(queue: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads one `int` and keeps no pointer to it.
    let rc = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETVNETLE, &raw const on) };
    check(rc)
}

/// Has a program choose the queue of each packet, or the driver again if there is none
/// (`TUNSETSTEERINGEBPF`).
///
/// # Errors
/// The kernel's.
pub(crate) fn set_steering(
    queue: BorrowedFd<'_>,
    program: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let program: libc::c_int = program.map_or(-1, |program| program.as_raw_fd());
    // SAFETY: the kernel reads one `int` and keeps no pointer to it.
    let rc =
        unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETSTEERINGEBPF, &raw const program) };
    check(rc)
}

/// Takes a queue from its device, with all packets that wait in it, or gives it back (`TUNSETQUEUE`).
/// Whoever else has the descriptor has it without the device then, too.
///
/// # Errors
/// `EINVAL` if it is so already.
pub(crate) fn set_attached(queue: BorrowedFd<'_>, is_attached: bool) -> io::Result<()> {
    let flags = if is_attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
    let request =
        InterfaceFlags { name: [0; libc::IFNAMSIZ], flags: flags as libc::c_short, rest: [0; 22] };
    // SAFETY: the kernel reads one `struct ifreq`, whose size `InterfaceFlags` has.
    let rc = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETQUEUE, &raw const request) };
    check(rc)
}

/// Says whether the device outlives its queues (`TUNSETPERSIST`).
///
/// # Errors
/// The kernel's.
#[cfg(feature = "fast-path")]
pub(crate) fn set_persistent(queue: BorrowedFd<'_>, is_persistent: bool) -> io::Result<()> {
    let value = libc::c_ulong::from(is_persistent);
    // SAFETY: the argument is a number, not a pointer.
    let rc = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETPERSIST, value) };
    check(rc)
}

/// The index of an interface, `None` when there is none of that name.
#[must_use]
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the argument is a string that ends in NUL and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

pub(super) fn check(rc: libc::c_int) -> io::Result<()> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
