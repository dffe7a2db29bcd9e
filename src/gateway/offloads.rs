//! Which offloads a gateway uses, and why each is on or off.

use crate::engine::EngineKind;
use crate::offload::feature::{Feature, FeatureSet};
use crate::socket::GsoPolicy;
use crate::tun::Joined;
use serde::Serialize;

/// One offload of a running gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OffloadState {
    /// Its name.
    pub name: &'static str,
    /// Whether it was in use at the start.
    pub on: bool,
    /// Why.
    pub reason: String,
}

/// Decides: what the user wants, what the device granted, what the engine can, what the kernel can
/// be trusted with.
#[must_use]
pub(super) fn decide(
    wanted: FeatureSet,
    granted: FeatureSet,
    engine: EngineKind,
    joined: &Joined,
    gso: &GsoPolicy,
) -> Vec<OffloadState> {
    Feature::ALL
        .into_iter()
        .map(|feature| {
            let (on, reason) = if engine == EngineKind::Classic {
                (false, "the classic engine has no offload".to_owned())
            } else if !wanted.has(feature) {
                (false, "switched off".to_owned())
            } else if !granted.has(feature) {
                (false, "the TUN driver refuses it: UDP super-packets need Linux 6.2".to_owned())
            } else if feature == Feature::Gso {
                (gso.on, gso.reason.clone())
            } else if let Some(Err(error)) = probed(joined, feature) {
                (false, format!("the kernel grants it and refuses its packets: {error}"))
            } else {
                (true, "the kernel has it".to_owned())
            };
            OffloadState { name: feature.name(), on, reason }
        })
        .collect()
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
pub(super) fn in_use(states: &[OffloadState]) -> FeatureSet {
    Feature::ALL
        .into_iter()
        .zip(states)
        .fold(FeatureSet::NONE, |set, (feature, state)| set.with(feature, state.on))
}
