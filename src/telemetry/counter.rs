//! A worker's packet and drop counters (its books), published for readers.
//!
//! Each number has one writer, the worker, so it publishes with plain stores of relaxed atomics: no
//! read-modify-write, and no reader delays the writer. A sequence number is odd while the counters
//! of a turn are published; a reader that sees it change reads again, so that packets in = packets
//! out + drops holds in every reading.

use crate::engine::EngineStats;
use arc_swap::ArcSwapOption;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use twill_datapath::{DropReason, ReplyTally, Tally};

/// A number with one writer.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Sets the number.
    #[inline]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds to the number. Only its one writer may call this: a load and a store cost a fraction of an
    /// atomic addition.
    #[inline]
    pub(crate) fn add(&self, value: u64) {
        self.set(self.value().wrapping_add(value));
    }

    /// The number.
    #[inline]
    #[must_use]
    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A worker's counters at the end of a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TurnBooks<'a> {
    /// The egress side's books.
    pub(crate) egress: &'a Tally,
    /// The ingress side's books.
    pub(crate) ingress: &'a Tally,
    /// ICMP errors for inner senders.
    pub(crate) replies: ReplyTally,
    /// Whether TCP segments and UDP datagrams are still coalesced.
    pub(crate) coalesces: (bool, bool),
    /// The engine's events.
    pub(crate) engine: EngineStats,
}

/// One worker's books, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct WorkerBooks {
    /// Counts up before and after every publication.
    sequence: AtomicU64,
    egress: DirectionBooks,
    ingress: DirectionBooks,
    events: Events,
    /// What workers before this one counted; set while no worker runs.
    past: ArcSwapOption<Books>,
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

        /// Events, summed over workers.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(default)]
        pub(crate) struct Counters {
            $($(#[doc = $doc])+ pub(crate) $name: u64,)+
        }

        impl Events {
            fn read(&self) -> Counters {
                Counters { $($name: self.$name.value(),)+ }
            }
        }

        impl Counters {
            fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
            }
        }
    };
}

events! {
    /// System calls made.
    syscalls: |turn: &TurnBooks<'_>| turn.engine.syscalls,
    /// Multishot operations submitted again after the kernel ended them.
    rearmed: |turn: &TurnBooks<'_>| turn.engine.rearmed,
    /// Receives that found no free buffer in the ring.
    no_buffers: |turn: &TurnBooks<'_>| turn.engine.no_buffers,
    /// Completion queue overflows.
    cq_overflows: |turn: &TurnBooks<'_>| turn.engine.cq_overflows,
    /// Reads that failed because the TUN device was down.
    tun_down: |turn: &TurnBooks<'_>| turn.engine.tun_down,
    /// Receives from the UDP socket that failed.
    socket_errors: |turn: &TurnBooks<'_>| turn.engine.socket_errors,
    /// Datagrams that the kernel dropped because a socket's queue was full.
    socket_overflows: |turn: &TurnBooks<'_>| turn.engine.socket_overflows,
    /// GSO sends that the kernel refused and twill repeated as plain datagrams.
    gso_replays: |turn: &TurnBooks<'_>| turn.engine.gso_replays,
    /// Send buffers enlarged because neighbours that do not answer filled them.
    buffer_growths: |turn: &TurnBooks<'_>| turn.engine.buffer_growths,
    /// Workers for which GSO is disabled.
    gso_off_workers: |turn: &TurnBooks<'_>| u64::from(!turn.engine.gso_active),
    /// Peers for which GSO is disabled; a peer counts once per worker.
    gso_demoted_peers: |turn: &TurnBooks<'_>| turn.engine.gso_demoted_peers,
    /// Workers that do not coalesce TCP segments.
    coalesce_tcp_off_workers: |turn: &TurnBooks<'_>| u64::from(!turn.coalesces.0),
    /// Workers that do not coalesce UDP datagrams.
    coalesce_udp_off_workers: |turn: &TurnBooks<'_>| u64::from(!turn.coalesces.1),
    /// ICMP errors sent to inner senders.
    icmp_sent: |turn: &TurnBooks<'_>| turn.replies.sent,
    /// ICMP errors not sent because of the rate limit.
    icmp_limited: |turn: &TurnBooks<'_>| turn.replies.limited,
}

impl Counters {
    /// Leaves out what tells a state of now, and what sockets count themselves as long as they are
    /// open (`SO_RXQ_OVFL`).
    fn forget_states(&mut self) {
        self.socket_overflows = 0;
        self.gso_off_workers = 0;
        self.gso_demoted_peers = 0;
        self.coalesce_tcp_off_workers = 0;
        self.coalesce_udp_off_workers = 0;
    }
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
    /// Publishes the counters of a turn.
    pub(crate) fn publish(&self, turn: &TurnBooks<'_>) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.egress.publish(turn.egress);
        self.ingress.publish(turn.ingress);
        self.events.publish(turn);
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// The counters of the last turn that was published.
    #[must_use]
    pub(crate) fn read(&self) -> Books {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            let books = Books {
                egress: self.egress.read(),
                ingress: self.ingress.read(),
                counters: self.events.read(),
            };
            fence(Ordering::Acquire);
            // A turn takes a worker much longer than to publish it, so few readings are repeated.
            if before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before {
                return self.since(books);
            }
            std::hint::spin_loop();
        }
    }

    /// What workers before this one counted.
    pub(crate) fn past(&self) -> Option<Arc<Books>> {
        self.past.load_full()
    }

    fn since(&self, mut books: Books) -> Books {
        if let Some(past) = &*self.past.load() {
            books.add(past);
        }
        books
    }

