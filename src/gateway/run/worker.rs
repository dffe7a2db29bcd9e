//! One worker: an engine and the datapath, joined. One thread, one TUN queue, one socket.
//!
//! ```text
//! loop {
//!     receive                       engine: everything that is there, up to a batch
//!     choose                        of what waits, a turn's worth, flows with little first
//!     frames -> egress -> send      datapath decides, engine sends runs
//!     trains -> ingress -> write    datapath decides and joins, engine writes frames
//!     publish, release              the turn's books, the slots
//! }
//! ```
//!
//! A packet never leaves its worker, which is what keeps every flow in order. After the start
//! nothing here allocates or locks.

use crate::config::Addresses;
use crate::engine::{Engine, EngineError, Ports};
use crate::gateway::plan::{BATCH, BusyPoll};
use crate::socket::Originator;
use crate::sys::clock;
use crate::telemetry::counter::TurnBooks;
use crate::telemetry::instruments::{Meter, WorkerInstruments};
use arc_swap::{ArcSwap, Cache};
use backlog::Backlog;
use paths::Paths;
use patience::Patience;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use twill_datapath::batch::{
    Datagrams, Failure, Frame, Frames, Inbox, Outcome, Piece, Pieces, RunLimits, Source, Train,
    TunFrame,
};
use twill_datapath::offload::vnet_hdr;
use twill_datapath::route::View;
use twill_datapath::{
    Egress, EgressRules, Ingress, IngressRules, Progress, Unjoin, Unwritten, World,
};

/// Runs in one batch; a worker sends and goes on when more are needed.
const MAX_RUNS: usize = 256;
/// Pieces in one batch, 16 bytes each. A 64 KiB super-packet at an MSS of 1448 takes 92.
const MAX_PIECES: usize = 4096;
/// Header bytes in one batch: half of the pieces are headers, of 60 bytes on average.
const HEADER_BYTES: usize = MAX_PIECES / 2 * 60;
/// Frames in one batch; a worker writes and goes on when trains that do not merge need more.
const MAX_FRAMES: usize = 1024;
/// Failures of one batch at most. A segment of a super-packet takes two pieces; other packets come
/// one in a frame.
const MAX_FAILURES: usize = MAX_PIECES / 2 + BATCH;
const _: () = assert!(MAX_FAILURES >= MAX_FRAMES);
/// ICMP replies in one batch; the token bucket allows fewer.
const MAX_REPLIES: usize = 64;
/// Bytes of one ICMP reply with what it quotes and its virtio header, at most.
const REPLY_BYTES: usize = 1300;
/// Bytes of the longest joined frame: virtio header and a packet of IPv4's greatest length.
const SUPER_PACKET_BYTES: usize = vnet_hdr::LEN + 65_535;
/// Packets that are written one by one in one batch.
const MAX_SINGLES: usize = 64;
/// Bytes that each of them has beside its data: virtio header, IP and TCP with options.
const SINGLE_BYTES: usize = 130;
/// Header bytes for all of them: their data are copied, too.
const SINGLES_BYTES: usize = SUPER_PACKET_BYTES + MAX_SINGLES * SINGLE_BYTES;

/// Bytes that a worker allocates at its start, beside its engine's buffers and its histograms.
const MEMORY: usize = {
    // What arrived, and what of it a turn carries.
    Backlog::memory(BATCH) + Inbox::memory(BATCH)
        // Runs on their way to peers, and headers of their segments.
        + Datagrams::memory(MAX_RUNS) + Pieces::memory(MAX_PIECES, HEADER_BYTES)
        // Frames on their way to the device, and headers of super-packets.
        + Frames::memory(MAX_FRAMES) + Pieces::memory(MAX_PIECES, HEADER_BYTES)
        // Lanes, in which packets are joined.
        + Ingress::memory(MAX_FRAMES)
        // ICMP errors.
        + Frames::memory(MAX_REPLIES)
        + Pieces::memory(MAX_REPLIES * 2, MAX_REPLIES * REPLY_BYTES)
        // What the kernel refused.
        + Outcome::memory(MAX_FAILURES)
        // A super-packet that the device refused, and its packets.
        + SUPER_PACKET_BYTES + Frames::memory(MAX_SINGLES)
        + Pieces::memory(MAX_SINGLES, SINGLES_BYTES) + Outcome::memory(MAX_SINGLES)
        // Path MTUs.
        + Paths::MEMORY
};
const _: () = assert!(MEMORY <= 1024 * 1024, "a worker takes a MiB at most");

