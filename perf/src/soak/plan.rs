//! The plan of a soak: which faults come when. Pure; the same seed gives the same plan, and a longer
//! run begins with the plan of a shorter one.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use std::fmt;

/// Engines that a gateway is started with or upgraded to.
const ENGINES: [&str; 3] = ["uring", "tokio-uring", "epoll"];

/// How the gateways of a pair learn of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// `twill run`, from a file.
    Run,
    /// `twill flanneld`, from etcd.
    Flanneld,
}

impl Kind {
    /// The command's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Flanneld => "flanneld",
        }
    }
}

/// Gateway 0 of a pair is killed, upgraded and starved. Gateway 1 keeps its process from the first
/// minute to the last, so that slow leaks show.
pub(crate) const FIRST: usize = 0;

/// What goes wrong. `side` is the gateway, 0 or 1; `ms` is how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// The host's device on the underlay goes down and up.
    Underlay { side: usize, ms: u64 },
    /// The gateway's device goes down and up.
    Device { side: usize, ms: u64 },
    /// `twill upgrade`, to an engine if the gateway is a `twill run`.
    Upgrade { engine: &'static str },
    /// `kill -9`, and a start after a while.
    Kill { ms: u64, engine: &'static str },
    /// SIGTERM, and a start at once.
    Restart { engine: &'static str },
    /// The process is stopped and continued.
    Stop { side: usize, ms: u64 },
    /// The process may allocate no more than so many MiB from now on.
    Memory { mib: u64, ms: u64 },
    /// So many peers are added, and removed later.
    Peers { side: usize, count: usize, ms: u64 },
    /// The other gateway is removed from the peers, and added later.
    PeerGone { side: usize, ms: u64 },
    /// etcd is stopped and continued.
    EtcdFreeze { ms: u64 },
    /// etcd is killed and started.
    EtcdKill { ms: u64 },
    /// `twill upgrade` while etcd does not answer.
    UpgradeWithoutEtcd,
}

impl Fault {
    /// Whether packets may be lost until traffic flows again.
    pub(crate) const fn may_lose(&self) -> bool {
        match self {
            Self::Upgrade { .. }
            | Self::UpgradeWithoutEtcd
            | Self::Peers { .. }
            | Self::EtcdFreeze { .. }
            | Self::EtcdKill { .. } => false,
            Self::Underlay { .. }
            | Self::Device { .. }
            | Self::Kill { .. }
            | Self::Restart { .. }
            | Self::Stop { .. }
            | Self::Memory { .. }
            | Self::PeerGone { .. } => true,
        }
    }

    /// Whether packets of a flow may change places until traffic flows again. What waits for a neighbour's
    /// link address leaves one by one once it is known (`neigh_update`), and packets of another CPU pass it.
    pub(crate) const fn may_reorder(&self) -> bool {
        matches!(self, Self::Underlay { .. })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Underlay { side, ms } => write!(f, "underlay of {side} down for {ms} ms"),
            Self::Device { side, ms } => write!(f, "device of {side} down for {ms} ms"),
            Self::Upgrade { engine } => write!(f, "upgrade of 0 to {engine}"),
            Self::Kill { ms, engine } => {
                write!(f, "kill -9 of 0, start with {engine} after {ms} ms")
            }
            Self::Restart { engine } => write!(f, "restart of 0 with {engine}"),
            Self::Stop { side, ms } => write!(f, "process of {side} stopped for {ms} ms"),
            Self::Memory { mib, ms } => write!(f, "memory of 0 limited to {mib} MiB for {ms} ms"),
            Self::Peers { side, count, ms } => {
                write!(f, "{count} peers added to {side} for {ms} ms")
            }
            Self::PeerGone { side, ms } => write!(f, "peer of {side} removed for {ms} ms"),
            Self::EtcdFreeze { ms } => write!(f, "etcd frozen for {ms} ms"),
            Self::EtcdKill { ms } => write!(f, "etcd killed for {ms} ms"),
            Self::UpgradeWithoutEtcd => f.write_str("upgrade of 0 while etcd is frozen"),
        }
    }
}

/// A fault, and how long nothing fails before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Event {
    /// Milliseconds after the end of the last one.
    pub(crate) after_ms: u64,
    /// What goes wrong.
    #[serde(flatten)]
    pub(crate) fault: Fault,
}

/// An endless sequence of events. Each kind of fault comes once before any comes twice.
#[derive(Debug)]
pub(crate) struct Plan {
    random: StdRng,
    kind: Kind,
    waiting: Vec<usize>,
}

