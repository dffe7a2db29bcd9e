//! Traffic counters by peer.
//!
//! A worker's table is a directory of blocks. The control plane allocates blocks before it publishes
//! peers with higher numbers, so a worker never does, and memory follows the peers there are: 16 KiB
//! per 256 peers and worker. Numbers are used again after a peer is gone; the reader remembers what
//! was counted before ([`Ledger`]), the worker never clears anything.

use super::counter::Counter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, OnceLock};
use twill_datapath::route::{PeerIndex, View};

/// Peers in one block.
const BLOCK: usize = 256;
/// Blocks in a table: 131,072 peers, as many as a gateway can know.
const BLOCKS: usize = 512;

/// One worker's numbers about one peer, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct PeerCounters {
    egress_packets: Counter,
    egress_bytes: Counter,
    egress_drops: Counter,
    ingress_packets: Counter,
    ingress_bytes: Counter,
    ingress_drops: Counter,
    last_seen_ns: Counter,
}

impl PeerCounters {
    /// Packets were handed to the socket, and others refused by the kernel.
    #[inline]
    pub(crate) fn sent(&self, packets: u64, bytes: u64, drops: u64) {
        self.egress_packets.add(packets);
        self.egress_bytes.add(bytes);
        if drops > 0 {
            self.egress_drops.add(drops);
        }
    }

    /// Packets came in and were forwarded or dropped, `now_ns` of the monotonic clock.
    #[inline]
    pub(crate) fn received(&self, packets: u64, bytes: u64, drops: u64, now_ns: u64) {
        self.ingress_packets.add(packets);
        self.ingress_bytes.add(bytes);
        if drops > 0 {
            self.ingress_drops.add(drops);
        }
        self.last_seen_ns.set(now_ns);
    }

    /// Goes on from these counters. No worker may run.
    pub(crate) fn inherit(&self, past: &PeerTraffic) {
        self.egress_packets.add(past.egress_packets);
        self.egress_bytes.add(past.egress_bytes);
        self.egress_drops.add(past.egress_drops);
        self.ingress_packets.add(past.ingress_packets);
        self.ingress_bytes.add(past.ingress_bytes);
        self.ingress_drops.add(past.ingress_drops);
    }

    fn add_to(&self, sum: &mut PeerTraffic) {
        sum.egress_packets += self.egress_packets.value();
        sum.egress_bytes += self.egress_bytes.value();
        sum.egress_drops += self.egress_drops.value();
        sum.ingress_packets += self.ingress_packets.value();
        sum.ingress_bytes += self.ingress_bytes.value();
        sum.ingress_drops += self.ingress_drops.value();
        sum.last_seen_ns = sum.last_seen_ns.max(self.last_seen_ns.value());
    }
}

/// One worker's peers by number.
#[derive(Debug)]
pub(crate) struct PeerTable {
    blocks: Box<[OnceLock<Box<[PeerCounters]>>]>,
}

impl Default for PeerTable {
    fn default() -> Self {
        Self { blocks: (0..BLOCKS).map(|_| OnceLock::new()).collect() }
    }
}

impl PeerTable {
    /// The peer's numbers; none for a number that was never reserved.
    #[inline]
    #[must_use]
    pub(crate) fn peer(&self, index: PeerIndex) -> Option<&PeerCounters> {
        let index = index.0 as usize;
        self.blocks.get(index / BLOCK)?.get()?.get(index % BLOCK)
    }

    /// Makes room for peers with numbers below `slots`; called by the control plane.
    pub(crate) fn reserve(&self, slots: usize) {
        for block in self.blocks.iter().take(slots.div_ceil(BLOCK)) {
            block.get_or_init(|| (0..BLOCK).map(|_| PeerCounters::default()).collect());
        }
    }
}

/// A peer's traffic, summed over workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct PeerTraffic {
    /// Packets that the kernel took for the peer.
    pub(crate) egress_packets: u64,
    /// Their bytes, from the inner IP header on.
    pub(crate) egress_bytes: u64,
    /// Packets for the peer that the kernel refused.
    pub(crate) egress_drops: u64,
    /// Packets from the peer that passed the checks.
    pub(crate) ingress_packets: u64,
    /// Their bytes, from the inner IP header on.
    pub(crate) ingress_bytes: u64,
    /// Packets from the peer that did not pass them.
    pub(crate) ingress_drops: u64,
    /// When a datagram last came from it, nanoseconds of the monotonic clock; 0 for never.
    #[serde(skip)]
    pub(crate) last_seen_ns: u64,
}

impl PeerTraffic {
    fn since(self, earlier: &Self) -> Self {
        let seen = self.last_seen_ns > earlier.last_seen_ns;
        Self {
            egress_packets: self.egress_packets.saturating_sub(earlier.egress_packets),
            egress_bytes: self.egress_bytes.saturating_sub(earlier.egress_bytes),
            egress_drops: self.egress_drops.saturating_sub(earlier.egress_drops),
            ingress_packets: self.ingress_packets.saturating_sub(earlier.ingress_packets),
            ingress_bytes: self.ingress_bytes.saturating_sub(earlier.ingress_bytes),
            ingress_drops: self.ingress_drops.saturating_sub(earlier.ingress_drops),
            last_seen_ns: if seen { self.last_seen_ns } else { 0 },
        }
    }
}