/// What the workers of a gateway have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) views: Arc<ArcSwap<View>>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) limits: RunLimits,
    pub(super) egress: EgressRules,
    pub(super) ingress: IngressRules,
    /// How ICMP errors leave; without it they are written to the device, where the kernel takes
    /// them only if `accept_local` is set.
    pub(super) originator: Option<Arc<Originator>>,
    /// Where the tunnel's datagrams leave from.
    pub(super) sources: Addresses,
    /// Whether to look for arrivals awake before sleeping.
    pub(super) busy_poll: BusyPoll,
    /// Keep histograms and numbers by peer.
    pub(super) telemetry: bool,
}

pub(super) struct Worker {
    engine: Box<dyn Engine>,
    views: Cache<Arc<ArcSwap<View>>, Arc<View>>,
    stop: Arc<AtomicBool>,
    patience: Patience,
    backlog: Backlog,
    turn: Inbox,
    pipeline: Pipeline,
}

/// Everything but the engine and what it brought, so that those can be borrowed beside it.
struct Pipeline {
    egress: Egress,
    ingress: Ingress,
    datagrams: Datagrams,
    replies: Frames,
    frames: Frames,
    outcome: Outcome,
    originator: Option<Arc<Originator>>,
    paths: Paths,
    vnet_hdr: bool,
    /// A joined frame that the device refused, its packets, and what became of them.
    refused_frame: Box<[u8]>,
    singles: Frames,
    retried: Outcome,
    meter: Meter,
}

impl Worker {
    pub(super) fn new(
        engine: Box<dyn Engine>,
        common: Common,
        instruments: Arc<WorkerInstruments>,
    ) -> Self {
        let pieces = || Pieces::new(MAX_PIECES, HEADER_BYTES);
        Self {
            engine,
            views: Cache::new(common.views),
            stop: common.stop,
            patience: Patience::new(common.busy_poll),
            backlog: Backlog::new(BATCH, common.egress.vnet_hdr),
            turn: Inbox::new(BATCH),
            pipeline: Pipeline {
                egress: Egress::new(common.egress),
                ingress: Ingress::new(common.ingress, MAX_FRAMES),
                datagrams: Datagrams::new(common.limits, MAX_RUNS, pieces()),
                replies: Frames::new(
                    MAX_REPLIES,
                    Pieces::new(MAX_REPLIES * 2, MAX_REPLIES * REPLY_BYTES),
                ),
                frames: Frames::new(MAX_FRAMES, pieces()),
                outcome: Outcome::new(MAX_FAILURES),
                originator: common.originator,
                paths: Paths::new(common.sources),
                vnet_hdr: common.egress.vnet_hdr,
                refused_frame: vec![0; SUPER_PACKET_BYTES].into_boxed_slice(),
                singles: Frames::new(MAX_SINGLES, Pieces::new(MAX_SINGLES, SINGLES_BYTES)),
                retried: Outcome::new(MAX_SINGLES),
                meter: Meter::new(instruments, common.telemetry, MAX_RUNS, BATCH),
            },
        }
    }

    /// Runs until it is told to stop or the engine cannot go on. Either way the ports come back.
    pub(super) fn run(mut self) -> (Ports, Result<(), EngineError>) {
        let ended = self.turns();
        (self.engine.into_ports(), ended)
    }

    fn turns(&mut self) -> Result<(), EngineError> {
        while !self.stop.load(Ordering::Relaxed) {
            self.turn()?;
        }
        // An engine may have taken more from the kernel than it has handed out: that leaves, too.
        // All that arrives from here on is the successor's.
        loop {
            self.backlog.take_all(&mut self.turn);
            if !self.turn.is_empty() {
                self.carry();
            }
            self.engine.receive_last(&mut self.backlog.inbox)?;
            if self.backlog.inbox.is_empty() {
                return Ok(());
            }
        }
    }

    /// Looks for arrivals, and waits for some if there is nothing to carry; awake for a while if that
    /// is wanted.
    fn receive(&mut self) -> Result<(), EngineError> {
        let inbox = &mut self.backlog.inbox;
        if !inbox.is_empty() {
            return self.engine.receive(inbox, Some(Duration::ZERO));
        }
        let began_ns = clock::monotonic_ns();
        let awake = self.patience.awake();
        let has_arrivals = !awake.is_zero() && self.look(awake)?;
        // The wake-up for the end may be among what was just read.
        if !has_arrivals && !self.stop.load(Ordering::Relaxed) {
            self.engine.receive(&mut self.backlog.inbox, None)?;
        }
        let waited_ns = clock::monotonic_ns().saturating_sub(began_ns);
        let bytes = self.backlog.inbox.bytes().iter().sum();
        self.patience.waited(Duration::from_nanos(waited_ns), bytes);
        Ok(())
    }

