//! `twill-perf demo`: two hosts, a pod on each, real traffic between them, one table.

use super::Failure;
use super::progress::Progress;
use crate::books::Books;
use crate::metric::format;
use crate::path::{Path, PathSpec, Setting};
use crate::sample::Sample;
use crate::workload::{Window, Workload};
use std::time::Duration;

/// What is run, for how long, and what it is called.
const STEPS: [(&str, u64, &str); 5] = [
    ("tcp-1", 4, "bulk TCP, one stream"),
    ("tcp-4", 4, "bulk TCP, four streams"),
    ("udp-64", 4, "small UDP packets, as fast as they go"),
    ("latency", 5, "round trips on the idle path"),
    ("latency+tcp", 5, "round trips beside a saturating stream"),
];

pub(super) fn run(spec: &PathSpec, setting: &Setting) -> Result<(), Failure> {
    let seconds: u64 = STEPS.iter().map(|(_, seconds, _)| seconds + 1).sum();
    let mut progress = Progress::new(STEPS.len() + 1, Duration::from_secs(seconds + 2));
    let building = "two hosts, a bridge and a pod on each, a gateway between them";
    let path = progress.step(building, Duration::from_secs(2), || Path::build(spec, setting))?;

    let mut samples = Vec::new();
    for (name, seconds, label) in STEPS {
        let workload: Workload = name.parse().expect("the demo's workloads exist");
        let window = Window::of(Duration::from_secs(seconds));
        let mut meter = path.meter();
        let expected = Duration::from_secs(seconds + 1);
        let run = || workload.run(path.course(), &window, &mut meter);
        let mut sample = progress.step(label, expected, run)?;
        meter.describe(&mut sample);
        samples.push(sample);
    }
    let ping = path.ping(10)?;
    let books: Vec<_> = path.statuses()?.iter().map(Books::read).collect();
    progress.finish();

    print!("{}", table(&path, setting, &samples, &ping));
    for (host, books) in path.hosts().iter().zip(&books) {
        print!("{}", books.describe(host.label()));
    }
    path.close()?;
    let unbalanced = books.iter().any(|books| !books.balance());
    if unbalanced {
        return Err(Failure::Regression("packets in = packets out + drops does not hold".into()));
    }
    Ok(())
}

fn table(path: &Path, setting: &Setting, samples: &[Sample], ping: &str) -> String {
    let mut rows = Vec::new();
    if let Some(summary) = ping.lines().find(|line| line.contains("packet loss")) {
        rows.push(("ping".to_owned(), summary.to_owned()));
    }
    for ((_, _, label), sample) in STEPS.iter().zip(samples) {
        rows.push(((*label).to_owned(), describe(sample)));
    }
    let width = rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    let mut text = format!(
        "\npod {} → bridge → {} → UDP → bridge → pod {}   ({} wire, MTU {})\n\n",
        path.course().from.address(),
        path.name(),
        path.course().to.address(),
        setting.underlay.wire,
        setting.underlay.mtu,
    );
    for (label, numbers) in rows {
        text.push_str(&format!("  {label:width$}  {numbers}\n"));
    }
    text.push('\n');
    text
}

/// One line of numbers, whatever the workload.
fn describe(sample: &Sample) -> String {
    let number = |key: &str| sample.get(key).map(format);
    let mut parts = Vec::new();
    if sample.get("rtt_p50").is_some() {
        let percentiles = [("p50", "rtt_p50"), ("p99", "rtt_p99"), ("max", "rtt_max")];
        for (label, key) in percentiles {
            parts.extend(number(key).map(|value| format!("{label} {value} µs")));
        }
        parts.extend(number("goodput").map(|value| format!("beside {value} Gbit/s")));
    } else if let Some(delivered) = number("delivered") {
        parts.push(format!("{delivered} kpps delivered"));
        parts.extend(number("offered").map(|value| format!("{value} offered")));
        parts.extend(sample.get("loss").map(|loss| format!("{:.1} % lost", loss * 100.0)));
        let reordered =
            sample.get("reordered").map(|share| format!("{:.1} % reordered", share * 100.0));
        parts.extend(reordered);
        parts.extend(number("duplicates").map(|value| format!("{value} duplicates")));
    } else {
        parts.extend(number("goodput").map(|value| format!("{value} Gbit/s")));
    }
    let cost = if sample.get("delivered").is_some() {
        number("gateway_cpu_per_mpkt").map(|value| format!("gateways {value} CPU s/Mpkt"))
    } else {
        number("gateway_cpu_per_gib").map(|value| format!("gateways {value} CPU s/GiB"))
    };
    parts.extend(cost);
    parts.join(", ")
}