impl Plan {
    /// The plan of a pair. The pairs of one soak have different ones.
    pub(crate) fn new(seed: u64, kind: Kind) -> Self {
        let stream = match kind {
            Kind::Run => 0,
            Kind::Flanneld => 1 << 63,
        };
        Self { random: StdRng::seed_from_u64(seed ^ stream), kind, waiting: Vec::new() }
    }

    fn make(&mut self, number: usize) -> Fault {
        let ms = self.random.random_range(200..6000);
        let side = self.random.random_range(0..2);
        let engine = ENGINES[self.random.random_range(0..ENGINES.len())];
        let few = self.random.random_range(1..12);
        match (number, self.kind) {
            (0, _) => Fault::Underlay { side, ms },
            (1, _) => Fault::Device { side, ms },
            (2 | 3, _) => Fault::Upgrade { engine },
            (4, _) => Fault::Kill { ms, engine },
            (5, _) => Fault::Restart { engine },
            (6, _) => Fault::Stop { side, ms },
            (7, _) => Fault::Memory { mib: few as u64, ms },
            (8, _) => Fault::Peers { side, count: few, ms },
            (9, Kind::Run) => Fault::PeerGone { side, ms },
            (9, Kind::Flanneld) => Fault::EtcdFreeze { ms },
            (10, _) => Fault::EtcdKill { ms },
            _ => Fault::UpgradeWithoutEtcd,
        }
    }

    const fn faults(&self) -> usize {
        match self.kind {
            Kind::Run => 10,
            Kind::Flanneld => 12,
        }
    }
}

impl Iterator for Plan {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if self.waiting.is_empty() {
            self.waiting = (0..self.faults()).collect();
            self.waiting.shuffle(&mut self.random);
        }
        let number = self.waiting.pop()?;
        let after_ms = self.random.random_range(1000..6000);
        Some(Event { after_ms, fault: self.make(number) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn first(seed: u64, kind: Kind, count: usize) -> Vec<Event> {
        Plan::new(seed, kind).take(count).collect()
    }

    #[test]
    fn a_seed_names_one_plan_and_a_longer_run_begins_as_a_shorter_one() {
        for kind in [Kind::Run, Kind::Flanneld] {
            let long = first(7, kind, 200);

            assert_eq!(long, first(7, kind, 200));
            assert_eq!(long[..50], first(7, kind, 50));
            assert_ne!(long, first(8, kind, 200));
        }
        assert_ne!(first(7, Kind::Run, 20), first(7, Kind::Flanneld, 20));
    }

    #[test]
    fn every_kind_of_fault_comes_once_before_any_comes_again() {
        for (kind, faults) in [(Kind::Run, 9), (Kind::Flanneld, 11)] {
            let plan = Plan::new(3, kind);
            let round = plan.faults();
            let names: BTreeSet<_> = plan
                .take(round)
                .map(|event| serde_json::to_value(event).unwrap()["fault"].to_string())
                .collect();

            // Two of a round are upgrades.
            assert_eq!((names.len(), round), (faults, faults + 1), "{names:?}");
        }
    }

    #[test]
    fn a_plan_without_etcd_has_no_fault_of_etcd_and_side_1_keeps_its_process() {
        for Event { fault, .. } in first(11, Kind::Run, 500) {
            let etcd = matches!(
                fault,
                Fault::EtcdFreeze { .. } | Fault::EtcdKill { .. } | Fault::UpgradeWithoutEtcd
            );
            assert!(!etcd, "{fault}");
        }
        let of_process = first(11, Kind::Flanneld, 500).into_iter().filter(|event| {
            matches!(event.fault, Fault::Kill { .. } | Fault::Restart { .. } | Fault::Memory { .. })
        });
        assert!(of_process.clone().count() > 50);
        assert!(of_process.into_iter().all(|event| event.fault.to_string().contains(" of 0")));
    }

    #[test]
    fn faults_that_a_hand_over_or_a_store_has_must_lose_and_reorder_nothing() {
        assert!(!Fault::Upgrade { engine: "epoll" }.may_lose());
        assert!(!Fault::EtcdFreeze { ms: 1 }.may_lose());
        assert!(!Fault::Peers { side: 0, count: 1, ms: 1 }.may_lose());
        assert!(Fault::Kill { ms: 1, engine: "epoll" }.may_lose());
        assert!(!Fault::Upgrade { engine: "epoll" }.may_reorder());
        assert!(!Fault::Kill { ms: 1, engine: "epoll" }.may_reorder());
    }
}
