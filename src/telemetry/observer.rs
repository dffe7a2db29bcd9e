//! Reads the numbers of a running gateway, from any thread, without delaying its workers.

use super::counter::Books;
use super::fast::{Depth, FastBooks};
use super::histogram::{Distribution, Summary};
use super::instruments::{self, WorkerInstruments};
use super::past::Past;
use super::peers::{Ledger, PeerTable};
use super::probe::Probes;
use super::status::{
    About, DeviceDrops, EtcdStatus, GatewayStatus, Histograms, KubeStatus, Offload, PeerStatus,
    ProbeStatus, WorkerStatus,
};
use crate::sys::clock;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use twill_datapath::DropReason;
use twill_datapath::offload::feature::Feature;
use twill_datapath::route::{Peer, View};

/// Nanoseconds of a second.
const SECOND: f64 = 1e9;

/// The readers' side of a gateway's numbers. Only readers take its locks, never a worker.
#[derive(Debug)]
pub struct Observer {
    about: About,
    /// The MTU of the device now.
    mtu: AtomicU16,
    /// Where the gateway receives now.
    listen: Mutex<SocketAddr>,
    offloads: Vec<Offload>,
    started_ns: u64,
    workers: Vec<Arc<WorkerInstruments>>,
    peers: Mutex<Peers>,
    etcd: Mutex<Option<EtcdStatus>>,
    kube: Mutex<Option<KubeStatus>>,
    missing: Mutex<Vec<String>>,
    /// What passes the workers by.
    pub(crate) fast: FastBooks,
    /// Round trips to peers.
    pub(crate) probes: Probes,
}

#[derive(Debug, Default)]
struct Peers {
    view: Arc<View>,
    ledger: Ledger,
}

impl Observer {
    /// Observes workers that look peers up in `view`.
    #[must_use]
    pub(crate) fn new(
        about: About,
        offloads: Vec<Offload>,
        workers: Vec<Arc<WorkerInstruments>>,
        view: &Arc<View>,
    ) -> Self {
        let observer = Self {
            mtu: AtomicU16::new(about.mtu),
            listen: Mutex::new(about.listen),
            about,
            offloads,
            started_ns: clock::monotonic_ns(),
            workers,
            peers: Mutex::default(),
            etcd: Mutex::default(),
            kube: Mutex::default(),
            missing: Mutex::default(),
            fast: FastBooks::default(),
            probes: Probes::default(),
        };
        observer.follow(view);
        observer
    }

    /// Facts about the gateway as it was at its start.
    #[must_use]
    pub(crate) fn about(&self) -> &About {
        &self.about
    }

    /// Takes over a view. Call it before publishing the view, so that peers have counters when workers
    /// first see them.
    pub(crate) fn follow(&self, view: &Arc<View>) {
        let mut peers = locked(&self.peers);
        peers.ledger.follow(view, self.tables());
        peers.view = Arc::clone(view);
    }

    /// What a successor goes on from. No worker may run.
    pub(crate) fn past(&self) -> Past {
        let fast = self.fast.past();
        let peers = locked(&self.peers);
        let traffic = |peer: &Peer| peers.ledger.traffic(peer.index, self.tables());
        Past {
            workers: self.all().map(|worker| worker.books.read()).collect(),
            peers: peers.view.peers().map(|peer| (peer.name.to_string(), traffic(peer))).collect(),
            histograms: self.workers.iter().map(|worker| recorded(worker)).collect(),
            probes: self.probes.past(),
            fast,
        }
    }

    /// Goes on from what workers before these counted, which may have been in this process: then the
    /// counters of peers are still here. No worker may run.
    pub(crate) fn inherit(&self, past: &Past) {
        for (worker, books) in self.all().zip(&past.workers) {
            worker.books.inherit(books);
        }
        self.fast.inherit(&past.fast);
    }

    /// What workers before these counted; none if there were none.
    pub(crate) fn inherited(&self) -> Option<Books> {
        let past: Vec<_> = self.workers.iter().filter_map(|worker| worker.books.past()).collect();
        (!past.is_empty()).then(|| Books::total(past.iter().map(|books| &**books)))
    }

    /// Goes on from what another process recorded, and what it counted for the peers. No worker may run.
    pub(crate) fn inherit_records(&self, past: &Past) {
        for (worker, past) in self.workers.iter().zip(&past.histograms) {
            for (instrument, recorder) in instruments::WORKER.iter().zip(worker.recorders()) {
                if let Some(past) = past.get(instrument.short) {
                    recorder.inherit(past);
                }
            }
        }
        self.probes.inherit(&past.probes);
        let Some(first) = self.workers.first() else { return };
        for peer in locked(&self.peers).view.peers() {
            let counters = first.peers.peer(peer.index);
            if let (Some(counters), Some(past)) = (counters, past.peers.get(&*peer.name)) {
                counters.inherit(past);
            }
        }
    }

