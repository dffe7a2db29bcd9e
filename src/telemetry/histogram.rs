//! Histograms with one writer, the worker, and any number of readers.
//!
//! A [`Recorder`] is an `hdrhistogram` taken apart: the same buckets, each an atomic number with one
//! writer. Recording costs a few shifts and one plain store; it takes no lock, allocates nothing
//! and never waits for a reader. A reader copies the counts into a [`Distribution`].
//!
//! ```text
//! value   0 ......... 128 ......... 256 ....... 512 ....... 1024 ......   units of the lowest value
//! bucket  |    128    |    128     |    128     |    128     |           each covers a power of two
//!         |  width 1  |  width 1   |  width 2   |  width 4   |           in 128 equal steps
//! ```

use super::counter::Counter;
use arc_swap::ArcSwapOption;
use hdrhistogram::Histogram;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The range and the precision of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    /// The lowest value that differs from zero, at least 1.
    pub(crate) lowest: u64,
    /// The highest value; higher ones are recorded as this.
    pub(crate) highest: u64,
    /// Significant decimal digits, 1 to 3: the precision.
    pub(crate) digits: u8,
}

/// A [`Layout`] in the numbers that recording needs.
#[derive(Clone, Copy, Debug)]
struct Steps {
    /// log2 of the width of the narrowest step.
    unit: u32,
    /// log2 of half of the steps of the first bucket, and of all steps of every other one.
    half: u32,
    /// Values whose bits are all in here lie in the first bucket.
    first: u64,
    len: usize,
}

impl Steps {
    fn new(layout: Layout) -> Self {
        let steps = (2 * 10u64.pow(u32::from(layout.digits))).next_power_of_two();
        let (unit, half) = (layout.lowest.max(1).ilog2(), steps.ilog2() - 1);
        let mut buckets = 1;
        let mut end = u128::from(steps) << unit;
        while end <= u128::from(layout.highest) {
            end <<= 1;
            buckets += 1;
        }
        Self { unit, half, first: (steps << unit) - 1, len: (buckets + 1) << half }
    }

    #[inline]
    fn index(self, value: u64) -> usize {
        let bucket = (value | self.first).ilog2() - self.unit - self.half;
        let step = value >> (bucket + self.unit);
        ((bucket as usize) << self.half) + step as usize
    }

    /// The highest value of a step.
    fn last(self, index: usize) -> u64 {
        let bucket = (index >> self.half).saturating_sub(1);
        let step = (index - (bucket << self.half)) as u64;
        ((step + 1) << (bucket as u32 + self.unit)) - 1
    }
}

/// A histogram with one writer.
#[derive(Debug)]
pub(crate) struct Recorder {
    layout: Layout,
    steps: Steps,
    sum: Counter,
    counts: Box<[Counter]>,
    /// What was recorded before this one; set while nobody records.
    past: ArcSwapOption<Distribution>,
}

impl Recorder {
    /// An empty histogram; its memory is allocated here, once.
    #[must_use]
    pub(crate) fn new(layout: Layout) -> Self {
        let steps = Steps::new(layout);
        let counts = (0..steps.len).map(|_| Counter::default()).collect();
        Self { layout, steps, sum: Counter::default(), counts, past: ArcSwapOption::empty() }
    }

    /// Records a value, `count` times.
    #[inline]
    pub(crate) fn record(&self, value: u64, count: u64) {
        let value = value.min(self.layout.highest);
        if let Some(counter) = self.counts.get(self.steps.index(value)) {
            counter.add(count);
        }
        self.sum.add(value.wrapping_mul(count));
    }

    /// The values recorded so far.
    #[must_use]
    pub(crate) fn read(&self) -> Distribution {
        let mut read = Distribution::new(self.layout);
        for (index, count) in self.counts.iter().map(Counter::value).enumerate() {
            if count > 0 {
                read.histogram.saturating_record_n(self.steps.last(index), count);
            }
        }
        read.sum = self.sum.value();
        if let Some(past) = &*self.past.load() {
            read.add(past);
        }
        read
    }

