//! flannel's own loop, as the baseline that everything else is measured against.
//!
//! It models `proxy_amd64.c` of flannel's `udp` backend, whose inner loop is
//!
//! ```text
//! loop {
//!     poll(tun, socket)
//!     do { one read of the TUN, its send; one receive, its write } while either found something
//! }
//! ```
//!
//! One thread, one packet per call, no virtio header, no offload, no batch. What differs: a send is
//! a `sendmmsg` of one message instead of a `sendto`, and the routing is the datapath's, so that
//! flannel's linear scan of its routes is not modelled: with many peers this baseline flatters
//! flannel.
//!
//! Nor is the Go runtime around that loop, whose network poller wakes for every datagram too: the
//! program as a whole is half as fast with TCP (docs/PERF.md). As there, nobody asks for the outer
//! TOS octet, so that congestion marks of the path stay outside.

use super::arrival;
use super::deliver::Writer;
use super::memory::{Memory, Slots};
use super::transmit::{KernelSend, Transmitter};
use super::{Engine, EngineError, EngineKind, EngineStats, Ports, Tuning};
use crate::sys::clock;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, ReturnFlags, recvmsg};
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;
use twill_datapath::batch::{Datagrams, Flaw, Frames, Inbox, Outcome, Slot, Train, TunFrame};

const FRAME: Slot = Slot(0);
const DATAGRAM: Slot = Slot(1);

/// The engine; see the module.
pub struct Classic {
    ports: Ports,
    buffers: Buffers,
    transmitter: Transmitter,
    writer: Writer,
    stats: EngineStats,
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
struct Buffers {
    frame: Box<[u8]>,
    datagram: Box<[u8]>,
}

impl Classic {
    /// Takes the ports over.
    #[must_use]
    pub fn new(ports: Ports, tuning: Tuning) -> Self {
        let buffer = || vec![0; usize::from(tuning.mtu)].into_boxed_slice();
        Self {
            ports,
            buffers: Buffers { frame: buffer(), datagram: buffer() },
            transmitter: Transmitter::new(false),
            writer: Writer::new(),
            stats: EngineStats::default(),
            next: Step::Poll,
            found: false,
        }
    }

    fn wait(&mut self, timeout: Option<Duration>) -> Result<(), EngineError> {
        let ports = [&self.ports.tun, &self.ports.udp, &self.ports.wake];
        let mut fds = ports.map(|fd| PollFd::new(fd, PollFlags::IN));
        let timeout = timeout.and_then(|timeout| timeout.try_into().ok());
        self.stats.syscalls += 1;
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(EngineError::Call { call: "poll", source: errno.into() }),
        }
        let [tun, _, wake] = fds.map(|fd| fd.revents());
        // flannel's loop ignores this and spins.
        if tun.contains(PollFlags::ERR) {
            return Err(EngineError::DeviceGone);
        }
        if wake.contains(PollFlags::IN) {
            self.ports.woken();
        }
        Ok(())
    }

    fn read(&mut self, inbox: &mut Inbox) -> Result<(), EngineError> {
        self.stats.syscalls += 1;
        match rustix::io::read(&self.ports.tun, &mut *self.buffers.frame) {
            Ok(len) => inbox.frames.push(TunFrame { slot: FRAME, start: 0, len: len as u32 }),
            Err(errno) => arrival::no_frame(errno.raw_os_error(), &mut self.stats)?,
        }
        Ok(())
    }

    fn receive_one(&mut self, inbox: &mut Inbox) -> Result<(), EngineError> {
        self.stats.syscalls += 1;
        let mut room = [io::IoSliceMut::new(&mut self.buffers.datagram)];
        let mut control: [MaybeUninit<u8>; 0] = [];
        let mut control = rustix::net::RecvAncillaryBuffer::new(&mut control);
        match recvmsg(&self.ports.udp, &mut room, &mut control, RecvFlags::DONTWAIT) {
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
            Err(errno) => arrival::no_train(errno.raw_os_error(), &mut self.stats)?,
        }
        Ok(())
    }
}

impl Engine for Classic {
    fn kind(&self) -> EngineKind {
        EngineKind::Classic
    }

    fn receive(&mut self, inbox: &mut Inbox, timeout: Option<Duration>) -> Result<(), EngineError> {
        if self.next == Step::Poll {
            self.wait(timeout)?;
            self.next = Step::Tun;
        }
        inbox.began_ns = clock::monotonic_ns();
        if self.next == Step::Tun {
            self.next = Step::Socket;
            self.read(inbox)?;
            self.found = !inbox.is_empty();
            if self.found {
                return Ok(());
            }
        }
        self.receive_one(inbox)?;
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

    fn send(&mut self, datagrams: &Datagrams, outcome: &mut Outcome) {
        let memory = Memory::new(&self.buffers, datagrams.pieces.headers());
        let mut calls = KernelSend::new(self.ports.sender());
        self.transmitter.send(&mut calls, datagrams, &memory, outcome, &mut self.stats);
    }

    fn write(&mut self, frames: &Frames, outcome: &mut Outcome) {
        let memory = Memory::new(&self.buffers, frames.pieces.headers());
        self.writer.write(&mut self.ports.tun.as_fd(), frames, &memory, outcome, &mut self.stats);
    }

    fn release(&mut self, inbox: &mut Inbox) {
        inbox.clear();
    }

    fn stats(&self) -> EngineStats {
        self.stats
    }

    fn into_ports(self: Box<Self>) -> Ports {
        self.ports
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
