//! Handing runs to the kernel until each datagram is taken or given up, exactly once.
#![allow(unsafe_code, reason = "sendmmsg takes pointers")]

use super::EngineStats;
use super::memory::{Memory, Slots};
use super::messages::{Cursor, Message, Messages};
use super::policy::{Reaction, RunState, react};
use crate::batch::{Datagrams, Failure, Outcome};
use crate::sys::mmsg;
use rustix::event::{PollFd, PollFlags, poll};
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// How long to wait for room in a socket, each of the few times.
const ROOM_WAIT: Duration = Duration::from_millis(2);
/// After how many batches demoted peers get another chance.
const RESTORE_AFTER: u32 = 1 << 20;

/// The calls that sending needs: the kernel's, or those of a test that makes them fail.
pub(super) trait SendCalls {
    /// sendmmsg(2): hands the headers over in order; how many were taken, or the first one's error.
    fn send(&mut self, headers: &mut [libc::mmsghdr]) -> io::Result<usize>;

    /// Waits until the socket may have room.
    fn wait_for_room(&mut self, at_most: Duration);
}

/// The kernel's calls on one socket.
pub(super) struct KernelSend<'a> {
    socket: BorrowedFd<'a>,
}

impl<'a> KernelSend<'a> {
    pub(super) fn new(socket: BorrowedFd<'a>) -> Self {
        Self { socket }
    }
}

impl SendCalls for KernelSend<'_> {
    fn send(&mut self, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
        // SAFETY: `Messages::fill` pointed the headers at its own parts and at slices that the
        // memory borrows, all of which outlive this call.
        unsafe { mmsg::send(self.socket, headers) }
    }

    fn wait_for_room(&mut self, at_most: Duration) {
        let timeout =
            rustix::time::Timespec { tv_sec: 0, tv_nsec: i64::from(at_most.subsec_nanos()) };
        let mut fds = [PollFd::from_borrowed_fd(self.socket, PollFlags::OUT)];
        // Whatever comes back, the next attempt tells.
        let _ = poll(&mut fds, Some(&timeout));
    }
}

/// The sending side of an engine.
pub(super) struct Transmitter {
    messages: Messages,
    state: RunState,
    batches: u32,
}

impl Transmitter {
    pub(super) fn new(gso: bool) -> Self {
        Self { messages: Messages::new(), state: RunState::new(gso), batches: 0 }
    }

    /// Sends all runs of a batch, in order.
    pub(super) fn send<S: Slots>(
        &mut self,
        calls: &mut impl SendCalls,
        datagrams: &Datagrams,
        memory: &Memory<'_, S>,
        outcome: &mut Outcome,
        stats: &mut EngineStats,
    ) {
        self.batches = self.batches.wrapping_add(1);
        if self.batches.is_multiple_of(RESTORE_AFTER) {
            self.state.restore_peers();
        }
        let runs = datagrams.runs();
        let mut cursor = Cursor::default();
        let mut attempt = 0;
        while cursor.run < runs.len() {
            self.messages.fill(datagrams, memory, &self.state, cursor);
            let mut sent = 0;
            while let Some(message) = self.messages.messages().get(sent).copied() {
                stats.syscalls += 1;
                match calls.send(self.messages.headers_mut(sent)) {
                    Ok(taken) if taken > 0 => {
                        attempt = 0;
                        sent += taken;
                        cursor = self.messages.messages()[sent - 1].after(runs);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        let errno = error.raw_os_error().unwrap_or(libc::EIO);
                        match react(errno, message.datagrams, attempt) {
                            Reaction::Retry => attempt += u8::from(errno != libc::EINTR),
                            Reaction::Wait => {
                                attempt += 1;
                                calls.wait_for_room(ROOM_WAIT);
                            }
                            Reaction::SplitPeer | Reaction::SplitSocket => {
                                let to = runs[message.run].destination.to;
                                self.demote(errno, to, outcome, stats);
                                break;
                            }
                            Reaction::Fail => {
                                attempt = 0;
                                sent += 1;
                                cursor = message.after(runs);
                                outcome.fail(failure(&message, errno));
                            }
                        }
                    }
                }
            }
        }
        self.report(stats);
    }

    /// From here on this peer's, or all, datagrams leave one by one; the caller fills anew.
    fn demote(
        &mut self,
        errno: i32,
        to: SocketAddr,
        outcome: &mut Outcome,
        stats: &mut EngineStats,
    ) {
        outcome.replayed += 1;
        stats.gso_replays += 1;
        if errno == libc::EMSGSIZE {
            self.state.demote_peer(to);
        } else {
            self.state.demote_socket();
        }
    }

    pub(super) fn report(&self, stats: &mut EngineStats) {
        stats.gso_active = self.state.active();
        stats.gso_demoted_peers = self.state.demoted_peers() as u64;
    }
}

fn failure(message: &Message, errno: i32) -> Failure {
    Failure { item: message.run as u32, first: message.first, count: message.datagrams, errno }
}
