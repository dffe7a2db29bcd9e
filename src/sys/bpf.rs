//! bpf(2), for what the loader's crate does not do: links that are plain descriptors, so that they can be
//! handed to another process, and their names in a bpf file system.
#![allow(unsafe_code, reason = "bpf has no safe form")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
/// Before all programs that are there, or behind them.
const BPF_F_BEFORE: u32 = 1 << 3;
const BPF_F_AFTER: u32 = 1 << 4;
/// Where drivers have packets (`BPF_XDP`).
const BPF_XDP: u32 = 37;
/// In the driver, and not behind it, where nothing is gained.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
/// What `statfs` says of a bpf file system.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Where a program meets packets of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Hook {
    /// They have arrived (`BPF_TCX_INGRESS`).
    Ingress = 46,
    /// They leave (`BPF_TCX_EGRESS`).
    Egress = 47,
}

/// Which of the programs at a hook it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Turn {
    First = BPF_F_BEFORE,
    Last = BPF_F_AFTER,
}

/// `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    program: u32,
    device: u32,
    hook: u32,
    flags: u32,
    relative: u32,
    padding: u32,
    revision: u64,
}

/// The same for `BPF_LINK_UPDATE`.
#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    before: u32,
}

/// The same for `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
struct Object {
    path: u64,
    object: u32,
    flags: u32,
}

/// The same for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct GetInfo {
    object: u32,
    len: u32,
    info: u64,
}

/// `struct bpf_link_info` of a tcx or XDP link.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    device: u32,
    hook: u32,
}

const _: () = assert!(size_of::<LinkCreate>() == 32 && size_of::<LinkUpdate>() == 16);
const _: () = assert!(size_of::<Object>() == 16 && size_of::<GetInfo>() == 16);

/// Adds a program to those of a device, for as long as somebody has the link (Linux 6.6).
///
/// # Errors
/// The kernel's: `EINVAL` before Linux 6.6.
pub(crate) fn attach(
    program: BorrowedFd<'_>,
    device: u32,
    hook: Hook,
    turn: Turn,
) -> io::Result<OwnedFd> {
    create_link(program, device, hook as u32, turn as u32)
}

/// Puts a program into the driver of a device, for as long as somebody has the link (Linux 5.9).
///
/// # Errors
/// The kernel's: `EOPNOTSUPP` if the driver takes none, `EBUSY` if it has one.
pub(crate) fn attach_to_driver(program: BorrowedFd<'_>, device: u32) -> io::Result<OwnedFd> {
    create_link(program, device, BPF_XDP, XDP_FLAGS_DRV_MODE)
}

fn create_link(program: BorrowedFd<'_>, device: u32, hook: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut request = LinkCreate {
        program: number(program),
        device,
        hook,
        flags,
        relative: 0,
        padding: 0,
        revision: 0,
    };
    owned(bpf(BPF_LINK_CREATE, &mut request)?)
}

/// Puts another program in the place of the one that a link has: each packet meets one of them.
///
/// # Errors
/// The kernel's: `ENOLINK` if the device is gone.
pub(crate) fn replace(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let (link, program) = (number(link), number(program));
    bpf(BPF_LINK_UPDATE, &mut LinkUpdate { link, program, flags: 0, before: 0 })?;
    Ok(())
}

/// The index of the device that a link is at; 0 if it is gone.
///
/// # Errors
/// The kernel's, of a descriptor that is no link.
pub(crate) fn device_of(link: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = LinkInfo::default();
    let (len, address) = (size_of::<LinkInfo>() as u32, (&raw mut info) as u64);
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut GetInfo { object: number(link), len, info: address })?;
    Ok(info.device)
}

/// Gives an object a name in a bpf file system, in place of whatever had it.
///
/// # Errors
/// The kernel's.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    // Whoever is interrupted here leaves the former object or this one.
    let new = path.with_file_name("new");
    let _ = std::fs::remove_file(&new);
    let name = c_string(&new)?;
    let path_address = name.as_ptr() as u64;
    bpf(BPF_OBJ_PIN, &mut Object { path: path_address, object: number(object), flags: 0 })?;
    std::fs::rename(&new, path)
}

/// The object with a name in a bpf file system.
///
/// # Errors
/// The kernel's.
pub(crate) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let name = c_string(path)?;
    owned(bpf(BPF_OBJ_GET, &mut Object { path: name.as_ptr() as u64, object: 0, flags: 0 })?)
}

/// Whether a folder is in a bpf file system.
pub(crate) fn is_file_system(folder: &Path) -> bool {
    rustix::fs::statfs(folder).is_ok_and(|it| it.f_type as u64 == BPF_FS_MAGIC)
}

fn c_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: the kernel has made this descriptor for the caller, who has it from nowhere else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_int, request: &mut T) -> io::Result<RawFd> {
    let size = size_of::<T>();
    // SAFETY: `request` has the layout that the command reads, of `size` bytes; the addresses in it
    // are of memory that outlives the call, and the kernel keeps none of them.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(request), size) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc as RawFd) }
}
