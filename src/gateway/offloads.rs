//! Which offloads a gateway uses, and why each is on or off.

use crate::engine::EngineKind;
use crate::offload::feature::{Feature, FeatureSet};
use crate::socket::{self, GsoPolicy};
use crate::telemetry::snapshot::Offload;
use crate::tun::Joined;

/// Decides: what the user wants, what the device granted, what the engine can, what the kernel can
/// be trusted with, and whether workers share what one peer sends.
#[must_use]
pub(super) fn decide(
    wanted: FeatureSet,
    granted: FeatureSet,
    engine: EngineKind,
    joined: &Joined,
    gso: &GsoPolicy,
    by_flow: bool,
) -> Vec<Offload> {
    Feature::ALL
        .into_iter()
        .map(|feature| {
            let (on, reason) = if engine == EngineKind::Classic {
                (false, "the classic engine has no offload".to_owned())
            } else if !wanted.has(feature) {
                (false, "switched off".to_owned())
            } else if !granted.has(feature) {
                (false, "the TUN driver refuses it: UDP super-packets need Linux 6.2".to_owned())
            } else if feature == Feature::Gro && by_flow {
                (false, "steering by flow: a train would take other flows along".to_owned())
            } else if feature == Feature::Gso {
                (gso.on, gso.reason.clone())
            } else if let Some(Err(error)) = probed(joined, feature) {
                (false, format!("the kernel grants it and refuses its packets: {error}"))
            } else {
                (true, "the kernel has it".to_owned())
            };
            Offload { name: feature.name().to_owned(), on, reason }
        })
        .collect()
}

/// The offloads that a gateway with default settings would use on this kernel.
#[must_use]
pub fn expected(engine: EngineKind, granted: FeatureSet, joined: &Joined) -> Vec<Offload> {
    let gso = socket::gso_policy(&socket::kernel_release(), false);
    decide(FeatureSet::ALL, granted, engine, joined, &gso, false)
}

/// What the throw-away device showed of an offload.
fn probed(joined: &Joined, feature: Feature) -> Option<&std::io::Result<()>> {
    match feature {
        Feature::CoalesceTcp => Some(&joined.tcp),
        Feature::CoalesceUdp => Some(&joined.udp),
        _ => None,
    }
}

/// The offloads that are on.
#[must_use]
pub(super) fn in_use(states: &[Offload]) -> FeatureSet {
    Feature::ALL
        .into_iter()
        .zip(states)
        .fold(FeatureSet::NONE, |set, (feature, state)| set.with(feature, state.on))
}
