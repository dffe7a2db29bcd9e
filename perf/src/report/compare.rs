//! What changed between two runs of the harness.

use super::layout::Layout;
use super::table::between;
use crate::metric::{self, Better, format};
use crate::results::{Cell, Results};
use crate::stats::{Estimate, median};

/// How one number changed between two runs of the harness.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    /// Wire, workload and path.
    pub(crate) what: [String; 3],
    /// The key of the number.
    pub(crate) key: String,
    /// The path by whose number in the same round it is divided, if any.
    pub(crate) baseline: Option<String>,
    /// Before and after.
    pub(crate) medians: (f64, f64),
    /// After divided by before.
    pub(crate) ratio: Estimate,
    /// What the ratio means.
    pub(crate) verdict: Verdict,
}

/// What a change means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Better by more than noise and tolerance.
    Better,
    /// Worse by more than noise and tolerance.
    Worse,
    /// Not different by more than the tolerance.
    Same,
    /// The interval is too wide to tell, or there is one round only.
    Unclear,
}

impl Verdict {
    /// `ratio` is after divided by before; `tolerance` is a share.
    fn of(ratio: &Estimate, better: Better, tolerance: f64) -> Self {
        // One round says nothing about the next.
        if ratio.count < 2 {
            return Self::Unclear;
        }
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

/// The numbers to compare: the headline, the p99 of round trips, and the CPU time per GiB. That of
/// the machine if the baseline has no gateway.
pub(crate) fn keys<'a>(cell: &'a Cell, baseline: Option<&Cell>) -> Vec<&'a str> {
    const GATEWAY: &str = "gateway_cpu_per_gib";
    let mut keys = vec![cell.headline.as_str()];
    if cell.headline == "rtt_p50" {
        keys.push("rtt_p99");
    }
    if cell.headline == "goodput" {
        let gateways = baseline.is_none_or(|baseline| !baseline.values(GATEWAY).is_empty());
        keys.push(if gateways { GATEWAY } else { "machine_cpu_per_gib" });
    }
    keys
}

/// What changed from `old` to `new`, number by number, for everything that both measured.
/// `tolerance` is the share by which a number may differ before it counts.
pub(crate) fn changes(old: &Results, new: &Results, tolerance: f64) -> Vec<Change> {
    pairs(old, new)
        .flat_map(|pair| {
            let keys = keys(pair.after, None).into_iter();
            keys.filter_map(move |key| pair.of(key, tolerance))
        })
        .collect()
}

/// As [`changes`], but compares ratios to the baseline in the same round, since a slower machine
/// slows the baseline, too. Compares plain numbers if the runs share no baseline, and for the
/// baseline.
pub(crate) fn changes_to_baseline(old: &Results, new: &Results, tolerance: f64) -> Vec<Change> {
    pairs(old, new)
        .flat_map(|pair| {
            let baselines = pair.baselines(old, new);
            let keys = keys(pair.after, baselines.map(|baselines| baselines.after));
            keys.into_iter().filter_map(move |key| match &baselines {
                Some(baselines) => pair.of_ratios(baselines, key, tolerance),
                None => pair.of(key, tolerance),
            })
        })
        .collect()
}

/// The same wire, workload and path before and after.
#[derive(Clone, Copy)]
struct Pair<'a> {
    before: &'a Cell,
    after: &'a Cell,
    seed: u64,
}

fn pairs<'a>(old: &'a Results, new: &'a Results) -> impl Iterator<Item = Pair<'a>> {
    new.cells.iter().filter_map(|after| {
        let before = old.cell(&after.wire, &after.path, &after.workload)?;
        Some(Pair { before, after, seed: new.plan.seed })
    })
}

impl<'a> Pair<'a> {
    /// The baseline's cells, where both runs have the same one and it is another path.
    fn baselines(self, old: &'a Results, new: &'a Results) -> Option<Self> {
        let path = &new.plan.baseline;
        if *path != old.plan.baseline || *path == self.after.path {
            return None;
        }
        let (wire, workload) = (&self.after.wire, &self.after.workload);
        let (before, after) = (old.cell(wire, path, workload)?, new.cell(wire, path, workload)?);
        Some(Self { before, after, seed: self.seed })
    }