    /// The current peers.
    #[must_use]
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&locked(&self.peers).view)
    }

    /// Takes over the state of etcd and of this node's lease.
    #[cfg(feature = "etcd")]
    pub(crate) fn set_etcd(&self, etcd: EtcdStatus) {
        *locked(&self.etcd) = Some(etcd);
    }

    /// Takes over the MTU of the device.
    pub(crate) fn set_mtu(&self, mtu: u16) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }

    /// Takes over the address of the gateway.
    #[cfg(feature = "etcd")]
    pub(crate) fn set_listen(&self, listen: SocketAddr) {
        *locked(&self.listen) = listen;
    }

    /// Takes over what the gateway lacks to be ready.
    pub(crate) fn set_missing(&self, missing: Vec<String>) {
        *locked(&self.missing) = missing;
    }

    /// Takes over the state of the cluster and of this node in it.
    #[cfg(feature = "kube")]
    pub(crate) fn set_kube(&self, kube: KubeStatus) {
        *locked(&self.kube) = Some(kube);
    }

    /// The counters of all workers and of the fast path, summed.
    #[must_use]
    pub(crate) fn books(&self) -> Books {
        self.fast.catch_up(Depth::Totals);
        self.summed()
    }

    fn summed(&self) -> Books {
        Books::sum(self.all().map(|worker| &worker.books))
    }

    /// The workers, and the fast path in place of one more.
    fn all(&self) -> impl Iterator<Item = &Arc<WorkerInstruments>> + Clone {
        self.workers.iter().chain([&self.fast.instruments])
    }

    fn tables(&self) -> impl Iterator<Item = &PeerTable> + Clone {
        self.all().map(|worker| &worker.peers)
    }

    /// The outer source of a datagram that was recently dropped for this reason.
    #[must_use]
    pub(crate) fn culprit(&self, reason: DropReason) -> Option<IpAddr> {
        self.workers.iter().find_map(|worker| worker.culprits.last(reason))
    }

    /// Packets that the kernel dropped at the TUN device; none if they cannot be read.
    #[must_use]
    pub(crate) fn device_drops(&self) -> Option<DeviceDrops> {
        device_drops(&self.about.device)
    }

    /// All current numbers.
    #[must_use]
    pub(crate) fn snapshot(&self) -> GatewayStatus {
        let workers: Vec<_> = self.workers.iter().map(|worker| status(worker)).collect();
        // Once: whatever is told of the fast path is of one moment.
        let fast_path = self.fast.catch_up(Depth::Peers);
        let books = self.summed();
        let uptime_ns = clock::monotonic_ns().saturating_sub(self.started_ns);
        GatewayStatus {
            about: About {
                mtu: self.mtu.load(Ordering::Relaxed),
                listen: *locked(&self.listen),
                ..self.about.clone()
            },
            uptime_seconds: uptime_ns as f64 / SECOND,
            offloads: self.offloads_now(&books),
            fast_path,
            imbalance: books.egress.imbalance + books.ingress.imbalance,
            egress: books.egress,
            ingress: books.ingress,
            counters: books.counters,
            tun: self.device_drops(),
            histograms: summaries(&self.merged()),
            workers,
            peers: self.peers(),
            etcd: locked(&self.etcd).clone(),
            kube: locked(&self.kube).clone(),
            missing: locked(&self.missing).clone(),
        }
    }

    /// All current histograms.
    #[must_use]
    pub(crate) fn histograms(&self) -> Histograms {
        Histograms { workers: self.merged(), rtt: self.probes.distributions() }
    }

    /// The workers' histograms, by short name.
    fn merged(&self) -> BTreeMap<String, Distribution> {
        let mut merged: Vec<_> = instruments::WORKER
            .iter()
            .map(|instrument| Distribution::new(instrument.layout))
            .collect();
        for worker in &self.workers {
            for (sum, recorder) in merged.iter_mut().zip(worker.recorders()) {
                sum.add(&recorder.read());
            }
        }
        named(merged)
    }

    /// The offloads chosen at the start, without those that the kernel refused since.
    fn offloads_now(&self, books: &Books) -> Vec<Offload> {
        let workers = self.workers.len() as u64;
        let mut offloads = self.offloads.clone();
        for (feature, lost) in [
            (Feature::Gso, books.counters.gso_off_workers),
            (Feature::CoalesceTcp, books.counters.coalesce_tcp_off_workers),
            (Feature::CoalesceUdp, books.counters.coalesce_udp_off_workers),
        ] {
            let offload = offloads.iter_mut().find(|offload| offload.name == feature.name());
            if let Some(offload) = offload.filter(|offload| offload.on && lost > 0) {
                offload.on = lost < workers;
                offload.reason = format!("refused by the kernel for {lost} of {workers} workers");
            }
        }
        offloads
    }

    /// All peers.
    fn peers(&self) -> Vec<PeerStatus> {
        let mut list = self.peers_with(|name, seen_ns| Some(self.probes.status(name, seen_ns)));
        list.sort_by(|one, other| one.name.cmp(&other.name));
        list
    }

    /// The peers that are probed, without their round trips: enough to see whether they are silent.
    #[must_use]
    pub(crate) fn suspects(&self) -> Vec<PeerStatus> {
        self.fast.catch_up(Depth::Peers);
        self.peers_with(|name, seen_ns| {
            let last_lost = self.probes.is_silent(name, seen_ns)?;
            Some(Some(ProbeStatus { last_lost, ..ProbeStatus::default() }))
        })
    }

    /// Those peers of which `probe` knows something, given when they were last heard of.
    fn peers_with(
        &self,
        probe: impl Fn(&str, u64) -> Option<Option<ProbeStatus>>,
    ) -> Vec<PeerStatus> {
        let now_ns = clock::monotonic_ns();
        let peers = locked(&self.peers);
        let one = |peer: &Peer| {
            let traffic = peers.ledger.traffic(peer.index, self.tables());
            let probe = probe(&peer.name, traffic.last_seen_ns)?;
            let silent_ns = now_ns.saturating_sub(traffic.last_seen_ns);
            let seen = traffic.last_seen_ns > 0;
            Some(PeerStatus {
                name: peer.name.to_string(),
                endpoint: peer.endpoint,
                subnets: peer.subnets.clone(),
                last_seen_seconds: seen.then_some(silent_ns as f64 / SECOND),
                traffic,
                probe,
            })
        };
        peers.view.peers().filter_map(one).collect()
    }
}

