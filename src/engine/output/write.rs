//! Writing frames to the TUN device, one `writev` each.
#![allow(unsafe_code, reason = "writev takes pointers")]

use super::Kernel;
use super::memory::{Memory, Slots};
use crate::engine::EngineStats;
use crate::sys::mmsg;
use std::io;
use twill_datapath::batch::{Failure, Frame, Frames, Outcome};

/// `UIO_MAXIOV`: pieces of one frame at most.
const MAX_PIECES: usize = 1024;
/// Frames that are gathered at a time.
const CHUNK: usize = 64;

/// The calls that writing needs: the kernel's, or a runtime's.
pub(in crate::engine) trait WriteCalls {
    /// writev(2) of each packet, in order; one that is refused does not stop the others. Their bytes
    /// lie still until this returns. How many system calls it took.
    fn write(&mut self, packets: &Packets, refused: impl FnMut(usize, i32)) -> u64;
}

/// Packets as the kernel reads them: each an array of `iovec`s.
pub(in crate::engine) struct Packets {
    iovecs: Vec<libc::iovec>,
    /// Where each packet's `iovec`s end.
    ends: Vec<usize>,
}

impl Packets {
    fn new() -> Self {
        Self { iovecs: Vec::with_capacity(2 * MAX_PIECES), ends: Vec::with_capacity(CHUNK) }
    }

    /// The packets, in order.
    pub(in crate::engine) fn iter(&self) -> impl Iterator<Item = &[libc::iovec]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).map(|(start, end)| &self.iovecs[*start..*end])
    }

    /// Takes as many of the frames as there is room for, at least one.
    fn gather<S: Slots>(&mut self, rest: &[Frame], frames: &Frames, memory: &Memory<'_, S>) {
        self.iovecs.clear();
        self.ends.clear();
        for frame in rest.iter().take(CHUNK) {
            let count = frame.chain.count().min(MAX_PIECES);
            if self.iovecs.len() + count > self.iovecs.capacity() {
                return;
            }
            let pieces = frames.pieces.iter(&frame.chain).take(count);
            self.iovecs.extend(pieces.map(|piece| memory.iovec(piece)));
            self.ends.push(self.iovecs.len());
        }
    }
}

impl WriteCalls for Kernel<'_> {
    fn write(&mut self, packets: &Packets, mut refused: impl FnMut(usize, i32)) -> u64 {
        let mut calls = 0;
        for (index, packet) in packets.iter().enumerate() {
            loop {
                calls += 1;
                // SAFETY: each iovec covers a slice that `Writer::write` borrows, which outlives
                // this call.
                match unsafe { mmsg::write(self.0, packet) } {
                    Ok(_) => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        refused(index, error.raw_os_error().unwrap_or(libc::EIO));
                        break;
                    }
                }
            }
        }
        calls
    }
}

/// The writing side of an engine.
pub(super) struct Writer {
    packets: Packets,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { packets: Packets::new() }
    }

    /// Writes all frames in order.
    pub(super) fn write<S: Slots>(
        &mut self,
        calls: &mut impl WriteCalls,
        frames: &Frames,
        memory: &Memory<'_, S>,
        outcome: &mut Outcome,
        stats: &mut EngineStats,
    ) {
        let mut first = 0;
        while first < frames.frames().len() {
            let rest = &frames.frames()[first..];
            self.packets.gather(rest, frames, memory);
            stats.syscalls += calls.write(&self.packets, |index, errno| {
                let (item, count) = ((first + index) as u32, rest[index].packets);
                outcome.fail(Failure { item, first: 0, count, errno });
            });
            first += self.packets.ends.len();
        }
    }
}
