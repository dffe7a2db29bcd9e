//! One self-contained page: no script, no font, nothing fetched.

use super::plots;
use super::svg::escape;
use super::table::{remarks, rows, spreads, warnings};
use super::verdict::verdicts;
use crate::metric;
use crate::results::{Cell, Results};
use std::fmt::Write as _;

const STYLE: &str = include_str!("page.css");

/// The report of one run of the harness.
pub(crate) fn html(results: &Results) -> String {
    let mut body = String::new();
    header(results, &mut body);
    let bars = format!(
        "Medians over the rounds. The line on each bar shows {}.",
        spreads(results.plan.rounds)
    );
    section(&mut body, "Throughput", &bars, |body| {
        for_each(
            results,
            &["goodput", "delivered", "loss_free", "transactions"],
            |group, cells| {
                card(body, group, &unit(cells), plots::bars(results, cells, &cells[0].headline));
            },
        );
    });
    section(&mut body, "Latency", INTRO_LATENCY, |body| {
        for_each(results, &["rtt_p50"], |group, cells| {
            card(body, group, "round trip", plots::percentiles(results, cells, "rtt"));
        });
    });
    section(&mut body, "What it costs", INTRO_COST, |body| {
        for (headline, key) in [
            ("goodput", "gateway_cpu_per_gib"),
            ("goodput", "machine_cpu_per_gib"),
            ("delivered", "machine_cpu_per_mpkt"),
            ("goodput", "calls_per_packet"),
            ("delivered", "loss"),
        ] {
            for_each(results, &[headline], |group, cells| {
                let label = metric::by_key(key).map_or(String::new(), |metric| {
                    format!("{}, {}", metric.name, metric.unit.replace("share", "%"))
                });
                card(body, group, &label, plots::bars(results, cells, key));
            });
        }
    });
    section(&mut body, "Over time", INTRO_SERIES, |body| {
        for_each(results, &["goodput", "delivered", "transactions"], |group, cells| {
            card(body, group, &unit(cells), plots::series(results, cells));
        });
    });
    numbers(results, &mut body);
    environment(results, &mut body);
    let title = escape(&results.environment.date());
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <link rel=\"icon\" href=\"data:,\">\
         <title>Network paths compared, {title}</title><style>{STYLE}</style></head>\
         <body><main>{body}</main></body></html>\n"
    )
}

const INTRO_LATENCY: &str = "Round trips by percentile. Probes leave at fixed times and are timed \
     from the moment they were due, so a stall delays every probe that it held up.";
const INTRO_COST: &str = "Gateway CPU is the CPU time of the gateway processes on both hosts. \
     Paths in the kernel have no such process: compare them by machine CPU, which includes \
     sender and receiver.";
const INTRO_SERIES: &str = "Medians over the rounds in steps of 0.1 s.";

/// Date, machine, warnings and verdicts: what a reader wants first.
fn header(results: &Results, body: &mut String) {
    let environment = &results.environment;
    let _ = write!(
        body,
        "<header><h1>Network paths compared</h1><p class=\"when\">{}<br>{}</p>",
        escape(&environment.date()),
        escape(&environment.describe())
    );
    for warning in warnings(results) {
        let _ = write!(body, "<p class=\"banner\">{}.</p>", escape(&warning));
    }
    conclusions(results, body);
    let plan = &results.plan;
    let _ = write!(
        body,
        "<p>{} rounds of {} s for each path and workload, the paths in random order. A ratio \
         divides by the number of <b>{}</b> in the same round.{}</p></header>",
        plan.rounds,
        plan.measure_ms as f64 * 1e-3,
        escape(&plan.baseline),
        match plan.conditions() {
            none if none.is_empty() => none,
            conditions => format!(" Conditions: {}.", escape(&conditions)),
        }
    );
    missing(results, body);
}

/// The verdict of each wire and workload, one sentence each.
fn conclusions(results: &Results, body: &mut String) {
    let mut rows = String::new();
    for (wire, workload) in results.groups() {
        for verdict in verdicts(results, wire, workload) {
            let (group, verdict) = (format!("{workload}, {wire} wire"), escape(&verdict));
            let _ = write!(rows, "<li><b>{}:</b> {verdict}</li>", escape(&group));
        }
    }
    if !rows.is_empty() {
        let _ = write!(body, "<ul class=\"verdicts\">{rows}</ul>");
    }
}