fn status(worker: &WorkerInstruments) -> WorkerStatus {
    let books = worker.books.read();
    let histograms = recorded(worker);
    WorkerStatus {
        egress: books.egress,
        ingress: books.ingress,
        counters: books.counters,
        histograms: summaries(&histograms),
    }
}

fn recorded(worker: &WorkerInstruments) -> BTreeMap<String, Distribution> {
    named(worker.recorders().map(super::histogram::Recorder::read))
}

fn named(histograms: impl IntoIterator<Item = Distribution>) -> BTreeMap<String, Distribution> {
    let names = instruments::WORKER.iter().map(|instrument| instrument.short.to_owned());
    names.zip(histograms).collect()
}

fn summaries(histograms: &BTreeMap<String, Distribution>) -> BTreeMap<String, Summary> {
    histograms.iter().map(|(name, values)| (name.clone(), values.summary())).collect()
}

/// What the kernel dropped at a device, from /proc/net/dev of this thread's network namespace;
/// /sys shows the namespace in which it was mounted.
fn device_drops(device: &str) -> Option<DeviceDrops> {
    parse_device_drops(&std::fs::read_to_string("/proc/thread-self/net/dev").ok()?, device)
}

/// `NAME: bytes packets errs drop fifo frame compressed multicast bytes packets errs drop …`, first
/// for receiving, then for sending. To the kernel, sending to a TUN device is our egress.
fn parse_device_drops(text: &str, device: &str) -> Option<DeviceDrops> {
    let numbers =
        text.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
    let mut numbers = numbers.split_whitespace().skip(3);
    let ingress = numbers.next()?.parse().ok()?;
    let egress = numbers.nth(7)?.parse().ok()?;
    Some(DeviceDrops { egress, ingress })
}

/// Ignores poisoning: the lock protects plain numbers, which stay valid.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_drops_at_a_device_are_told_by_direction() {
        let text = "Inter-|   Receive          |  Transmit\n \
            face |bytes packets errs drop fifo frame compressed multicast|bytes\n    \
            lo:   1 2 0 0 0 0 0 0 1 2 0 0 0 0 0 0\ntwill01: 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\n\
            twill0: 10 20 0 7 0 0 0 0 30 40 0 9 0 0 0 0\n";

        let drops = parse_device_drops(text, "twill0");

        assert_eq!(drops, Some(DeviceDrops { egress: 9, ingress: 7 }));
        assert_eq!(parse_device_drops(text, "twill"), None);
    }
}
