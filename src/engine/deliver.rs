//! Writing frames to the TUN device, one `writev` each.
#![allow(unsafe_code, reason = "writev takes pointers")]

use super::EngineStats;
use super::memory::{Memory, Slots};
use crate::batch::{Failure, Frames, Outcome};
use crate::sys::mmsg;
use std::io;
use std::os::fd::BorrowedFd;

/// `UIO_MAXIOV`: pieces of one frame at most.
const IOVECS: usize = 1024;

/// The call that writing needs: the kernel's, or a runtime's.
pub(super) trait WriteCalls {
    /// writev(2): one packet from scattered bytes, which lie still until it returns.
    fn write(&mut self, pieces: &[libc::iovec]) -> io::Result<usize>;
}

/// The kernel's call on one TUN queue.
impl WriteCalls for BorrowedFd<'_> {
    fn write(&mut self, pieces: &[libc::iovec]) -> io::Result<usize> {
        // SAFETY: each iovec covers a slice that `Writer::write` borrows, which outlives this call.
        unsafe { mmsg::write(*self, pieces) }
    }
}

/// The writing side of an engine.
pub(super) struct Writer {
    iovecs: Vec<libc::iovec>,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { iovecs: Vec::with_capacity(IOVECS) }
    }

    /// Writes all frames in order; one that the kernel refuses does not stop the others.
    pub(super) fn write<S: Slots>(
        &mut self,
        calls: &mut impl WriteCalls,
        frames: &Frames,
        memory: &Memory<'_, S>,
        outcome: &mut Outcome,
        stats: &mut EngineStats,
    ) {
        for (item, frame) in frames.frames().iter().enumerate() {
            self.iovecs.clear();
            let pieces = frames.pieces.iter(&frame.chain).take(IOVECS);
            self.iovecs.extend(pieces.map(|piece| memory.iovec(piece)));
            if let Err(error) = self.write_one(calls, stats) {
                outcome.fail(Failure {
                    item: item as u32,
                    first: 0,
                    count: frame.packets,
                    errno: error.raw_os_error().unwrap_or(libc::EIO),
                });
            }
        }
    }

    fn write_one(&self, calls: &mut impl WriteCalls, stats: &mut EngineStats) -> io::Result<()> {
        loop {
            stats.syscalls += 1;
            match calls.write(&self.iovecs) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
