//! Creating a TUN device with one or many queues.

use super::{TunError, backpressure};
use crate::sys::ioctl;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use twill_datapath::offload::feature::{Feature, FeatureSet};
use twill_datapath::offload::vnet_hdr;

/// The device to create.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSpec<'a> {
    /// Its name; one `%d` is replaced by the first free number.
    pub name: &'a str,
    /// How many queues.
    pub queues: usize,
    /// Put a virtio header in front of each packet; without it there is no offload.
    pub vnet_hdr: bool,
    /// Offloads to ask for.
    pub offloads: FeatureSet,
}

/// A TUN device that lives as long as one of its queues is open.
#[derive(Debug)]
pub struct Device {
    /// The name that it got.
    pub name: String,
    /// Its interface index.
    pub index: u32,
    /// Its queues, nonblocking.
    pub queues: Vec<OwnedFd>,
    /// Of the offloads asked for, those that the device has: what reads may bring, and what writes
    /// may carry.
    pub granted: FeatureSet,
}

impl Device {
    /// Creates the device; it is down and has no address yet.
    ///
    /// # Errors
    /// [`TunError`]; nothing is left behind then.
    pub fn create(spec: &DeviceSpec<'_>) -> Result<Self, TunError> {
        // Only the first queue is exclusive: that is what makes a second instance fail.
        Self::open(spec, libc::IFF_TUN_EXCL)
    }

    /// Takes a device that is there and that nobody reads, as it is.
    ///
    /// # Errors
    /// [`TunError`]: it has other properties, for one.
    pub(crate) fn adopt(spec: &DeviceSpec<'_>) -> Result<Self, TunError> {
        Self::open(spec, 0)
    }

    fn open(spec: &DeviceSpec<'_>, first_flags: i32) -> Result<Self, TunError> {
        let first = open_queue()?;
        let flags = queue_flags(spec) | backpressure::flag(first.as_fd());
        let name = ioctl::set_interface(first.as_fd(), spec.name, flags | first_flags)
            .map_err(|source| TunError::create(spec.name, source))?;
        let mut queues = vec![first];
        for _ in 1..spec.queues {
            let queue = open_queue()?;
            ioctl::set_interface(queue.as_fd(), &name, flags)
                .map_err(|source| TunError::create(&name, source))?;
            queues.push(queue);
        }
        let mut device = Self {
            index: ioctl::interface_index(&name).unwrap_or_default(),
            name,
            queues,
            granted: FeatureSet::NONE,
        };
        if spec.vnet_hdr {
            for queue in &device.queues {
                set_header_format(&device.name, queue.as_fd())?;
            }
        }
        device.granted = device.set_offloads(spec)?;
        Ok(device)
    }

    /// Sets the mask explicitly, also to nothing: it outlives the process on a persistent device.
    fn set_offloads(&self, spec: &DeviceSpec<'_>) -> Result<FeatureSet, TunError> {
        if !spec.vnet_hdr {
            return Ok(spec
                .offloads
                .with(Feature::Tso, false)
                .with(Feature::Uso, false)
                .with(Feature::CoalesceTcp, false)
                .with(Feature::CoalesceUdp, false));
        }
        let first = self.queues[0].as_fd();
        let wanted = spec.offloads;
        // Before Linux 6.2 the driver does not know UDP super-packets, neither way. It says so only
        // when asked to hand them out, which the mask after this one may take back.
        let knows_uso = ioctl::set_offload(first, mask(wanted.with(Feature::Uso, true))).is_ok();
        let granted = match knows_uso {
            true => wanted,
            false => wanted.with(Feature::Uso, false).with(Feature::CoalesceUdp, false),
        };
        ioctl::set_offload(first, mask(granted))
            .map_err(|source| self.cannot("its offloads", source))?;
        Ok(granted)
    }

    fn cannot(&self, what: &'static str, source: std::io::Error) -> TunError {
        TunError::Configure { what, name: self.name.clone(), source }
    }
}

/// Puts twill's virtio header before each packet of a queue.
pub(super) fn set_header_format(name: &str, queue: BorrowedFd<'_>) -> Result<(), TunError> {
    let what = "the virtio header";
    ioctl::set_vnet_hdr_len(queue, vnet_hdr::LEN)
        .and_then(|()| ioctl::set_vnet_little_endian(queue))
        .map_err(|source| TunError::Configure { what, name: name.to_owned(), source })
}

pub(super) fn open_queue() -> Result<OwnedFd, TunError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .map(OwnedFd::from)
        .map_err(TunError::open)
}

fn queue_flags(spec: &DeviceSpec<'_>) -> i32 {
    let mut flags = libc::IFF_TUN | libc::IFF_NO_PI;
    if spec.vnet_hdr {
        flags |= libc::IFF_VNET_HDR;
    }
    if spec.queues > 1 {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    flags
}

/// What reads may bring. Partial checksums come with any super-packet, so they are always taken.
fn mask(offloads: FeatureSet) -> u32 {
    let mut mask = ioctl::TUN_F_CSUM;
    if offloads.has(Feature::Tso) {
        mask |= ioctl::TUN_F_TSO4 | ioctl::TUN_F_TSO6 | ioctl::TUN_F_TSO_ECN;
    }
    if offloads.has(Feature::Uso) {
        mask |= ioctl::TUN_F_USO4 | ioctl::TUN_F_USO6;
    }
    mask
}