fn missing(results: &Results, body: &mut String) {
    if results.unavailable.is_empty() {
        return;
    }
    body.push_str("<aside><h2>Not measured</h2><ul>");
    for missing in &results.unavailable {
        let _ = write!(
            body,
            "<li><b>{}</b>, {} wire: <code>{}</code></li>",
            escape(&missing.path),
            escape(&missing.wire),
            escape(&missing.reason)
        );
    }
    body.push_str("</ul></aside>");
}

/// A section, unless it is empty.
fn section(body: &mut String, title: &str, intro: &str, fill: impl FnOnce(&mut String)) {
    let mut content = String::new();
    fill(&mut content);
    if !content.is_empty() {
        let _ = write!(
            body,
            "<section><h2>{title}</h2><p>{intro}</p><div class=\"cards\">{content}</div></section>"
        );
    }
}

fn for_each(results: &Results, headlines: &[&str], mut show: impl FnMut(&str, &[&Cell])) {
    for (wire, workload) in results.groups() {
        let cells: Vec<_> = results
            .group(wire, workload)
            .filter(|cell| headlines.contains(&cell.headline.as_str()))
            .collect();
        if !cells.is_empty() {
            show(&format!("{workload}, {wire} wire"), &cells);
        }
    }
}

fn card(body: &mut String, group: &str, label: &str, plot: Option<String>) {
    if let Some(plot) = plot {
        let (group, label) = (escape(group), escape(label));
        let _ = write!(
            body,
            "<figure><figcaption>{group}<small>{label}</small></figcaption>{plot}</figure>"
        );
    }
}

fn unit(cells: &[&Cell]) -> String {
    let metric = cells.first().and_then(|cell| metric::by_key(&cell.headline));
    metric.map_or(String::new(), |metric| format!("{}, {}", metric.name, metric.unit))
}

fn numbers(results: &Results, body: &mut String) {
    body.push_str("<section><h2>Numbers</h2>");
    for (wire, workload) in results.groups() {
        let cells: Vec<_> = results.group(wire, workload).collect();
        let _ = write!(
            body,
            "<h3>{}, {} wire<small>{}</small></h3><table>",
            escape(workload),
            escape(wire),
            escape(&unit(&cells))
        );
        table(&rows(results, &cells), body);
        body.push_str("</table>");
        let remarks = remarks(results, &cells);
        if !remarks.is_empty() {
            body.push_str("<ul class=\"notes\">");
            for (path, note) in remarks {
                let _ = write!(body, "<li><b>{}</b>: {}</li>", escape(&path), escape(&note));
            }
            body.push_str("</ul>");
        }
    }
    body.push_str("</section>");
}

/// On a narrow screen each row becomes a list, hence the title beside each cell.
fn table(rows: &[Vec<String>], body: &mut String) {
    let Some((title, rows)) = rows.split_first() else { return };
    let titles: String = title.iter().map(|cell| format!("<th>{}</th>", escape(cell))).collect();
    let _ = write!(body, "<thead><tr>{titles}</tr></thead><tbody>");
    for row in rows {
        body.push_str("<tr>");
        for (title, cell) in title.iter().zip(row) {
            let (title, cell) = (escape(title), escape(cell));
            let _ = write!(body, "<td data-title=\"{title}\">{cell}</td>");
        }
        body.push_str("</tr>");
    }
    body.push_str("</tbody>");
}

fn environment(results: &Results, body: &mut String) {
    let environment = &results.environment;
    let mut rows = vec![
        ("command", environment.command.join(" ")),
        ("seed", results.plan.seed.to_string()),
        ("kernel", environment.kernel.clone()),
        ("CPU", format!("{} × {}", environment.cpus, environment.cpu)),
        ("load average before", format!("{:.2}", environment.load)),
        ("harness", environment.harness.clone()),
    ];
    let optional = [
        ("twill", &environment.twill),
        ("commit", &environment.commit),
        ("governor", &environment.governor),
    ];
    rows.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
    rows.extend(environment.tools.iter().map(|(name, value)| (name.as_str(), value.clone())));
    rows.extend(environment.sysctls.iter().map(|(name, value)| (name.as_str(), value.clone())));
    let offloads: Vec<_> = environment
        .offloads
        .iter()
        .map(|(wire, on)| (format!("offloads, {wire} wire"), on.join(", ")))
        .collect();
    rows.extend(offloads.iter().map(|(name, value)| (name.as_str(), value.clone())));
    rows.extend(environment.mitigations.iter().map(|(name, value)| (name.as_str(), value.clone())));
    body.push_str("<section><h2>How it was measured</h2><dl>");
    for (name, value) in rows {
        let _ = write!(body, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(&value));
    }
    body.push_str("</dl></section>");
}
