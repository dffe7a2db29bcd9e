//! What the kernel fills: an arena for frames, slots for trains.
#![allow(unsafe_code, reason = "recvmmsg takes pointers")]

use crate::engine::arrival::{self, Arrival};
use crate::engine::output::memory::Slots;
use crate::engine::output::messages::empty_header;
use crate::engine::{EngineError, EngineStats, Tuning};
use crate::sys::{address, cmsg, mmsg};
use rustix::io::Errno;
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

/// One buffer for all frames of a turn, filled from the front.
pub(super) struct FrameArena {
    bytes: Box<[u8]>,
    /// What one read may bring.
    most: usize,
    used: usize,
}

impl FrameArena {
    pub(super) fn new(tuning: &Tuning) -> Self {
        let most = tuning.frame_len();
        let len = if tuning.super_packets { FRAME_ARENA } else { most * tuning.batch };
        Self { bytes: vec![0; len].into_boxed_slice(), most, used: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.used = 0;
    }

    /// Reads frames until the device is empty or there is no room; slot 0 is the arena.
    pub(super) fn read(
        &mut self,
        device: BorrowedFd<'_>,
        frames: &mut Vec<TunFrame>,
        stats: &mut EngineStats,
    ) -> Result<(), EngineError> {
        while frames.len() < frames.capacity() {
            let Some(room) = self.bytes.get_mut(self.used..self.used + self.most) else { break };
            stats.syscalls += 1;
            match rustix::io::read(device, room) {
                Ok(len) => {
                    let (start, len) = (self.used as u32, len as u32);
                    frames.push(TunFrame { slot: Slot(0), start, len });
                    // Headers are read as words: keep them on word boundaries.
                    self.used += (len as usize).next_multiple_of(8);
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
        self.prepare();
        stats.syscalls += 1;
        // SAFETY: `prepare` pointed every header at its own slot, name, control data and iovec,
        // all of which `self` owns and nobody else uses during the call.
        let received = unsafe { mmsg::receive(socket, &mut self.headers) };
        let count = match received {
            Ok(count) => count,
            Err(error) => {
                return arrival::no_train(error.raw_os_error().unwrap_or(libc::EIO), stats);
            }
        };
        for index in 0..count {
            if let Some(train) = self.train(index, stats) {
                trains.push(train);
            }
        }
        Ok(())
    }

    /// Points every header at its slot; the kernel overwrites the lengths each time.
    fn prepare(&mut self) {
        self.headers.clear();
        self.iovecs.clear();
        for index in 0..self.names.len() {
            let slot = &mut self.bytes[index * self.slot_len..(index + 1) * self.slot_len];
            self.iovecs
                .push(libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() });
        }
        for index in 0..self.names.len() {
            let mut header = empty_header();
            header.msg_hdr.msg_name = self.names[index].as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = address::LEN as libc::socklen_t;
            header.msg_hdr.msg_iov = &raw mut self.iovecs[index];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = self.controls[index].as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = cmsg::RECEIVE_SPACE;
            self.headers.push(header);
        }
    }

    fn train(&self, index: usize, stats: &mut EngineStats) -> Option<Train> {
        let header = &self.headers[index];
        let control = zerocopy::IntoBytes::as_bytes(&self.controls[index]);
        let arrival = Arrival {
            slot: Slot(index as u16 + 1),
            start: 0,
            len: header.msg_len,
            name: &self.names[index],
            control: &control[..header.msg_hdr.msg_controllen.min(control.len())],
            flags: header.msg_hdr.msg_flags,
        };
        arrival.train(stats)
    }
}
