//! The search for the highest rate without loss.

use super::udp::{KEPT, UdpLoad, beside, run as run_udp};
use super::watch::{Measured, watch};
use super::{Course, Window, WorkloadError};
use crate::measure::Meter;
use crate::sample::Sample;

/// Loss that counts as none, 1 in 10,000: one hiccup of the machine must not decide.
const TOLERATED: f64 = 1e-4;
/// The precision at which the search ends.
const PRECISION: f64 = 0.02;

/// Measured runs at most, each at a lower rate, until one confirms the rate.
const CONFIRMATIONS: u32 = 4;
/// The next rate, as a share of one that was not confirmed.
const STEP_DOWN: f64 = 0.95;

/// What came of one rate.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Trial {
    /// The share of packets that never arrived.
    loss: f64,
    /// Packets per second that were sent.
    offered: f64,
}

impl Trial {
    /// A rate passes only if the generator really offered it.
    fn passes(self, rate: u64) -> bool {
        self.is_free_of_loss() && self.offered >= KEPT * rate as f64
    }

    fn is_free_of_loss(self) -> bool {
        self.loss <= TOLERATED
    }
}

/// The highest rate without loss (RFC 2544, section 26.1): a binary search between nothing and what
/// the path delivers when flooded, then one measured run at the rate found, which must lose nothing
/// either.
pub(super) fn run(
    course: Course<'_>,
    load: &UdpLoad,
    window: &Window,
    meter: &mut Meter,
) -> Result<Sample, WorkloadError> {
    let short = Window { warm_up: window.warm_up, measure: window.measure / 4 };
    let flood = UdpLoad { rate: None, ..load.clone() };
    let flooded = run_udp(course, &flood, &short, &mut Meter::idle())?;
    // Flooding starves a gateway: the best rate may lie above what is then delivered.
    let ceiling = flooded.get("delivered").unwrap_or(0.0) * 1e3 * 1.5;

    let (mut failure, mut short_of) = (None, None);
    let found = highest_rate(ceiling as u64, |rate| match try_rate(course, load, &short, rate) {
        Ok(trial) => {
            if trial.is_free_of_loss() && !trial.passes(rate) {
                short_of = Some((trial.offered, rate));
            }
            trial.passes(rate)
        }
        Err(error) => {
            failure = Some(error);
            false
        }
    });
    if let Some(error) = failure {
        return Err(error);
    }
    let mut sample = confirm(course, load, window, meter, found)?;
    if let Some((offered, rate)) = short_of {
        sample.note(format!(
            "the generator is the bottleneck: it offered {:.0} of {:.0} kpps, and none was lost",
            offered * 1e-3,
            rate as f64 * 1e-3
        ));
    }
    Ok(sample)
}

fn try_rate(
    course: Course<'_>,
    load: &UdpLoad,
    window: &Window,
    rate: u64,
) -> Result<Trial, WorkloadError> {
    let load = UdpLoad { rate: Some(rate), ..load.clone() };
    let (watched, end) = beside(course, &load, |totals| {
        watch(window, &mut Meter::idle(), &Measured::default(), || totals.so_far())
    })?;
    let loss = if end.received() == 0 { 1.0 } else { end.loss() };
    Ok(Trial { loss, offered: watched.offered_kpps() * 1e3 })
}

/// Measures at the rate found, or as little below as it takes to lose nothing for the whole time.
fn confirm(
    course: Course<'_>,
    load: &UdpLoad,
    window: &Window,
    meter: &mut Meter,
    found: u64,
) -> Result<Sample, WorkloadError> {
    let (mut rate, mut runs) = (found.max(1), 0);
    loop {
        let load = UdpLoad { rate: Some(rate), ..load.clone() };
        let mut sample = run_udp(course, &load, window, meter)?;
        let of = |key| sample.get(key).unwrap_or(0.0);
        let trial = Trial { loss: of("loss"), offered: of("offered") * 1e3 };
        runs += 1;
        if found == 0 || trial.is_free_of_loss() {
            sample.set("loss_free", trial.offered.min(found as f64) * 1e-3);
            return Ok(sample);
        }
        if runs == CONFIRMATIONS {
            sample.set("loss_free", 0.0);
            sample.note(format!(
                "no loss-free rate found: the last rate, {:.0} kpps, lost {:.2} %",
                rate as f64 * 1e-3,
                trial.loss * 100.0
            ));
            return Ok(sample);
        }
        rate = ((rate as f64 * STEP_DOWN) as u64).max(1);
    }
}

/// The highest rate up to `ceiling` at which `passes` holds, to within 2 %, if it holds below some
/// rate and not above. Zero if it never does.
pub(crate) fn highest_rate(ceiling: u64, mut passes: impl FnMut(u64) -> bool) -> u64 {
    let (mut good, mut bad) = (0, ceiling);
    if ceiling > 0 && passes(ceiling) {
        return ceiling;
    }
    while bad - good > 1 && (bad - good) as f64 > PRECISION * bad as f64 {
        let rate = good + (bad - good) / 2;
        if passes(rate) {
            good = rate;
        } else {
            bad = rate;
        }
    }
    good
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_search_ends_within_two_percent_below_the_limit(
            limit in 1..2_000_000u64,
            ceiling in 1..2_000_000u64,
        ) {
            let mut trials = 0;

            let found = highest_rate(ceiling, |rate| {
                trials += 1;
                rate <= limit
            });

            let best = limit.min(ceiling);
            prop_assert!(found <= best);
            prop_assert!(best - found <= 1 + best / 40, "{found} of {best}");
            prop_assert!(trials <= 30);
        }
    }

    #[test]
    fn a_rate_that_was_not_offered_does_not_pass() {
        let most = 300_000f64;
        let generator = |rate: u64| Trial { loss: 0.0, offered: most.min(rate as f64) };

        let found = highest_rate(2_000_000, |rate| generator(rate).passes(rate));

        assert!(KEPT * found as f64 <= most && found as f64 >= 0.95 * most, "{found}");
        assert!(!Trial { loss: 2.0 * TOLERATED, offered: 1000.0 }.passes(1000));
        assert!(!Trial { loss: f64::NAN, offered: 1000.0 }.passes(1000));
    }

    #[test]
    fn a_path_that_loses_at_any_rate_has_no_loss_free_rate() {
        assert_eq!(highest_rate(1_000_000, |_| false), 0);
        assert_eq!(highest_rate(0, |_| true), 0);
    }
}
