//! Handing runs to the kernel until each datagram is taken or given up, exactly once.
#![allow(unsafe_code, reason = "sendmmsg takes pointers")]

use super::Kernel;
use super::memory::{Memory, Slots};
use super::messages::{Cursor, Message, Messages};
use super::policy::{MAX_RETRIES, Reaction, RunState, Scope, react};
use super::room::{Room, Wait};
use crate::engine::{EngineStats, Sources};
use crate::socket::{self, Fragmentation, set_fragmentation};
use crate::sys::{mmsg, neighbours};
use std::io;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};
use tracing::warn;
use twill_datapath::batch::{Datagrams, Destination, Failure, Outcome, Run};

/// The calls that sending needs: the kernel's, or those of a test that makes them fail.
pub(in crate::engine) trait SendCalls {
    /// sendmmsg(2): hands the headers over in order; how many were taken, or the first one's error.
    fn send(&mut self, headers: &mut [libc::mmsghdr]) -> io::Result<NonZeroUsize>;

    /// Changes what becomes of datagrams that are longer than their path.
    fn set_fragmentation(&mut self, ipv6: bool, fragmentation: Fragmentation) -> io::Result<()>;

    /// Waits until the socket has room for half of its buffer; whether it has.
    fn wait_for_room(&mut self, at_most: Duration) -> bool;

    /// Bytes that the kernel may keep for neighbours that do not answer; 0 if it does not tell.
    fn held_for_neighbours(&mut self) -> u64;

    /// The send buffer as the kernel counts it, bytes: twice what was asked for.
    fn send_buffer(&mut self) -> u32;

    /// Asks for another send buffer; the kernel may refuse.
    fn set_send_buffer(&mut self, bytes: u32);
}

impl SendCalls for Kernel<'_> {
    fn send(&mut self, headers: &mut [libc::mmsghdr]) -> io::Result<NonZeroUsize> {
        // SAFETY: `Messages::fill` pointed the headers at its own parts and at slices that the
        // memory borrows, all of which outlive this call.
        some(unsafe { mmsg::send(self.0, headers) }?)
    }

    fn set_fragmentation(&mut self, ipv6: bool, fragmentation: Fragmentation) -> io::Result<()> {
        set_fragmentation(self.0, ipv6, fragmentation)
    }

    fn wait_for_room(&mut self, at_most: Duration) -> bool {
        socket::wait_for_room(self.0, at_most)
    }

    fn held_for_neighbours(&mut self) -> u64 {
        neighbours::held_bytes().unwrap_or_default()
    }

    fn send_buffer(&mut self) -> u32 {
        socket::send_buffer(self.0)
    }

    fn set_send_buffer(&mut self, bytes: u32) {
        // It shows by what the buffer is then.
        let _ = socket::set_send_buffer(self.0, bytes);
    }
}

/// A number of messages taken; none without an error, which no kernel reports, is one too.
pub(in crate::engine) fn some(taken: usize) -> io::Result<NonZeroUsize> {
    NonZeroUsize::new(taken).ok_or_else(|| io::ErrorKind::WriteZero.into())
}

/// The sending side of an engine.
pub(super) struct Transmitter {
    messages: Messages,
    state: RunState,
    room: Room,
    warned: bool,
}

impl Transmitter {
    pub(super) fn new(gso: bool, sources: Option<Sources>) -> Self {
        let (messages, state) = (Messages::new(sources), RunState::new(gso));
        Self { messages, state, room: Room::default(), warned: false }
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
        if self.state.is_demoted() {
            self.state.restore(Instant::now());
        }
        if self.room.is_grown() {
            self.room.restore(calls, Instant::now());
        }
        let runs = datagrams.runs();
        let mut cursor = Cursor::default();
        let mut attempt = 0;
        while cursor.run < runs.len() {
            self.messages.fill(datagrams, memory, &self.state, cursor);
            if self.messages.messages().is_empty() {
                // In more pieces than there is room for.
                let (item, first) = (cursor.run as u32, cursor.datagram);
                outcome.fail(Failure { item, first, count: 1, errno: libc::ENOBUFS });
                cursor = cursor.after(1, runs);
                continue;
            }
            self.send_chunk(calls, runs, &mut cursor, &mut attempt, outcome, stats);
        }
        self.report(stats);
    }

