//! What gateways counted before: counters that a successor goes on from.

use super::counter::Books;
use super::peers::PeerTraffic;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Counters of a gateway whose workers have ended. Histograms and gauges are not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Past {
    /// By worker.
    pub(crate) workers: Vec<Books>,
    /// Traffic by peer's name.
    pub(crate) peers: BTreeMap<String, PeerTraffic>,
}
