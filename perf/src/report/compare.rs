use super::table::grid;
use crate::metric::{self, Better, format};
use crate::results::{Cell, Results};
use crate::stats::Estimate;

/// What became of one number between two runs of the harness.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Wire, workload and path.
    pub what: [String; 3],
    /// The key of the number.
    pub key: String,
    /// Before and after.
    pub medians: (f64, f64),
    /// After by before.
    pub ratio: Estimate,
    /// What that means.
    pub verdict: Verdict,
}

/// What a change means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Better by more than noise and tolerance.
    Better,
    /// Worse by more than noise and tolerance.
    Worse,
    /// Not different by more than the tolerance.
    Same,
    /// The intervals are too wide to say.
    Unclear,
}

impl Verdict {
    /// `ratio` is new by old; `tolerance` is a share.
    fn of(ratio: &Estimate, better: Better, tolerance: f64) -> Self {
        let (up, down) = (1.0 + tolerance, 1.0 - tolerance);
        let (risen, fallen) = match better {
            Better::More => (Self::Better, Self::Worse),
            Better::Less => (Self::Worse, Self::Better),
            Better::Neither => return Self::Same,
        };
        if ratio.low > up {
            risen
        } else if ratio.high < down {
            fallen
        } else if ratio.low >= down && ratio.high <= up {
            Self::Same
        } else {
            Self::Unclear
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::Same => "same",
            Self::Unclear => "unclear",
        }
    }
}

/// The numbers that decide: the headline, and the tail of what is timed.
fn keys(cell: &Cell) -> Vec<&str> {
    let mut keys = vec![cell.headline.as_str()];
    if cell.headline == "rtt_p50" {
        keys.push("rtt_p99");
    }
    if cell.headline == "goodput" {
        keys.push("gateway_cpu_per_gib");
    }
    keys
}

/// What changed from `old` to `new`, for everything that both measured. `tolerance` is the share
/// by which a number may differ before it counts.
#[must_use]
pub fn changes(old: &Results, new: &Results, tolerance: f64) -> Vec<Change> {
    let mut changes = Vec::new();
    for cell in &new.cells {
        let Some(before) = old.cell(&cell.wire, &cell.path, &cell.workload) else { continue };
        for key in keys(cell) {
            let (was, is) = (before.values(key), cell.values(key));
            let ratio = Estimate::of_separate_runs(&is, &was, new.plan.seed);
            let medians = before
                .estimate(key, old.plan.seed)
                .zip(cell.estimate(key, new.plan.seed))
                .map(|(was, is)| (was.median, is.median));
            let (Some(ratio), Some(medians)) = (ratio, medians) else { continue };
            let better = metric::by_key(key).map_or(Better::Neither, |metric| metric.better);
            changes.push(Change {
                what: [cell.wire.clone(), cell.workload.clone(), cell.path.clone()],
                key: key.to_owned(),
                medians,
                ratio,
                verdict: Verdict::of(&ratio, better, tolerance),
            });
        }
    }
    changes
}

/// Changes as a table.
#[must_use]
pub fn comparison(changes: &[Change]) -> String {
    let title = ["wire", "workload", "path", "number", "before", "after", "ratio", "interval", ""];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    for change in changes {
        let [wire, workload, path] = change.what.clone();
        rows.push(vec![
            wire,
            workload,
            path,
            metric::name(&change.key),
            format(change.medians.0),
            format(change.medians.1),
            format!("{:.2}", change.ratio.median),
            format!("{:.2} … {:.2}", change.ratio.low, change.ratio.high),
            change.verdict.word().to_owned(),
        ]);
    }
    grid(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(low: f64, high: f64) -> Estimate {
        Estimate { median: f64::midpoint(low, high), low, high, count: 5 }
    }

    #[test]
    fn only_an_interval_beyond_the_tolerance_decides() {
        for (low, high, verdict) in [
            (0.50, 0.60, Verdict::Worse),
            (0.60, 0.97, Verdict::Unclear),
            (0.96, 1.04, Verdict::Same),
            (1.04, 1.30, Verdict::Unclear),
            (1.10, 1.30, Verdict::Better),
        ] {
            assert_eq!(Verdict::of(&ratio(low, high), Better::More, 0.05), verdict, "{low} {high}");
        }
    }

    #[test]
    fn less_latency_is_better() {
        assert_eq!(Verdict::of(&ratio(0.5, 0.6), Better::Less, 0.05), Verdict::Better);
        assert_eq!(Verdict::of(&ratio(1.5, 1.6), Better::Less, 0.05), Verdict::Worse);
    }
}
