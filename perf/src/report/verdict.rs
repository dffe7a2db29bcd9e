//! What a run says, in sentences.

use crate::metric::{self, Better};
use crate::results::{Cell, Results};
use crate::stats::Estimate;

/// Load average per CPU above which other programs change the numbers.
const BUSY_LOAD: f64 = 0.25;
/// Cores taken by the hypervisor above which the numbers change.
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

/// Compares with the baseline; nothing after a single round.
fn verdict(results: &Results, cell: &Cell, baseline: &Cell) -> Option<String> {
    let key = &cell.headline;
    let ratio = cell.ratio(baseline, key, results.plan.seed).filter(|ratio| ratio.count > 1)?;
    let spread = format!("{} {:.2} … {:.2}", ratio.spread_name(), ratio.low, ratio.high);
    let (path, name, other) = (&cell.path, metric::name(key), &baseline.path);
    Some(match direction(&ratio, key) {
        Some(word) => {
            format!("{path}: {name} {:.2} times {other}'s ({spread}): {word}", ratio.median)
        }
        None => format!("{path}: same {name} as {other} within noise ({spread})"),
    })
}

/// Better or worse, if the interval does not include 1.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::html;
    use crate::results::sample_run;

    #[test]
    fn a_sentence_says_which_way_is_better_and_noise_is_no_difference() {
        let said =
            |twill: [f64; 3]| verdicts(&sample_run(&[8.0; 3], &twill), "mtu", "tcp-1").join("");

        assert!(said([4.0, 4.1, 4.2]).contains("0.51 times vxlan's (range 0.50 … 0.53): worse"));
        assert!(said([16.0; 3]).ends_with("better"));
        assert!(said([7.0, 8.0, 9.0]).contains("same goodput as vxlan within noise"));
    }

    #[test]
    fn a_page_begins_with_date_machine_warning_and_verdict() {
        let mut results = sample_run(&[8.0; 3], &[4.0; 3]);
        results.environment.started = 951_782_400;
        results.environment.cpus = 2;
        results.environment.load = 1.5;

        let page = html(&results);

        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("no {text}: {page}"));
        let order = [
            "29 February 2000, 00:00 UTC",
            "2 CPUs",
            "The machine was busy (load average 1.50",
            "0.50 times",
            "<section>",
        ];
        assert!(order.map(at).is_sorted());
        results.environment.load = 0.1;
        assert!(!html(&results).contains("busy"));
    }
}
