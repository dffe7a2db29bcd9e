//! One system call each: what the standard library and socket2 do not have.

pub mod address;
pub mod affinity;
#[cfg(feature = "fast-path")]
pub mod bpf;
pub mod clock;
pub mod cmsg;
#[cfg(feature = "fast-path")]
pub mod ethtool;
#[cfg(feature = "fast-path")]
pub mod fou;
pub mod ioctl;
pub mod kernel;
pub mod mmsg;
pub mod neighbours;
pub mod netlink;
#[cfg(feature = "fast-path")]
pub mod route;
pub(crate) mod scheduling;
pub mod seccomp;
pub mod sockopt;
pub mod steering;
#[cfg(feature = "fast-path")]
pub mod tool;
#[cfg(feature = "fast-path")]
pub mod tunnel;
