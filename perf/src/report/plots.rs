//! The plots of the report.

use super::svg::{Anchor, Svg, log_ticks, ticks};
use super::table::written;
use crate::metric;
use crate::results::{Cell, Results};
use hdrhistogram::Histogram;

/// Width of every plot: that of a phone, so that text stays legible there.
const WIDTH: f64 = 400.0;
/// Colours that the style sheet has.
const COLOURS: usize = 10;

/// The class that colours a path, the same in every plot.
fn colour(results: &Results, path: &str) -> String {
    let index = results.plan.paths.iter().position(|name| name == path).unwrap_or(0);
    format!("c{}", index % COLOURS)
}

/// One bar for each path, with its interval.
pub(super) fn bars(results: &Results, cells: &[&Cell], key: &str) -> Option<String> {
    const ROW: f64 = 38.0;
    let estimates: Vec<_> = cells
        .iter()
        .filter_map(|cell| Some((*cell, cell.estimate(key, results.plan.seed)?)))
        .collect();
    let most = estimates.iter().map(|(_, estimate)| estimate.high).fold(0.0, f64::max);
    if most <= 0.0 {
        return None;
    }
    let right = WIDTH - 62.0;
    let x = |value: f64| value / most * right;
    let bottom = estimates.len() as f64 * ROW + 6.0;
    let mut svg = Svg::new(WIDTH, bottom + 20.0);
    for tick in ticks(most) {
        svg.line("grid", (x(tick), 4.0), (x(tick), bottom));
        let anchor = if tick == 0.0 { Anchor::Start } else { Anchor::Middle };
        svg.text("tick", (x(tick), bottom + 14.0), anchor, &tick_label(key, tick));
    }
    for (row, (cell, estimate)) in estimates.iter().enumerate() {
        let top = row as f64 * ROW + 4.0;
        let middle = top + 24.0;
        let value = written(key, estimate.median);
        let title = format!(
            "{}: {value} ({} … {})",
            cell.path,
            written(key, estimate.low),
            written(key, estimate.high)
        );
        svg.text("name", (0.0, top + 12.0), Anchor::Start, &cell.path);
        let class = format!("bar {}", colour(results, &cell.path));
        svg.rect(&class, (0.0, top + 17.0), (x(estimate.median).max(1.0), 14.0), &title);
        if estimate.count > 1 {
            let (low, high) = (x(estimate.low), x(estimate.high));
            svg.line("whisker", (low, middle), (high, middle));
            svg.line("whisker", (low, middle - 4.0), (low, middle + 4.0));
            svg.line("whisker", (high, middle - 4.0), (high, middle + 4.0));
        }
        let after = x(estimate.high.max(estimate.median)) + 6.0;
        svg.text("value", (after, middle + 4.0), Anchor::Start, &value);
    }
    Some(svg.finish(&format!("{} by path", metric::name(key))))
}

/// Percentile curves on an axis of nines: 90 %, 99 %, 99.9 % … have equal distances.
pub(super) fn percentiles(results: &Results, cells: &[&Cell], times: &str) -> Option<String> {
    const HEIGHT: f64 = 250.0;
    const LEFT: f64 = 44.0;
    let histograms: Vec<_> =
        cells.iter().filter_map(|cell| Some((*cell, cell.times(times)?))).collect();
    let longest = histograms.iter().map(|(_, times)| times.len()).max()?;
    // A percentile with fewer than ten values beyond it says nothing.
    let nines = (longest as f64 / 10.0).log10().clamp(1.0, 5.0);
    let curves: Vec<_> =
        histograms.iter().map(|(cell, times)| (*cell, curve(times, nines))).collect();
    let all = || curves.iter().flat_map(|(_, points)| points.iter().map(|(_, us)| *us));
    let least = all().fold(f64::MAX, f64::min) / 1.2;
    let most = all().fold(0.0, f64::max) * 1.2;
    let bottom = HEIGHT - 24.0;
    let x = |nine: f64| LEFT + nine / nines * (WIDTH - LEFT - 10.0);
    let y = |us: f64| bottom - (us / least).ln() / (most / least).ln() * (bottom - 8.0);

    let mut svg = Svg::new(WIDTH, HEIGHT);
    for tick in log_ticks(least, most) {
        svg.line("grid", (LEFT, y(tick)), (WIDTH - 10.0, y(tick)));
        svg.text("tick", (LEFT - 5.0, y(tick) + 4.0), Anchor::End, &duration(tick));
    }
    for (nine, name) in ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"].iter().enumerate()
    {
        if nine as f64 <= nines {
            let at = x(nine as f64);
            svg.line("grid", (at, 8.0), (at, bottom));
            // The name of the last line would reach beyond the picture.
            let (at, anchor) = match at > WIDTH - 26.0 {
                true => (WIDTH, Anchor::End),
                false => (at, Anchor::Middle),
            };
            svg.text("tick", (at, bottom + 16.0), anchor, name);
        }
    }
    for (cell, points) in &curves {
        let points: Vec<_> = points.iter().map(|(nine, us)| (x(*nine), y(*us))).collect();
        svg.curve(&format!("curve {}", colour(results, &cell.path)), &points, &cell.path);
    }
    let names: Vec<_> = curves.iter().map(|(cell, _)| cell.path.as_str()).collect();
    Some(svg.finish("time by percentile") + &legend(results, &names))
}

