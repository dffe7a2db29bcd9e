//! Whether a worker that has nothing to do looks for arrivals awake before it sleeps.
//!
//! Sleeping and waking costs a round trip tens of microseconds in each gateway. Looking awake costs CPU
//! time that others may need. So it pays while one answer follows another within microseconds, and on a
//! CPU that nobody else wants.

use crate::gateway::plan::BusyPoll;
use std::time::Duration;

/// How long to look awake: longer than a request and its answer take on one machine or one switch.
const AWAKE: Duration = Duration::from_micros(100);
/// Bytes that a request or an answer has at most. Those who carry bulk have too much to do to poll, and so
/// have their neighbours.
const LITTLE: u32 = 4096;
/// How many waits in a row must have been shorter than that, each for little.
const STREAK: u32 = 8;
/// How many waits to sleep through after somebody else wanted the CPU: at first, and at most.
const PAUSE: u32 = 64;
const LONGEST_PAUSE: u32 = 8192;

/// What a worker knows of its latest waits.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    rule: BusyPoll,
    /// Short waits since the last long one.
    streak: u32,
    /// Waits to sleep through.
    pause: u32,
    /// How many those will be the next time.
    next_pause: u32,
}

impl Patience {
    pub(super) fn new(rule: BusyPoll) -> Self {
        Self { rule, streak: 0, pause: 0, next_pause: PAUSE }
    }

    /// How long to look awake in the wait that begins.
    pub(super) fn awake(&self) -> Duration {
        match self.rule {
            BusyPoll::Never => Duration::ZERO,
            BusyPoll::Always(time) => time,
            BusyPoll::Adaptive if self.streak < STREAK || self.pause > 0 => Duration::ZERO,
            BusyPoll::Adaptive => AWAKE,
        }
    }

    /// Whether looking for an arrival took so long that others must have used the CPU: then they need
    /// it.
    pub(super) fn is_pushed_aside(&mut self, look: Duration) -> bool {
        if self.rule != BusyPoll::Adaptive || look < AWAKE {
            return false;
        }
        self.pause = self.next_pause;
        self.next_pause = (2 * self.next_pause).min(LONGEST_PAUSE);
        true
    }

    /// A wait has ended with arrivals of so many bytes.
    pub(super) fn waited(&mut self, time: Duration, bytes: u32) {
        if time >= AWAKE || bytes > LITTLE {
            self.streak = 0;
            return;
        }
        self.streak = self.streak.saturating_add(1);
        self.pause = self.pause.saturating_sub(1);
        // As many waits went well as were slept through.
        if self.pause == 0 && self.streak > 2 * self.next_pause {
            self.next_pause = PAUSE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(30);
    const LONG: Duration = Duration::from_micros(900);

    #[test]
    fn an_idle_gateway_sleeps() {
        let mut patience = Patience::new(BusyPoll::Adaptive);
        for _ in 0..100 {
            assert_eq!(patience.awake(), Duration::ZERO);
            // A probe's answer follows soon, the next probe does not.
            patience.waited(SHORT, 100);
            patience.waited(LONG, 100);
        }
    }

    #[test]
    fn one_answer_after_another_keeps_it_awake_until_a_long_wait() {
        let mut patience = Patience::new(BusyPoll::Adaptive);
        for _ in 0..STREAK {
            assert_eq!(patience.awake(), Duration::ZERO);
            patience.waited(SHORT, 100);
        }
        assert_eq!(patience.awake(), AWAKE);

        patience.waited(LONG, 100);

        assert_eq!(patience.awake(), Duration::ZERO);
    }

    #[test]
    fn bulk_is_not_polled_for() {
        let mut patience = Patience::new(BusyPoll::Adaptive);
        for _ in 0..100 {
            patience.waited(SHORT, LITTLE + 1);
            assert_eq!(patience.awake(), Duration::ZERO);
        }
    }

    #[test]
    fn who_needs_the_cpu_gets_it_for_longer_and_longer() {
        let mut patience = Patience::new(BusyPoll::Adaptive);
        let mut slept = Vec::new();
        for _ in 0..3 {
            while patience.awake().is_zero() {
                patience.waited(SHORT, 100);
            }
            assert!(patience.is_pushed_aside(LONG));
            let mut waits = 0;
            while patience.awake().is_zero() {
                patience.waited(SHORT, 100);
                waits += 1;
            }
            slept.push(waits);
        }

        assert_eq!(slept, [PAUSE, 2 * PAUSE, 4 * PAUSE]);
    }

    #[test]
    fn after_a_long_time_without_trouble_a_pause_is_short_again() {
        let mut patience = Patience::new(BusyPoll::Adaptive);
        for _ in 0..STREAK {
            patience.waited(SHORT, 100);
        }
        for _ in 0..20 {
            assert!(patience.is_pushed_aside(LONG));
        }
        assert_eq!(patience.next_pause, LONGEST_PAUSE);

        for _ in 0..3 * LONGEST_PAUSE {
            patience.waited(SHORT, 100);
        }

        assert_eq!(patience.next_pause, PAUSE);
    }

    #[test]
    fn a_fixed_time_is_kept_to_and_never_means_never() {
        let mut always = Patience::new(BusyPoll::Always(SHORT));
        assert!(!always.is_pushed_aside(LONG));
        always.waited(LONG, 100);
        let mut never = Patience::new(BusyPoll::Never);
        (0..100).for_each(|_| never.waited(SHORT, 100));

        assert_eq!((always.awake(), never.awake()), (SHORT, Duration::ZERO));
    }
}
