//! The half that all engines have in common: batches of the datapath go to the kernel.
//!
//! ```text
//!  Datagrams ──> messages ──> send  ──> UDP socket     policy: what a refusal means
//!  Frames    ───────────────> write ──> TUN queue
//!                  memory: pieces become iovecs
//! ```

#[cfg(test)]
mod fault;
pub(super) mod memory;
pub(super) mod messages;
mod policy;
mod room;
pub(super) mod send;
pub(super) mod write;

use self::memory::{Memory, Slots};
use self::send::{SendCalls, Transmitter};
use self::write::{WriteCalls, Writer};
use super::{EngineStats, Tuning};
use std::os::fd::BorrowedFd;
use twill_datapath::batch::{Datagrams, Frames, Outcome};

/// The kernel's calls on one descriptor.
pub(super) struct Kernel<'a>(pub(super) BorrowedFd<'a>);

/// The output half of one engine.
pub(super) struct Output {
    transmitter: Transmitter,
    writer: Writer,
}

impl Output {
    /// With GSO, datagrams of one size to one peer leave in one call.
    pub(super) fn new(tuning: Tuning, stats: &mut EngineStats) -> Self {
        let transmitter = Transmitter::new(tuning.gso, tuning.sources);
        transmitter.report(stats);
        Self { transmitter, writer: Writer::new() }
    }

    /// Sends all runs of a batch, in order.
    pub(super) fn send<S: Slots>(
        &mut self,
        (slots, mut calls): (&S, impl SendCalls),
        datagrams: &Datagrams,
        outcome: &mut Outcome,
        stats: &mut EngineStats,
    ) {
        let memory = Memory::new(slots, datagrams.pieces.headers());
        self.transmitter.send(&mut calls, datagrams, &memory, outcome, stats);
    }

    /// Writes all frames of a batch, in order.
    pub(super) fn write<S: Slots>(
        &mut self,
        (slots, mut calls): (&S, impl WriteCalls),
        frames: &Frames,
        outcome: &mut Outcome,
        stats: &mut EngineStats,
    ) {
        let memory = Memory::new(slots, frames.pieces.headers());
        self.writer.write(&mut calls, frames, &memory, outcome, stats);
    }
}
