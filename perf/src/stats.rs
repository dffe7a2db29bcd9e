//! Medians with intervals, and ratios between paths.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Resamples per interval.
const RESAMPLES: usize = 2000;
/// Share of resamples that an interval leaves out at each end: 95 % remain.
const TAIL: f64 = 0.025;
/// An interval wider than this share of its median says little.
const NOISY: f64 = 0.25;

/// A median with the 95 % interval that a bootstrap gives it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
    /// Values behind it.
    pub count: usize,
}

impl Estimate {
    /// The median of `values`, if there are any. The same seed gives the same interval.
    #[must_use]
    pub fn of(values: &[f64], seed: u64) -> Option<Self> {
        Self::by(values.len(), seed, |pick| {
            median(&mut pick.iter().map(|index| values[*index]).collect::<Vec<_>>())
        })
    }

    /// The ratio of medians of runs that were not interleaved: each side is resampled by itself.
    #[must_use]
    pub fn of_separate_runs(candidate: &[f64], baseline: &[f64], seed: u64) -> Option<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        let middle = median(&mut candidate.to_vec())? / nonzero(median(&mut baseline.to_vec())?)?;
        let mut ratios: Vec<_> = (0..RESAMPLES)
            .filter_map(|_| {
                let candidate = median(&mut resample(candidate, &mut rng))?;
                Some(candidate / nonzero(median(&mut resample(baseline, &mut rng))?)?)
            })
            .collect();
        let count = candidate.len().min(baseline.len());
        Some(Self::between(middle, &mut ratios, count))
    }

    fn by(count: usize, seed: u64, statistic: impl Fn(&[usize]) -> Option<f64>) -> Option<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        let all: Vec<_> = (0..count).collect();
        let middle = statistic(&all)?;
        let mut resampled: Vec<_> =
            (0..RESAMPLES).filter_map(|_| statistic(&resample(&all, &mut rng))).collect();
        Some(Self::between(middle, &mut resampled, count))
    }

    fn between(median: f64, resampled: &mut [f64], count: usize) -> Self {
        resampled.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = (share * (resampled.len().saturating_sub(1)) as f64).round() as usize;
            resampled.get(index).copied().unwrap_or(median)
        };
        Self { median, low: at(TAIL), high: at(1.0 - TAIL), count }
    }

    /// Whether the interval is too wide to say much.
    #[must_use]
    pub fn is_noisy(&self) -> bool {
        self.count > 1 && (self.high - self.low) > NOISY * self.median.abs()
    }

    /// Half the interval's width as a share of the median.
    #[must_use]
    pub fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.high - self.low) / 2.0 / self.median.abs() }
    }
}

/// The ratios of rounds: what both paths did in the same round, so that a slow minute of the machine
/// touches both.
#[must_use]
pub fn paired_ratios(pairs: &[(f64, f64)]) -> Vec<f64> {
    let ratio = |(candidate, baseline): &(f64, f64)| Some(candidate / nonzero(*baseline)?);
    pairs.iter().filter_map(ratio).collect()
}

fn nonzero(value: f64) -> Option<f64> {
    (value != 0.0).then_some(value)
}

fn resample<T: Copy>(values: &[T], rng: &mut StdRng) -> Vec<T> {
    values.iter().map(|_| values[rng.random_range(0..values.len())]).collect()
}

/// The middle value, or the mean of the two in the middle.
pub fn median(values: &mut [f64]) -> Option<f64> {
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
        assert!(!paired.is_noisy() && separate.is_noisy());
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
    fn nothing_has_no_median() {
        assert_eq!(Estimate::of(&[], 1), None);
        assert!(paired_ratios(&[(1.0, 0.0)]).is_empty());
    }
}