    /// Looks for arrivals until there are some, for so long, or until others need the CPU.
    fn look(&mut self, at_most: Duration) -> Result<bool, EngineError> {
        let inbox = &mut self.backlog.inbox;
        let began = Instant::now();
        let mut looked = began;
        while !self.stop.load(Ordering::Relaxed) {
            self.engine.receive(inbox, Some(Duration::ZERO))?;
            if !inbox.is_empty() {
                return Ok(true);
            }
            // Whoever is to send us something may need this CPU.
            std::thread::yield_now();
            let now = Instant::now();
            if self.patience.is_pushed_aside(now - looked) || now - began >= at_most {
                break;
            }
            looked = now;
        }
        Ok(false)
    }

    fn turn(&mut self) -> Result<(), EngineError> {
        self.receive()?;
        self.backlog.take(&mut *self.engine, &mut self.turn);
        self.carry();
        Ok(())
    }

    /// Takes what the turn holds to the other side: first the direction that has less, which waits
    /// shortly for the other and would wait long behind it.
    fn carry(&mut self) {
        let world = World { view: self.views.load(), now_ns: self.turn.began_ns };
        let (engine, turn) = (&mut *self.engine, &self.turn);
        let pipeline = &mut self.pipeline;
        pipeline.meter.begin(turn);

        let [out, into] = turn.bytes();
        let is_mostly_out = out > into;
        if is_mostly_out {
            pipeline.all_ingress(&world, engine, turn);
        }
        pipeline.all_egress(&world, engine, turn);
        if !is_mostly_out {
            pipeline.all_ingress(&world, engine, turn);
        }
        pipeline.reply(engine);
        pipeline.meter.publish(&TurnBooks {
            egress: &pipeline.egress.tally,
            ingress: &pipeline.ingress.tally,
            replies: pipeline.egress.replies(),
            coalesces: pipeline.ingress.coalesces(),
            engine: engine.stats(),
        });
        self.engine.release(&mut self.turn);
    }
}

impl Pipeline {
    fn all_egress(&mut self, world: &World<'_>, engine: &mut dyn Engine, turn: &Inbox) {
        for frame in &turn.frames {
            self.egress(world, engine, *frame);
        }
        self.send(world, engine);
    }

    fn all_ingress(&mut self, world: &World<'_>, engine: &mut dyn Engine, turn: &Inbox) {
        for train in &turn.trains {
            self.ingress(world, engine, train);
        }
        self.write(engine);
    }

    fn egress(&mut self, world: &World<'_>, engine: &mut dyn Engine, frame: TunFrame) {
        let bytes = engine.slot_mut(frame.slot);
        let (out, replies) = (&mut self.datagrams, &mut self.replies);
        let mut sent = self.egress.tally.packets_out;
        let mut progress = self.egress.frame(world, frame, bytes, out, replies);
        while let Progress::Full(rest) = progress {
            self.meter.frame(frame.read_ns, self.egress.tally.packets_out - sent);
            self.send(world, engine);
            sent = self.egress.tally.packets_out;
            let bytes = engine.slot_mut(frame.slot);
            progress = self.egress.resume(rest, bytes, &mut self.datagrams);
        }
        self.meter.frame(frame.read_ns, self.egress.tally.packets_out - sent);
    }

    fn ingress(&mut self, world: &World<'_>, engine: &mut dyn Engine, train: &Train) {
        let bytes = engine.slot_mut(train.slot);
        let mut report = self.ingress.train(world, train, bytes, &mut self.frames);
        self.meter.train(train, &report);
        while let Progress::Full(rest) = report.progress {
            self.write(engine);
            let bytes = engine.slot_mut(train.slot);
            report = self.ingress.resume(world, rest, bytes, &mut self.frames);
            self.meter.train(train, &report);
        }
    }

    /// Hands the runs over and deals with those that the kernel refused.
    fn send(&mut self, world: &World<'_>, engine: &mut dyn Engine) {
        if self.datagrams.is_empty() {
            return;
        }
        self.outcome.clear();
        engine.send(&self.datagrams, &mut self.outcome);
        for index in 0..self.outcome.failures().len() {
            let failure = self.outcome.failures()[index];
            let run = &self.datagrams.runs()[failure.item as usize];
            if failure.errno == libc::EMSGSIZE && !run.destination.may_fragment {
                self.too_long(world, engine, failure);
            } else {
                self.refused(failure);
            }
        }
        self.meter.sent(&self.datagrams);
        self.datagrams.clear();
    }

