//! What gateways counted before: counters and histograms that a successor goes on from.

use super::counter::Books;
use super::fast::FastPast;
use super::histogram::Distribution;
use super::peers::PeerTraffic;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Numbers of a gateway whose workers have ended. Gauges are not among them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Past {
    /// By worker.
    pub(crate) workers: Vec<Books>,
    /// Traffic by peer's name.
    pub(crate) peers: BTreeMap<String, PeerTraffic>,
    /// Histograms by worker, by short name.
    pub(crate) histograms: Vec<BTreeMap<String, Distribution>>,
    /// Probes by peer's name.
    pub(crate) probes: BTreeMap<String, PastProbes>,
    /// The fast path. What it counted is among the workers' and the peers' numbers, too.
    pub(crate) fast: FastPast,
}

/// The probes of a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PastProbes {
    /// How many were sent.
    pub(crate) sent: u64,
    /// How many were lost.
    pub(crate) lost: u64,
    /// When the probe that ended last was sent, if it was lost; nanoseconds of the monotonic clock, which
    /// is the same for all processes.
    #[serde(default)]
    pub(crate) last_lost_ns: Option<u64>,
    /// Round trips.
    pub(crate) rtt: Distribution,
}
