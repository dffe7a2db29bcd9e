//! What a full socket needs: patience, or a larger buffer.
//!
//! A datagram counts against its socket until its device has sent it. One to a neighbour that does not
//! answer waits in the kernel for seconds, up to `unres_qlen_bytes` for each (212,992 bytes, arp(7)). So
//! some dozens of dead neighbours fill a socket, for the living, too. Waiting does not help them: the
//! buffer must hold what the kernel keeps for such neighbours, and the configured size besides.

use super::send::SendCalls;
use std::time::{Duration, Instant};

/// How long to wait for room each time.
const WAIT: Duration = Duration::from_millis(2);
/// The least pause between two looks at the neighbours.
const LOOK: Duration = Duration::from_millis(20);
/// The largest buffer to ask for, bytes; the kernel doubles it into an `int`.
const MOST: u32 = (i32::MAX / 2) as u32;
/// How long a larger buffer is kept, at least.
const KEEP: Duration = Duration::from_secs(60);
/// How long nothing is waited for after the buffer could not grow.
const HOPELESS: Duration = Duration::from_secs(1);

/// What came of a wait for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// There is room.
    Room,
    /// Not yet: the device is slow.
    Slow,
    /// There is none, and there will not be soon.
    Hopeless,
}

/// The send buffer of one socket.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// The buffer that was configured, while there is a larger one; and when to look whether that is
    /// still needed.
    grown: Option<(u32, Instant)>,
    looked: Option<Instant>,
    hopeless_until: Option<Instant>,
    /// How often the buffer was enlarged.
    pub(super) growths: u64,
}

impl Room {
    /// Waits for room once, unless that is known to be in vain. Enlarges the buffer if neighbours that
    /// do not answer fill it.
    pub(super) fn wait(&mut self, calls: &mut impl SendCalls, now: Instant) -> Wait {
        if self.hopeless_until.is_some_and(|until| now < until) {
            return Wait::Hopeless;
        }
        if calls.wait_for_room(WAIT) {
            return Wait::Room;
        }
        if self.looked.is_some_and(|looked| now < looked + LOOK) {
            return Wait::Slow;
        }
        self.looked = Some(now);
        self.grow(calls, now)
    }

    fn grow(&mut self, calls: &mut impl SendCalls, now: Instant) -> Wait {
        let size = calls.send_buffer();
        // The kernel reports, and means, twice what it was asked for.
        let configured = self.grown.map_or(size / 2, |(configured, _)| configured);
        let held = u32::try_from(calls.held_for_neighbours() / 2).unwrap_or(MOST);
        let wanted = configured.saturating_add(held).min(MOST);
        if wanted <= size / 2 {
            return Wait::Slow;
        }
        calls.set_send_buffer(wanted);
        if calls.send_buffer() <= size {
            self.hopeless_until = Some(now + HOPELESS);
            return Wait::Hopeless;
        }
        self.growths += 1;
        self.grown = Some((configured, now + KEEP));
        Wait::Room
    }

    /// Whether there is a larger buffer than configured.
    #[inline]
    pub(super) fn is_grown(&self) -> bool {
        self.grown.is_some()
    }

    /// Gives the socket its configured buffer back, after some time, when all neighbours answer.
    pub(super) fn restore(&mut self, calls: &mut impl SendCalls, now: Instant) {
        let Some((configured, at)) = self.grown else { return };
        if now < at {
            return;
        }
        if calls.held_for_neighbours() == 0 {
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
    fn a_slow_device_is_waited_for_and_dead_neighbours_get_a_larger_buffer() {
        let mut kernel = Faulty::new(|_| None).full(CONFIGURED);
        let (mut room, now) = (Room::default(), Instant::now());

        let slow = room.wait(&mut kernel, now);
        kernel.held = 60 * 212_992;
        let at_once = room.wait(&mut kernel, now);
        let dead = room.wait(&mut kernel, now + LOOK);

        assert_eq!((slow, at_once, dead), (Wait::Slow, Wait::Slow, Wait::Room));
        assert_eq!((kernel.buffer, room.growths), (2 * CONFIGURED + 60 * 212_992, 1));
    }

    #[test]
    fn more_dead_neighbours_get_more_room_and_no_more_than_there_is() {
        let mut kernel = Faulty::new(|_| None).full(CONFIGURED);
        let (mut room, now) = (Room::default(), Instant::now());
        for (step, held) in [10 << 20, 20 << 20, u64::MAX].into_iter().enumerate() {
            kernel.held = held;
            assert_eq!(room.wait(&mut kernel, now + LOOK * step as u32), Wait::Room);
            let expected = u64::from(2 * CONFIGURED).saturating_add(held).min(u64::from(2 * MOST));
            assert_eq!(u64::from(kernel.buffer), expected);
        }
        assert_eq!(room.wait(&mut kernel, now + 4 * LOOK), Wait::Slow, "it is as large as can be");
    }

    #[test]
    fn a_buffer_that_cannot_grow_is_not_waited_for_again_and_again() {
        let mut kernel = Faulty::new(|_| None).full(CONFIGURED);
        (kernel.largest, kernel.held) = (2 * CONFIGURED, 1 << 20);
        let (mut room, now) = (Room::default(), Instant::now());

        let waits = [0, 1, 2].map(|_| room.wait(&mut kernel, now));

        assert_eq!(waits, [Wait::Hopeless; 3]);
        assert_eq!((kernel.waits, room.growths), (1, 0));
        room.wait(&mut kernel, now + HOPELESS);
        assert_eq!(kernel.waits, 2, "after a while it is tried again");
    }

    #[test]
    fn the_configured_buffer_comes_back_when_all_neighbours_answer() {
        let mut kernel = Faulty::new(|_| None).full(CONFIGURED);
        let (mut room, now) = (Room::default(), Instant::now());
        kernel.held = 1 << 20;
        room.wait(&mut kernel, now);

        room.restore(&mut kernel, now + KEEP);
        let still_dead = room.is_grown();
        kernel.held = 0;
        room.restore(&mut kernel, now + KEEP + KEEP / 2);
        let too_early = room.is_grown();
        room.restore(&mut kernel, now + 2 * KEEP);

        assert!(still_dead && too_early && !room.is_grown());
        assert_eq!(kernel.buffer, 2 * CONFIGURED);
    }
}
