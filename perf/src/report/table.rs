//! Tables of measurements, and the notes around them.

use super::layout::Layout;
use super::verdict::{busy, verdicts};
use crate::metric::{self, format};
use crate::results::{Cell, Results};
use crate::stats::{Estimate, spread_name};
use std::fmt::Write as _;

/// The columns after the headline, by headline: title and key.
pub(super) fn columns(headline: &str) -> &'static [(&'static str, &'static str)] {
    match headline {
        "goodput" => &[
            ("gateway s/GiB", "gateway_cpu_per_gib"),
            ("machine s/GiB", "machine_cpu_per_gib"),
            ("retransmitted", "retransmitted"),
            ("switches/pkt", "switches_per_packet"),
            ("calls/pkt", "calls_per_packet"),
            ("TUN drops", "drops_tun"),
            ("socket drops", "drops_socket"),
            ("gateway drops", "drops_gateway"),
            ("device drops", "drops_device"),
        ],
        "delivered" | "loss_free" => &[
            ("offered", "offered"),
            ("loss", "loss"),
            ("reordered", "reordered"),
            ("duplicates", "duplicates"),
            ("one-way p50 µs", "one_way_p50"),
            ("one-way p99", "one_way_p99"),
            ("gateway s/Mpkt", "gateway_cpu_per_mpkt"),
            ("machine s/Mpkt", "machine_cpu_per_mpkt"),
            ("calls/pkt", "calls_per_packet"),
            ("TUN drops", "drops_tun"),
            ("socket drops", "drops_socket"),
            ("gateway drops", "drops_gateway"),
            ("backlog drops", "drops_backlog"),
            ("device drops", "drops_device"),
            ("receiver drops", "drops_sink"),
        ],
        "transactions" => &[("p50 µs", "rtt_p50"), ("p99", "rtt_p99"), ("p99.9", "rtt_p999")],
        _ => &[
            ("p99", "rtt_p99"),
            ("p99.9", "rtt_p999"),
            ("p99.99", "rtt_p9999"),
            ("max", "rtt_max"),
            ("one-way p50", "one_way_p50"),
            ("one-way p99", "one_way_p99"),
            ("loss", "loss"),
            ("load Gbit/s", "goodput"),
        ],
    }
}

/// All measurements: a table for each wire and workload, or one table of all in CSV.
pub(crate) fn tables(results: &Results, layout: Layout) -> String {
    match layout {
        Layout::Csv => layout.table(&all_numbers(results), 1),
        Layout::Markdown => text(results, layout, ["### ", "- "]),
        Layout::Terminal { width } => {
            let width = width.map(|width| width.saturating_sub(2));
            text(results, Layout::Terminal { width }, ["", "  "])
        }
    }
}

/// Tables with verdicts, notes and conditions.
fn text(results: &Results, layout: Layout, [heading, item]: [&str; 2]) -> String {
    let mut text = String::new();
    for (wire, workload) in results.groups() {
        let cells: Vec<_> = results.group(wire, workload).collect();
        let Some(first) = cells.first() else { continue };
        let unit = metric::by_key(&first.headline).map_or("", |metric| metric.unit);
        let name = metric::name(&first.headline);
        let _ = writeln!(text, "\n{heading}{workload}, {wire} wire: {name}, {unit}");
        let table = layout.table(&rows(results, &cells), 1);
        match layout {
            Layout::Markdown => {
                let _ = writeln!(text, "\n{table}");
            }
            _ => text.push_str(&indent(&table)),
        }
        for verdict in verdicts(results, wire, workload) {
            let _ = writeln!(text, "{item}{verdict}");
        }
        for (path, note) in remarks(results, &cells) {
            let _ = writeln!(text, "{item}note: {path}: {note}");
        }
    }
    for missing in &results.unavailable {
        let reason = missing.reason.replace('\n', "\n    ");
        let (path, wire) = (&missing.path, &missing.wire);
        let _ = writeln!(text, "\n{path} was not measured on the {wire} wire: {reason}");
    }
    let _ = writeln!(text, "\n{}", conclusion(results).join("\n"));
    text
}

/// How the numbers were made, and why they may be off.
fn conclusion(results: &Results) -> Vec<String> {
    let plan = &results.plan;
    let mut lines = vec![
        format!(
            "{} rounds of {} s after one that is thrown away; medians with {}; ratios within \
             rounds; seed {}",
            plan.rounds,
            plan.measure_ms as f64 * 1e-3,
            spreads(plan.rounds),
            plan.seed
        ),
        format!("{}, {}", results.environment.date(), results.environment.describe()),
    ];
    lines.extend(Some(plan.conditions()).filter(|conditions| !conditions.is_empty()));
    lines.extend(warnings(results));
    lines
}

/// Why the whole run should be repeated.
pub(super) fn warnings(results: &Results) -> Vec<String> {
    let interrupted = results.interrupted.iter();
    let interrupted = interrupted.map(|how_far| format!("Incomplete, interrupted: {how_far}"));
    interrupted.chain(busy(results)).collect()
}

