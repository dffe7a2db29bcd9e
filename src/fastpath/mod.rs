//! The fast path: packets cross the gateway without leaving the kernel.
//!
//! Owns the programs of `program/fastpath.bpf.c`, their maps and the pair of links between them. What
//! the programs look up is made of a [`View`], as the workers' look-ups are; whatever they do not
//! handle exactly as `twill-datapath` does stays on its way to user space. They never drop a packet
//! that user space would forward.
//!
//! ```text
//!  pods ──> TUN device ──egress──> underlay          underlay ──ingress──> NAME-in ═══ NAME-gro
//!               │                                        │                                │
//!               └──> user space <────────────────────────┘         TUN device <──joined───┘
//! ```

mod attached;
mod estate;
mod layout;
mod maps;
mod paths;
mod programs;
mod tables;
#[cfg(test)]
mod tests;
mod underlay;
mod veth;

pub(crate) use attached::{FastPath, Spec};
pub(crate) use estate::{About, Estate, Folder};
pub(crate) use paths::why_not;
pub(crate) use programs::probe;
pub(crate) use underlay::unfinished;

use crate::sys::ioctl::interface_index;
use crate::sys::netlink::Netlink;
use crate::sys::route;
use std::io;

/// A device that a gateway has left, with its programs.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// Its name.
    pub(crate) device: String,
    /// What that gateway wrote down.
    pub(crate) about: About,
}

impl Kept {
    /// Those of this network namespace.
    pub(crate) fn list() -> Vec<Self> {
        let all = Folder::list().into_iter().filter_map(|folder| {
            let (about, device) = (folder.about()?, folder.device().to_owned());
            (interface_index(&device) == Some(about.device)).then_some(Self { device, about })
        });
        all.collect()
    }
}

/// Whether a process reads the packets of a TUN device.
///
/// # Errors
/// The kernel's: there is no such device.
pub(crate) fn is_read(index: u32) -> io::Result<bool> {
    Ok(route::link(&mut Netlink::open()?, index)?.is_running)
}

/// Removes the programs of a device, with all that belongs to them; whether there were any. What others
/// keep under the same name in another network namespace stays.
///
/// # Errors
/// The kernel's, to the removal of the pair of links.
pub(crate) fn remove(device: &str) -> io::Result<bool> {
    let folder = Folder::of(device);
    let is_ours = folder.about().is_some();
    if is_ours {
        folder.remove();
    }
    Ok(veth::Veth::remove(device)? || is_ours)
}

/// Removes a device.
///
/// # Errors
/// The kernel's.
pub(crate) fn remove_device(index: u32) -> io::Result<()> {
    route::remove_link(&mut Netlink::open()?, index)
}
