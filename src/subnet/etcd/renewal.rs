//! When to renew a lease. Pure: the time is nanoseconds of a clock that counts suspended time too.

use std::time::Duration;

/// How long after a failure the next attempt is made.
const RETRY: Duration = Duration::from_secs(60);
/// The least time from a lease to its renewal, whatever the margin, and whatever the store grants.
const SOONEST: Duration = Duration::from_secs(1);
/// A clock that is being put right runs that much faster or slower than another, at most: one part
/// in 2000 (the kernel's `MAXFREQ`).
const CLOCKS_DIFFER: u32 = 2000;

/// The times of one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    margin: Duration,
    times: Option<Times>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    ttl_ns: u64,
    expires_ns: u64,
    attempt_ns: u64,
}

impl Renewal {
    /// For a lease that lasts `ttl` from `now_ns` on, for ever without one, and is to be renewed
    /// `margin` before its end.
    #[must_use]
    pub fn new(margin: Duration, ttl: Option<Duration>, now_ns: u64) -> Self {
        let mut renewal = Self { margin, times: None };
        renewal.granted(ttl, now_ns);
        renewal
    }

    /// The lease lasts `ttl` from `now_ns` on.
    pub fn granted(&mut self, ttl: Option<Duration>, now_ns: u64) {
        self.times = ttl.map(|ttl| Times {
            ttl_ns: nanoseconds(ttl),
            expires_ns: now_ns.saturating_add(nanoseconds(ttl)),
            attempt_ns: now_ns.saturating_add(nanoseconds(attempt_after(ttl, self.margin))),
        });
    }

    /// An attempt failed.
    pub fn failed(&mut self, now_ns: u64) {
        if let Some(times) = &mut self.times {
            times.attempt_ns = now_ns.saturating_add(nanoseconds(RETRY));
        }
    }

    /// How long until the next attempt is due; `None` for a lease that needs none.
    #[must_use]
    pub(crate) fn due_in(&self, now_ns: u64) -> Option<Duration> {
        let times = self.times?;
        Some(Duration::from_nanos(times.attempt_ns.saturating_sub(now_ns)))
    }

    /// Whether the lease has run out, as far as the clock here can tell.
    #[must_use]
    pub(crate) fn is_expired(&self, now_ns: u64) -> bool {
        self.times.is_some_and(|times| times.expires_ns <= now_ns)
    }

    /// Whether it may have run out by the store's clock. The store counts from a later moment than
    /// we do, but perhaps faster.
    #[must_use]
    pub(crate) fn may_be_expired(&self, now_ns: u64) -> bool {
        let slack_ns = |times: Times| times.ttl_ns / u64::from(CLOCKS_DIFFER);
        self.times.is_some_and(|times| times.expires_ns.saturating_sub(slack_ns(times)) <= now_ns)
    }
}

/// How long after it was granted a lease is to be renewed. One that is hardly longer than the margin,
/// or shorter, is renewed after half of its time.
fn attempt_after(ttl: Duration, margin: Duration) -> Duration {
    ttl.saturating_sub(margin).max(ttl / 2).max(SOONEST)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const HOUR: Duration = Duration::from_secs(3600);
    const START: u64 = 5_000_000_000;

    fn after(duration: Duration) -> u64 {
        START + nanoseconds(duration)
    }

    #[test]
    fn a_lease_is_renewed_the_margin_before_its_end() {
        let renewal = Renewal::new(HOUR, Some(DAY), START);

        assert_eq!(renewal.due_in(START), Some(23 * HOUR));
        assert_eq!(renewal.due_in(after(23 * HOUR)), Some(Duration::ZERO));
        assert!(!renewal.is_expired(after(23 * HOUR)));
    }

    #[test]
    fn a_lease_that_is_shorter_than_the_margin_or_has_no_length_is_not_renewed_without_pause() {
        for (ttl, due) in [(0, 1), (1, 1), (10, 5), (3600, 1800), (3660, 1830), (7400, 3800)] {
            let renewal = Renewal::new(HOUR, Some(Duration::from_secs(ttl)), START);

            assert_eq!(renewal.due_in(START), Some(Duration::from_secs(due)), "{ttl} s");
        }
    }

    #[test]
    fn a_store_whose_clock_runs_faster_may_see_the_end_first() {
        let renewal = Renewal::new(HOUR, Some(DAY), START);
        let almost = after(DAY - Duration::from_secs(40));

        assert!(renewal.may_be_expired(almost) && !renewal.is_expired(almost));
        assert!(!renewal.may_be_expired(after(DAY - Duration::from_secs(60))));
    }

    #[test]
    fn a_reservation_is_never_renewed_and_never_expires() {
        let renewal = Renewal::new(HOUR, None, START);

        assert_eq!(renewal.due_in(u64::MAX), None);
        assert!(!renewal.is_expired(u64::MAX) && !renewal.may_be_expired(u64::MAX));
    }

    #[test]
    fn after_a_failure_the_next_attempt_is_a_minute_later_until_the_end_and_beyond() {
        let mut renewal = Renewal::new(HOUR, Some(DAY), START);
        let mut now_ns = after(23 * HOUR);

        for attempt in 1..=120 {
            assert_eq!(renewal.due_in(now_ns), Some(Duration::ZERO));
            renewal.failed(now_ns);
            assert_eq!(renewal.due_in(now_ns), Some(RETRY));
            now_ns += nanoseconds(RETRY);
            assert_eq!(renewal.is_expired(now_ns), attempt >= 60, "attempt {attempt}");
        }
        renewal.granted(Some(DAY), now_ns);

        assert_eq!(renewal.due_in(now_ns), Some(23 * HOUR));
        assert!(!renewal.is_expired(now_ns));
    }

    #[test]
    fn a_day_and_an_hour_of_suspension_is_an_expired_lease_that_is_due_at_once() {
        let renewal = Renewal::new(HOUR, Some(DAY), START);
        let woken = after(25 * HOUR);

        assert_eq!(renewal.due_in(woken), Some(Duration::ZERO));
        assert!(renewal.is_expired(woken));
    }
}
