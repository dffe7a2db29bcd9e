//! An engine made of its own way to receive and the output half that all share.

use super::output::Output;
use super::output::memory::Slots;
use super::output::send::SendCalls;
use super::output::write::WriteCalls;
use super::{Engine, EngineError, EngineKind, EngineStats, Ports, Tuning};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;
use twill_datapath::batch::{Datagrams, Frames, Inbox, Outcome, Slot};

/// What differs by engine: how arrivals get into slots, and by which calls bytes leave.
pub(super) trait Input {
    /// Which engine it makes.
    const KIND: EngineKind;
    /// Where arrivals lie.
    type Slots: Slots;

    /// [`Engine::receive`].
    fn receive(
        &mut self,
        ports: &Ports,
        inbox: &mut Inbox,
        timeout: Option<Duration>,
        stats: &mut EngineStats,
    ) -> Result<(), EngineError>;

    /// [`Engine::receive_last`]. Only an engine whose receives run ahead holds anything.
    fn receive_last(
        &mut self,
        _: &Ports,
        _: &mut Inbox,
        _: &mut EngineStats,
    ) -> Result<(), EngineError> {
        Ok(())
    }

    /// [`Engine::slot_mut`].
    fn slot_mut(&mut self, slot: Slot) -> &mut [u8];

    /// [`Engine::release`].
    fn release(&mut self, inbox: &mut Inbox);

    /// The slots to send from, and the calls to do it with on this descriptor.
    fn output<'a>(
        &'a mut self,
        fd: BorrowedFd<'a>,
    ) -> (&'a Self::Slots, impl SendCalls + WriteCalls + 'a);
}

/// An engine. The input is dropped before the ports that it may still use.
pub(super) struct Driver<I> {
    input: I,
    output: Output,
    stats: EngineStats,
    ports: Ports,
}

impl<I: Input> Driver<I> {
    pub(super) fn new(input: I, ports: Ports, tuning: Tuning) -> Self {
        let mut stats = EngineStats::default();
        let output = Output::new(tuning, &mut stats);
        Self { input, output, stats, ports }
    }
}

impl<I: Input> Engine for Driver<I> {
    fn kind(&self) -> EngineKind {
        I::KIND
    }

    fn receive(&mut self, inbox: &mut Inbox, timeout: Option<Duration>) -> Result<(), EngineError> {
        self.input.receive(&self.ports, inbox, timeout, &mut self.stats)
    }

    fn receive_last(&mut self, inbox: &mut Inbox) -> Result<(), EngineError> {
        self.input.receive_last(&self.ports, inbox, &mut self.stats)
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        self.input.slot_mut(slot)
    }

    fn send(&mut self, datagrams: &Datagrams, outcome: &mut Outcome) {
        let half = self.input.output(self.ports.sender());
        self.output.send(half, datagrams, outcome, &mut self.stats);
    }

    fn write(&mut self, frames: &Frames, outcome: &mut Outcome) {
        let half = self.input.output(self.ports.tun.as_fd());
        self.output.write(half, frames, outcome, &mut self.stats);
    }

    fn release(&mut self, inbox: &mut Inbox) {
        self.input.release(inbox);
    }

    fn stats(&self) -> EngineStats {
        self.stats
    }

    fn into_ports(self: Box<Self>) -> Ports {
        let Self { input, ports, .. } = *self;
        // What it has under way ends with it.
        drop(input);
        ports
    }
}
