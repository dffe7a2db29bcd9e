//! How often a server is pinged. Pure.
//!
//! etcd allows a ping every 5 s. Something on the way may allow far fewer, such as etcd's own grpc-proxy,
//! and hang up. Its reason (ENHANCE_YOUR_CALM, too_many_pings) does not always reach us; that connections
//! end after the same number of pings each time does.

use std::cell::Cell;
use std::time::Duration;

/// The first interval. Together with the time for an answer it stays below 15 s, within which a silent
/// server is noticed.
const OFTEN: Duration = Duration::from_secs(6);
/// The longest interval: grpc-go's default allows a ping every five minutes.
const RAREST: Duration = Duration::from_secs(310);
/// What a server says before it hangs up because of too many pings.
const TOO_MANY: [&str; 2] = ["too_many_pings", "ENHANCE_YOUR_CALM"];
/// A connection that ends after so many pings may have ended because of them.
const SUSPECTED: std::ops::RangeInclusive<f64> = 1.5..=8.5;
/// By how many pings two lives may differ to be alike.
const ALIKE: f64 = 0.4;

/// The pace of pings.
#[derive(Clone, Debug)]
pub(super) struct Pings {
    every: Cell<Duration>,
    /// After how many pings the last connection ended.
    last: Cell<Option<f64>>,
}

impl Pings {
    pub(super) fn new() -> Self {
        Self { every: Cell::new(OFTEN), last: Cell::new(None) }
    }

    /// The interval from the next connection on.
    pub(super) fn every(&self) -> Duration {
        self.every.get()
    }

    /// Takes note of a connection that the other side ended after some time, with what it said; the new
    /// interval if pings are the likely reason.
    pub(super) fn ended(&self, life: Duration, said: &str) -> Option<Duration> {
        let pings = life.as_secs_f64() / self.every.get().as_secs_f64();
        let before = self.last.replace(Some(pings));
        let is_alike = before.is_some_and(|before| (before - pings).abs() <= ALIKE);
        let is_told = TOO_MANY.iter().any(|words| said.contains(words));
        let is_suspected = is_alike && SUSPECTED.contains(&pings);
        if !is_told && !is_suspected {
            return None;
        }
        let rarer = (self.every.get() * 2).min(RAREST);
        (self.every.replace(rarer) != rarer).then_some(rarer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPE: &str = "stream closed because of a broken pipe";

    #[test]
    fn connections_that_end_after_the_same_number_of_pings_are_pinged_less() {
        let pings = Pings::new();
        let lives = [24.0, 24.1, 48.1, 96.3].map(Duration::from_secs_f64);

        let intervals = lives.map(|life| pings.ended(life, PIPE).map(|every| every.as_secs()));

        assert_eq!(intervals, [None, Some(12), Some(24), Some(48)]);
    }

    #[test]
    fn connections_that_end_for_other_reasons_are_pinged_as_before() {
        let pings = Pings::new();
        // Restarts of a server; one that refuses at once; a link that breaks now and then.
        for life in [3600.0, 0.1, 0.1, 30.0, 20.0, 300.0, 300.0] {
            assert_eq!(pings.ended(Duration::from_secs_f64(life), PIPE), None, "{life}");
        }
        assert_eq!(pings.every(), OFTEN);
    }

    #[test]
    fn a_server_that_gives_the_reason_is_believed_at_once_and_the_interval_has_an_end() {
        let pings = Pings::new();
        let told: Vec<_> = (0..8).map_while(|_| pings.ended(OFTEN, "ENHANCE_YOUR_CALM")).collect();

        assert_eq!(told.len(), 6);
        assert_eq!((told[0], pings.every()), (2 * OFTEN, RAREST));
    }
}
