use crate::metric::{self, format};
use crate::results::{Cell, Results};
use crate::stats::{Estimate, spread_name};
use std::fmt::Write as _;

/// What stands beside the headline, by headline: column title and key.
pub(super) fn columns(headline: &str) -> &'static [(&'static str, &'static str)] {
    match headline {
        "goodput" => &[
            ("gateway s/GiB", "gateway_cpu_per_gib"),
            ("machine s/GiB", "machine_cpu_per_gib"),
            ("again", "retransmitted"),
            ("switches/pkt", "switches_per_packet"),
            ("calls/pkt", "calls_per_packet"),
            ("TUN drops", "drops_tun"),
            ("socket drops", "drops_socket"),
            ("gateway drops", "drops_gateway"),
            ("other drops", "drops_device"),
        ],
        "delivered" | "loss_free" => &[
            ("offered", "offered"),
            ("loss", "loss"),
            ("reordered", "reordered"),
            ("dup", "duplicates"),
            ("1-way p50 µs", "one_way_p50"),
            ("1-way p99", "one_way_p99"),
            ("gateway s/Mpkt", "gateway_cpu_per_mpkt"),
            ("machine s/Mpkt", "machine_cpu_per_mpkt"),
            ("calls/pkt", "calls_per_packet"),
            ("TUN drops", "drops_tun"),
            ("socket drops", "drops_socket"),
            ("gateway drops", "drops_gateway"),
            ("backlog drops", "drops_backlog"),
        ],
        "transactions" => &[("p50 µs", "rtt_p50"), ("p99", "rtt_p99"), ("p99.9", "rtt_p999")],
        _ => &[
            ("p99", "rtt_p99"),
            ("p99.9", "rtt_p999"),
            ("p99.99", "rtt_p9999"),
            ("max", "rtt_max"),
            ("1-way p50", "one_way_p50"),
            ("1-way p99", "one_way_p99"),
            ("loss", "loss"),
            ("beside Gbit/s", "goodput"),
        ],
    }
}

/// All measurements, one table for each wire and workload.
#[must_use]
pub fn tables(results: &Results) -> String {
    let mut text = String::new();
    for (wire, workload) in results.groups() {
        let cells: Vec<_> = results.group(wire, workload).collect();
        let Some(first) = cells.first() else { continue };
        let unit = metric::by_key(&first.headline).map_or("", |metric| metric.unit);
        let name = metric::name(&first.headline);
        let _ = writeln!(text, "\n{workload}, {wire} wire: {name}, {unit}");
        text.push_str(&table(results, &cells));
        text.push_str(&summary(results, wire, workload));
        for (path, note) in remarks(results, &cells) {
            let _ = writeln!(text, "  note: {path}: {note}");
        }
    }
    for missing in &results.unavailable {
        let reason = missing.reason.replace('\n', "\n    ");
        let _ =
            writeln!(text, "\n{} is missing on the {} wire: {reason}", missing.path, missing.wire);
    }
    let plan = &results.plan;
    let _ = writeln!(
        text,
        "\n{} rounds of {} s, one more thrown away, paths in turn; medians with {}; ratios within \
         rounds; seed {}\n{}",
        plan.rounds,
        plan.measure_ms as f64 * 1e-3,
        spreads(plan.rounds),
        plan.seed,
        results.environment.describe()
    );
    let conditions = plan.conditions();
    if !conditions.is_empty() {
        let _ = writeln!(text, "{conditions}");
    }
    text
}

/// What medians stand with, in a sentence.
pub(super) fn spreads(rounds: u32) -> &'static str {
    if spread_name(rounds as usize) == "range" {
        "the range of the rounds, which are too few for an interval"
    } else {
        "95 % bootstrap intervals"
    }
}

fn table(results: &Results, cells: &[&Cell]) -> String {
    indent(&grid(&rows(results, cells)))
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

/// Low and high as they stand below `title`, named if they are something else.
pub(crate) fn between(estimate: &Estimate, title: &str, write: impl Fn(f64) -> String) -> String {
    let ends = format!("{} … {}", write(estimate.low), write(estimate.high));
    match estimate.spread_name() {
        _ if estimate.count == 1 => "one round".to_owned(),
        same if same == title => ends,
        other => format!("{ends} ({other})"),
    }
}

/// Numbers that nobody has, and drops that nowhere happened, are no column.
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

/// One sentence in hyperfine's manner.
fn summary(results: &Results, wire: &str, workload: &str) -> String {
    let Some(baseline) = results.cell(wire, &results.plan.baseline, workload) else {
        return String::new();
    };
    let ours = results.group(wire, workload).find(|cell| cell.is_twill());
    let Some(ours) = ours.filter(|ours| ours.path != baseline.path) else { return String::new() };
    let Some(ratio) = ours.ratio(baseline, &ours.headline, results.plan.seed) else {
        return String::new();
    };
    if ratio.count < 2 {
        return String::new();
    }
    let (name, baseline) = (metric::name(&ours.headline), &baseline.path);
    let interval = between(&ratio, "95 % interval", |value| format!("{value:.2}"));
    if ratio.low <= 1.0 && 1.0 <= ratio.high {
        format!(
            "  {}: {name} as {baseline}'s, as far as this run can say ({interval})\n",
            ours.path
        )
    } else {
        format!("  {}: {name} {:.2} times {baseline}'s ({interval})\n", ours.path, ratio.median)
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

/// Columns of equal width, the first to the left and the others to the right.
#[must_use]
pub fn grid(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if column == 0 {
                let _ = write!(line, "{cell:<width$}");
            } else {
                let _ = write!(line, "  {cell:>width$}");
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_by_characters_and_not_by_bytes() {
        let rows = [vec!["a", "1 … 2", "x"], vec!["long", "10", "µs"]]
            .map(|row| row.into_iter().map(str::to_owned).collect());

        assert_eq!(grid(&rows), "a     1 … 2   x\nlong     10  µs\n");
    }
}