/// The peer of every index, and the counts of the index's former peers.
///
/// The last turns of a worker that still has the view before may count for the number's next
/// holder; that is one batch at most.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    slots: Vec<Option<Holding>>,
}

#[derive(Debug)]
struct Holding {
    name: Arc<str>,
    before: PeerTraffic,
}

impl Ledger {
    /// Takes over a view that is about to be published, and reserves counters for its peers.
    pub(crate) fn follow<'a>(
        &mut self,
        view: &View,
        tables: impl Iterator<Item = &'a PeerTable> + Clone,
    ) {
        tables.clone().for_each(|table| table.reserve(view.peer_slots()));
        self.slots.resize_with(view.peer_slots(), || None);
        for (number, slot) in self.slots.iter_mut().enumerate() {
            let index = PeerIndex(number as u32);
            match (view.peer(index), &slot) {
                (None, _) => *slot = None,
                (Some(peer), Some(holding)) if holding.name == peer.name => {}
                (Some(peer), _) => {
                    let before = total(index, tables.clone());
                    *slot = Some(Holding { name: Arc::clone(&peer.name), before });
                }
            }
        }
    }

    /// The traffic since the peer got its index.
    #[must_use]
    pub(crate) fn traffic<'a>(
        &self,
        index: PeerIndex,
        tables: impl Iterator<Item = &'a PeerTable>,
    ) -> PeerTraffic {
        let holding = self.slots.get(index.0 as usize).and_then(Option::as_ref);
        let before = holding.map(|holding| holding.before).unwrap_or_default();
        total(index, tables).since(&before)
    }
}

fn total<'a>(index: PeerIndex, tables: impl Iterator<Item = &'a PeerTable>) -> PeerTraffic {
    let mut sum = PeerTraffic::default();
    for counters in tables.filter_map(|table| table.peer(index)) {
        counters.add_to(&mut sum);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use twill_datapath::route::{Overlay, Peer};

    #[test]
    fn a_peer_with_a_used_number_begins_at_zero() {
        let tables = [PeerTable::default(), PeerTable::default()];
        let mut ledger = Ledger::default();
        ledger.follow(&view(&[(0, "old"), (1, "stays")]), tables.iter());
        for table in &tables {
            table.peer(PeerIndex(0)).unwrap().sent(5, 500, 1);
            table.peer(PeerIndex(0)).unwrap().received(2, 200, 0, 70);
            table.peer(PeerIndex(1)).unwrap().sent(1, 100, 0);
        }
        assert_eq!(ledger.traffic(PeerIndex(0), tables.iter()).egress_packets, 10);

        ledger.follow(&view(&[(0, "new"), (1, "stays")]), tables.iter());
        tables[0].peer(PeerIndex(0)).unwrap().sent(3, 30, 0);

        let new = ledger.traffic(PeerIndex(0), tables.iter());
        let expected = PeerTraffic { egress_packets: 3, egress_bytes: 30, ..Default::default() };
        assert_eq!(new, expected, "nor was the new peer seen yet");
        assert_eq!(ledger.traffic(PeerIndex(1), tables.iter()).egress_packets, 2);
    }

    #[test]
    fn a_peer_that_comes_back_under_its_name_and_number_begins_at_zero() {
        let table = PeerTable::default();
        let mut ledger = Ledger::default();
        ledger.follow(&view(&[(0, "a")]), [&table].into_iter());
        table.peer(PeerIndex(0)).unwrap().sent(5, 500, 0);

        ledger.follow(&view(&[]), [&table].into_iter());
        ledger.follow(&view(&[(0, "a")]), [&table].into_iter());

        assert_eq!(ledger.traffic(PeerIndex(0), [&table].into_iter()), PeerTraffic::default());
    }

    #[test]
    fn memory_follows_the_peers_there_are() {
        let table = PeerTable::default();

        table.reserve(BLOCK + 1);

        assert!(table.peer(PeerIndex(BLOCK as u32 * 2 - 1)).is_some());
        assert!(table.peer(PeerIndex(BLOCK as u32 * 2)).is_none());
        assert!(table.peer(PeerIndex(u32::MAX)).is_none());
        assert_eq!(size_of::<PeerCounters>() * BLOCK, 16 << 10);
    }

    fn view(peers: &[(u32, &str)]) -> View {
        let peers = peers.iter().map(|(index, name)| Peer {
            index: PeerIndex(*index),
            name: (*name).into(),
            endpoint: "192.0.2.9:8285".parse().unwrap(),
            subnets: vec![format!("10.{index}.0.0/16").parse().unwrap()],
        });
        View::new(Overlay { peers: peers.collect(), ..Overlay::default() })
    }
}
