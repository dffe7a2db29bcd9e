//! Sends and writes as operations of the ring.
#![allow(unsafe_code, reason = "operations hold pointers")]

use super::operations::{self, InFlight, NoWait};
use super::receive::TRIP;
use crate::engine::output::send::{SendCalls, some};
use crate::engine::output::write::{Packets, WriteCalls};
use crate::socket::{self, Fragmentation, set_fragmentation};
use crate::sys::neighbours;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;
use tokio_uring::Runtime;

/// Sends and writes through the runtime: a chunk in one submission, and all of it awaited.
pub(super) struct Calls<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) in_flight: &'a mut Vec<InFlight<()>>,
    pub(super) fd: BorrowedFd<'a>,
    pub(super) no_wait: NoWait,
}

impl SendCalls for Calls<'_> {
    /// The messages are linked: after one that is refused the kernel cancels the rest, which is
    /// what sendmmsg does.
    fn send(&mut self, headers: &mut [libc::mmsghdr]) -> io::Result<NonZeroUsize> {
        let Self { runtime, in_flight, fd, .. } = self;
        let last = headers.len().saturating_sub(1);
        runtime.block_on(async {
            in_flight.extend(headers.iter().enumerate().map(|(at, header)| {
                // SAFETY: `Messages::fill` pointed the headers at its own parts and at slices that
                // the memory borrows; all outlive this call, which awaits every operation.
                unsafe { operations::send(fd.as_raw_fd(), &header.msg_hdr, at < last) }
            }));
            let mut taken = 0;
            let mut refused = None;
            for operation in in_flight.drain(..) {
                match operation.await {
                    (Ok(_), ()) if refused.is_none() => taken += 1,
                    (Err(error), ()) if refused.is_none() => refused = Some(error),
                    _ => {}
                }
            }
            match (taken, refused) {
                (0, Some(error)) => Err(error),
                _ => some(taken),
            }
        })
    }

    fn set_fragmentation(&mut self, ipv6: bool, fragmentation: Fragmentation) -> io::Result<()> {
        set_fragmentation(self.fd, ipv6, fragmentation)
    }

    fn wait_for_room(&mut self, at_most: Duration) -> bool {
        // All operations have ended: nothing in the runtime is held up.
        socket::wait_for_room(self.fd, at_most)
    }

    fn held_for_neighbours(&mut self) -> u64 {
        neighbours::held_bytes().unwrap_or_default()
    }

    fn send_buffer(&mut self) -> u32 {
        socket::send_buffer(self.fd)
    }

    fn set_send_buffer(&mut self, bytes: u32) {
        // It shows by what the buffer is then.
        let _ = socket::set_send_buffer(self.fd, bytes);
    }
}

impl WriteCalls for Calls<'_> {
    fn write(&mut self, packets: &Packets, mut refused: impl FnMut(usize, i32)) -> u64 {
        let Self { runtime, in_flight, fd, no_wait } = self;
        runtime.block_on(async {
            in_flight.extend(packets.iter().map(|packet| {
                // SAFETY: each iovec covers a slice that `Writer::write` borrows, which outlives
                // this call, and all operations are awaited in it.
                unsafe { operations::write(fd.as_raw_fd(), packet, *no_wait) }
            }));
            for (index, operation) in in_flight.drain(..).enumerate() {
                if let (Err(error), ()) = operation.await {
                    refused(index, error.raw_os_error().unwrap_or(libc::EIO));
                }
            }
        });
        TRIP
    }
}
