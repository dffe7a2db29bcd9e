//! One step of flannel's round at a time.

use crate::engine::output::Kernel;
use crate::engine::output::memory::Slots;
use crate::engine::output::send::SendCalls;
use crate::engine::output::write::WriteCalls;
use crate::engine::{EngineError, EngineKind, EngineStats, Ports, Tuning, arrival, driver};
use crate::sys::clock;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, ReturnFlags, recvmsg};
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use twill_datapath::batch::{Flaw, Inbox, Slot, Train, TunFrame};

const FRAME: Slot = Slot(0);
const DATAGRAM: Slot = Slot(1);

/// The receiving side.
pub(in crate::engine) struct Input {
    buffers: Buffers,
    /// Where the round is.
    next: Step,
    /// The round so far found something: flannel does not poll after it then.
    found: bool,
}

/// The steps of a round; what one finds leaves before the next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Poll,
    Tun,
    Socket,
}

/// One packet per direction.
pub(in crate::engine) struct Buffers {
    frame: Box<[u8]>,
    datagram: Box<[u8]>,
}

impl Input {
    pub(in crate::engine) fn new(tuning: Tuning) -> Self {
        let buffer = || vec![0; usize::from(tuning.mtu)].into_boxed_slice();
        Self {
            buffers: Buffers { frame: buffer(), datagram: buffer() },
            next: Step::Poll,
            found: false,
        }
    }

    fn wait(ports: &Ports, timeout: Option<Duration>) -> Result<(), EngineError> {
        let mut fds =
            [&ports.tun, &ports.udp, &ports.wake].map(|fd| PollFd::new(fd, PollFlags::IN));
        let timeout = timeout.and_then(|timeout| timeout.try_into().ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(EngineError::Wait(errno.into())),
        }
        let [tun, _, wake] = fds.map(|fd| fd.revents());
        // flannel's loop ignores this and spins.
        if tun.contains(PollFlags::ERR) {
            return Err(EngineError::DeviceGone);
        }
        if wake.contains(PollFlags::IN) {
            ports.woken();
        }
        Ok(())
    }

    fn read(
        &mut self,
        ports: &Ports,
        inbox: &mut Inbox,
        stats: &mut EngineStats,
    ) -> Result<(), EngineError> {
        stats.syscalls += 1;
        match rustix::io::read(&ports.tun, &mut *self.buffers.frame) {
            Ok(len) => {
                let (len, read_ns) = (len as u32, inbox.began_ns);
                inbox.frames.push(TunFrame { slot: FRAME, start: 0, len, read_ns });
            }
            Err(errno) => arrival::no_frame(errno.raw_os_error(), stats)?,
        }
        Ok(())
    }

    fn receive_one(
        &mut self,
        ports: &Ports,
        inbox: &mut Inbox,
        stats: &mut EngineStats,
    ) -> Result<(), EngineError> {
        stats.syscalls += 1;
        let mut room = [io::IoSliceMut::new(&mut self.buffers.datagram)];
        let mut control: [MaybeUninit<u8>; 0] = [];
        let mut control = rustix::net::RecvAncillaryBuffer::new(&mut control);
        match recvmsg(&ports.udp, &mut room, &mut control, RecvFlags::DONTWAIT) {
            Ok(message) => {
                let from = message.address.and_then(|from| SocketAddr::try_from(from).ok());
                let truncated = message.flags.contains(ReturnFlags::TRUNC);
                inbox.trains.extend(from.map(|from| Train {
                    slot: DATAGRAM,
                    start: 0,
                    len: message.bytes.min(self.buffers.datagram.len()) as u32,
                    from,
                    segment: 0,
                    tos: 0,
                    received_ns: 0,
                    flaw: truncated.then_some(Flaw::MessageTruncated),
                }));
            }
            Err(errno) => arrival::no_train(errno.raw_os_error(), stats)?,
        }
        Ok(())
    }
}

impl driver::Input for Input {
    const KIND: EngineKind = EngineKind::Classic;
    type Slots = Buffers;

    fn receive(
        &mut self,
        ports: &Ports,
        inbox: &mut Inbox,
        timeout: Option<Duration>,
        stats: &mut EngineStats,
    ) -> Result<(), EngineError> {
        // The only slots may be taken.
        if !inbox.is_empty() {
            return Ok(());
        }
        if self.next == Step::Poll {
            stats.syscalls += 1;
            Self::wait(ports, timeout)?;
            self.next = Step::Tun;
        }
        inbox.began_ns = clock::monotonic_ns();
        if self.next == Step::Tun {
            self.next = Step::Socket;
            self.read(ports, inbox, stats)?;
            self.found = !inbox.is_empty();
            if self.found {
                return Ok(());
            }
        }
        self.receive_one(ports, inbox, stats)?;
        self.found |= !inbox.is_empty();
        self.next = if self.found { Step::Tun } else { Step::Poll };
        Ok(())
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        match slot {
            FRAME => &mut self.buffers.frame,
            _ => &mut self.buffers.datagram,
        }
    }

    fn release(&mut self, inbox: &mut Inbox) {
        inbox.clear();
    }

    fn output<'a>(
        &'a mut self,
        fd: BorrowedFd<'a>,
    ) -> (&'a Buffers, impl SendCalls + WriteCalls + 'a) {
        (&self.buffers, Kernel(fd))
    }
}

impl Slots for Buffers {
    fn slot(&self, slot: Slot) -> &[u8] {
        match slot {
            FRAME => &self.frame,
            _ => &self.datagram,
        }
    }
}