    fn of(self, key: &str, tolerance: f64) -> Option<Change> {
        self.change(key, None, [self.before.values(key), self.after.values(key)], tolerance)
    }

    fn of_ratios(self, baselines: &Self, key: &str, tolerance: f64) -> Option<Change> {
        let ratios =
            [self.before.ratios(baselines.before, key), self.after.ratios(baselines.after, key)];
        self.change(key, Some(&baselines.after.path), ratios, tolerance)
    }

    fn change(
        self,
        key: &str,
        baseline: Option<&str>,
        [was, is]: [Vec<f64>; 2],
        tolerance: f64,
    ) -> Option<Change> {
        let ratio = Estimate::of_separate_runs(&is, &was, self.seed)?;
        let better = metric::by_key(key).map_or(Better::Neither, |metric| metric.better);
        let Cell { wire, workload, path, .. } = self.after.clone();
        Some(Change {
            what: [wire, workload, path],
            key: key.to_owned(),
            baseline: baseline.map(str::to_owned),
            medians: (median(&mut was.clone())?, median(&mut is.clone())?),
            ratio,
            verdict: Verdict::of(&ratio, better, tolerance),
        })
    }
}

/// Changes as a table; on a terminal, a table for each wire and workload.
pub(crate) fn comparison(changes: &[Change], layout: Layout) -> String {
    let rows = rows(changes);
    let (Layout::Terminal { .. }, Some((title, changes))) = (layout, rows.split_first()) else {
        return layout.table(&rows, 4);
    };
    let group = |group: &[Vec<String>]| {
        let (wire, workload) = (&group[0][0], &group[0][1]);
        let rows: Vec<_> = [title].into_iter().chain(group).map(|row| row[2..].to_vec()).collect();
        format!("\n{workload}, {wire} wire\n{}", layout.table(&rows, 2))
    };
    changes.chunk_by(|one, next| one[..2] == next[..2]).map(group).collect()
}

/// Changes as rows, a title row first.
fn rows(changes: &[Change]) -> Vec<Vec<String>> {
    let title = [
        "wire",
        "workload",
        "path",
        "number",
        "before",
        "after",
        "ratio",
        "95 % interval",
        "verdict",
    ];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    for change in changes {
        let [wire, workload, path] = change.what.clone();
        rows.push(vec![
            wire,
            workload,
            path,
            match &change.baseline {
                Some(baseline) => format!("{} against {baseline}", metric::name(&change.key)),
                None => metric::name(&change.key),
            },
            format(change.medians.0),
            format(change.medians.1),
            format!("{:.2}", change.ratio.median),
            between(&change.ratio, title[7], |value| format!("{value:.2}")),
            change.verdict.word().to_owned(),
        ]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::sample_run;

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

    #[test]
    fn a_slow_hour_is_no_change_of_the_ratio_and_a_slow_twill_is() {
        let before = results([8.0, 4.0]);
        let slow_hour = results([6.0, 3.0]);
        let slow_twill = results([8.0, 3.0]);
        let verdicts = |changes: Vec<Change>| {
            changes.into_iter().map(|change| (change.baseline.is_some(), change.verdict)).collect()
        };

        let hour: Vec<_> = verdicts(changes_to_baseline(&before, &slow_hour, 0.05));
        let twill: Vec<_> = verdicts(changes_to_baseline(&before, &slow_twill, 0.05));
        let numbers: Vec<_> = verdicts(changes(&before, &slow_hour, 0.05));

        assert_eq!(hour, [(false, Verdict::Worse), (true, Verdict::Same)]);
        assert_eq!(twill, [(false, Verdict::Same), (true, Verdict::Worse)]);
        assert_eq!(numbers, [(false, Verdict::Worse), (false, Verdict::Worse)]);
    }

    #[test]
    fn a_single_round_decides_nothing() {
        let single = Estimate { count: 1, ..ratio(0.5, 0.5) };

        assert_eq!(Verdict::of(&single, Better::More, 0.05), Verdict::Unclear);
    }

    /// Five rounds of goodput over VXLAN, the baseline, and twill.
    fn results(goodputs: [f64; 2]) -> Results {
        let [vxlan, twill] =
            goodputs.map(|goodput| [1.0, 1.01, 0.99, 1.02, 0.98].map(|drift| goodput * drift));
        sample_run(&vxlan, &twill)
    }
}
