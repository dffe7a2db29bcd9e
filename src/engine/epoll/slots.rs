//! What the kernel fills: an arena for frames, slots for trains.
#![allow(unsafe_code, reason = "recvmmsg takes pointers")]

use crate::engine::arrival::{self, Arrival};
use crate::engine::output::memory::Slots;
use crate::engine::output::messages::empty_header;
use crate::engine::{EngineError, EngineStats, Tuning};
use crate::sys::{address, cmsg, mmsg};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use twill_datapath::batch::{Slot, Train, TunFrame};

/// Bytes of frames that one turn reads at most with segmentation offload: some super-packets, and
/// still within a core's second-level cache.
const FRAME_ARENA: usize = 512 * 1024;
/// Receives in one call with GRO: one megabyte of slots.
const TRAINS_WITH_GRO: usize = 16;

/// Both sides' receive memory: slot 0 is the arena, trains have those from 1 on.
pub(in crate::engine) struct Buffers {
    pub(super) frames: FrameArena,
    pub(super) trains: TrainSlots,
}

impl Buffers {
    pub(super) fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        match slot.0 {
            0 => &mut self.frames.bytes,
            train => self.trains.slot_mut(usize::from(train) - 1),
        }
    }
}

impl Slots for Buffers {
    fn slot(&self, slot: Slot) -> &[u8] {
        match slot.0 {
            0 => &self.frames.bytes,
            train => self.trains.slot(usize::from(train) - 1),
        }
    }
}

/// One buffer for all frames that are out, filled in a circle.
pub(super) struct FrameArena {
    bytes: Box<[u8]>,
    /// What one read may bring.
    most: usize,
    /// What is in use, in the order in which it was read.
    extents: VecDeque<Extent>,
}

/// The place of one frame.
struct Extent {
    start: usize,
    end: usize,
    is_free: bool,
}

impl FrameArena {
    pub(super) fn new(tuning: &Tuning) -> Self {
        let most = tuning.frame_len();
        let len = if tuning.super_packets { FRAME_ARENA } else { most * tuning.batch };
        let extents = VecDeque::with_capacity(2 * tuning.batch);
        Self { bytes: vec![0; len].into_boxed_slice(), most, extents }
    }

    /// Where the next frame goes, if there is room for the longest.
    fn room(&self) -> Option<usize> {
        if self.extents.len() == self.extents.capacity() {
            return None;
        }
        let (Some(oldest), Some(last)) = (self.extents.front(), self.extents.back()) else {
            return Some(0);
        };
        let fits = |from: usize, to: usize| (from + self.most <= to).then_some(from);
        if last.end <= oldest.start {
            return fits(last.end, oldest.start);
        }
        fits(last.end, self.bytes.len()).or_else(|| fits(0, oldest.start))
    }

    /// Takes back the place of the frame that begins there.
    pub(super) fn give_back(&mut self, start: u32) {
        let extent = self.extents.iter_mut().find(|it| it.start == start as usize && !it.is_free);
        if let Some(extent) = extent {
            extent.is_free = true;
        }
        while self.extents.front().is_some_and(|oldest| oldest.is_free) {
            self.extents.pop_front();
        }
    }

    /// Reads frames until the device is empty or there is no room; slot 0 is the arena.
    pub(super) fn read(
        &mut self,
        device: BorrowedFd<'_>,
        frames: &mut Vec<TunFrame>,
        read_ns: u64,
        stats: &mut EngineStats,
    ) -> Result<(), EngineError> {
        while frames.len() < frames.capacity() {
            let Some(start) = self.room() else { break };
            stats.syscalls += 1;
            match rustix::io::read(device, &mut self.bytes[start..start + self.most]) {
                Ok(len) => {
                    let frame =
                        TunFrame { slot: Slot(0), start: start as u32, len: len as u32, read_ns };
                    frames.push(frame);
                    // Headers are read as words: keep them on word boundaries.
                    let end = start + len.max(1).next_multiple_of(8);
                    self.extents.push_back(Extent { start, end, is_free: false });
                }
                Err(Errno::INTR) => {}
                Err(errno) => {
                    arrival::no_frame(errno.raw_os_error(), stats)?;
                    break;
                }
            }
        }
        Ok(())
    }
}