/// Nines and microseconds of a histogram's quantiles.
fn curve(times: &Histogram<u64>, nines: f64) -> Vec<(f64, f64)> {
    const STEPS: u32 = 120;
    let own = (times.len() as f64 / 10.0).log10().max(0.5).min(nines);
    (0..=STEPS)
        .map(|step| {
            let nine = f64::from(step) / f64::from(STEPS) * own;
            let quantile = 1.0 - 10f64.powf(-nine);
            (nine, (times.value_at_quantile(quantile) as f64 * 1e-3).max(0.1))
        })
        .collect()
}

/// A number over the measured time: the median over the rounds in each step.
pub(super) fn series(results: &Results, cells: &[&Cell]) -> Option<String> {
    const HEIGHT: f64 = 200.0;
    const LEFT: f64 = 40.0;
    let lines: Vec<_> = cells.iter().filter_map(|cell| Some((*cell, over_time(cell)?))).collect();
    let most = lines.iter().flat_map(|(_, line)| line.iter().map(|(_, y)| *y)).fold(0.0, f64::max);
    let end = lines.iter().flat_map(|(_, line)| line.iter().map(|(x, _)| *x)).fold(0.0, f64::max);
    if most <= 0.0 || end <= 0.0 {
        return None;
    }
    let bottom = HEIGHT - 24.0;
    let x = |seconds: f64| LEFT + seconds / end * (WIDTH - LEFT - 10.0);
    let y = |value: f64| bottom - value / most * (bottom - 10.0);
    let mut svg = Svg::new(WIDTH, HEIGHT);
    for tick in ticks(most) {
        svg.line("grid", (LEFT, y(tick)), (WIDTH - 10.0, y(tick)));
        svg.text("tick", (LEFT - 5.0, y(tick) + 4.0), Anchor::End, &short(tick));
    }
    for tick in ticks(end) {
        svg.text("tick", (x(tick), bottom + 16.0), Anchor::Middle, &format!("{} s", short(tick)));
    }
    for (cell, line) in &lines {
        let points: Vec<_> = line.iter().map(|(at, value)| (x(*at), y(*value))).collect();
        svg.curve(&format!("curve {}", colour(results, &cell.path)), &points, &cell.path);
    }
    let names: Vec<_> = lines.iter().map(|(cell, _)| cell.path.as_str()).collect();
    Some(svg.finish("over time") + &legend(results, &names))
}

fn over_time(cell: &Cell) -> Option<Vec<(f64, f64)>> {
    let rounds: Vec<_> =
        cell.rounds.iter().flatten().filter_map(|sample| sample.series.as_ref()).collect();
    let step = rounds.first()?.step;
    let length = rounds.iter().map(|series| series.values.len()).min()?;
    (length > 1).then(|| {
        (0..length)
            .map(|index| {
                let mut values: Vec<_> = rounds.iter().map(|series| series.values[index]).collect();
                let value = crate::stats::median(&mut values).unwrap_or(0.0);
                ((index + 1) as f64 * step, value)
            })
            .collect()
    })
}

fn legend(results: &Results, paths: &[&str]) -> String {
    let entry = |path: &&str| {
        let (class, path) = (colour(results, path), super::svg::escape(path));
        format!("<li><i class=\"{class}\"></i>{path}</li>")
    };
    let entries: String = paths.iter().map(entry).collect();
    format!("<ul class=\"legend\">{entries}</ul>")
}

/// A bar's tick: shares as percent.
fn tick_label(key: &str, tick: f64) -> String {
    match metric::by_key(key) {
        Some(metric) if metric.unit == "share" => format!("{} %", short(tick * 100.0)),
        _ => short(tick),
    }
}

/// Microseconds in the unit that fits.
fn duration(us: f64) -> String {
    if us >= 1e6 {
        format!("{} s", short(us * 1e-6))
    } else if us >= 1e3 {
        format!("{} ms", short(us * 1e-3))
    } else {
        format!("{} µs", short(us))
    }
}

/// The number of a tick without trailing zeros.
fn short(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::SCHEMA;
    use crate::sample::Sample;

    #[test]
    fn the_last_percentile_of_an_axis_is_legible_to_its_end() {
        for count in [1_000, 10_000, 123_456] {
            let mut sample = Sample::new(1.0);
            let times = (1..=count).map(|ns| (ns, 1)).collect();
            sample.times.insert("rtt".to_owned(), times);
            let cell = Cell {
                wire: "mtu".to_owned(),
                path: "twill".to_owned(),
                workload: "latency".to_owned(),
                headline: "rtt_p50".to_owned(),
                discarded: None,
                rounds: vec![Some(sample)],
                failures: Vec::new(),
            };

            let plot = percentiles(&results(), &[&cell], "rtt").unwrap();

            let ticks: Vec<_> = plot.split("<text class=\"tick\"").skip(1).collect();
            assert!(ticks.iter().any(|text| text.contains("99 %")), "{plot}");
            assert!(ticks.iter().all(|text| is_inside(text)), "{plot}");
        }
    }

    /// Whether a text of the axis, in letters of about 6, ends within the picture.
    fn is_inside(text: &str) -> bool {
        let attribute = |name: &str| text.split(name).nth(1).unwrap().split('"').next().unwrap();
        let name = text.split(['>', '<']).nth(1).unwrap();
        let beyond = match attribute("text-anchor=\"") {
            "start" => 1.0,
            "middle" => 0.5,
            _ => 0.0,
        };
        let x: f64 = attribute(" x=\"").parse().unwrap();
        x + beyond * 6.0 * name.chars().count() as f64 <= WIDTH
    }

    fn results() -> Results {
        Results {
            schema: SCHEMA,
            interrupted: None,
            units: Default::default(),
            environment: Default::default(),
            plan: Default::default(),
            unavailable: Vec::new(),
            cells: Vec::new(),
        }
    }
}
