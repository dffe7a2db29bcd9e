//! Medians with intervals, and ratios between paths.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Resamples per interval.
const RESAMPLES: usize = 2000;
/// Share of resamples that an interval leaves out at each end: 95 % remain.
const TAIL: f64 = 0.025;
/// Values that a bootstrap interval needs. With fewer, it misses the true median too often: with 4
/// in 13 % of all runs, with 3 in 24 %, with 2 in half.
const ENOUGH: usize = 5;
/// An interval wider than this share of its median is called noisy.
const NOISY: f64 = 0.25;

/// A median with its 95 % bootstrap interval, or with the range of the values if there are fewer
/// than five.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    /// The median.
    pub(crate) median: f64,
    /// The lower end of interval or range.
    pub(crate) low: f64,
    /// The upper end of interval or range.
    pub(crate) high: f64,
    /// How many values there are.
    pub(crate) count: usize,
}

impl Estimate {
    /// The median of `values`, if there are any. The same seed gives the same interval.
    pub(crate) fn of(values: &[f64], seed: u64) -> Option<Self> {
        let middle = median(&mut values.to_vec())?;
        if values.len() < ENOUGH {
            let (low, high) = range(values);
            return Some(Self { median: middle, low, high, count: values.len() });
        }
        let mut rng = StdRng::seed_from_u64(seed);
        let mut resampled: Vec<_> =
            (0..RESAMPLES).filter_map(|_| median(&mut resample(values, &mut rng))).collect();
        Some(Self::between(middle, &mut resampled, values.len()))
    }

    /// The ratio of medians of runs that were not interleaved: each side is resampled by itself.
    pub(crate) fn of_separate_runs(candidate: &[f64], baseline: &[f64], seed: u64) -> Option<Self> {
        let middle = median(&mut candidate.to_vec())? / nonzero(median(&mut baseline.to_vec())?)?;
        let count = candidate.len().min(baseline.len());
        if count < ENOUGH {
            let ((least, most), (lowest, highest)) = (range(candidate), range(baseline));
            let (low, high) = (least / highest, most / nonzero(lowest)?);
            return Some(Self { median: middle, low, high, count });
        }
        let mut rng = StdRng::seed_from_u64(seed);
        let mut ratios: Vec<_> = (0..RESAMPLES)
            .filter_map(|_| {
                let candidate = median(&mut resample(candidate, &mut rng))?;
                Some(candidate / nonzero(median(&mut resample(baseline, &mut rng))?)?)
            })
            .collect();
        Some(Self::between(middle, &mut ratios, count))
    }

    fn between(median: f64, resampled: &mut [f64], count: usize) -> Self {
        resampled.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = (share * (resampled.len().saturating_sub(1)) as f64).round() as usize;
            resampled.get(index).copied().unwrap_or(median)
        };
        Self { median, low: at(TAIL), high: at(1.0 - TAIL), count }
    }

    /// The name of what lies between low and high.
    pub(crate) fn spread_name(&self) -> &'static str {
        spread_name(self.count)
    }

    /// Why a reader should doubt it.
    pub(crate) fn doubt(&self) -> Option<String> {
        if self.count < 2 {
            return Some("one round shows no spread: measure more rounds".to_owned());
        }
        (self.high - self.low > NOISY * self.median.abs()).then(|| {
            format!(
                "noisy: the {} spans {:.0} % of the median; close other programs or measure more \
                 rounds",
                self.spread_name(),
                self.spread() * 200.0
            )
        })
    }

    /// Half the interval's width as a share of the median.
    pub(crate) fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.high - self.low) / 2.0 / self.median.abs() }
    }
}

/// The ratio of each round: a slow minute of the machine touches both paths of a round.
pub(crate) fn paired_ratios(pairs: &[(f64, f64)]) -> Vec<f64> {
    let ratio = |(candidate, baseline): &(f64, f64)| Some(candidate / nonzero(*baseline)?);
    pairs.iter().filter_map(ratio).collect()
}

/// The name of the spread of so many values.
pub(crate) fn spread_name(count: usize) -> &'static str {
    if count < ENOUGH { "range" } else { "95 % interval" }
}

fn range(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    (low, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

fn nonzero(value: f64) -> Option<f64> {
    (value != 0.0).then_some(value)
}

fn resample<T: Copy>(values: &[T], rng: &mut StdRng) -> Vec<T> {
    values.iter().map(|_| values[rng.random_range(0..values.len())]).collect()
}

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[half]),
        _ => Some(f64::midpoint(values[half - 1], values[half])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_median_lies_within_its_interval_and_the_interval_within_the_values(
            values in proptest::collection::vec(0.1..1e6f64, 1..12),
            seed: u64,
        ) {
            let estimate = Estimate::of(&values, seed).unwrap();

            let least = values.iter().copied().fold(f64::MAX, f64::min);
            let most = values.iter().copied().fold(f64::MIN, f64::max);
            prop_assert!(least <= estimate.low && estimate.high <= most);
            prop_assert!(estimate.low <= estimate.median && estimate.median <= estimate.high);
            prop_assert_eq!(Estimate::of(&values, seed), Some(estimate));
        }
    }

    #[test]
    fn pairing_cancels_a_drift_that_both_paths_share() {
        let drift = [1.0, 0.7, 1.3, 0.9, 1.1];
        let pairs: Vec<_> = drift.iter().map(|drift| (8.0 * drift, 4.0 * drift)).collect();

        let paired = Estimate::of(&paired_ratios(&pairs), 1).unwrap();
        let (candidate, baseline): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let separate = Estimate::of_separate_runs(&candidate, &baseline, 1).unwrap();

        assert!((paired.low - 2.0).abs() < 1e-9 && (paired.high - 2.0).abs() < 1e-9);
        assert!(separate.low < 1.9 && separate.high > 2.1, "{separate:?}");
        assert!(paired.doubt().is_none() && separate.doubt().is_some());
    }

    #[test]
    fn the_interval_covers_the_true_median_nearly_always() {
        let mut rng = StdRng::seed_from_u64(7);
        let covered = (0..200)
            .filter(|seed| {
                // Sums of twelve dice: a bell around 6.
                let mut bell = || (0..12).map(|_| rng.random::<f64>()).sum::<f64>();
                let values: Vec<_> = (0..15).map(|_| bell()).collect();
                let estimate = Estimate::of(&values, *seed).unwrap();
                estimate.low <= 6.0 && 6.0 <= estimate.high
            })
            .count();

        assert!((180..=200).contains(&covered), "{covered} of 200");
    }

    #[test]
    fn few_values_have_a_range_and_no_interval() {
        let few = Estimate::of(&[3.0, 1.0, 2.0, 9.0], 1).unwrap();
        let enough = Estimate::of(&[3.0, 1.0, 2.0, 9.0, 4.0], 1).unwrap();
        let separate = Estimate::of_separate_runs(&[2.0, 3.0], &[1.0, 2.0], 1).unwrap();

        assert_eq!((few.low, few.median, few.high), (1.0, 2.5, 9.0));
        assert_eq!((few.spread_name(), enough.spread_name()), ("range", "95 % interval"));
        assert_eq!((separate.low, separate.high, separate.count), (1.0, 3.0, 2));
    }

    #[test]
    fn a_single_value_is_in_doubt() {
        let single = Estimate::of(&[3.0], 1).unwrap();

        assert!(single.doubt().is_some_and(|why| why.contains("one round")), "{single:?}");
    }

    #[test]
    fn nothing_has_no_median() {
        assert_eq!(Estimate::of(&[], 1), None);
        assert!(paired_ratios(&[(1.0, 0.0)]).is_empty());
    }
}
