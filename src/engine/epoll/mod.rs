//! The epoll engine: nonblocking reads of the TUN, `recvmmsg`, `sendmmsg`.
//!
//! ```text
//! frames  | 64 KiB read | 92 B | 92 B | 92 B | ...       one arena, packed: small packets share
//!                                                        cache lines and pages
//! trains  | slot 1      | slot 2      | ...              one 64 KiB slot per receive with GRO
//! ```
//!
//! While traffic flows, a turn tries both directions without asking epoll first; it asks only after
//! a turn that found nothing.

mod receive;

use super::deliver::Writer;
use super::memory::{Memory, Slots};
use super::transmit::{KernelSend, Transmitter};
use super::{Engine, EngineError, EngineKind, EngineStats, Ports, Tuning};
use crate::sys::clock;
use receive::{FrameArena, TrainSlots};
use rustix::event::epoll;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use twill_datapath::batch::{Datagrams, Frames, Inbox, Outcome, Slot};

/// The engine; see the module.
pub struct Epoll {
    ports: Ports,
    epoll: OwnedFd,
    frames: FrameArena,
    trains: TrainSlots,
    transmitter: Transmitter,
    writer: Writer,
    stats: EngineStats,
    /// The last turn found something: try again before asking epoll.
    hot: bool,
}

const TUN: u64 = 0;
const UDP: u64 = 1;
const WAKE: u64 = 2;

impl Epoll {
    /// Takes the ports over.
    ///
    /// # Errors
    /// [`EngineError::Call`] when epoll cannot be set up.
    pub fn new(ports: Ports, tuning: Tuning) -> Result<Self, EngineError> {
        let call =
            |call| move |errno: rustix::io::Errno| EngineError::Call { call, source: errno.into() };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(call("epoll_create1"))?;
        for (fd, key) in [(&ports.tun, TUN), (&ports.udp, UDP), (&ports.wake, WAKE)] {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(key), epoll::EventFlags::IN)
                .map_err(call("epoll_ctl"))?;
        }
        let mut engine = Self {
            ports,
            epoll,
            frames: FrameArena::new(&tuning),
            trains: TrainSlots::new(&tuning),
            transmitter: Transmitter::new(tuning.gso),
            writer: Writer::new(),
            stats: EngineStats::default(),
            hot: false,
        };
        engine.transmitter.report(&mut engine.stats);
        Ok(engine)
    }

    /// Waits for any port; says whether the TUN device still exists.
    fn wait(&mut self, timeout: Option<Duration>) -> Result<(), EngineError> {
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 3];
        let timeout = timeout.map(|timeout| rustix::time::Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        self.stats.syscalls += 1;
        let count = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(errno) => {
                return Err(EngineError::Call { call: "epoll_wait", source: errno.into() });
            }
        };
        for event in &events[..count] {
            let (key, flags) = (event.data.u64(), event.flags);
            // `tun_chr_poll` reports an error, and nothing else, once the device is unregistered.
            if key == TUN && flags.contains(epoll::EventFlags::ERR) {
                return Err(EngineError::DeviceGone);
            }
            if key == WAKE {
                self.ports.woken();
            }
        }
        Ok(())
    }
}

impl Engine for Epoll {
    fn kind(&self) -> EngineKind {
        EngineKind::Epoll
    }

    fn receive(&mut self, inbox: &mut Inbox, timeout: Option<Duration>) -> Result<(), EngineError> {
        if !self.hot {
            self.wait(timeout)?;
        }
        inbox.began_ns = clock::monotonic_ns();
        self.frames.read(self.ports.tun.as_fd(), &mut inbox.frames, &mut self.stats)?;
        self.trains.receive(self.ports.udp.as_fd(), &mut inbox.trains, &mut self.stats)?;
        self.hot = !inbox.is_empty();
        Ok(())
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        match slot.0 {
            0 => self.frames.bytes_mut(),
            train => self.trains.slot_mut(usize::from(train) - 1),
        }
    }

    fn send(&mut self, datagrams: &Datagrams, outcome: &mut Outcome) {
        let slots = Buffers { frames: &self.frames, trains: &self.trains };
        let memory = Memory::new(&slots, datagrams.pieces.headers());
        let mut calls = KernelSend::new(self.ports.sender());
        self.transmitter.send(&mut calls, datagrams, &memory, outcome, &mut self.stats);
    }

    fn write(&mut self, frames: &Frames, outcome: &mut Outcome) {
        let slots = Buffers { frames: &self.frames, trains: &self.trains };
        let memory = Memory::new(&slots, frames.pieces.headers());
        self.writer.write(&mut self.ports.tun.as_fd(), frames, &memory, outcome, &mut self.stats);
    }

    fn release(&mut self, inbox: &mut Inbox) {
        inbox.clear();
        self.frames.clear();
    }

    fn stats(&self) -> EngineStats {
        self.stats
    }

    fn into_ports(self: Box<Self>) -> Ports {
        self.ports
    }
}

/// Both sides' receive memory.
struct Buffers<'a> {
    frames: &'a FrameArena,
    trains: &'a TrainSlots,
}

impl Slots for Buffers<'_> {
    fn slot(&self, slot: Slot) -> &[u8] {
        match slot.0 {
            0 => self.frames.bytes(),
            train => self.trains.slot(usize::from(train) - 1),
        }
    }
}