/// One row for each number of each measurement.
fn all_numbers(results: &Results) -> Vec<Vec<String>> {
    let title = [
        "wire",
        "workload",
        "path",
        "number",
        "unit",
        "rounds",
        "median",
        "low",
        "high",
        "ratio",
        "ratio_low",
        "ratio_high",
    ];
    let seed = results.plan.seed;
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    for cell in &results.cells {
        let baseline = results.cell(&cell.wire, &results.plan.baseline, &cell.workload);
        for key in cell.keys() {
            let Some(own) = cell.estimate(key, seed) else { continue };
            let unit = metric::by_key(key).map_or("packets", |metric| metric.unit);
            let mut row =
                [&cell.wire, &cell.workload, &cell.path, key, unit].map(str::to_owned).to_vec();
            row.push(own.count.to_string());
            row.extend([own.median, own.low, own.high].map(|value| value.to_string()));
            let ratio = baseline.and_then(|baseline| cell.ratio(baseline, key, seed));
            let ends = ratio.map(|ratio| [ratio.median, ratio.low, ratio.high]);
            row.extend(
                ends.map_or([const { String::new() }; 3], |ends| ends.map(|end| end.to_string())),
            );
            rows.push(row);
        }
    }
    rows
}

/// The spread of medians over so many rounds, in words.
pub(super) fn spreads(rounds: u32) -> &'static str {
    if spread_name(rounds as usize) == "range" {
        "the range of the rounds, which are too few for an interval"
    } else {
        "95 % bootstrap intervals"
    }
}

/// Title row and one row for each path; columns that no path has are left out.
pub(super) fn rows(results: &Results, cells: &[&Cell]) -> Vec<Vec<String>> {
    let seed = results.plan.seed;
    let headline = cells.first().map_or("goodput", |cell| cell.headline.as_str());
    let columns: Vec<_> = columns(headline)
        .iter()
        .filter(|(_, key)| cells.iter().any(|cell| is_worth_a_column(cell, key)))
        .collect();
    let against = format!("against {}", results.plan.baseline);
    let spread = spread_name(results.plan.rounds as usize);
    let mut title = vec!["path", "median", spread, &against];
    title.extend(columns.iter().map(|(title, _)| *title));
    let mut rows = vec![title.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for cell in cells {
        let mut row = vec![cell.path.clone()];
        match cell.estimate(headline, seed) {
            Some(estimate) => {
                row.push(format(estimate.median));
                row.push(between(&estimate, spread, format));
            }
            None => row.extend(["failed".to_owned(), String::new()]),
        }
        let baseline = cells.iter().find(|other| other.path == results.plan.baseline);
        let ratio = baseline.and_then(|baseline| cell.ratio(baseline, headline, seed));
        row.push(ratio.map_or(String::new(), |ratio| match ratio.count {
            1 => format!("{:.2}×", ratio.median),
            _ => format!("{:.2}× ± {:.0} %", ratio.median, ratio.spread() * 100.0),
        }));
        for (_, key) in &columns {
            let estimate = cell.estimate(key, seed);
            row.push(estimate.map_or(String::new(), |estimate| written(key, estimate.median)));
        }
        rows.push(row);
    }
    rows
}

/// Low and high for a column with this title; named if they are another kind of spread.
pub(crate) fn between(estimate: &Estimate, title: &str, write: impl Fn(f64) -> String) -> String {
    let ends = format!("{} … {}", write(estimate.low), write(estimate.high));
    match estimate.spread_name() {
        _ if estimate.count == 1 => "one round".to_owned(),
        same if same == title => ends,
        other => format!("{ends} ({other})"),
    }
}

/// Leaves out numbers that no path has, and places where nothing was dropped.
fn is_worth_a_column(cell: &Cell, key: &str) -> bool {
    let values = cell.values(key);
    if key.starts_with("drops_") {
        return values.iter().any(|drops| *drops > 0.0);
    }
    !values.is_empty()
}

/// Shares as percent, the rest as it is.
pub(super) fn written(key: &str, value: f64) -> String {
    match metric::by_key(key) {
        Some(metric) if metric.unit == "share" => format!("{} %", format(value * 100.0)),
        _ => format(value),
    }
}

/// Warnings about noise, remarks of the runs, and failures, by path.
pub(super) fn remarks(results: &Results, cells: &[&Cell]) -> Vec<(String, String)> {
    let mut remarks = Vec::new();
    for cell in cells {
        let mut add = |note: String| remarks.push((cell.path.clone(), note));
        let estimate = cell.estimate(&cell.headline, results.plan.seed);
        if let Some(doubt) = estimate.and_then(|estimate| estimate.doubt()) {
            add(doubt);
        }
        for (note, rounds) in cell.notes() {
            add(format!("{note} (in {rounds} of {} rounds)", results.plan.rounds));
        }
        for failure in &cell.failures {
            add(failure.clone());
        }
    }
    remarks
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}").trim_end().to_owned() + "\n").collect()
}