    /// Goes on from what was recorded before, unless another version recorded it in other steps.
    pub(crate) fn inherit(&self, past: &Distribution) {
        if past.layout == self.layout {
            self.past.store(Some(Arc::new(past.clone())));
        }
    }
}

/// Recorded values, copied out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "Sparse", try_from = "Sparse")]
pub(crate) struct Distribution {
    layout: Layout,
    /// How often which value was recorded.
    pub(crate) histogram: Histogram<u64>,
    /// The sum of all values, exact.
    pub(crate) sum: u64,
}

impl Distribution {
    /// Nothing recorded yet.
    ///
    /// # Panics
    /// When the layout is none, which a literal can only be by mistake.
    #[must_use]
    pub(crate) fn new(layout: Layout) -> Self {
        let histogram = empty(layout).expect("an instrument's layout is valid");
        Self { layout, histogram, sum: 0 }
    }

    /// Records a value, `count` times.
    pub(crate) fn record(&mut self, value: u64, count: u64) {
        let value = value.min(self.layout.highest);
        self.histogram.saturating_record_n(value, count);
        self.sum += value * count;
    }

    /// Adds what another one of the same layout recorded.
    pub(crate) fn add(&mut self, other: &Self) {
        self.histogram += &other.histogram;
        self.sum += other.sum;
    }

    /// The values recorded since an earlier reading of the same recorder.
    #[must_use]
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let mut interval = Self::new(self.layout);
        for step in self.histogram.iter_recorded() {
            let value = step.value_iterated_to();
            let count = step.count_at_value().saturating_sub(earlier.histogram.count_at(value));
            if count > 0 {
                interval.histogram.saturating_record_n(value, count);
            }
        }
        interval.sum = self.sum.saturating_sub(earlier.sum);
        interval
    }

    /// Whether its steps are those of this layout.
    #[must_use]
    pub(crate) fn has(&self, layout: Layout) -> bool {
        self.layout == layout
    }

    /// How many values were recorded.
    #[must_use]
    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Count, mean and percentiles.
    #[must_use]
    pub(crate) fn summary(&self) -> Summary {
        let at = |quantile| self.histogram.value_at_quantile(quantile);
        let count = self.count();
        if count == 0 {
            return Summary::default();
        }
        Summary {
            count,
            mean: self.sum as f64 / count as f64,
            min: self.histogram.min(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.histogram.max(),
        }
    }
}

/// Count, mean and percentiles in the instrument's unit; all zero without values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Summary {
    /// How many values.
    pub(crate) count: u64,
    /// Their mean, exact.
    pub(crate) mean: f64,
    /// The lowest.
    pub(crate) min: u64,
    /// Half of the values are at most this.
    pub(crate) p50: u64,
    /// 90 % are.
    pub(crate) p90: u64,
    /// 99 % are.
    pub(crate) p99: u64,
    /// 99.9 % are.
    pub(crate) p999: u64,
    /// The highest.
    pub(crate) max: u64,
}

/// A distribution on its way to another process: only steps that were used.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sparse {
    #[serde(flatten)]
    layout: Layout,
    sum: u64,
    /// Value and how often; the value is the highest of its step.
    counts: Vec<(u64, u64)>,
}

impl From<Distribution> for Sparse {
    fn from(distribution: Distribution) -> Self {
        let steps = distribution.histogram.iter_recorded();
        let counts = steps.map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
        Self { layout: distribution.layout, sum: distribution.sum, counts }
    }
}

impl TryFrom<Sparse> for Distribution {
    type Error = hdrhistogram::CreationError;

    fn try_from(sparse: Sparse) -> Result<Self, Self::Error> {
        let mut histogram = empty(sparse.layout)?;
        for (value, count) in sparse.counts {
            histogram.saturating_record_n(value, count);
        }
        Ok(Self { layout: sparse.layout, histogram, sum: sparse.sum })
    }
}

