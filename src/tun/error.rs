//! What can go wrong with a TUN device: what was tried, what came back, the likely cure.

use std::io;

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// `/dev/net/tun` cannot be opened.
    #[error("opening /dev/net/tun: {source}: {cure}")]
    Open {
        /// What came back.
        source: io::Error,
        /// What to do.
        cure: &'static str,
    },
    /// The kernel refuses the device or one of its queues.
    #[error("creating TUN device {name:?}: {source}: {cure}")]
    Create {
        /// The name asked for.
        name: String,
        /// What came back.
        source: io::Error,
        /// What to do.
        cure: &'static str,
    },
    /// A device cannot be removed.
    #[error(
        "removing the device {name:?} of an earlier gateway: {source}: run `ip link del {name}`"
    )]
    Remove {
        /// Its name.
        name: String,
        /// What came back.
        source: io::Error,
    },
    /// A property of the device cannot be set.
    #[error("setting {what} of TUN device {name:?}: {source}")]
    Configure {
        /// The property.
        what: &'static str,
        /// The device.
        name: String,
        /// What came back.
        source: io::Error,
    },
}

impl TunError {
    /// Whether the device is taken.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Create { source, .. } if source.raw_os_error() == Some(libc::EBUSY))
    }

    /// Another process reads the device.
    #[cfg(feature = "fast-path")]
    pub(crate) fn busy(name: &str) -> Self {
        Self::create(name, io::Error::from_raw_os_error(libc::EBUSY))
    }

    #[cfg(feature = "fast-path")]
    pub(crate) fn remove(name: &str, source: io::Error) -> Self {
        Self::Remove { name: name.to_owned(), source }
    }

    pub(super) fn open(source: io::Error) -> Self {
        let cure = match source.kind() {
            io::ErrorKind::NotFound => {
                "load the tun module, or give the container the device /dev/net/tun"
            }
            io::ErrorKind::PermissionDenied => {
                "run as root; give a container the device /dev/net/tun with read and write access"
            }
            _ => "the limit on open files may be too low (ulimit -n)",
        };
        Self::Open { source, cure }
    }

    pub(super) fn create(name: &str, source: io::Error) -> Self {
        let cure = match source.raw_os_error() {
            Some(libc::EPERM) => "run as root, or grant CAP_NET_ADMIN",
            Some(libc::EBUSY) => {
                "a device of that name exists: stop the other instance, or choose another name"
            }
            Some(libc::EINVAL) => "the name is taken by another kind of interface, or is not valid",
            _ => "see `twill doctor`",
        };
        Self::Create { name: name.to_owned(), source, cure }
    }
}
