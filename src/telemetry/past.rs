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

impl Past {
    /// The same numbers for another number of workers: the last one has those of all that are gone.
    #[must_use]
    pub(crate) fn for_workers(mut self, workers: usize) -> Self {
        let before = self.histograms.len();
        if before == workers || self.workers.len() < before {
            return self;
        }
        // Behind the workers' is what the fast path counted.
        let fast = self.workers.split_off(before);
        for at in workers..before {
            let gone = std::mem::take(&mut self.workers[at]);
            self.workers[workers - 1] =
                Books::total([&self.workers[workers - 1], &gone].into_iter());
            for (name, values) in std::mem::take(&mut self.histograms[at]) {
                self.histograms[workers - 1]
                    .entry(name)
                    .and_modify(|sum| sum.add(&values))
                    .or_insert(values);
            }
        }
        self.workers.resize_with(workers, Books::default);
        self.histograms.resize_with(workers, BTreeMap::new);
        self.workers.extend(fast);
        self
    }
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