    /// Tells the sender of datagrams that are beyond their path's MTU and may not be fragmented.
    /// Those that were refused together get one answer: they are mostly segments of one packet.
    fn too_long(&mut self, world: &World<'_>, engine: &mut dyn Engine, failure: Failure) {
        let run = self.datagrams.runs()[failure.item as usize];
        let len = run.datagram_len(failure.first);
        let mut head = [0; Egress::HEAD];
        let from = u32::from(run.segment) * u32::from(failure.first);
        let room = &mut head[..Egress::HEAD.min(len as usize)];
        let copy = |piece: Piece, out: &mut [u8]| copy_slot(engine, piece, out);
        let copied = self.datagrams.pieces.copy(&run.chain, from, room, copy);
        // Errors about other packets of this turn must not take the room.
        if !self.replies.has_room(1, 1, REPLY_BYTES) {
            self.reply(engine);
        }
        let mtu = || self.paths.inner_mtu(run.destination.to, len, world.now_ns);
        self.egress.too_long(world, &head[..copied], mtu, &mut self.replies);
        self.refused(failure);
    }

    /// Books datagrams that the kernel refused for good.
    fn refused(&mut self, failure: Failure) {
        let run = &self.datagrams.runs()[failure.item as usize];
        let bytes = run.bytes_of(failure.first, failure.count);
        self.egress.refused(run, &failure);
        self.meter.refused(failure.item, failure.count.into(), bytes);
    }

    /// Writes what ingress produced and books what the device refused.
    fn write(&mut self, engine: &mut dyn Engine) {
        self.ingress.flush(&mut self.frames);
        if self.frames.is_empty() {
            return;
        }
        self.outcome.clear();
        engine.write(&self.frames, &mut self.outcome);
        self.meter.written(&self.frames);
        for index in 0..self.outcome.failures().len() {
            let failure = self.outcome.failures()[index];
            let frame = self.frames.frames()[failure.item as usize];
            match self.ingress.refused(&frame, &failure) {
                Unwritten::Dropped => {}
                Unwritten::WriteSingly => self.write_singly(engine, &frame, failure),
            }
        }
        self.frames.clear();
    }

    /// Writes the packets of a joined frame that the device refused, one by one. They follow what
    /// the rest of the batch brought; it happens once, as joining has ended.
    fn write_singly(&mut self, engine: &mut dyn Engine, frame: &Frame, failure: Failure) {
        let copy = |piece: Piece, out: &mut [u8]| copy_slot(engine, piece, out);
        let len = self.frames.pieces.copy(&frame.chain, 0, &mut self.refused_frame, copy);
        let bytes = &self.refused_frame[..len];
        let Ok(mut rest) = Unjoin::parse(bytes) else {
            let failure = Failure { errno: libc::EIO, ..failure };
            self.ingress.refused(frame, &failure);
            return;
        };
        loop {
            let progress = rest.write(bytes, &mut self.singles);
            self.retried.clear();
            engine.write(&self.singles, &mut self.retried);
            for failure in self.retried.failures() {
                self.ingress.refused(&self.singles.frames()[failure.item as usize], failure);
            }
            self.singles.clear();
            match progress {
                Progress::Done => return,
                Progress::Full(missing) => rest = missing,
            }
        }
    }

    /// Sends ICMP errors to inner senders; one that cannot be sent is lost, as ICMP may be.
    fn reply(&mut self, engine: &mut dyn Engine) {
        if self.replies.is_empty() {
            return;
        }
        match &self.originator {
            Some(originator) => {
                let before = if self.vnet_hdr { vnet_hdr::LEN as u32 } else { 0 };
                for frame in self.replies.frames() {
                    let mut packet = [0; REPLY_BYTES];
                    let pieces = &self.replies.pieces;
                    let len = pieces.copy(&frame.chain, before, &mut packet, |_, _| {});
                    let _ = originator.send(&packet[..len]);
                }
            }
            None => {
                self.retried.clear();
                engine.write(&self.replies, &mut self.retried);
            }
        }
        self.replies.clear();
    }
}

fn copy_slot(engine: &mut dyn Engine, piece: Piece, out: &mut [u8]) {
    let Source::Slot(slot) = piece.source else { return };
    let from = piece.offset as usize;
    if let Some(bytes) = engine.slot_mut(slot).get(from..from + out.len()) {
        out.copy_from_slice(bytes);
    }
}

mod backlog;
#[cfg(test)]
mod cases;
mod paths;
mod patience;
#[cfg(test)]
mod tests;
