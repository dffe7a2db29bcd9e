//! The async engine: the tokio-uring runtime, with one-shot operations only.
//!
//! ```text
//! task: read frame    ──> arrived frames ──┐
//! task: receive train ──> arrived trains ──┼──> inbox        sends and writes: awaited in order
//! task: read eventfd  ─────────────────────┘
//! ```
//!
//! Its place is a kernel that has io_uring (5.6) but lacks multishot receives and buffer rings, on
//! which `uring` cannot run. One operation per direction is in flight, which is what keeps packets
//! in order; so every packet costs a trip through the runtime, and on a newer kernel both `uring`
//! and `epoll` do the same work for less (docs/PERF.md).

#![allow(clippy::vec_box, reason = "the kernel points into messages: they must not move")]

mod operations;

use super::deliver::{WriteCalls, Writer};
use super::fragments;
use super::memory::{Memory, Slots};
use super::transmit::{SendCalls, Transmitter};
use super::{Engine, EngineError, EngineKind, EngineStats, Ports, Tuning};
use crate::batch::{Datagrams, Flaw, Frames, Inbox, Outcome, Slot, Train, TunFrame};
use crate::offload::vnet_hdr;
use crate::sys::{address, clock, cmsg};
use bytes::BytesMut;
use operations::Message;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_uring::Runtime;

/// Buffers per direction.
const BUFFERS: usize = 32;
/// Submissions that may wait: a chunk of sends, and the receives.
const ENTRIES: u32 = 256;
/// The largest packet that a TUN device hands out, with its virtio header.
const MAX_FRAME: usize = 65_535 + vnet_hdr::LEN;
/// The largest UDP payload that `UDP_GRO` joins.
const MAX_TRAIN: usize = 65_535;

/// The engine; see the module. The runtime is dropped first: it cancels its operations and waits
/// for them, so that nothing points into buffers or at descriptors that are gone.
pub struct TokioUring {
    runtime: Runtime,
    shared: Rc<Shared>,
    taken: Taken,
    ports: Ports,
    transmitter: Transmitter,
    writer: Writer,
    stats: EngineStats,
    overflows: u32,
}

/// What tasks and engine hand each other.
#[derive(Default)]
struct Shared {
    frames: RefCell<VecDeque<(usize, BytesMut)>>,
    trains: RefCell<VecDeque<(usize, Box<Message>)>>,
    /// When the first of the frames that wait was read, `CLOCK_MONOTONIC`; 0 if none has been.
    oldest_ns: Cell<u64>,
    free_frames: RefCell<Vec<BytesMut>>,
    free_trains: RefCell<Vec<Box<Message>>>,
    arrived: Notify,
    frame_returned: Notify,
    train_returned: Notify,
    woken: Cell<bool>,
    tun_down: Cell<u64>,
    socket_errors: Cell<u64>,
    failure: RefCell<Option<EngineError>>,
}

/// The buffers of this turn's arrivals, by slot: frames first.
#[derive(Default)]
struct Taken {
    frames: Vec<BytesMut>,
    trains: Vec<Box<Message>>,
}

impl TokioUring {
    /// Takes the ports over. The calling thread must be the one that uses the engine.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] when the kernel or the container refuses a ring.
    pub fn new(ports: Ports, tuning: Tuning) -> Result<Self, EngineError> {
        let unsupported =
            |source| EngineError::Unsupported { what: "a tokio-uring runtime", source };
        let mut builder = tokio_uring::builder();
        builder.entries(ENTRIES);
        let runtime = Runtime::new(&builder).map_err(unsupported)?;
        let frame_len =
            if tuning.super_packets { MAX_FRAME } else { usize::from(tuning.mtu) + vnet_hdr::LEN };
        let train_len = if tuning.gro { MAX_TRAIN } else { usize::from(tuning.mtu) };
        let buffers = BUFFERS.min(tuning.batch);
        let shared = Rc::new(Shared::default());
        shared.free_frames.replace((0..buffers).map(|_| BytesMut::zeroed(frame_len)).collect());
        let message = |_| Message::new(BytesMut::zeroed(train_len));
        shared.free_trains.replace((0..buffers).map(message).collect());
        let (tun, udp) = (ports.tun.as_raw_fd(), ports.udp.as_raw_fd());
        let wake = ports.wake.as_raw_fd();
        runtime.block_on(async {
            tokio_uring::spawn(read_frames(tun, Rc::clone(&shared)));
            tokio_uring::spawn(receive_trains(udp, Rc::clone(&shared)));
            tokio_uring::spawn(read_wakes(wake, Rc::clone(&shared)));
        });
        let mut engine = Self {
            runtime,
            shared,
            taken: Taken::default(),
            ports,
            transmitter: Transmitter::new(tuning.gso),
            writer: Writer::new(),
            stats: EngineStats::default(),
            overflows: 0,
        };
        engine.transmitter.report(&mut engine.stats);
        Ok(engine)
    }

