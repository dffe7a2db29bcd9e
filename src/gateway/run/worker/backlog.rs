//! What was received and waits for its turn.
//!
//! ```text
//! engine ──> inbox ──> turn: all that waits, or what of it leaves first ──> carried, released
//!            ├ round ┤ later │
//! ```
//!
//! Bulk alone leaves as it came: a turn takes all of it, which is cheapest. As soon as somebody sends
//! little beside it, and for a while after, a turn takes little of each flow, so that what arrives meanwhile
//! is soon looked for: a super-packet of 64 KiB takes a sender about 85 µs. The more flows have bulk, the
//! more such a turn takes: they would lose by short turns, and nobody expects to be alone then. [`Fair`] says
//! what leaves first.
//!
//! Bulk is cheap in large portions only: senders that get an acknowledgement at a time wake at a time.
//! So what waits when nothing is left of the last round makes the next round, of as many turns as it
//! takes. Of what arrives later only small packets that somebody may wait for leave before its end.

use crate::engine::Engine;
use twill_datapath::batch::{Inbox, Train, TunFrame};
use twill_datapath::offload::vnet_hdr;
use twill_datapath::{Fair, Flows};

/// Bytes of one flow in a short turn of one direction; its last arrival may go beyond.
const FLOW_BYTES: u32 = 40 * 1024;
/// Bytes of all flows together; so may the last of all.
const TURN_BYTES: u32 = 1024 * 1024;

/// Bytes of an arrival that may pass others of its round, and of a flow that sends little.
const SMALL: u32 = 2048;
/// How long turns stay short after a flow that sends little: longer than from one ping to the next.
const SHORT_FOR_NS: u64 = 2_000_000_000;

/// Both directions' arrivals.
pub(super) struct Backlog {
    /// What the engine brought and no turn has carried.
    pub(super) inbox: Inbox,
    frames: Queue,
    trains: Queue,
    /// Until when turns are short.
    pub(super) short_until_ns: u64,
    vnet_hdr: bool,
}

/// How one direction's arrivals are told apart.
struct Queue {
    /// How many of the arrivals, from the first on, are of the round.
    round: usize,
    /// The flows of each arrival. Those at the end may be missing: they have not been looked at yet.
    flows: Vec<Flows>,
    fair: Fair,
}

impl Queue {
    const fn memory(capacity: usize) -> usize {
        capacity * size_of::<Flows>() + Fair::memory(capacity)
    }

    fn new(capacity: usize) -> Self {
        Self { round: 0, flows: Vec::with_capacity(capacity), fair: Fair::new(capacity) }
    }

    /// Whether a flow that has little waiting is among the arrivals, and somebody may wait for it.
    fn has_little<T>(
        &mut self,
        waiting: &[T],
        bytes: impl Fn(&T) -> u32,
        mut flows: impl FnMut(&T) -> Flows,
    ) -> bool {
        // Mostly there is no candidate, and bulk need not be looked at.
        if !waiting.iter().any(|it| bytes(it) <= SMALL && flows(it).are_urgent()) {
            return false;
        }
        self.learn(waiting, flows);
        self.fair.clear();
        for (arrival, flows) in waiting.iter().zip(&self.flows) {
            self.fair.add(bytes(arrival), flows);
        }
        self.flows.iter().any(|flows| flows.are_urgent() && self.fair.bytes_of(flows) <= SMALL)
    }

    /// Looks at the flows of what has come since the last time.
    fn learn<T>(&mut self, waiting: &[T], flows: impl FnMut(&T) -> Flows) {
        self.flows.extend(waiting[self.flows.len()..].iter().map(flows));
    }

