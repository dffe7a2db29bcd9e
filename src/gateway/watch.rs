//! What looks at a running gateway beside its control plane: it lives as long as the result.

use super::Gateway;
use crate::config::Settings;
use crate::telemetry::drops;
use crate::telemetry::probe::Prober;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tracing::warn;

/// Logs drops, and probes peers if there is an interval to do so.
pub(super) fn watch(
    gateway: &Gateway,
    settings: &Settings,
    probe: Option<Duration>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let observer = gateway.observer();
    tasks.spawn(drops::watch(Arc::clone(observer)));
    if let (Some(every), Some(source)) = (probe, first_v4(settings)) {
        match Prober::open(gateway.device(), source, every) {
            Ok(prober) => {
                tasks.spawn(prober.run(Arc::clone(observer)));
            }
            Err(error) => warn!("peers are not probed: opening an ICMP socket: {error}"),
        }
    }
    tasks
}

fn first_v4(settings: &Settings) -> Option<Ipv4Addr> {
    settings.addresses.iter().find_map(|network| match network.addr() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
}