    /// Sends the messages that were filled, until all are dealt with or one must be filled anew.
    fn send_chunk(
        &mut self,
        calls: &mut impl SendCalls,
        runs: &[Run],
        cursor: &mut Cursor,
        attempt: &mut u8,
        outcome: &mut Outcome,
        stats: &mut EngineStats,
    ) {
        let mut done = 0;
        while let Some(message) = self.messages.messages().get(done).copied() {
            let to = &runs[message.run].destination;
            let errno = match self.hand_over(calls, done, to, stats) {
                Ok(taken) => {
                    *attempt = 0;
                    done += taken.get();
                    *cursor = self.messages.messages()[done - 1].after(runs);
                    continue;
                }
                Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
            };
            match react(errno, message.datagrams, *attempt) {
                Reaction::Again => {}
                Reaction::Retry => *attempt += 1,
                Reaction::Wait => *attempt = self.wait(calls, *attempt),
                Reaction::Split(scope) => {
                    outcome.replayed += 1;
                    stats.gso_replays += 1;
                    return self.demote(scope, &runs[message.run], errno);
                }
                Reaction::Fail => {
                    // A full socket is full for all: the next message is tried once, not waited for.
                    if errno != libc::EAGAIN {
                        *attempt = 0;
                    }
                    done += 1;
                    *cursor = message.after(runs);
                    outcome.fail(failure(&message, errno));
                }
            }
        }
    }

    /// Waits for room, a few times; how many attempts there have been then.
    fn wait(&mut self, calls: &mut impl SendCalls, attempt: u8) -> u8 {
        for attempt in attempt..MAX_RETRIES {
            match self.room.wait(calls, Instant::now()) {
                Wait::Room => return attempt + 1,
                Wait::Slow => {}
                Wait::Hopeless => break,
            }
        }
        MAX_RETRIES
    }

    /// Hands over the messages from `first` on; that one in fragments if it must and may, so that
    /// what follows it to the same peer does not overtake it. One thread owns the socket: nothing
    /// else is fragmented meanwhile.
    fn hand_over(
        &mut self,
        calls: &mut impl SendCalls,
        first: usize,
        destination: &Destination,
        stats: &mut EngineStats,
    ) -> io::Result<NonZeroUsize> {
        let is_run = self.messages.messages()[first].datagrams > 1;
        let headers = self.messages.headers_mut(first);
        stats.syscalls += 1;
        match calls.send(headers) {
            Err(error)
                if error.raw_os_error() == Some(libc::EMSGSIZE)
                    && destination.may_fragment
                    && !is_run =>
            {
                let ipv6 = destination.to.is_ipv6();
                stats.syscalls += 3;
                calls.set_fragmentation(ipv6, Fragmentation::Allowed)?;
                let sent = calls.send(&mut headers[..1]);
                calls.set_fragmentation(ipv6, Fragmentation::Refused)?;
                sent
            }
            done => done,
        }
    }

    /// From here on such datagrams to this peer, or all datagrams, leave one by one.
    fn demote(&mut self, scope: Scope, run: &Run, errno: i32) {
        let (to, now) = (run.destination.to, Instant::now());
        match scope {
            Scope::Peer => self.state.demote_peer(to, run.segment, now),
            Scope::Socket => self.state.demote_socket(now),
        }
        if !std::mem::replace(&mut self.warned, true) {
            let error = io::Error::from_raw_os_error(errno);
            warn!(
                "the kernel refuses UDP_SEGMENT of {} bytes towards {to} ({error}): datagrams to \
                 {scope} leave one by one for a minute; logged once, see \
                 twill_gso_demoted_peers",
                run.segment
            );
        }
    }

    pub(super) fn report(&self, stats: &mut EngineStats) {
        stats.gso_active = self.state.active();
        stats.gso_demoted_peers = self.state.demoted_peers() as u64;
        stats.buffer_growths = self.room.growths;
    }
}

fn failure(message: &Message, errno: i32) -> Failure {
    Failure { item: message.run as u32, first: message.first, count: message.datagrams, errno }
}

#[cfg(test)]
mod tests;
