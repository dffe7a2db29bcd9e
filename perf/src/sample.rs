//! The numbers of one run of one workload over one path.

use hdrhistogram::Histogram;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The percentiles that become numbers of a sample, with the ends of their keys.
const PERCENTILES: [(f64, &str); 6] =
    [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p999"), (0.9999, "p9999"), (1.0, "max")];

/// A histogram of durations in nanoseconds, 1 ns to 60 s, three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are valid")
}

/// The numbers of one run. Results name the unit of each key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    /// The measured time, seconds.
    pub seconds: f64,
    /// Payload bytes that arrived in the measured time.
    #[serde(default)]
    pub bytes: u64,
    /// Inner packets in the measured time, both directions.
    #[serde(default)]
    pub packets: u64,
    /// Numbers by key.
    pub values: BTreeMap<String, f64>,
    /// Durations in nanoseconds with their counts, by what was timed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) times: BTreeMap<String, Vec<(u64, u64)>>,
    /// One number over the time of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) series: Option<Series>,
    /// Notes that a reader needs to judge the numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One number in equal steps of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Series {
    /// The key of the number.
    pub(crate) key: String,
    /// Seconds per step.
    pub(crate) step: f64,
    /// The number in each step.
    pub(crate) values: Vec<f64>,
}

impl Series {
    pub(crate) fn per_step(key: &str, values: Vec<f64>) -> Self {
        Self { key: key.to_owned(), step: crate::workload::STEP_SECONDS, values }
    }
}

impl Sample {
    pub(crate) fn new(seconds: f64) -> Self {
        Self { seconds, ..Self::default() }
    }

    /// The number with that key, if this run has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<f64> {
        self.values.get(key).copied()
    }

    /// Adds a number.
    pub(crate) fn set(&mut self, key: &str, value: f64) {
        self.values.insert(key.to_owned(), value);
    }

    /// Adds a remark, once.
    pub(crate) fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Adds durations and, in microseconds, their percentiles.
    pub(crate) fn histogram(&mut self, name: &str, times: Histogram<u64>) {
        if times.is_empty() {
            return;
        }
        for (quantile, end) in PERCENTILES {
            // Fewer than ten values beyond a percentile say nothing about it.
            let beyond = times.len() as f64 * (1.0 - quantile);
            if quantile == 1.0 || quantile == 0.5 || beyond >= 10.0 {
                self.set(&format!("{name}_{end}"), times.value_at_quantile(quantile) as f64 * 1e-3);
            }
        }
        let pairs = times.iter_recorded().map(|at| (at.value_iterated_to(), at.count_at_value()));
        self.times.insert(name.to_owned(), pairs.collect());
    }
}

/// The histogram that value-count pairs describe.
pub(crate) fn from_pairs<'a>(pairs: impl IntoIterator<Item = &'a (u64, u64)>) -> Histogram<u64> {
    let mut times = histogram();
    for (value, count) in pairs {
        times.saturating_record_n(*value, *count);
    }
    times
}
