//! One-shot receives, as many as lately arrived.
#![allow(clippy::vec_box, reason = "the kernel points into messages: they must not move")]

use super::operations::{self, InFlight, Message, NoWait};
use super::output::Calls;
use crate::engine::arrival::{self, Arrival};
use crate::engine::output::memory::Slots;
use crate::engine::output::send::SendCalls;
use crate::engine::output::write::WriteCalls;
use crate::engine::{EngineError, EngineKind, EngineStats, Ports, Tuning, driver};
use crate::sys::clock;
use bytes::BytesMut;
use std::future::{Future, poll_fn};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio_uring::Runtime;
use twill_datapath::batch::{Inbox, Slot, TunFrame};

/// Buffers per direction.
const BUFFERS: usize = 32;
/// Submissions that may wait: a chunk of sends or writes, or a receive into every buffer.
const ENTRIES: u32 = 256;
/// Receives that are tried at least: an idle port brings few at a time.
const LEAST_OFFER: usize = 4;
/// System calls of one trip through the runtime: `io_uring_enter`, `epoll_wait`.
pub(super) const TRIP: u64 = 2;

/// Which port a poll is about.
const TUN: usize = 0;
const UDP: usize = 1;
const WAKE: usize = 2;

/// The receiving side, and what sends and writes share with it.
pub(in crate::engine) struct Input {
    runtime: Runtime,
    polls: [Option<InFlight<()>>; 3],
    /// Ports to try before asking whether they are readable.
    hot: [bool; 2],
    no_wait: NoWait,
    buffers: Buffers,
    /// Sends or writes under way, kept for its memory.
    in_flight: Vec<InFlight<()>>,
}

pub(in crate::engine) struct Buffers {
    frames: Intake<BytesMut>,
    trains: Intake<Box<Message>>,
}

/// One direction's buffers.
struct Intake<B: Unpin + 'static> {
    free: Vec<B>,
    in_flight: Vec<InFlight<B>>,
    /// Arrivals that are not released yet, by slot.
    taken: Vec<Option<B>>,
    /// Slots that hold none.
    vacant: Vec<usize>,
    /// How many to offer next: somewhat more than lately arrived.
    offer: usize,
}

impl<B: Unpin> Intake<B> {
    fn new(count: usize, buffer: impl Fn() -> B) -> Self {
        Self {
            free: (0..count).map(|_| buffer()).collect(),
            in_flight: Vec::with_capacity(count),
            taken: (0..count).map(|_| None).collect(),
            vacant: (0..count).collect(),
            offer: LEAST_OFFER,
        }
    }

    /// Offers up to `most` free buffers to the kernel.
    fn submit(&mut self, most: usize, operation: impl Fn(B) -> InFlight<B>) {
        let rest = self.free.len().saturating_sub(most.min(self.offer));
        self.in_flight.extend(self.free.drain(rest..).map(operation));
    }

    /// Waits for all that were offered, in order. `keep` hears of each, with the slot that it would
    /// have, and says whether it holds an arrival; the first failure is told when all have ended.
    async fn collect(
        &mut self,
        mut keep: impl FnMut(usize, Result<usize, i32>, &B) -> Result<bool, EngineError>,
    ) -> Result<(), EngineError> {
        let offered = self.in_flight.len();
        let before = self.vacant.len();
        let mut failure = None;
        for operation in self.in_flight.drain(..) {
            let (result, buffer) = operation.await;
            let result = result.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
            // There are as many slots as buffers.
            let slot = self.vacant.last().copied().unwrap_or_default();
            match keep(slot, result, &buffer) {
                Ok(true) => {
                    self.vacant.pop();
                    self.taken[slot] = Some(buffer);
                }
                Ok(false) => self.free.push(buffer),
                Err(error) => {
                    self.free.push(buffer);
                    failure.get_or_insert(error);
                }
            }
        }
        if offered > 0 {
            let arrived = before - self.vacant.len();
            self.offer = (2 * arrived).max(LEAST_OFFER);
        }
        failure.map_or(Ok(()), Err)
    }

    fn release(&mut self, slot: usize) {
        if let Some(buffer) = self.taken[slot].take() {
            self.free.push(buffer);
            self.vacant.push(slot);
        }
    }

