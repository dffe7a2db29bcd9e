//! What a link's driver does for packets (include/uapi/linux/ethtool.h).
#![allow(unsafe_code, reason = "ioctl has no safe form")]

use super::ioctl::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct ifreq` with a pointer.
#[repr(C)]
struct InterfacePointer {
    name: [u8; libc::IFNAMSIZ],
    data: *mut libc::c_void,
    rest: [u8; 16],
}

const _: () = assert!(size_of::<InterfacePointer>() == size_of::<libc::ifreq>());

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    value: u32,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct EthtoolDriver {
    command: u32,
    driver: [u8; 32],
    versions: [u8; 64],
    bus: [u8; 32],
    rest: [u8; 64],
}

const _: () = assert!(size_of::<EthtoolDriver>() == 196);

const SIOCETHTOOL: u64 = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGRO: u32 = 0x2c;

/// Switches the GRO of a link on.
///
/// # Errors
/// The kernel's.
pub(crate) fn set_gro(socket: BorrowedFd<'_>, link: &str) -> io::Result<()> {
    let mut value = EthtoolValue { command: ETHTOOL_SGRO, value: 1 };
    ethtool(socket, link, (&raw mut value).cast())
}

/// Switches the TSO of a link off.
///
/// # Errors
/// The kernel's.
pub(crate) fn clear_tso(socket: BorrowedFd<'_>, link: &str) -> io::Result<()> {
    let mut value = EthtoolValue { command: ETHTOOL_STSO, value: 0 };
    ethtool(socket, link, (&raw mut value).cast())
}

/// Whether the stack leaves checksums to a link.
///
/// # Errors
/// The kernel's.
pub(crate) fn leaves_checksums(socket: BorrowedFd<'_>, link: &str) -> io::Result<bool> {
    let mut value = EthtoolValue { command: ETHTOOL_GTXCSUM, value: 0 };
    ethtool(socket, link, (&raw mut value).cast())?;
    Ok(value.value != 0)
}

/// The driver of a link, and the bus that its hardware is on; empty without hardware.
///
/// # Errors
/// The kernel's.
pub(crate) fn driver(socket: BorrowedFd<'_>, link: &str) -> io::Result<(String, String)> {
    let mut info = EthtoolDriver {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        versions: [0; 64],
        bus: [0; 32],
        rest: [0; 64],
    };
    ethtool(socket, link, (&raw mut info).cast())?;
    let text = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
    Ok((text(&info.driver), text(&info.bus)))
}

/// `data` points to a structure of the command with which it begins.
fn ethtool(socket: BorrowedFd<'_>, link: &str, data: *mut libc::c_void) -> io::Result<()> {
    let mut request = InterfacePointer { name: [0; libc::IFNAMSIZ], data, rest: [0; 16] };
    let len = link.len().min(libc::IFNAMSIZ - 1);
    request.name[..len].copy_from_slice(&link.as_bytes()[..len]);
    // SAFETY: the kernel reads one `struct ifreq`, whose size `InterfacePointer` has. It follows the
    // pointer to the caller's structure, which outlives the call, and keeps neither.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    check(rc)
}
