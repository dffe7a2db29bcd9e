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
//!
//! Where the kernel has modules for the same wire format, their devices can do instead: `modules`.

mod attached;
mod estate;
mod layout;
mod maps;
mod modules;
mod paths;
mod places;
mod programs;
mod tables;
#[cfg(test)]
mod tests;
mod underlay;
mod veth;

pub(crate) use attached::{FastPath, FastPathError, Spec};
pub(crate) use estate::{About, Estate, Folder};
pub(crate) use modules::{Kind, Modules, clear, probe as probe_module};
pub(crate) use paths::why_not;
pub(crate) use programs::probe;
pub(crate) use underlay::unfinished;

use crate::sys::ioctl::interface_index;
use crate::sys::netlink::Netlink;
use crate::sys::route;
use crate::telemetry::fast::{Depth, FastCounts};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use twill_datapath::route::View;

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

/// What carries packets in the kernel. It is removed when this is dropped.
pub(crate) enum Carrier {
    /// Programs.
    Programs(Box<FastPath>),
    /// Devices.
    Modules(Box<Modules>),
}

impl Carrier {
    /// Starts devices if a kind of them is wanted, else programs. It blocks for some milliseconds.
    ///
    /// # Errors
    /// What failed; nothing is left then.
    pub(crate) fn start(
        devices: Option<Kind>,
        spec: Spec,
        view: &Arc<View>,
        estate: Option<Estate>,
    ) -> Result<Self, FastPathError> {
        Ok(match devices {
            Some(kind) => Self::Modules(Box::new(Modules::start(kind, spec, view)?)),
            None => Self::Programs(Box::new(FastPath::start(spec, view, estate)?)),
        })
    }

    /// Whether the counters are those of a predecessor, too.
    pub(crate) fn goes_on(&self) -> bool {
        matches!(self, Self::Programs(programs) if programs.goes_on())
    }

    /// Whether it stays when this process ends.
    pub(crate) fn is_kept(&self) -> bool {
        matches!(self, Self::Programs(programs) if programs.is_kept())
    }

    /// What another gateway needs to go on; none if it must begin anew.
    pub(crate) fn estate(&self) -> Option<(About, Vec<OwnedFd>)> {
        match self {
            Self::Programs(programs) => programs.estate(),
            Self::Modules(_) => None,
        }
    }

    /// Changes nothing in the kernel while another gateway has the estate.
    pub(crate) fn rest(&mut self, is_resting: bool) {
        if let Self::Programs(programs) = self {
            programs.rest(is_resting);
        }
    }

    /// Has packets follow a view from now on.
    ///
    /// # Errors
    /// What failed. It is tried again by [`Self::refresh`].
    pub(crate) fn follow(&mut self, view: &Arc<View>) -> Result<(), FastPathError> {
        match self {
            Self::Programs(programs) => programs.follow(view),
            Self::Modules(modules) => modules.follow(view),
        }
    }

    /// Follows what has changed on the host.
    ///
    /// # Errors
    /// What failed.
    pub(crate) fn refresh(&mut self) -> Result<(), FastPathError> {
        match self {
            Self::Programs(programs) => programs.refresh(),
            Self::Modules(modules) => modules.refresh(),
        }
    }

    /// Takes over the MTU of the TUN device, bytes.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn set_mtu(&mut self, mtu: u16) -> Result<(), FastPathError> {
        match self {
            Self::Programs(programs) => programs.set_mtu(mtu),
            Self::Modules(modules) => modules.set_mtu(mtu),
        }
    }

    /// What has been counted since the start.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn counts(&self, depth: Depth) -> Result<FastCounts, FastPathError> {
        match self {
            Self::Programs(programs) => programs.counts(depth),
            Self::Modules(modules) => modules.counts(),
        }
    }
}
