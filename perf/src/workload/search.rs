use super::udp::{UdpLoad, beside, run as run_udp};
use super::{Course, Window, WorkloadError};
use crate::measure::Meter;
use crate::sample::Sample;
use std::thread;

/// Loss that still counts as none, so that one hiccup of the machine does not decide: 1 in 10,000.
const TOLERATED: f64 = 1e-4;
/// The search ends when it knows the rate this well.
const PRECISION: f64 = 0.02;

/// The highest rate without loss (RFC 2544, section 26.1): a binary search between nothing and what
/// the path delivers when flooded, then one measured run at the rate found.
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

    let mut failure = None;
    let found = highest_rate(ceiling as u64, |rate| {
        let load = UdpLoad { rate: Some(rate), ..load.clone() };
        let trial = beside(course, &load, |_| thread::sleep(short.warm_up + short.measure));
        match trial {
            Ok(((), end)) => end.loss() <= TOLERATED && end.received() > 0,
            Err(error) => {
                failure = Some(error);
                false
            }
        }
    });
    if let Some(error) = failure {
        return Err(error);
    }

    let confirmed = UdpLoad { rate: Some(found.max(1)), ..load.clone() };
    let mut sample = run_udp(course, &confirmed, window, meter)?;
    sample.set("loss_free", found as f64 * 1e-3);
    Ok(sample)
}

/// The highest rate up to `ceiling` at which `passes` holds, to within 2 %, if it holds below some
/// rate and not above. Zero if it never does.
pub fn highest_rate(ceiling: u64, mut passes: impl FnMut(u64) -> bool) -> u64 {
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
    fn a_path_that_loses_at_any_rate_has_no_loss_free_rate() {
        assert_eq!(highest_rate(1_000_000, |_| false), 0);
        assert_eq!(highest_rate(0, |_| true), 0);
    }
}
