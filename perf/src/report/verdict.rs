//! What a run says, in sentences.

use crate::metric::{self, Better};
use crate::results::{Cell, Results};
use crate::stats::Estimate;

/// Load average for each CPU from which on other programs take a visible share of the machine.
const BUSY_LOAD: f64 = 0.25;
/// Cores that the hypervisor took, from which on they show in the numbers.
const BUSY_STOLEN: f64 = 0.05;

/// One sentence for each twill that is not the baseline.
pub(super) fn verdicts(results: &Results, wire: &str, workload: &str) -> Vec<String> {
    let Some(baseline) = results.cell(wire, &results.plan.baseline, workload) else {
        return Vec::new();
    };
    let twills = results.group(wire, workload).filter(|cell| cell.is_twill());
    let others = twills.filter(|cell| cell.path != baseline.path);
    others.filter_map(|cell| verdict(results, cell, baseline)).collect()
}

/// A single round has no verdict.
fn verdict(results: &Results, cell: &Cell, baseline: &Cell) -> Option<String> {
    let key = &cell.headline;
    let ratio = cell.ratio(baseline, key, results.plan.seed).filter(|ratio| ratio.count > 1)?;
    let spread = format!("{} {:.2} … {:.2}", ratio.spread_name(), ratio.low, ratio.high);
    let (path, name, other) = (&cell.path, metric::name(key), &baseline.path);
    Some(match direction(&ratio, key) {
        Some(word) => {
            format!(
                "{path}: {name} is {:.2} times that of {other} ({spread}): {word}",
                ratio.median
            )
        }
        None => {
            format!("{path}: {name} differs from that of {other} by less than noise ({spread})")
        }
    })
}

/// Which way an interval without 1 points.
fn direction(ratio: &Estimate, key: &str) -> Option<&'static str> {
    let more = match (ratio.low > 1.0, ratio.high < 1.0) {
        (true, _) => true,
        (_, true) => false,
        _ => return None,
    };
    let better = metric::by_key(key).map_or(Better::More, |metric| metric.better);
    Some(if more == (better == Better::More) { "better" } else { "worse" })
}

/// Why the numbers may be off: other programs, or the hypervisor, took CPU time.
pub(crate) fn busy(results: &Results) -> Option<String> {
    let environment = &results.environment;
    let load = environment.load;
    let mut reasons = Vec::new();
    if load > BUSY_LOAD * environment.cpus as f64 {
        reasons
            .push(format!("load average {load:.2} on {} CPUs before it began", environment.cpus));
    }
    let stolen = results.cells.iter().flat_map(|cell| cell.values("stolen_cpu"));
    let stolen = crate::stats::median(&mut stolen.collect::<Vec<_>>()).unwrap_or(0.0);
    if stolen > BUSY_STOLEN {
        reasons.push(format!("the hypervisor took {stolen:.2} cores"));
    }
    let reasons = reasons.join(", ");
    (!reasons.is_empty())
        .then(|| format!("The machine was busy ({reasons}): close other programs and run it again"))
}
