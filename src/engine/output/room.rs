//! What a full socket needs: patience, or a larger buffer.
//!
//! A datagram counts against its socket until its device has sent it. One to a neighbour that does not
//! answer waits in the kernel for seconds, up to `unres_qlen_bytes` for each (212,992 bytes, arp(7)). So
//! some dozens of dead neighbours fill a socket, for the living, too. A slow device drains what waits all
//! the time; neighbours that do not answer drain nothing. Then the buffer must hold what they hold, and
//! leave as much room as before.

use super::send::SendCalls;
use std::time::{Duration, Instant};

/// How long to wait for room each time.
const WAIT: Duration = Duration::from_millis(2);
/// The largest buffer to ask for, bytes. The kernel doubles it, and holds less than that for neighbours
/// anyway: it knows `gc_thresh3` of them (1024).
const MOST: u32 = 512 << 20;
/// How long a larger buffer is kept, at least.
const KEEP: Duration = Duration::from_secs(60);
/// How long nothing is waited for after the buffer could not grow.
const HOPELESS: Duration = Duration::from_secs(1);

/// What came of a wait for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// There is room.
    Room,
    /// Not yet, but there is less in the socket than before.
    Draining,
    /// There is none, and there will not be soon.
    None,
}

/// The send buffer of one socket.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// The buffer that was configured, while there is a larger one; and when to look whether that is
    /// still needed.
    grown: Option<(u32, Instant)>,
    hopeless_until: Option<Instant>,
    /// How often the buffer was enlarged.
    pub(super) growths: u64,
}

impl Room {
    /// Waits for room once, unless that is known to be in vain. Enlarges the buffer if nothing drains.
    pub(super) fn wait(&mut self, calls: &mut impl SendCalls, now: Instant) -> Wait {
        if self.hopeless_until.is_some_and(|until| now < until) {
            return Wait::None;
        }
        let before = calls.queued();
        if calls.wait_for_room(WAIT) {
            return Wait::Room;
        }
        match (before, calls.queued()) {
            (Some(before), Some(after)) if after >= before => self.grow(calls, now),
            _ => Wait::Draining,
        }
    }

    fn grow(&mut self, calls: &mut impl SendCalls, now: Instant) -> Wait {
        let before = calls.send_buffer();
        // The kernel reports twice what it was asked for: to ask for that is to double it.
        if before <= MOST {
            calls.set_send_buffer(before);
        }
        if calls.send_buffer() <= before {
            self.hopeless_until = Some(now + HOPELESS);
            return Wait::None;
        }
        self.growths += 1;
        let configured = self.grown.map_or(before / 2, |(configured, _)| configured);
        self.grown = Some((configured, now + KEEP));
        Wait::Room
    }

    /// Whether there is a larger buffer than configured.
    #[inline]
    pub(super) fn is_grown(&self) -> bool {
        self.grown.is_some()
    }

    /// Gives the socket its configured buffer back, after some time, if what it holds fits.
    pub(super) fn restore(&mut self, calls: &mut impl SendCalls, now: Instant) {
        let Some((configured, at)) = self.grown else { return };
        if now < at {
            return;
        }
        if calls.queued().is_some_and(|queued| queued <= configured) {
            calls.set_send_buffer(configured);
            self.grown = None;
        } else {
            self.grown = Some((configured, now + KEEP));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::output::fault::Faulty;

    const CONFIGURED: u32 = 4 << 20;

    #[test]
    fn what_drains_is_waited_for_and_what_does_not_gets_a_larger_buffer() {
        let mut kernel = Faulty::new(|_| None).with_buffer(CONFIGURED);
        let (mut room, now) = (Room::default(), Instant::now());

        kernel.queued = [8 << 20, 7 << 20].into();
        let slow = room.wait(&mut kernel, now);
        kernel.queued = [8 << 20, 8 << 20].into();
        let dead = room.wait(&mut kernel, now);

        assert_eq!((slow, dead, room.growths), (Wait::Draining, Wait::Room, 1));
        assert_eq!(kernel.buffer, 4 * CONFIGURED);
    }

    #[test]
    fn a_buffer_that_cannot_grow_is_not_waited_for_again_and_again() {
        let mut kernel = Faulty::new(|_| None).with_buffer(CONFIGURED);
        kernel.largest = 2 * CONFIGURED;
        kernel.queued = [8 << 20, 8 << 20].into();
        let (mut room, now) = (Room::default(), Instant::now());

        let waits = [0, 1, 2].map(|_| room.wait(&mut kernel, now));

        assert_eq!(waits, [Wait::None; 3]);
        assert_eq!((kernel.waits, room.growths), (1, 0));
        room.wait(&mut kernel, now + HOPELESS);
        assert_eq!(kernel.waits, 2, "after a while it is tried again");
    }

    #[test]
    fn the_buffer_grows_until_all_fits_but_not_without_end() {
        let mut kernel = Faulty::new(|_| None).with_buffer(CONFIGURED);
        let (mut room, now) = (Room::default(), Instant::now());

        kernel.queued = [u32::MAX].into();
        while room.wait(&mut kernel, now) == Wait::Room {}

        assert_eq!(kernel.buffer, 2 * MOST);
    }

    #[test]
    fn the_configured_buffer_comes_back_when_what_waits_fits() {
        let mut kernel = Faulty::new(|_| None).with_buffer(CONFIGURED);
        let (mut room, now) = (Room::default(), Instant::now());
        kernel.queued = [8 << 20, 8 << 20].into();
        room.wait(&mut kernel, now);

        kernel.queued = [8 << 20].into();
        room.restore(&mut kernel, now + KEEP);
        let still_full = room.is_grown();
        kernel.queued = [1 << 20].into();
        room.restore(&mut kernel, now + KEEP + KEEP / 2);
        let too_early = room.is_grown();
        room.restore(&mut kernel, now + 2 * KEEP);

        assert!(still_full && too_early && !room.is_grown());
        assert_eq!(kernel.buffer, 2 * CONFIGURED);
    }
}