    /// Moves one turn's arrivals.
    fn take<T: Copy>(
        &mut self,
        waiting: &mut Vec<T>,
        turn: &mut Vec<T>,
        bytes: impl Fn(&T) -> u32,
        flows: impl FnMut(&T) -> Flows,
    ) {
        self.learn(waiting, flows);
        self.fair.clear();
        for (position, (arrival, flows)) in waiting.iter().zip(&self.flows).enumerate() {
            let bytes = bytes(arrival);
            if position < self.round || (bytes <= SMALL && flows.are_urgent()) {
                self.fair.add(bytes, flows);
            } else {
                self.fair.hold(flows);
            }
        }
        let chosen = self.fair.choose(FLOW_BYTES, TURN_BYTES);
        self.round -= chosen.iter().filter(|position| **position < self.round).count();
        self.fair.take(waiting, turn);
        self.fair.rest(&mut self.flows);
    }

    /// Moves all arrivals.
    fn take_all<T>(&mut self, waiting: &mut Vec<T>, turn: &mut Vec<T>) {
        turn.append(waiting);
        self.flows.clear();
        self.round = 0;
    }
}

impl Backlog {
    /// Bytes that [`Backlog::new`] allocates.
    pub(super) const fn memory(capacity: usize) -> usize {
        Inbox::memory(capacity) + 2 * Queue::memory(capacity)
    }

    /// Room for `capacity` arrivals of each direction.
    pub(super) fn new(capacity: usize, vnet_hdr: bool) -> Self {
        Self {
            inbox: Inbox::new(capacity),
            frames: Queue::new(capacity),
            trains: Queue::new(capacity),
            short_until_ns: 0,
            vnet_hdr,
        }
    }

    /// Moves what leaves now into the turn.
    pub(super) fn take(&mut self, engine: &mut dyn Engine, turn: &mut Inbox) {
        if self.inbox.bytes().iter().all(|bytes| *bytes <= FLOW_BYTES) {
            return self.take_all(turn);
        }
        if self.has_little(engine) {
            self.short_until_ns = self.inbox.began_ns + SHORT_FOR_NS;
        }
        if self.inbox.began_ns >= self.short_until_ns {
            return self.take_all(turn);
        }
        if self.frames.round == 0 && self.trains.round == 0 {
            self.frames.round = self.inbox.frames.len();
            self.trains.round = self.inbox.trains.len();
        }
        turn.began_ns = self.inbox.began_ns;
        let flows = frame_flows(engine, self.vnet_hdr);
        self.frames.take(&mut self.inbox.frames, &mut turn.frames, |it| it.len, flows);
        let flows = train_flows(engine);
        self.trains.take(&mut self.inbox.trains, &mut turn.trains, |it| it.len, flows);
    }

    /// Whether some of what waits is of flows that send little.
    fn has_little(&mut self, engine: &mut dyn Engine) -> bool {
        let flows = frame_flows(engine, self.vnet_hdr);
        if self.frames.has_little(&self.inbox.frames, |it| it.len, flows) {
            return true;
        }
        let flows = train_flows(engine);
        self.trains.has_little(&self.inbox.trains, |it| it.len, flows)
    }

    /// Moves all that waits into the turn.
    pub(super) fn take_all(&mut self, turn: &mut Inbox) {
        turn.began_ns = self.inbox.began_ns;
        self.frames.take_all(&mut self.inbox.frames, &mut turn.frames);
        self.trains.take_all(&mut self.inbox.trains, &mut turn.trains);
    }
}

fn frame_flows(engine: &mut dyn Engine, vnet_hdr: bool) -> impl FnMut(&TunFrame) -> Flows {
    let before = if vnet_hdr { vnet_hdr::LEN } else { 0 };
    move |frame| {
        let start = frame.start as usize;
        let bytes = engine.slot_mut(frame.slot);
        let packet = bytes.get(start + before..start + frame.len as usize);
        Flows::of_packet(packet.unwrap_or_default())
    }
}

fn train_flows(engine: &mut dyn Engine) -> impl FnMut(&Train) -> Flows {
    move |train| {
        let start = train.start as usize;
        let bytes = engine.slot_mut(train.slot).get(start..start + train.len as usize);
        Flows::of_train(bytes.unwrap_or_default(), train.segment)
    }
}