fn empty(layout: Layout) -> Result<Histogram<u64>, hdrhistogram::CreationError> {
    Histogram::new_with_bounds(layout.lowest, layout.highest, layout.digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NANOSECONDS: Layout = Layout { lowest: 100, highest: 60_000_000_000, digits: 2 };

    fn layouts() -> impl Strategy<Value = Layout> {
        (1..3000u64, 1..5_000_000_000u64, 1..=3u8).prop_map(|(lowest, span, digits)| Layout {
            lowest,
            highest: lowest * 2 + span,
            digits,
        })
    }

    proptest! {
        #[test]
        fn a_recorder_reads_as_the_histogram_that_it_mirrors(
            layout in layouts(),
            values in proptest::collection::vec((any::<u64>(), 0..60u32, 1..1000u64), 0..50),
        ) {
            let recorder = Recorder::new(layout);
            let mut mirror = empty(layout).unwrap();
            for (value, shift, count) in values {
                let value = value >> shift;
                recorder.record(value, count);
                // It remembers extremes as they were, we the last value of the cell.
                let last = mirror.highest_equivalent(value.min(layout.highest));
                mirror.saturating_record_n(last, count);
            }

            prop_assert_eq!(recorder.read().histogram, mirror);
        }

        #[test]
        fn a_value_comes_back_within_the_precision(value in 100..60_000_000_000u64) {
            let recorder = Recorder::new(NANOSECONDS);

            recorder.record(value, 1);

            let read = recorder.read().summary().max;
            let allowed = (value / 100).max(64);
            prop_assert!(read.abs_diff(value) <= allowed, "{value} came back as {read}");
        }

        #[test]
        fn an_interval_is_what_came_between(
            before in proptest::collection::vec(0..1_000_000u64, 0..30),
            between in proptest::collection::vec(0..1_000_000u64, 0..30),
        ) {
            let (recorder, expected) = (Recorder::new(NANOSECONDS), Recorder::new(NANOSECONDS));
            before.iter().for_each(|value| recorder.record(*value, 1));
            let earlier = recorder.read();
            for value in &between {
                recorder.record(*value, 1);
                expected.record(*value, 1);
            }

            prop_assert_eq!(recorder.read().since(&earlier), expected.read());
        }
    }

    #[test]
    fn a_distribution_survives_its_way_to_another_process() {
        let recorder = Recorder::new(NANOSECONDS);
        for value in [0, 1, 99, 12_345, 7_000_000_000, u64::MAX] {
            recorder.record(value, 3);
        }
        let read = recorder.read();

        let text = serde_json::to_string(&read).unwrap();

        assert_eq!(serde_json::from_str::<Distribution>(&text).unwrap(), read);
        assert!(
            serde_json::from_str::<Distribution>(
                r#"{"lowest":0,"highest":1,"digits":9,"sum":0,"counts":[]}"#
            )
            .is_err()
        );
    }

    #[test]
    fn a_recorder_goes_on_from_what_another_one_recorded_in_the_same_steps() {
        let (old, new) = (Recorder::new(NANOSECONDS), Recorder::new(NANOSECONDS));
        old.record(1000, 3);
        new.inherit(&old.read());
        new.record(2000, 1);
        assert_eq!((new.read().count(), new.read().sum), (4, 5000));
        let other = Recorder::new(Layout { lowest: 1, ..NANOSECONDS });

        other.inherit(&old.read());

        assert_eq!(other.read().count(), 0);
    }

    #[test]
    fn workers_distributions_add_up() {
        let (one, two) = (Recorder::new(NANOSECONDS), Recorder::new(NANOSECONDS));
        one.record(1000, 3);
        two.record(2000, 1);

        let mut sum = one.read();
        sum.add(&two.read());

        assert_eq!((sum.count(), sum.sum), (4, 5000));
        assert_eq!(sum.summary().mean, 1250.0);
    }

    #[test]
    fn nothing_recorded_is_all_zero() {
        assert_eq!(Recorder::new(NANOSECONDS).read().summary(), Summary::default());
    }
}
