//! The numbers that `top` shows: the last reading, and rates since the one before it.

use crate::telemetry::counter::Direction;
use crate::telemetry::histogram::{Distribution, Summary};
use crate::telemetry::status::{GatewayStatus, Histograms, PeerStatus};
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// Rates that are kept for the curves: one per column of the widest terminal.
const HISTORY: usize = 512;

/// A gateway's numbers at one moment.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) at: Instant,
    pub(super) status: GatewayStatus,
    pub(super) histograms: Histograms,
}

/// The order of peers: by this number, the highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Traffic,
    Drops,
    RoundTrip,
    Name,
}

impl Sort {
    pub(super) fn next(self) -> Self {
        match self {
            Self::Traffic => Self::Drops,
            Self::Drops => Self::RoundTrip,
            Self::RoundTrip => Self::Name,
            Self::Name => Self::Traffic,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Traffic => "traffic",
            Self::Drops => "drops",
            Self::RoundTrip => "round trip",
            Self::Name => "name",
        }
    }
}

/// A direction's rates, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) packets: f64,
    pub(super) bits: f64,
    pub(super) drops: f64,
}

/// A peer and its rates.
#[derive(Clone, Debug)]
pub(super) struct PeerRates {
    pub(super) status: PeerStatus,
    pub(super) egress: Rates,
    pub(super) ingress: Rates,
}

/// Everything on the screen.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) now: Reading,
    pub(super) egress: Rates,
    pub(super) ingress: Rates,
    /// Each worker's rates, egress and ingress.
    pub(super) workers: Vec<(Rates, Rates)>,
    /// Drops per second by direction and reason, the most first.
    pub(super) drops: Vec<(&'static str, String, f64)>,
    pub(super) peers: Vec<PeerRates>,
    /// Histograms of the last interval.
    pub(super) interval: BTreeMap<String, Summary>,
    /// Packets per second so far, the latest last: egress and ingress.
    pub(super) history: [VecDeque<u64>; 2],
    /// Why the last reading failed.
    pub(super) trouble: Option<String>,
    pub(super) sort: Sort,
    pub(super) paused: bool,
    pub(super) scrolled: usize,
}

impl Model {
    pub(super) fn new(first: Reading) -> Self {
        let idle = |status: &PeerStatus| PeerRates {
            status: status.clone(),
            egress: Rates::default(),
            ingress: Rates::default(),
        };
        Self {
            egress: Rates::default(),
            ingress: Rates::default(),
            workers: vec![Default::default(); first.status.workers.len()],
            drops: Vec::new(),
            peers: first.status.peers.iter().map(idle).collect(),
            interval: BTreeMap::new(),
            history: Default::default(),
            trouble: None,
            sort: Sort::Traffic,
            paused: false,
            scrolled: 0,
            now: first,
        }
    }

    /// Takes over a reading; after one that failed the last numbers stay.
    pub(super) fn take(&mut self, reading: Result<Reading, String>) {
        if self.paused {
            return;
        }
        match reading {
            Err(trouble) => self.trouble = Some(trouble),
            Ok(reading) => {
                self.trouble = None;
                let before = std::mem::replace(&mut self.now, reading);
                self.compare(&before);
            }
        }
    }

    pub(super) fn scroll(&mut self, by: isize) {
        let last = self.peers.len().saturating_sub(1);
        self.scrolled = self.scrolled.saturating_add_signed(by).min(last);
    }

    fn compare(&mut self, before: &Reading) {
        let (now, was) = (&self.now.status, &before.status);
        let seconds = (self.now.at - before.at).as_secs_f64().max(1e-3);
        // A gateway that restarted between the readings has no earlier numbers.
        if now.about.start_time_seconds != was.about.start_time_seconds {
            let fresh = Self::new(self.now.clone());
            let (sort, history) = (self.sort, std::mem::take(&mut self.history));
            *self = Self { sort, history, ..fresh };
            return;
        }
        self.egress = rates(&now.egress, &was.egress, seconds);
        self.ingress = rates(&now.ingress, &was.ingress, seconds);
        let workers = now.workers.iter().zip(&was.workers);
        self.workers = workers
            .map(|(now, was)| {
                let egress = rates(&now.egress, &was.egress, seconds);
                (egress, rates(&now.ingress, &was.ingress, seconds))
            })
            .collect();
        self.drops = drops(now, was, seconds);
        let old: BTreeMap<_, _> = was.peers.iter().map(|peer| (&peer.name, peer)).collect();
        self.peers = now
            .peers
            .iter()
            .map(|peer| peer_rates(peer, old.get(&peer.name).copied().unwrap_or(peer), seconds))
            .collect();
        self.interval = summaries(&self.now.histograms, &before.histograms);
        for (history, rates) in self.history.iter_mut().zip([self.egress, self.ingress]) {
            history.push_back(rates.packets as u64);
            if history.len() > HISTORY {
                history.pop_front();
            }
        }
        self.scroll(0);
    }