    fn taken(&self, slot: usize) -> &B {
        self.taken[slot].as_ref().expect("slots are named from arrival to release")
    }

    fn taken_mut(&mut self, slot: usize) -> &mut B {
        self.taken[slot].as_mut().expect("slots are named from arrival to release")
    }
}

impl Input {
    /// Starts a runtime. The calling thread must be the one that uses the engine. Without
    /// `nowait` it does not try whether the TUN device can be read without waiting.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] when the kernel or the container refuses a ring.
    pub(in crate::engine) fn new(
        ports: &Ports,
        tuning: Tuning,
        nowait: bool,
    ) -> Result<Self, EngineError> {
        let unsupported =
            |source| EngineError::Unsupported { what: "a tokio-uring runtime", source };
        let mut builder = tokio_uring::builder();
        builder.entries(ENTRIES);
        let runtime = Runtime::new(&builder).map_err(unsupported)?;
        let found = runtime.block_on(NoWait::of(ports.tun.as_raw_fd())).map_err(|source| {
            EngineError::Unsupported { what: "reading a TUN device with io_uring", source }
        })?;
        let no_wait = if nowait { found } else { NoWait::ByTimeout };
        let (frame_len, train_len) = (tuning.frame_len(), tuning.train_len());
        let count = BUFFERS.min(tuning.batch);
        Ok(Self {
            runtime,
            polls: [const { None }; 3],
            hot: [false; 2],
            no_wait,
            buffers: Buffers {
                frames: Intake::new(count, || BytesMut::zeroed(frame_len)),
                trains: Intake::new(count, || Message::new(BytesMut::zeroed(train_len))),
            },
            in_flight: Vec::with_capacity(ENTRIES as usize),
        })
    }

    /// Waits until something is readable, or for the time; says so in `hot`.
    fn wait(&mut self, ports: &Ports, timeout: Option<Duration>) -> Result<(), EngineError> {
        let fds = [&ports.tun, &ports.udp, &ports.wake].map(|fd| fd.as_raw_fd());
        let polls = &mut self.polls;
        let readable = self.runtime.block_on(async {
            let readable = poll_fn(|context| poll_all(polls, fds, context));
            match timeout {
                None => readable.await,
                // Nothing within the time is an answer too.
                Some(timeout) => tokio::time::timeout(timeout, readable).await.unwrap_or([None; 3]),
            }
        });
        // `tun_chr_poll` reports an error, and nothing else, once the device is unregistered.
        if readable[TUN].is_some_and(|events| events & libc::POLLERR as usize != 0) {
            return Err(EngineError::DeviceGone);
        }
        if readable[WAKE].is_some() {
            ports.woken();
        }
        self.hot = [readable[TUN].is_some(), readable[UDP].is_some()];
        Ok(())
    }

    /// Takes what is there from the ports that are hot, as much as was offered.
    fn drain(
        &mut self,
        ports: &Ports,
        inbox: &mut Inbox,
        stats: &mut EngineStats,
    ) -> Result<(), EngineError> {
        stats.syscalls += TRIP;
        inbox.began_ns = clock::monotonic_ns();
        let (tun, udp) = (ports.tun.as_raw_fd(), ports.udp.as_raw_fd());
        let Self { runtime, hot, no_wait, .. } = self;
        let Buffers { frames, trains } = &mut self.buffers;
        runtime.block_on(async {
            let mut at_once = None;
            if hot[TUN] {
                frames.submit(no_wait.most(), |buffer| operations::read(tun, buffer, *no_wait));
                if *no_wait == NoWait::ByTimeout {
                    at_once = Some(operations::at_once());
                }
            }
            if hot[UDP] {
                trains.submit(BUFFERS, |message| operations::receive(udp, message));
            }
            let frames = frames.collect(|slot, read, _| keep_frame(slot, read, inbox, stats)).await;
            if let Some(at_once) = at_once {
                // It says only whether there was something left to end.
                let _ = at_once.await;
            }
            let trains = trains
                .collect(|slot, received, message| {
                    keep_train(slot, received, message, inbox, stats)
                })
                .await;
            frames.and(trains)
        })
    }
}

