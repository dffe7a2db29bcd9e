//! Waiting with epoll, reading without.

use super::slots::{Buffers, FrameArena, TrainSlots};
use crate::engine::output::Kernel;
use crate::engine::output::send::SendCalls;
use crate::engine::output::write::WriteCalls;
use crate::engine::{EngineError, EngineKind, EngineStats, Ports, Tuning, driver};
use crate::sys::clock;
use rustix::event::epoll;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use twill_datapath::batch::{Inbox, Slot};

const TUN: u64 = 0;
const UDP: u64 = 1;
const WAKE: u64 = 2;

/// The receiving side.
pub(in crate::engine) struct Input {
    epoll: OwnedFd,
    buffers: Buffers,
    /// The last turn found something: try again before asking epoll.
    hot: bool,
}

impl Input {
    /// Watches the ports.
    ///
    /// # Errors
    /// [`EngineError::Epoll`].
    pub(in crate::engine) fn new(ports: &Ports, tuning: Tuning) -> Result<Self, EngineError> {
        Ok(Self {
            epoll: watch(ports).map_err(EngineError::Epoll)?,
            buffers: Buffers { frames: FrameArena::new(&tuning), trains: TrainSlots::new(&tuning) },
            hot: false,
        })
    }

    /// Waits for any port; says whether the TUN device still exists.
    fn wait(&mut self, ports: &Ports, timeout: Option<Duration>) -> Result<(), EngineError> {
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 3];
        let timeout = timeout.map(|timeout| rustix::time::Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        let count = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(errno) => return Err(EngineError::Wait(errno.into())),
        };
        for event in &events[..count] {
            let (key, flags) = (event.data.u64(), event.flags);
            // `tun_chr_poll` reports an error, and nothing else, once the device is unregistered.
            if key == TUN && flags.contains(epoll::EventFlags::ERR) {
                return Err(EngineError::DeviceGone);
            }
            if key == WAKE {
                ports.woken();
            }
        }
        Ok(())
    }
}

fn watch(ports: &Ports) -> io::Result<OwnedFd> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (fd, key) in [(&ports.tun, TUN), (&ports.udp, UDP), (&ports.wake, WAKE)] {
        epoll::add(&epoll, fd, epoll::EventData::new_u64(key), epoll::EventFlags::IN)?;
    }
    Ok(epoll)
}

impl driver::Input for Input {
    const KIND: EngineKind = EngineKind::Epoll;
    type Slots = Buffers;

    fn receive(
        &mut self,
        ports: &Ports,
        inbox: &mut Inbox,
        timeout: Option<Duration>,
        stats: &mut EngineStats,
    ) -> Result<(), EngineError> {
        if !self.hot {
            stats.syscalls += 1;
            self.wait(ports, timeout)?;
        }
        inbox.began_ns = clock::monotonic_ns();
        let before = (inbox.frames.len(), inbox.trains.len());
        let (frames, now_ns) = (&mut inbox.frames, inbox.began_ns);
        self.buffers.frames.read(ports.tun.as_fd(), frames, now_ns, stats)?;
        self.buffers.trains.receive(ports.udp.as_fd(), &mut inbox.trains, stats)?;
        self.hot = before != (inbox.frames.len(), inbox.trains.len());
        Ok(())
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        self.buffers.slot_mut(slot)
    }

    fn release(&mut self, inbox: &mut Inbox) {
        for frame in &inbox.frames {
            self.buffers.frames.give_back(frame.start);
        }
        for train in &inbox.trains {
            self.buffers.trains.give_back(train.slot);
        }
        inbox.clear();
    }

    fn output<'a>(
        &'a mut self,
        fd: BorrowedFd<'a>,
    ) -> (&'a Buffers, impl SendCalls + WriteCalls + 'a) {
        (&self.buffers, Kernel(fd))
    }
}