    fn take(&mut self, inbox: &mut Inbox) {
        inbox.began_ns = match self.shared.oldest_ns.take() {
            0 => clock::monotonic_ns(),
            oldest_ns => oldest_ns,
        };
        for (len, buffer) in self.shared.frames.borrow_mut().drain(..) {
            let slot = Slot(self.taken.frames.len() as u16);
            inbox.frames.push(TunFrame { slot, start: 0, len: len as u32 });
            self.taken.frames.push(buffer);
        }
        for (len, message) in self.shared.trains.borrow_mut().drain(..) {
            let slot = Slot((BUFFERS + self.taken.trains.len()) as u16);
            let said = cmsg::parse(message.control());
            if let Some(overflows) = said.overflows {
                // The kernel's counter has 32 bits and wraps.
                self.stats.socket_overflows += u64::from(overflows.wrapping_sub(self.overflows));
                self.overflows = overflows;
            }
            let flaw = match message.flags() {
                flags if flags & libc::MSG_TRUNC != 0 => Some(Flaw::MessageTruncated),
                flags if flags & libc::MSG_CTRUNC != 0 => Some(Flaw::ControlTruncated),
                _ => None,
            };
            let len = len.min(message.payload.len()) as u32;
            inbox.trains.extend(address::parse(message.name()).map(|from| Train {
                slot,
                start: 0,
                len,
                from,
                segment: said.segment.unwrap_or(0),
                tos: said.tos,
                received_ns: said.received_ns,
                flaw,
            }));
            self.taken.trains.push(message);
        }
    }
}

/// Reads frames one after the other for as long as the device exists.
async fn read_frames(tun: RawFd, shared: Rc<Shared>) {
    loop {
        let buffer = free(&shared.free_frames, &shared.frame_returned).await;
        let (result, buffer) = operations::read(tun, buffer).await;
        match result {
            Ok(len) => {
                let mut frames = shared.frames.borrow_mut();
                if frames.is_empty() {
                    shared.oldest_ns.set(clock::monotonic_ns());
                }
                frames.push_back((len, buffer));
            }
            Err(error) => {
                shared.free_frames.borrow_mut().push(buffer);
                match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EINTR) => continue,
                    Some(libc::EIO | libc::EFAULT) => {
                        shared.tun_down.set(shared.tun_down.get() + 1);
                        continue;
                    }
                    _ => {
                        shared.failure.replace(Some(EngineError::DeviceGone));
                        shared.arrived.notify_one();
                        return;
                    }
                }
            }
        }
        shared.arrived.notify_one();
    }
}

/// Receives trains one after the other.
async fn receive_trains(udp: RawFd, shared: Rc<Shared>) {
    loop {
        let message = free(&shared.free_trains, &shared.train_returned).await;
        let (result, message) = operations::receive(udp, message).await;
        match result {
            Ok(len) => shared.trains.borrow_mut().push_back((len, message)),
            // What the underlay says by ICMP; the socket lives on.
            Err(_) => {
                shared.free_trains.borrow_mut().push(message);
                shared.socket_errors.set(shared.socket_errors.get() + 1);
                tokio::task::yield_now().await;
                continue;
            }
        }
        shared.arrived.notify_one();
    }
}

/// Notices that the worker is to look up.
async fn read_wakes(wake: RawFd, shared: Rc<Shared>) {
    let mut count = BytesMut::zeroed(8);
    loop {
        let (result, buffer) = operations::read(wake, count).await;
        count = buffer;
        if result.is_err() {
            return;
        }
        shared.woken.set(true);
        shared.arrived.notify_one();
    }
}

/// A free buffer, once there is one.
async fn free<T>(pool: &RefCell<Vec<T>>, returned: &Notify) -> T {
    loop {
        let buffer = pool.borrow_mut().pop();
        match buffer {
            Some(buffer) => return buffer,
            None => returned.notified().await,
        }
    }
}