fn keep_frame(
    slot: usize,
    read: Result<usize, i32>,
    inbox: &mut Inbox,
    stats: &mut EngineStats,
) -> Result<bool, EngineError> {
    match read {
        Ok(len) => {
            let (slot, len, read_ns) = (Slot(slot as u16), len as u32, inbox.began_ns);
            inbox.frames.push(TunFrame { slot, start: 0, len, read_ns });
            Ok(true)
        }
        // Its timeout ended it.
        Err(libc::ECANCELED) => Ok(false),
        Err(errno) => arrival::no_frame(errno, stats).map(|()| false),
    }
}

fn keep_train(
    slot: usize,
    received: Result<usize, i32>,
    message: &Message,
    inbox: &mut Inbox,
    stats: &mut EngineStats,
) -> Result<bool, EngineError> {
    let len = match received {
        Ok(len) => len.min(message.payload.len()) as u32,
        Err(errno) => return arrival::no_train(errno, stats).map(|()| false),
    };
    let (name, control, flags) = (message.name(), message.control(), message.flags());
    let slot = Slot((BUFFERS + slot) as u16);
    let train = Arrival { slot, start: 0, len, name, control, flags }.train(stats);
    inbox.trains.extend(train);
    Ok(train.is_some())
}

/// Polls all ports, arming what is not armed: the events of those that have some.
fn poll_all(
    polls: &mut [Option<InFlight<()>>; 3],
    fds: [RawFd; 3],
    context: &mut Context<'_>,
) -> Poll<[Option<usize>; 3]> {
    let mut events = [None; 3];
    for ((poll, fd), events) in polls.iter_mut().zip(fds).zip(&mut events) {
        let armed = poll.get_or_insert_with(|| operations::readable(fd));
        if let Poll::Ready((result, ())) = Pin::new(armed).poll(context) {
            *poll = None;
            // A poll that failed tells nothing: the next read will.
            *events = Some(result.unwrap_or(0));
        }
    }
    if events == [None; 3] { Poll::Pending } else { Poll::Ready(events) }
}

impl driver::Input for Input {
    const KIND: EngineKind = EngineKind::TokioUring;
    type Slots = Buffers;

    fn receive(
        &mut self,
        ports: &Ports,
        inbox: &mut Inbox,
        timeout: Option<Duration>,
        stats: &mut EngineStats,
    ) -> Result<(), EngineError> {
        if timeout == Some(Duration::ZERO) {
            self.hot = [true; 2];
        } else if self.hot == [false; 2] {
            stats.syscalls += TRIP;
            self.wait(ports, timeout)?;
        }
        if self.hot == [false; 2] {
            return Ok(());
        }
        let before = (inbox.frames.len(), inbox.trains.len());
        self.drain(ports, inbox, stats)?;
        // While one direction is busy the other is tried too, without asking first.
        self.hot = [before != (inbox.frames.len(), inbox.trains.len()); 2];
        Ok(())
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        match usize::from(slot.0).checked_sub(BUFFERS) {
            None => self.buffers.frames.taken_mut(slot.0.into()),
            Some(train) => &mut self.buffers.trains.taken_mut(train).payload,
        }
    }

    fn release(&mut self, inbox: &mut Inbox) {
        for frame in &inbox.frames {
            self.buffers.frames.release(frame.slot.0.into());
        }
        for train in &inbox.trains {
            self.buffers.trains.release(usize::from(train.slot.0) - BUFFERS);
        }
        inbox.clear();
    }

    fn output<'a>(
        &'a mut self,
        fd: BorrowedFd<'a>,
    ) -> (&'a Buffers, impl SendCalls + WriteCalls + 'a) {
        let Self { runtime, buffers, in_flight, no_wait, .. } = self;
        (buffers, Calls { runtime, in_flight, fd, no_wait: *no_wait })
    }
}

impl Slots for Buffers {
    fn slot(&self, slot: Slot) -> &[u8] {
        match usize::from(slot.0).checked_sub(BUFFERS) {
            None => self.frames.taken(slot.0.into()),
            Some(train) => &self.trains.taken(train).payload,
        }
    }
}
