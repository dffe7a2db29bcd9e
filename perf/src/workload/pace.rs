//! When packets leave: by the clock, or as fast as possible.

use crate::sys::{now_ns, sleep_until};

/// Shortest sleep: below it, the timer costs more than the packets. What would be due in between is
/// due together at the end, so that no packet's time holds a nap of its sender.
const NAP_NS: u64 = 50_000;

/// Packets per second that are closer than naps.
const CLOSE: u64 = 1_000_000_000 / NAP_NS;

/// An open-loop schedule: packet n is due at start + n / rate, or at the end of the nap into which
/// that falls where packets are closer than naps, whatever happened before. A sender that falls
/// behind catches up, and its packets carry the time at which they were due.
#[derive(Debug)]
pub(super) struct Pace {
    start_ns: u64,
    rate: Option<u64>,
    burst: usize,
    done: u64,
    now_ns: u64,
}

impl Pace {
    /// Without a rate, a whole burst is due at any time.
    pub(super) fn start(rate: Option<u64>, burst: usize) -> Self {
        let now_ns = now_ns();
        Self { start_ns: now_ns, rate, burst, done: 0, now_ns }
    }

    /// Waits until something is due; returns how many packets, at most a burst.
    pub(super) fn wait(&mut self) -> usize {
        self.now_ns = now_ns();
        let Some(rate) = self.rate else { return self.burst };
        let first_ns = self.due_ns(self.done, rate);
        while first_ns > self.now_ns {
            sleep_until(first_ns);
            self.now_ns = now_ns();
        }
        let mut passed_ns = self.now_ns - self.start_ns;
        if rate > CLOSE {
            passed_ns -= passed_ns % NAP_NS;
        }
        let due = (u128::from(passed_ns) * u128::from(rate) / 1_000_000_000) as u64 + 1;
        (due.saturating_sub(self.done) as usize).clamp(1, self.burst)
    }

    /// When packet `index` of the burst in hand was due.
    pub(super) fn scheduled_ns(&self, index: usize) -> u64 {
        match self.rate {
            Some(rate) => self.due_ns(self.done + index as u64, rate),
            None => self.now_ns,
        }
    }

    /// Counts packets that were sent.
    pub(super) fn sent(&mut self, packets: usize) {
        self.done += packets as u64;
    }

    fn due_ns(&self, number: u64, rate: u64) -> u64 {
        let after_ns = (u128::from(number) * 1_000_000_000).div_ceil(u128::from(rate)) as u64;
        self.start_ns + if rate > CLOSE { after_ns.next_multiple_of(NAP_NS) } else { after_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_carry_the_time_at_which_they_were_due() {
        let mut pace = Pace::start(Some(1_000_000), 64);
        let start_ns = pace.start_ns;

        sleep_until(start_ns + 2_000_000);
        let mut scheduled = Vec::new();
        while scheduled.len() < 1000 {
            let due = pace.wait();
            scheduled.extend((0..due).map(|index| pace.scheduled_ns(index)));
            pace.sent(due);
        }

        let due_ns = |n: u64| start_ns + (n * 1000).next_multiple_of(NAP_NS);
        let expected: Vec<_> = (0..scheduled.len() as u64).map(due_ns).collect();
        assert_eq!(scheduled, expected);
    }

    #[test]
    fn nothing_is_sent_before_it_is_due() {
        for rate in [1000, 30_000, 1_234_567] {
            let mut pace = Pace::start(Some(rate), 64);
            let mut sent = 0;

            while sent < rate / 100 {
                let due = pace.wait();
                for index in 0..due {
                    assert!(pace.scheduled_ns(index) <= now_ns(), "packet {sent} + {index}");
                }
                pace.sent(due);
                sent += due as u64;
            }

            let passed_ns = now_ns() - pace.start_ns;
            assert!(passed_ns >= (sent - 1) * 1_000_000_000 / rate, "{sent} within {passed_ns} ns");
        }
    }
}