impl Shared {
    fn has_news(&self) -> bool {
        !self.frames.borrow().is_empty()
            || !self.trains.borrow().is_empty()
            || self.failure.borrow().is_some()
            || self.woken.take()
    }
}

impl Engine for TokioUring {
    fn kind(&self) -> EngineKind {
        EngineKind::TokioUring
    }

    fn receive(&mut self, inbox: &mut Inbox, timeout: Option<Duration>) -> Result<(), EngineError> {
        let shared = &self.shared;
        self.stats.syscalls += 1;
        self.runtime.block_on(async {
            let news = async {
                while !shared.has_news() {
                    shared.arrived.notified().await;
                }
            };
            match timeout {
                None => news.await,
                // Nothing within the time is an answer too.
                Some(timeout) => drop(tokio::time::timeout(timeout, news).await),
            }
        });
        if let Some(failure) = self.shared.failure.take() {
            return Err(failure);
        }
        self.take(inbox);
        self.stats.tun_down = self.shared.tun_down.get();
        self.stats.socket_errors = self.shared.socket_errors.get();
        Ok(())
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        match usize::from(slot.0).checked_sub(BUFFERS) {
            None => &mut self.taken.frames[usize::from(slot.0)],
            Some(train) => &mut self.taken.trains[train].payload,
        }
    }

    fn send(&mut self, datagrams: &Datagrams, outcome: &mut Outcome) {
        let memory = Memory::new(&self.taken, datagrams.pieces.headers());
        let mut calls = Ring { runtime: &self.runtime, fd: self.ports.sender().as_raw_fd() };
        self.transmitter.send(&mut calls, datagrams, &memory, outcome, &mut self.stats);
    }

    fn send_in_fragments(
        &mut self,
        datagrams: &Datagrams,
        item: u32,
        index: u16,
    ) -> io::Result<()> {
        let memory = Memory::new(&self.taken, datagrams.pieces.headers());
        fragments::send(self.ports.sender(), datagrams, &memory, item, index)
    }

    fn write(&mut self, frames: &Frames, outcome: &mut Outcome) {
        let memory = Memory::new(&self.taken, frames.pieces.headers());
        let mut calls = Ring { runtime: &self.runtime, fd: self.ports.tun.as_raw_fd() };
        self.writer.write(&mut calls, frames, &memory, outcome, &mut self.stats);
    }

    fn release(&mut self, inbox: &mut Inbox) {
        inbox.clear();
        self.shared.free_frames.borrow_mut().append(&mut self.taken.frames);
        self.shared.free_trains.borrow_mut().append(&mut self.taken.trains);
        self.shared.frame_returned.notify_one();
        self.shared.train_returned.notify_one();
    }

    fn stats(&self) -> EngineStats {
        self.stats
    }
}

impl Slots for Taken {
    fn slot(&self, slot: Slot) -> &[u8] {
        match usize::from(slot.0).checked_sub(BUFFERS) {
            None => &self.frames[usize::from(slot.0)],
            Some(train) => &self.trains[train].payload,
        }
    }
}

/// Sends and writes through the runtime, each awaited before the call returns.
struct Ring<'a> {
    runtime: &'a Runtime,
    fd: RawFd,
}

impl Ring<'_> {
    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }
}

impl SendCalls for Ring<'_> {
    /// The messages are linked: after one that is refused the kernel cancels the rest, which is
    /// what sendmmsg does.
    fn send(&mut self, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
        let last = headers.len().saturating_sub(1);
        self.wait(async {
            let submitted = headers.iter().enumerate();
            let in_flight: Vec<_> = submitted
                .map(|(at, header)| operations::send(self.fd, &header.msg_hdr, at < last))
                .collect();
            let mut taken = 0;
            let mut refused = None;
            // All are awaited, refused or not: the kernel must be done with the headers.
            for operation in in_flight {
                match operation.await {
                    (Ok(_), ()) if refused.is_none() => taken += 1,
                    (Err(error), ()) if refused.is_none() => refused = Some(error),
                    _ => {}
                }
            }
            match (taken, refused) {
                (0, Some(error)) => Err(error),
                _ => Ok(taken),
            }
        })
    }

    fn wait_for_room(&mut self, at_most: Duration) {
        // A timer can only be made inside of the runtime.
        self.wait(async { tokio::time::sleep(at_most).await });
    }
}

impl WriteCalls for Ring<'_> {
    fn write(&mut self, pieces: &[libc::iovec]) -> io::Result<usize> {
        self.wait(async { operations::write(self.fd, pieces).await.0 })
    }
}
