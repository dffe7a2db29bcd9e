//! A worker's books where others can read them.
//!
//! Each number has one writer, the worker, so publishing is plain stores of relaxed atomics: no
//! read-modify-write, no fence, and no reader can hold the writer up. A reader may see one number
//! of a turn before another of the same turn; differences are of one batch at most.

use crate::datapath::{DropReason, ReplyTally, Tally};
use crate::engine::EngineStats;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Makes it this number.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds to it. Only the one writer may call this: it is a load and a store, which costs a
    /// fraction of an atomic addition.
    #[inline]
    pub fn add(&self, value: u64) {
        self.set(self.value().wrapping_add(value));
    }

    /// The number.
    #[inline]
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a worker knows at the end of a turn.
#[derive(Clone, Copy, Debug)]
pub struct TurnBooks<'a> {
    /// The egress side's books.
    pub egress: &'a Tally,
    /// The ingress side's books.
    pub ingress: &'a Tally,
    /// ICMP errors for inner senders.
    pub replies: ReplyTally,
    /// Whether TCP segments and UDP datagrams are still joined.
    pub joins: (bool, bool),
    /// The engine's events.
    pub engine: EngineStats,
}

/// One worker's books, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerBooks {
    egress: DirectionBooks,
    ingress: DirectionBooks,
    events: Events,
}

macro_rules! events {
    ($($(#[doc = $doc:literal])+ $name:ident: $value:expr,)+) => {
        #[derive(Debug, Default)]
        struct Events {
            $($name: Counter,)+
        }

        impl Events {
            fn publish(&self, turn: &TurnBooks<'_>) {
                $(self.$name.set($value(turn));)+
            }
        }

        /// What happened beside packets, summed over workers.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Counters {
            fn add(&mut self, events: &Events) {
                $(self.$name += events.$name.value();)+
            }
        }
    };
}

events! {
    /// System calls made.
    syscalls: |turn: &TurnBooks<'_>| turn.engine.syscalls,
    /// Multishot operations armed again.
    rearmed: |turn: &TurnBooks<'_>| turn.engine.rearmed,
    /// Receives that found no free buffer in the ring.
    no_buffers: |turn: &TurnBooks<'_>| turn.engine.no_buffers,
    /// Completion queue overflows.
    cq_overflows: |turn: &TurnBooks<'_>| turn.engine.cq_overflows,
    /// Reads that failed because the TUN device was down.
    tun_down: |turn: &TurnBooks<'_>| turn.engine.tun_down,
    /// Errors that the underlay reported by ICMP.
    socket_errors: |turn: &TurnBooks<'_>| turn.engine.socket_errors,
    /// Datagrams that the kernel dropped because a socket's queue was full.
    socket_overflows: |turn: &TurnBooks<'_>| turn.engine.socket_overflows,
    /// Runs replayed as plain datagrams.
    gso_replays: |turn: &TurnBooks<'_>| turn.engine.gso_replays,
    /// Workers whose socket sends runs.
    gso_workers: |turn: &TurnBooks<'_>| u64::from(turn.engine.gso_active),
    /// Peers for which alone runs are off; a peer counts for each worker.
    gso_demoted_peers: |turn: &TurnBooks<'_>| turn.engine.gso_demoted_peers,
    /// Workers that join TCP segments.
    coalesce_tcp_workers: |turn: &TurnBooks<'_>| u64::from(turn.joins.0),
    /// Workers that join UDP datagrams.
    coalesce_udp_workers: |turn: &TurnBooks<'_>| u64::from(turn.joins.1),
    /// ICMP errors sent to inner senders.
    icmp_sent: |turn: &TurnBooks<'_>| turn.replies.sent,
    /// ICMP errors that the rate limit kept back.
    icmp_limited: |turn: &TurnBooks<'_>| turn.replies.limited,
}

#[derive(Debug, Default)]
struct DirectionBooks {
    packets_in: Counter,
    bytes_in: Counter,
    packets_out: Counter,
    bytes_out: Counter,
    drops: [Counter; DropReason::ALL.len()],
}

impl WorkerBooks {
    /// Makes a turn's numbers readable.
    pub fn publish(&self, turn: &TurnBooks<'_>) {
        self.egress.publish(turn.egress);
        self.ingress.publish(turn.ingress);
        self.events.publish(turn);
    }
}

impl DirectionBooks {
    fn publish(&self, tally: &Tally) {
        self.packets_in.set(tally.packets_in);
        self.bytes_in.set(tally.bytes_in);
        self.packets_out.set(tally.packets_out);
        self.bytes_out.set(tally.bytes_out);
        for (counter, drops) in self.drops.iter().zip(tally.drops) {
            counter.set(drops);
        }
    }
}

/// The books of all workers, summed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// TUN to UDP.
    pub egress: Direction,
    /// UDP to TUN.
    pub ingress: Direction,
    /// What happened beside packets.
    pub counters: Counters,
}

/// One direction's sums.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Direction {
    /// Inner packets that arrived.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Inner packets that left.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Packets dropped, by reason; reasons that never occurred are left out.
    pub drops: BTreeMap<String, u64>,
    /// Packets in, minus packets out, minus drops: zero between turns.
    pub imbalance: i64,
}

impl Books {
    /// Sums what the workers have published.
    #[must_use]
    pub fn sum<'a>(workers: impl Iterator<Item = &'a WorkerBooks>) -> Self {
        let mut books = Self::default();
        for worker in workers {
            books.egress.add(&worker.egress);
            books.ingress.add(&worker.ingress);
            books.counters.add(&worker.events);
        }
        books
    }
}

impl Direction {
    fn add(&mut self, books: &DirectionBooks) {
        self.packets_in += books.packets_in.value();
        self.bytes_in += books.bytes_in.value();
        self.packets_out += books.packets_out.value();
        self.bytes_out += books.bytes_out.value();
        for (reason, counter) in DropReason::ALL.iter().zip(&books.drops) {
            if counter.value() > 0 {
                *self.drops.entry(reason.label().to_owned()).or_default() += counter.value();
            }
        }
        let dropped: u64 = self.drops.values().sum();
        self.imbalance = self.packets_in as i64 - self.packets_out as i64 - dropped as i64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_publish_adds_up() {
        let workers = [WorkerBooks::default(), WorkerBooks::default()];
        let mut egress = Tally { packets_in: 10, packets_out: 7, ..Tally::default() };
        egress.drop(DropReason::Ttl, 3);
        let turn = TurnBooks {
            egress: &egress,
            ingress: &Tally::default(),
            replies: ReplyTally { sent: 3, limited: 0 },
            joins: (true, false),
            engine: EngineStats { syscalls: 5, gso_active: true, ..EngineStats::default() },
        };

        for worker in &workers {
            worker.publish(&turn);
            worker.publish(&turn);
        }
        let books = Books::sum(workers.iter());

        assert_eq!(books.egress.packets_in, 20);
        assert_eq!(books.egress.drops["ttl"], 6);
        assert_eq!(books.egress.imbalance, 0);
        assert_eq!((books.counters.syscalls, books.counters.gso_workers), (10, 2));
        assert_eq!(books.counters.icmp_sent, 6);
        assert_eq!(
            (books.counters.coalesce_tcp_workers, books.counters.coalesce_udp_workers),
            (2, 0)
        );
    }
}
