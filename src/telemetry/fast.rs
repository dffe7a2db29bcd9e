//! What programs in the kernel carry past the workers, counted as if one more worker did it.

use super::counter::TurnBooks;
use super::instruments::WorkerInstruments;
use super::status::FastPathStatus;
use crate::engine::EngineStats;
use crate::sys::clock;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use twill_datapath::Tally;
use twill_datapath::route::PeerIndex;

/// Packets and bytes.
type Traffic = (u64, u64);

/// What the programs have counted since they were loaded.
#[derive(Clone, Debug, Default)]
pub(crate) struct FastCounts {
    /// The books of both directions, egress first, without what was left to user space.
    pub(crate) tallies: [Tally; 2],
    /// Packets that were left to user space, by direction.
    pub(crate) left: [u64; 2],
    /// By peer number: to the peer, and from it.
    pub(crate) peers: HashMap<u32, [Traffic; 2]>,
}

/// Reads the counters of running programs; nothing if they cannot be read.
pub(crate) type Source = Box<dyn Fn() -> Option<FastCounts> + Send>;

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
    /// What the present ones had counted when they were last asked.
    seen: FastCounts,
    status: FastPathStatus,
}

impl fmt::Debug for FastBooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FastBooks").finish_non_exhaustive()
    }
}

impl FastBooks {
    /// Says whether packets take the fast path, and why; its counters come from `source`.
    pub(crate) fn set(&self, on: bool, reason: String, source: Option<Source>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.read(&mut state);
        let seen = std::mem::take(&mut state.seen);
        for direction in 0..2 {
            state.before.tallies[direction].add(&seen.tallies[direction]);
            state.before.left[direction] += seen.left[direction];
        }
        state.source = source;
        state.status = FastPathStatus { on, reason, ..FastPathStatus::default() };
    }

    /// Asks the programs for their counters.
    pub(super) fn catch_up(&self) -> FastPathStatus {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.read(&mut state);
        let (before, seen) = (&state.before, &state.seen);
        let carried = |direction: usize| {
            before.tallies[direction].packets_out + seen.tallies[direction].packets_out
        };
        FastPathStatus {
            egress_packets: carried(0),
            ingress_packets: carried(1),
            egress_left: before.left[0] + seen.left[0],
            ingress_left: before.left[1] + seen.left[1],
            ..state.status.clone()
        }
    }

    fn read(&self, state: &mut State) {
        let Some(now) = state.source.as_ref().and_then(|source| source()) else { return };
        let mut tallies = state.before.tallies;
        for (sum, tally) in tallies.iter_mut().zip(&now.tallies) {
            sum.add(tally);
        }
        self.instruments.books.publish(&TurnBooks {
            egress: &tallies[0],
            ingress: &tallies[1],
            replies: Default::default(),
            coalesces: (true, true),
            engine: EngineStats::default(),
        });
        let now_ns = clock::monotonic_ns();
        for (peer, traffic) in &now.peers {
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
    }
}

/// What was counted since; all of it if a peer's counters have begun anew.
fn since(now: Traffic, seen: Traffic) -> Traffic {
    match (now.0.checked_sub(seen.0), now.1.checked_sub(seen.1)) {
        (Some(packets), Some(bytes)) => (packets, bytes),
        _ => now,
    }
}
