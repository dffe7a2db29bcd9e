//! Asking the machine what it has to offer.

use super::{ResourceError, blocking};
use crate::config::{Pinning, Settings};
use crate::engine::EngineKind;
use crate::gateway::plan::{Findings, Grounds, decide};
use crate::host::nic::{Nic, device_of};
use crate::socket;
use crate::sys::{affinity, kernel};
use crate::telemetry::status::Offload;
use crate::tun::{self, SuperPackets};
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::Path;
use twill_datapath::offload::feature::FeatureSet;
use twill_datapath::route::View;

/// An address in whose direction most datagrams will leave.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) struct Toward(SocketAddr);

impl Toward {
    /// The first peer, or anywhere.
    pub(in crate::gateway) fn peers(view: &View, listen: SocketAddr) -> Self {
        let first = view.peers().next().map(|peer| peer.endpoint);
        Self(first.unwrap_or_else(|| socket::anywhere(listen)))
    }
}

/// Finds out what settings depend on. A throw-away device tries what the kernel only promises.
pub(in crate::gateway) async fn find_out(
    settings: &Settings,
    toward: Toward,
) -> Result<Findings, ResourceError> {
    let pinning = settings.pinning;
    blocking(move || {
        Ok(Findings {
            release: kernel::release(),
            super_packets: tun::probe_super_packets()?,
            gro: socket::probe_gro(),
            // A CPU quota counts, too.
            parallelism: std::thread::available_parallelism().map_or(1, NonZero::get),
            cpus: match pinning {
                Pinning::None => Vec::new(),
                Pinning::Cpus | Pinning::Nic => affinity::allowed_cpus()?,
            },
            nic: (pinning == Pinning::Nic).then(|| network_card(toward)).flatten(),
        })
    })
    .await
}

/// The network card on the way there.
fn network_card(Toward(to): Toward) -> Option<Nic> {
    let name = device_of(socket::path_to(to).ok()?.source)?;
    Nic::read(Path::new("/sys"), Path::new("/proc"), &name).ok()
}

/// The offloads that a gateway with default settings would use on this kernel.
#[must_use]
pub(crate) fn expected_offloads(
    engine: EngineKind,
    granted: FeatureSet,
    super_packets: &SuperPackets,
) -> Vec<Offload> {
    decide(&Grounds {
        wanted: FeatureSet::ALL,
        granted,
        engine,
        super_packets,
        gso: &socket::gso_policy(&kernel::release(), false),
        gro: &socket::probe_gro(),
        by_flow: false,
    })
}
