//! Multishot operations into buffer rings, and their completions.
#![allow(unsafe_code, reason = "submissions hold pointers")]

use super::buffers::BufferRing;
use crate::engine::arrival::{self, Arrival};
use crate::engine::output::Kernel;
use crate::engine::output::memory::Slots;
use crate::engine::output::send::SendCalls;
use crate::engine::output::write::WriteCalls;
use crate::engine::{EngineError, EngineKind, EngineStats, Ports, Tuning, driver};
use crate::sys::{address, clock, cmsg};
use io_uring::types::{CancelBuilder, Fixed, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::event::{PollFd, PollFlags, poll};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;
use twill_datapath::batch::{Inbox, Slot, Train, TunFrame};

/// Submissions that may wait: one per operation, and room to arm them again.
const SUBMISSIONS: u32 = 16;
/// Completions that may wait: every buffer of both rings, and polls.
const COMPLETIONS: u32 = 512;
/// Buffers for frames with segmentation offload: four megabytes of address space, of which small
/// packets touch only a page each.
const FRAME_BUFFERS: u16 = 64;
/// Buffers for trains.
const TRAIN_BUFFERS: u16 = 64;
/// `struct io_uring_recvmsg_out` in front of each received message.
const MESSAGE_HEADER: usize = 16;
/// Room for the sender's address, so that control data begins on a word.
const NAME_SPACE: usize = address::LEN.next_multiple_of(8);
const _: () = assert!(
    COMPLETIONS >= FRAME_BUFFERS as u32 + TRAIN_BUFFERS as u32 + 3 + SUBMISSIONS,
    "every buffer, the end of every operation and polls fit: no completion finds no room"
);
/// What stands before the payload of a train.
const TRAIN_START: usize = MESSAGE_HEADER + NAME_SPACE + cmsg::RECEIVE_SPACE;

/// How long the end of the device may stay unseen. The kernel wakes its readers before it takes the
/// device from them (`tun_detach_all`): a multishot read that looks between the two finds nothing, and is
/// not woken again.
const UNSEEN: Duration = Duration::from_secs(1);

/// How often, and how long each time, an engine that ends waits for the last completions.
const LAST_ROUNDS: u32 = 100;
const LAST_ROUND: Duration = Duration::from_millis(1);

/// Indexes of registered descriptors, and at the same time what a completion is about.
const TUN: u32 = 0;
const UDP: u32 = 1;
const WAKE: u32 = 2;

/// The receiving side. The operations are dropped before the memory that they were given.
pub(in crate::engine) struct Input {
    operations: Operations,
    buffers: Buffers,
    message: Box<libc::msghdr>,
    overflows: u32,
    /// A completion that found no room in the inbox.
    held: Option<cqueue::Entry>,
    /// When the kernel last did its part of receiving.
    entered_ns: u64,
    /// When the device was last seen.
    seen_ns: u64,
}

/// The ring and what is under way in it.
struct Operations {
    ring: IoUring,
    /// What to arm before the next wait, by index.
    disarmed: [bool; 3],
    /// How often all was armed anew. Completions carry it, so that the end of an operation from
    /// before is not taken for the end of its successor.
    generation: u32,
    /// Whether all was ended for good, and nothing is armed again.
    has_ended: bool,
}

impl Operations {
    /// Ends all that is under way. Each operation still completes, after all that it has received.
    fn end(&mut self) {
        self.has_ended = true;
        // When this fails, the kernel still does it, only later.
        let _ = self.ring.submitter().register_sync_cancel(None, CancelBuilder::any());
    }

    /// Waits a moment for completions; false when the kernel refuses to.
    fn wait_last(&self) -> bool {
        let timeout = Timespec::from(LAST_ROUND);
        let args = SubmitArgs::new().timespec(&timeout);
        match self.ring.submitter().submit_with_args(1, &args) {
            Ok(_) => true,
            Err(error) => error.raw_os_error() == Some(libc::ETIME),
        }
    }
}

impl Input {
    /// Registers the ports. The calling thread must be the one that uses the engine.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] when the kernel or the container refuses a ring, or lacks an
    /// operation.
    pub(in crate::engine) fn new(ports: &Ports, tuning: Tuning) -> Result<Self, EngineError> {
        let ring = Self::ring()?;
        let unsupported = |what| move |source| EngineError::Unsupported { what, source };
        let descriptors = [&ports.tun, &ports.udp, &ports.wake].map(|fd| fd.as_raw_fd());
        ring.submitter()
            .register_files(&descriptors)
            .map_err(unsupported("registering descriptors with io_uring"))?;
        let (frame_len, train_len) = (tuning.frame_len(), tuning.train_len());
        let register = |group, entries, len: usize| {
            BufferRing::register(&ring, group, entries, len.next_multiple_of(64))
                .map_err(unsupported("registering a buffer ring with io_uring (Linux 5.19)"))
        };
        let frames = register(TUN as u16, FRAME_BUFFERS, frame_len)?;
        let trains = register(UDP as u16, TRAIN_BUFFERS, TRAIN_START + train_len)?;
        // SAFETY: all fields are integers and pointers, for which zero is a value.
        let mut message: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        message.msg_namelen = NAME_SPACE as libc::socklen_t;
        // The field is narrower in musl's header.
        message.msg_controllen = cmsg::RECEIVE_SPACE as _;
        Ok(Self {
            operations: Operations { ring, disarmed: [true; 3], generation: 0, has_ended: false },
            buffers: Buffers { frames, trains },
            message,
            overflows: 0,
            held: None,
            entered_ns: 0,
            seen_ns: 0,
        })
    }

    fn ring() -> Result<IoUring, EngineError> {
        IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            // Says without a system call whether one would find anything.
            .setup_taskrun_flag()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)
            .map_err(|source| EngineError::Unsupported {
                what: "io_uring with deferred work (Linux 6.1)",
                source,
            })
    }

    /// Submits what was disarmed.
    fn arm(&mut self) -> Result<(), EngineError> {
        for index in [TUN, UDP, WAKE] {
            if !std::mem::take(&mut self.operations.disarmed[index as usize]) {
                continue;
            }
            let fd = Fixed(index);
            let entry = match index {
                // The crate's builder overwrites the flag that says "registered": set it again.
                TUN => opcode::ReadMulti::new(fd, 0, self.buffers.frames.group())
                    .build()
                    .flags(squeue::Flags::FIXED_FILE),
                UDP => {
                    let message = &raw const *self.message;
                    opcode::RecvMsgMulti::new(fd, message, self.buffers.trains.group()).build()
                }
                _ => opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build(),
            };
            let user_data = u64::from(self.operations.generation) << 32 | u64::from(index);
            self.push(entry.user_data(user_data))?;
        }
        Ok(())
    }

    fn push(&mut self, entry: squeue::Entry) -> Result<(), EngineError> {
        // SAFETY: what the entry points at is the message header, which is boxed and outlives the
        // ring, as do the buffer rings that it names.
        let pushed = unsafe { self.operations.ring.submission().push(&entry) };
        pushed.map_err(|_| EngineError::SubmissionQueue)
    }

    /// Runs the kernel's part and waits for at least one completion, unless there is no time for that.
    fn enter(&mut self, timeout: Duration, stats: &mut EngineStats) -> Result<(), EngineError> {
        if timeout.is_zero() && !self.is_due() {
            return Ok(());
        }
        stats.syscalls += 1;
        let entered = if timeout.is_zero() {
            // The flag that `is_due` looks at makes this run what was deferred.
            self.operations.ring.submit_and_wait(0)
        } else {
            let timeout = Timespec::from(timeout);
            let args = SubmitArgs::new().timespec(&timeout);
            self.operations.ring.submitter().submit_with_args(1, &args)
        };
        match entered {
            Ok(_) => Ok(()),
            // EBUSY: completions must be taken before more are submitted.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY)
                ) =>
            {
                Ok(())
            }
            // `io_cqring_wait` says so once after it had neither room nor memory for a completion.
            Err(error) if error.raw_os_error() == Some(libc::EBADR) => {
                self.arm_anew(stats);
                Ok(())
            }
            Err(source) => Err(EngineError::Wait(source)),
        }
    }

    /// Whether the kernel has something to do: to submit, to receive, or to complete.
    fn is_due(&mut self) -> bool {
        let submissions = self.operations.ring.submission();
        !submissions.is_empty() || submissions.taskrun() || submissions.cq_overflow()
    }

    /// Looks from time to time whether the device is still there.
    fn look_for_device(
        &mut self,
        ports: &Ports,
        stats: &mut EngineStats,
    ) -> Result<(), EngineError> {
        if Duration::from_nanos(self.entered_ns.saturating_sub(self.seen_ns)) < UNSEEN {
            return Ok(());
        }
        self.seen_ns = self.entered_ns;
        stats.syscalls += 1;
        // Errors are told unasked.
        let mut fds = [PollFd::new(&ports.tun, PollFlags::empty())];
        match poll(&mut fds, Some(&rustix::time::Timespec::default())) {
            // `tun_chr_poll` reports an error, and nothing else, once the device is unregistered.
            Ok(1..) => Err(EngineError::DeviceGone),
            Ok(0) | Err(_) => Ok(()),
        }
    }

    /// Ends all operations and arms them again: nobody knows which of them ended with a completion
    /// that was lost. Its buffer is lost too; the others go around as before.
    fn arm_anew(&mut self, stats: &mut EngineStats) {
        stats.cq_overflows += 1;
        // What cannot be ended now goes on beside its successor: nothing is read twice.
        let _ = self.operations.ring.submitter().register_sync_cancel(None, CancelBuilder::any());
        stats.rearmed +=
            self.operations.disarmed.iter().filter(|disarmed| !**disarmed).count() as u64;
        self.operations.disarmed = [true; 3];
        self.operations.generation = self.operations.generation.wrapping_add(1);
    }

    /// Sorts completions into the inbox, as many as it takes; the rest waits in the ring.
    fn reap(
        &mut self,
        ports: &Ports,
        inbox: &mut Inbox,
        stats: &mut EngineStats,
    ) -> Result<(), EngineError> {
        let mut completions = self.operations.ring.completion();
        let overflows = completions.overflow();
        stats.cq_overflows += u64::from(overflows.wrapping_sub(self.overflows));
        self.overflows = overflows;
        while let Some(completion) = self.held.take().or_else(|| completions.next()) {
            if !has_room(inbox, &completion) {
                self.held = Some(completion);
                break;
            }
            let (index, is_current) = parts(completion.user_data(), self.operations.generation);
            if is_current && !cqueue::more(completion.flags()) {
                self.operations.disarmed[index as usize] = true;
                stats.rearmed += u64::from(!self.operations.has_ended);
            }
            let bid = cqueue::buffer_select(completion.flags());
            match (index, completion.result(), bid) {
                (TUN, len @ 0.., Some(bid)) => {
                    let (len, read_ns) = (len as u32, inbox.began_ns);
                    inbox.frames.push(TunFrame { slot: Slot(bid), start: 0, len, read_ns });
                }
                (UDP, 0.., Some(bid)) => {
                    match train(&self.buffers.trains, &self.message, bid, stats) {
                        Some(train) => inbox.trains.push(train),
                        None => self.buffers.trains.give_back(bid),
                    }
                }
                (WAKE, ..) => {
                    ports.woken();
                }
                (index, result, _) if is_current => failed(index, -result, stats)?,
                // It was ended by us.
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether the inbox takes what a completion brings.
fn has_room(inbox: &Inbox, completion: &cqueue::Entry) -> bool {
    match completion.user_data() as u32 {
        _ if cqueue::buffer_select(completion.flags()).is_none() => true,
        TUN => inbox.frames.len() < inbox.frames.capacity(),
        UDP => inbox.trains.len() < inbox.trains.capacity(),
        _ => true,
    }
}

/// What a completion is about, and whether its operation is one of those now armed.
fn parts(user_data: u64, generation: u32) -> (u32, bool) {
    (user_data as u32, (user_data >> 32) as u32 == generation)
}

/// Whether this kernel takes receive buffers from rings: hands it one, and ends both.
pub(in crate::engine) fn offers_buffer_rings(ring: IoUring) -> io::Result<()> {
    let buffers = BufferRing::register(&ring, 0, 1, 64);
    // The kernel lets go of the memory first.
    drop(ring);
    buffers.map(drop)
}

/// One completed receive; nothing when its sender cannot be read.
fn train(
    buffers: &BufferRing,
    message: &libc::msghdr,
    bid: u16,
    stats: &mut EngineStats,
) -> Option<Train> {
    let received = RecvMsgOut::parse(buffers.slot(bid), message).ok()?;
    let arrival = Arrival {
        slot: Slot(FRAME_BUFFERS + bid),
        start: TRAIN_START as u32,
        len: received.payload_data().len() as u32,
        name: received.name_data(),
        control: received.control_data(),
        flags: received.flags() as i32,
    };
    arrival.train(stats)
}

/// A receive that ended without bytes; it is armed again before the next wait.
fn failed(index: u32, errno: i32, stats: &mut EngineStats) -> Result<(), EngineError> {
    match (index, errno) {
        // `Operations::end`.
        (_, libc::ECANCELED) => {}
        // All buffers are in the inbox; they are back before the next wait.
        (_, libc::ENOBUFS) => stats.no_buffers += 1,
        (TUN, libc::EINVAL | libc::EOPNOTSUPP) => {
            return Err(EngineError::Unsupported {
                what: "multishot read of a TUN device (Linux 6.7)",
                source: io::Error::from_raw_os_error(errno),
            });
        }
        (TUN, _) => arrival::no_frame(errno, stats)?,
        (UDP, _) => arrival::no_train(errno, stats)?,
        _ => {}
    }
    Ok(())
}

impl driver::Input for Input {
    const KIND: EngineKind = EngineKind::Uring;
    type Slots = Buffers;

    fn receive(
        &mut self,
        ports: &Ports,
        inbox: &mut Inbox,
        timeout: Option<Duration>,
        stats: &mut EngineStats,
    ) -> Result<(), EngineError> {
        self.arm()?;
        // What the last turn left in the ring was read when that turn entered the kernel.
        let left_over = self.held.is_some() || !self.operations.ring.completion().is_empty();
        // What is held is an arrival, or the end of an operation without which none comes.
        let timeout = if self.held.is_some() { Duration::ZERO } else { timeout.unwrap_or(UNSEEN) };
        self.enter(timeout.min(UNSEEN), stats)?;
        let entered_ns = clock::monotonic_ns();
        inbox.began_ns = if left_over { self.entered_ns } else { entered_ns };
        self.entered_ns = entered_ns;
        self.reap(ports, inbox, stats)?;
        self.look_for_device(ports, stats)
    }

    /// An operation that ends says so by its last completion: once all have, what is in the ring
    /// is all that was received.
    fn receive_last(
        &mut self,
        ports: &Ports,
        inbox: &mut Inbox,
        stats: &mut EngineStats,
    ) -> Result<(), EngineError> {
        if !self.operations.has_ended {
            self.operations.end();
        }
        inbox.began_ns = self.entered_ns;
        for _ in 0..LAST_ROUNDS {
            self.reap(ports, inbox, stats)?;
            let has_ended = self.operations.disarmed == [true; 3] && self.held.is_none();
            if !inbox.is_empty() || has_ended {
                break;
            }
            stats.syscalls += 1;
            if !self.operations.wait_last() {
                break;
            }
        }
        Ok(())
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        match slot.0.checked_sub(FRAME_BUFFERS) {
            None => self.buffers.frames.slot_mut(slot.0),
            Some(bid) => self.buffers.trains.slot_mut(bid),
        }
    }

    fn release(&mut self, inbox: &mut Inbox) {
        let Buffers { frames, trains } = &mut self.buffers;
        for frame in &inbox.frames {
            frames.give_back(frame.slot.0);
        }
        for train in &inbox.trains {
            trains.give_back(train.slot.0 - FRAME_BUFFERS);
        }
        frames.publish();
        trains.publish();
        inbox.clear();
    }

    fn output<'a>(
        &'a mut self,
        fd: BorrowedFd<'a>,
    ) -> (&'a Buffers, impl SendCalls + WriteCalls + 'a) {
        (&self.buffers, Kernel(fd))
    }
}

/// The kernel tears a ring down in the background, and descriptors that the ring holds stay open
/// until then: port and device would be taken for a while after the gateway has ended. So all that
/// is under way ends here first.
impl Drop for Operations {
    fn drop(&mut self) {
        self.end();
        for _ in 0..LAST_ROUNDS {
            for completion in self.ring.completion() {
                let (index, is_current) = parts(completion.user_data(), self.generation);
                let ended = is_current && !cqueue::more(completion.flags());
                self.disarmed[index as usize] |= ended;
            }
            if self.disarmed == [true; 3] || !self.wait_last() {
                break;
            }
        }
        let _ = self.ring.submitter().unregister_files();
    }
}

/// Both rings' receive memory.
pub(in crate::engine) struct Buffers {
    frames: BufferRing,
    trains: BufferRing,
}

impl Slots for Buffers {
    fn slot(&self, slot: Slot) -> &[u8] {
        match slot.0.checked_sub(FRAME_BUFFERS) {
            None => self.frames.slot(slot.0),
            Some(bid) => self.trains.slot(bid),
        }
    }
}
