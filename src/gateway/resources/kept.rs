//! The device that an earlier gateway left when it ended, so that its programs went on.

use crate::config::{Settings, is_numbered};
use crate::fastpath;
use crate::tun::TunError;
use std::net::SocketAddr;

/// The device.
pub(super) struct Kept {
    pub(super) device: String,
    index: u32,
    /// The ports that its gateway sent from, by worker.
    pub(super) source_ports: Vec<u16>,
}

impl Kept {
    /// The one of a gateway with these settings; none if there is none.
    ///
    /// # Errors
    /// A process reads its packets.
    pub(super) fn find(settings: &Settings) -> Result<Option<Self>, TunError> {
        let mut all = fastpath::Kept::list().into_iter();
        let found = all.find(|kept| {
            // Gateways whose devices the kernel numbers are told apart by their addresses.
            let is_same = || kept.about.listen.map(SocketAddr::V4) == Some(settings.listen);
            kept.device == settings.device
                || is_numbered(&settings.device, &kept.device) && is_same()
        });
        let Some(fastpath::Kept { device, about }) = found else { return Ok(None) };
        match fastpath::is_read(about.device) {
            Ok(false) => {
                let (index, source_ports) = (about.device, about.source_ports);
                Ok(Some(Self { device, index, source_ports }))
            }
            Ok(true) => Err(TunError::busy(&device)),
            // It is gone by now.
            Err(_) => Ok(None),
        }
    }

    /// Removes it, with all that belongs to it.
    pub(super) fn remove(&self) -> Result<(), TunError> {
        let removed = fastpath::remove(&self.device).map(|_| ());
        let removed = removed.and_then(|()| fastpath::remove_device(self.index));
        removed.map_err(|source| TunError::remove(&self.device, source))
    }
}

/// The names of devices like this one that gateways have left here.
#[cfg(feature = "etcd")]
pub(in crate::gateway) fn kept_devices(name: &str) -> Vec<String> {
    let all = fastpath::Kept::list().into_iter().map(|kept| kept.device);
    all.filter(|device| device == name || is_numbered(name, device)).collect()
}