    /// The peers in the selected order.
    pub(super) fn sorted(&self) -> Vec<&PeerRates> {
        let mut peers: Vec<_> = self.peers.iter().collect();
        let traffic = |peer: &PeerRates| peer.egress.bits + peer.ingress.bits;
        let drops = |peer: &PeerRates| {
            let traffic = &peer.status.traffic;
            (peer.egress.drops + peer.ingress.drops, traffic.egress_drops + traffic.ingress_drops)
        };
        let rtt = |peer: &PeerRates| peer.status.probe.map_or(0, |probe| probe.rtt.p50);
        peers.sort_by(|one, other| {
            let order = match self.sort {
                Sort::Traffic => traffic(other).total_cmp(&traffic(one)),
                Sort::Drops => {
                    drops(other).partial_cmp(&drops(one)).unwrap_or(std::cmp::Ordering::Equal)
                }
                Sort::RoundTrip => rtt(other).cmp(&rtt(one)),
                Sort::Name => std::cmp::Ordering::Equal,
            };
            order.then_with(|| one.status.name.cmp(&other.status.name))
        });
        peers
    }
}

fn rates(now: &Direction, was: &Direction, seconds: f64) -> Rates {
    let rate = |now: u64, was: u64| now.saturating_sub(was) as f64 / seconds;
    Rates {
        packets: rate(now.packets_out, was.packets_out),
        bits: rate(now.bytes_out, was.bytes_out) * 8.0,
        drops: rate(now.dropped(), was.dropped()),
    }
}

fn peer_rates(now: &PeerStatus, was: &PeerStatus, seconds: f64) -> PeerRates {
    let rate = |now: u64, was: u64| now.saturating_sub(was) as f64 / seconds;
    let (new, old) = (&now.traffic, &was.traffic);
    PeerRates {
        status: now.clone(),
        egress: Rates {
            packets: rate(new.egress_packets, old.egress_packets),
            bits: rate(new.egress_bytes, old.egress_bytes) * 8.0,
            drops: rate(new.egress_drops, old.egress_drops),
        },
        ingress: Rates {
            packets: rate(new.ingress_packets, old.ingress_packets),
            bits: rate(new.ingress_bytes, old.ingress_bytes) * 8.0,
            drops: rate(new.ingress_drops, old.ingress_drops),
        },
    }
}

/// Every cause of drops, queue overflows included, with its rate.
fn drops(
    now: &GatewayStatus,
    was: &GatewayStatus,
    seconds: f64,
) -> Vec<(&'static str, String, f64)> {
    let mut drops = Vec::new();
    let mut add = |direction, reason: &str, now: u64, was: u64| {
        if now > 0 {
            drops.push((direction, reason.to_owned(), now.saturating_sub(was) as f64 / seconds));
        }
    };
    for (direction, now, was) in
        [("egress", &now.egress, &was.egress), ("ingress", &now.ingress, &was.ingress)]
    {
        for (reason, count) in &now.drops {
            add(direction, reason, *count, was.drops.get(reason).copied().unwrap_or(0));
        }
    }
    let device = |status: &GatewayStatus| status.tun.unwrap_or_default().egress;
    add("egress", "device queue full", device(now), device(was));
    let socket = |status: &GatewayStatus| status.counters.socket_overflows;
    add("ingress", "socket queue full", socket(now), socket(was));
    drops.sort_by(|one, other| other.2.total_cmp(&one.2).then_with(|| one.1.cmp(&other.1)));
    drops
}

fn summaries(now: &Histograms, was: &Histograms) -> BTreeMap<String, Summary> {
    let since = |name: &String, values: &Distribution| match was.workers.get(name) {
        Some(earlier) => values.since(earlier).summary(),
        None => values.summary(),
    };
    now.workers.iter().map(|(name, values)| (name.clone(), since(name, values))).collect()
}
