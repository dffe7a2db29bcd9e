//! What programs in the kernel carry past the workers, counted as if one more worker did it.

use super::counter::TurnBooks;
use super::instruments::WorkerInstruments;
use super::status::FastPathStatus;
use crate::engine::EngineStats;
use crate::sys::clock;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use twill_datapath::Tally;
use twill_datapath::route::PeerIndex;

/// Packets and bytes.
type Traffic = (u64, u64);

/// What the programs have counted since their maps were made.
#[derive(Clone, Debug, Default)]
pub(crate) struct FastCounts {
    /// The books of both directions, egress first, without what was left to user space.
    pub(crate) tallies: [Tally; 2],
    /// Packets that were left to user space, by direction.
    pub(crate) left: [u64; 2],
    /// By peer number: to the peer, and from it.
    pub(crate) peers: HashMap<u32, [Traffic; 2]>,
}

impl FastCounts {
    fn add(&mut self, other: &Self) {
        for direction in 0..2 {
            self.tallies[direction].add(&other.tallies[direction]);
            self.left[direction] += other.left[direction];
        }
    }

    /// What was counted since; nothing of what has begun anew.
    fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        for direction in 0..2 {
            let (now, before) = (&mut since.tallies[direction], &earlier.tallies[direction]);
            for (now, before) in [
                (&mut now.packets_in, before.packets_in),
                (&mut now.bytes_in, before.bytes_in),
                (&mut now.packets_out, before.packets_out),
                (&mut now.bytes_out, before.bytes_out),
                (&mut since.left[direction], earlier.left[direction]),
            ] {
                *now = now.saturating_sub(before);
            }
            for (now, before) in now.drops.iter_mut().zip(before.drops) {
                *now = now.saturating_sub(before);
            }
        }
        since
    }
}

/// What a successor is told of the counters of programs that it goes on with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct FastPast {
    /// Packets that were forwarded, by direction.
    carried: [u64; 2],
    /// Packets that were left to user space, by direction.
    left: [u64; 2],
    /// What the programs had counted: packets and bytes in and out, then drops by reason.
    seen: [Vec<u64>; 2],
    /// Packets that they had left, by direction.
    seen_left: [u64; 2],
    /// By peer number: to the peer, and from it.
    seen_peers: HashMap<u32, [Traffic; 2]>,
}

impl FastPast {
    fn seen(&self) -> FastCounts {
        let of = |numbers: &[u64]| {
            let number = |at: usize| numbers.get(at).copied().unwrap_or_default();
            Tally {
                packets_in: number(0),
                bytes_in: number(1),
                packets_out: number(2),
                bytes_out: number(3),
                drops: std::array::from_fn(|reason| number(4 + reason)),
            }
        };
        FastCounts {
            tallies: [of(&self.seen[0]), of(&self.seen[1])],
            left: self.seen_left,
            peers: self.seen_peers.clone(),
        }
    }
}

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// The books of both directions.
    Totals,
    /// What passed to and from each peer, too.
    Peers,
}

/// Reads the counters of running programs; nothing if they cannot be read.
pub(crate) type Source = Box<dyn Fn(Depth) -> Option<FastCounts> + Send>;

/// The counters of programs, and what they begin with.
pub(crate) struct Counting {
    pub(crate) source: Source,
    /// Whether the programs count on where a predecessor's did, or have begun at zero.
    pub(crate) goes_on: bool,
}

/// The books of the fast path.
#[derive(Default)]
pub(crate) struct FastBooks {
    /// The counters, where readers look for those of a worker.
    pub(super) instruments: Arc<WorkerInstruments>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    source: Option<Source>,
    /// What programs before the present ones counted.
    before: FastCounts,
    /// What the present ones had counted when a predecessor read them last: it is in its books.
    base: FastCounts,
    /// What the present ones had counted when they were last asked.
    seen: FastCounts,
    /// What predecessors forwarded and left to user space.
    past: [[u64; 2]; 2],
    status: FastPathStatus,
}

impl State {
    /// What this process answers for.
    fn own(&self) -> FastCounts {
        let mut own = self.seen.since(&self.base);
        own.add(&self.before);
        own
    }
}

impl fmt::Debug for FastBooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FastBooks").finish_non_exhaustive()
    }
}

