//! What happens to a packet that finds the device's queue full.
//!
//! The driver drops it. With `IFF_BACKPRESSURE`, which Linux has since 7.3, the kernel stops the queue
//! before it is full, and packets wait in the device's queueing discipline. A device without one
//! (`noqueue`) drops them as before.

use crate::sys::ioctl;
use std::os::fd::BorrowedFd;

/// Whether a full queue holds packets back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backpressure {
    /// It does.
    On,
    /// The kernel does not know the flag.
    KernelLacks,
    /// The kernel knows it; the device was created without it.
    DeviceLacks,
}

impl Backpressure {
    /// Asks the kernel about the device of a queue.
    #[must_use]
    pub fn of(queue: BorrowedFd<'_>) -> Self {
        Self::by(known_flags(queue), ioctl::interface_flags(queue).unwrap_or(0))
    }

    /// Decides by the flags that the driver knows and those that the device has.
    fn by(known: i32, set: i32) -> Self {
        let has = |flags: i32| flags & ioctl::IFF_BACKPRESSURE != 0;
        match (has(known), has(set)) {
            (true, true) => Self::On,
            (true, false) => Self::DeviceLacks,
            (false, _) => Self::KernelLacks,
        }
    }

    /// Whether a full queue holds packets back.
    #[must_use]
    pub fn is_on(self) -> bool {
        self == Self::On
    }

    /// Why it is on or not.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::On => "packets that find the device's queue full wait in its queueing discipline",
            Self::KernelLacks => "IFF_BACKPRESSURE needs Linux 7.3",
            Self::DeviceLacks => {
                "the device was created without IFF_BACKPRESSURE; restart the gateway without \
                 --take-over to create it again"
            }
        }
    }
}

/// The flags to create a device with: the driver ignores those that it does not know, so it is asked.
pub(super) fn flag(queue: BorrowedFd<'_>) -> i32 {
    known_flags(queue) & ioctl::IFF_BACKPRESSURE
}

/// The flags that the driver knows; a driver that does not say knows none.
fn known_flags(queue: BorrowedFd<'_>) -> i32 {
    ioctl::known_flags(queue).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `TUNGETFEATURES` on Linux 6.18, and what `TUNGETIFF` says of a device with a virtio header.
    const OLD: i32 = 0x7133;
    const DEVICE: i32 = 0x5001;

    #[test]
    fn the_flag_of_driver_and_device_decide() {
        let (new, with) = (OLD | 0x80, DEVICE | 0x80);

        assert_eq!(Backpressure::by(OLD, DEVICE), Backpressure::KernelLacks);
        assert_eq!(Backpressure::by(new, DEVICE), Backpressure::DeviceLacks);
        assert_eq!(Backpressure::by(new, with), Backpressure::On);
        assert_eq!(Backpressure::by(0, 0), Backpressure::KernelLacks, "a driver that says nothing");
    }
}
