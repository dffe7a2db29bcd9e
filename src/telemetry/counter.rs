//! A worker's books where others can read them.
//!
//! Each number has one writer, the worker, so publishing is plain stores of relaxed atomics: no
//! read-modify-write, no fence, and no reader can hold the writer up. A reader may see one number
//! of a turn before another of the same turn; differences are of one batch at most.

use crate::datapath::{DropReason, Tally};
use crate::engine::EngineStats;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One worker's books, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerBooks {
    egress: DirectionBooks,
    ingress: DirectionBooks,
    syscalls: Counter,
    no_buffers: Counter,
    rearmed: Counter,
    gso_replays: Counter,
    gso_active: Counter,
    socket_errors: Counter,
    socket_overflows: Counter,
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
    pub fn publish(&self, egress: &Tally, ingress: &Tally, engine: &EngineStats) {
        self.egress.publish(egress);
        self.ingress.publish(ingress);
        self.syscalls.set(engine.syscalls);
        self.no_buffers.set(engine.no_buffers);
        self.rearmed.set(engine.rearmed);
        self.gso_replays.set(engine.gso_replays);
        self.gso_active.set(u64::from(engine.gso_active));
        self.socket_errors.set(engine.socket_errors);
        self.socket_overflows.set(engine.socket_overflows);
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Books {
    /// TUN to UDP.
    pub egress: Direction,
    /// UDP to TUN.
    pub ingress: Direction,
    /// What engines counted.
    pub counters: Counters,
}

/// What the workers' engines counted, summed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// System calls made.
    pub syscalls: u64,
    /// Receives that found no free buffer in the ring.
    pub no_buffers: u64,
    /// Multishot operations armed again.
    pub rearmed: u64,
    /// Runs replayed as plain datagrams.
    pub gso_replays: u64,
    /// Workers whose socket sends runs.
    pub gso_workers: u64,
    /// Errors that the underlay reported by ICMP.
    pub socket_errors: u64,
    /// Datagrams that the kernel dropped because a socket's queue was full.
    pub socket_overflows: u64,
}

/// One direction's sums.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
    pub drops: BTreeMap<&'static str, u64>,
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
            books.counters.syscalls += worker.syscalls.value();
            books.counters.no_buffers += worker.no_buffers.value();
            books.counters.rearmed += worker.rearmed.value();
            books.counters.gso_replays += worker.gso_replays.value();
            books.counters.gso_workers += worker.gso_active.value();
            books.counters.socket_errors += worker.socket_errors.value();
            books.counters.socket_overflows += worker.socket_overflows.value();
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
                *self.drops.entry(reason.label()).or_default() += counter.value();
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
        let mut tally = Tally { packets_in: 10, packets_out: 7, ..Tally::default() };
        tally.drop(DropReason::Ttl, 3);
        let engine = EngineStats { syscalls: 5, gso_active: true, ..EngineStats::default() };

        for worker in &workers {
            worker.publish(&tally, &Tally::default(), &engine);
            worker.publish(&tally, &Tally::default(), &engine);
        }
        let books = Books::sum(workers.iter());

        assert_eq!(books.egress.packets_in, 20);
        assert_eq!(books.egress.drops["ttl"], 6);
        assert_eq!(books.egress.imbalance, 0);
        assert_eq!((books.counters.syscalls, books.counters.gso_workers), (10, 2));
    }
}