impl FastBooks {
    /// Says that packets take the fast path, and why, and how they are counted.
    pub(crate) fn set_on(&self, reason: String, kept: bool, counting: Option<Counting>) {
        self.set(FastPathStatus { on: true, reason, kept, ..FastPathStatus::default() }, counting);
    }

    /// Says why packets do not take the fast path.
    pub(crate) fn set_off(&self, reason: String) {
        self.set(FastPathStatus { reason, ..FastPathStatus::default() }, None);
    }

    fn set(&self, status: FastPathStatus, counting: Option<Counting>) {
        let mut state = self.locked();
        self.read(&mut state, Depth::Peers);
        state.before = state.own();
        match counting {
            Some(Counting { source, goes_on: true }) => {
                state.source = Some(source);
                state.seen = state.base.clone();
            }
            other => {
                state.source = other.map(|it| it.source);
                state.base = FastCounts::default();
                state.seen = FastCounts::default();
            }
        }
        state.status = status;
    }

    /// Reads the counters for the last time: from here on they are a successor's.
    pub(super) fn past(&self) -> FastPast {
        let mut state = self.locked();
        self.read(&mut state, Depth::Peers);
        state.source = None;
        let (own, seen, past) = (state.own(), &state.seen, state.past);
        let numbers = |tally: &Tally| {
            let Tally { packets_in, bytes_in, packets_out, bytes_out, drops } = tally;
            let mut all = vec![*packets_in, *bytes_in, *packets_out, *bytes_out];
            all.extend(drops);
            all
        };
        FastPast {
            carried: [0, 1].map(|way| past[0][way] + own.tallies[way].packets_out),
            left: [0, 1].map(|way| past[1][way] + own.left[way]),
            seen: [0, 1].map(|way| numbers(&seen.tallies[way])),
            seen_left: seen.left,
            seen_peers: seen.peers.clone(),
        }
    }

    /// Goes on from what a predecessor counted, which may have been in this process.
    pub(super) fn inherit(&self, past: &FastPast) {
        let mut state = self.locked();
        state.before = FastCounts::default();
        state.base = past.seen();
        state.seen = state.base.clone();
        state.past = [past.carried, past.left];
    }

    /// Asks the programs for their counters.
    pub(super) fn catch_up(&self, depth: Depth) -> FastPathStatus {
        let mut state = self.locked();
        self.read(&mut state, depth);
        let (own, past) = (state.own(), state.past);
        FastPathStatus {
            egress_packets: past[0][0] + own.tallies[0].packets_out,
            ingress_packets: past[0][1] + own.tallies[1].packets_out,
            egress_left: past[1][0] + own.left[0],
            ingress_left: past[1][1] + own.left[1],
            ..state.status.clone()
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, state: &mut State, depth: Depth) {
        let Some(mut now) = state.source.as_ref().and_then(|source| source(depth)) else { return };
        let now_ns = clock::monotonic_ns();
        if depth == Depth::Totals {
            now.peers = std::mem::take(&mut state.seen.peers);
        }
        for (peer, traffic) in now.peers.iter().filter(|_| depth == Depth::Peers) {
            let Some(counters) = self.instruments.peers.peer(PeerIndex(*peer)) else { continue };
            let seen = state.seen.peers.get(peer).copied().unwrap_or_default();
            let [sent, received] = [0, 1].map(|way| since(traffic[way], seen[way]));
            if sent.0 > 0 {
                counters.sent(sent.0, sent.1, 0);
            }
            if received.0 > 0 {
                counters.received(received.0, received.1, 0, now_ns);
            }
        }
        state.seen = now;
        let own = state.own();
        self.instruments.books.publish(&TurnBooks {
            egress: &own.tallies[0],
            ingress: &own.tallies[1],
            replies: Default::default(),
            coalesces: (true, true),
            engine: EngineStats::default(),
        });
    }
}

/// What was counted since; all of it if a peer's counters have begun anew.
fn since(now: Traffic, seen: Traffic) -> Traffic {
    match (now.0.checked_sub(seen.0), now.1.checked_sub(seen.1)) {
        (Some(packets), Some(bytes)) => (packets, bytes),
        _ => now,
    }
}