    /// Goes on from these counters, although the worker begins at zero. No worker may run.
    pub(crate) fn inherit(&self, past: &Books) {
        let zero = Tally::default();
        self.publish(&TurnBooks {
            egress: &zero,
            ingress: &zero,
            replies: ReplyTally::default(),
            coalesces: (true, true),
            engine: EngineStats { gso_active: true, ..EngineStats::default() },
        });
        let mut past = past.clone();
        past.counters.forget_states();
        self.past.store(Some(Arc::new(past)));
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

/// The counters of all workers, summed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Books {
    /// TUN to UDP.
    pub(crate) egress: Direction,
    /// UDP to TUN.
    pub(crate) ingress: Direction,
    /// Events.
    pub(crate) counters: Counters,
}

/// One direction's sums.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Direction {
    /// Inner packets received.
    pub(crate) packets_in: u64,
    /// Their bytes.
    pub(crate) bytes_in: u64,
    /// Inner packets forwarded.
    pub(crate) packets_out: u64,
    /// Their bytes.
    pub(crate) bytes_out: u64,
    /// Packets dropped, by reason; reasons that never occurred are missing.
    pub(crate) drops: BTreeMap<String, u64>,
    /// Packets in, minus packets out, minus drops: zero between turns.
    pub(crate) imbalance: i64,
}

impl Books {
    /// Sums what the workers have published.
    #[must_use]
    pub(crate) fn sum<'a>(workers: impl Iterator<Item = &'a WorkerBooks>) -> Self {
        let books: Vec<_> = workers.map(WorkerBooks::read).collect();
        Self::total(books.iter())
    }

    /// Sums books.
    pub(crate) fn total<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        all.fold(Self::default(), |mut sum, books| {
            sum.add(books);
            sum
        })
    }

    fn add(&mut self, other: &Self) {
        self.egress.add(&other.egress);
        self.ingress.add(&other.ingress);
        self.counters.add(&other.counters);
    }
}

impl DirectionBooks {
    fn read(&self) -> Direction {
        let counted = DropReason::ALL.iter().zip(self.drops.iter().map(Counter::value));
        let mut direction = Direction {
            packets_in: self.packets_in.value(),
            bytes_in: self.bytes_in.value(),
            packets_out: self.packets_out.value(),
            bytes_out: self.bytes_out.value(),
            drops: counted
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| (reason.label().to_owned(), count))
                .collect(),
            imbalance: 0,
        };
        direction.imbalance =
            direction.packets_in as i64 - direction.packets_out as i64 - direction.dropped() as i64;
        direction
    }
}

impl Direction {
    /// All drops.
    #[must_use]
    pub(crate) fn dropped(&self) -> u64 {
        self.drops.values().sum()
    }

    fn add(&mut self, other: &Self) {
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
        for (reason, count) in &other.drops {
            *self.drops.entry(reason.clone()).or_default() += count;
        }
        self.imbalance += other.imbalance;
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
            coalesces: (true, false),
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
        assert_eq!((books.counters.syscalls, books.counters.gso_off_workers), (10, 0));
        assert_eq!(books.counters.icmp_sent, 6);
        assert_eq!(
            (books.counters.coalesce_tcp_off_workers, books.counters.coalesce_udp_off_workers),
            (0, 2)
        );
    }

    #[test]
    fn a_worker_goes_on_from_what_was_counted_before_it() {
        let books = WorkerBooks::default();
        let mut tally = Tally { packets_in: 10, packets_out: 9, ..Tally::default() };
        tally.drop(DropReason::Ttl, 1);
        let off = TurnBooks { coalesces: (false, false), ..turn(&tally) };
        books.publish(&off);

        for round in 1..4 {
            let past = books.read();
            books.inherit(&past);
            let begun = books.read();
            assert_eq!((&begun.egress, &begun.ingress), (&past.egress, &past.ingress));
            assert_eq!(begun.counters.coalesce_tcp_off_workers, 0, "a state, not a counter");
            books.publish(&turn(&tally));

            let read = books.read();
            assert_eq!(read.egress.packets_in, 10 * (round + 1));
            assert_eq!(read.egress.drops["ttl"], round + 1);
            assert_eq!(read.egress.imbalance, 0);
        }
    }

    #[test]
    fn books_of_another_version_lack_or_have_fields() {
        let words = r#"{"egress":{"packets_in":7,"moons":1},"stars":{"a":1}}"#;

        let books: Books = serde_json::from_str(words).unwrap();

        assert_eq!((books.egress.packets_in, books.ingress.packets_in), (7, 0));
    }

    #[test]
    fn every_reading_beside_a_busy_writer_balances() {
        let books = WorkerBooks::default();
        let done = std::sync::atomic::AtomicBool::new(false);

        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut tally = Tally::default();
                while !done.load(Ordering::Relaxed) {
                    tally.packets_in += 3;
                    tally.packets_out += 2;
                    tally.drop(DropReason::NoRoute, 1);
                    books.publish(&turn(&tally));
                }
            });
            let mut last = 0;
            while last < 10_000 {
                let read = books.read();
                assert_eq!(read.egress.imbalance, 0, "{read:?}");
                assert_eq!(read.egress, read.ingress);
                assert!(read.egress.packets_in >= last);
                last = read.egress.packets_in;
            }
            done.store(true, Ordering::Relaxed);
        });
    }

    fn turn(tally: &Tally) -> TurnBooks<'_> {
        TurnBooks {
            egress: tally,
            ingress: tally,
            replies: ReplyTally::default(),
            coalesces: (true, true),
            engine: EngineStats::default(),
        }
    }
}