/// One slot per receive, each with its name and control data.
pub(super) struct TrainSlots {
    bytes: Box<[u8]>,
    slot_len: usize,
    /// Slots that hold nothing.
    free: Vec<usize>,
    /// Those of a receive that brought nothing to keep.
    unused: Vec<usize>,
    names: Vec<[u8; address::LEN]>,
    controls: Vec<[u64; cmsg::RECEIVE_SPACE / 8]>,
    iovecs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl TrainSlots {
    pub(super) fn new(tuning: &Tuning) -> Self {
        let slots = if tuning.gro { TRAINS_WITH_GRO.min(tuning.batch) } else { tuning.batch };
        let slot_len = tuning.train_len().next_multiple_of(64);
        Self {
            bytes: vec![0; slots * slot_len].into_boxed_slice(),
            slot_len,
            free: (0..slots).rev().collect(),
            unused: Vec::with_capacity(slots),
            names: vec![[0; address::LEN]; slots],
            controls: vec![[0; cmsg::RECEIVE_SPACE / 8]; slots],
            iovecs: Vec::with_capacity(slots),
            headers: Vec::with_capacity(slots),
        }
    }

    fn slot(&self, index: usize) -> &[u8] {
        &self.bytes[index * self.slot_len..(index + 1) * self.slot_len]
    }

    fn slot_mut(&mut self, index: usize) -> &mut [u8] {
        &mut self.bytes[index * self.slot_len..(index + 1) * self.slot_len]
    }

    /// Receives once, as many as are there; slots are numbered from 1.
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        trains: &mut Vec<Train>,
        stats: &mut EngineStats,
    ) -> Result<(), EngineError> {
        let count = self.free.len().min(trains.capacity() - trains.len());
        if count == 0 {
            return Ok(());
        }
        self.prepare(count);
        stats.syscalls += 1;
        // SAFETY: `prepare` pointed every header at a free slot, its name, control data and iovec,
        // all of which `self` owns and nobody else uses during the call.
        let received = unsafe { mmsg::receive(socket, &mut self.headers) };
        let count = match received {
            Ok(count) => count,
            Err(error) => {
                return arrival::no_train(error.raw_os_error().unwrap_or(libc::EIO), stats);
            }
        };
        for number in 0..count {
            // The headers named the free slots from the last one on.
            let Some(slot) = self.free.pop() else { break };
            match self.train(slot, number, stats) {
                Some(train) => trains.push(train),
                None => self.unused.push(slot),
            }
        }
        self.free.append(&mut self.unused);
        Ok(())
    }

    /// Takes back a slot.
    pub(super) fn give_back(&mut self, slot: Slot) {
        self.free.push(usize::from(slot.0) - 1);
    }

    /// Points headers at as many free slots; the kernel overwrites the lengths each time.
    fn prepare(&mut self, count: usize) {
        self.headers.clear();
        self.iovecs.clear();
        for index in self.free.iter().rev().take(count) {
            let slot = &mut self.bytes[index * self.slot_len..(index + 1) * self.slot_len];
            self.iovecs
                .push(libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() });
        }
        for (number, index) in self.free.iter().rev().take(count).enumerate() {
            let mut header = empty_header();
            header.msg_hdr.msg_name = self.names[*index].as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = address::LEN as libc::socklen_t;
            header.msg_hdr.msg_iov = &raw mut self.iovecs[number];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = self.controls[*index].as_mut_ptr().cast();
            // The field is narrower in musl's header.
            header.msg_hdr.msg_controllen = cmsg::RECEIVE_SPACE as _;
            self.headers.push(header);
        }
    }

    fn train(&self, slot: usize, number: usize, stats: &mut EngineStats) -> Option<Train> {
        let header = &self.headers[number];
        let control = zerocopy::IntoBytes::as_bytes(&self.controls[slot]);
        let control_len: usize = header.msg_hdr.msg_controllen as _;
        let arrival = Arrival {
            slot: Slot(slot as u16 + 1),
            start: 0,
            len: header.msg_len,
            name: &self.names[slot],
            control: &control[..control_len.min(control.len())],
            flags: header.msg_hdr.msg_flags,
        };
        arrival.train(stats)
    }
}
