//! `twill-perf demo`: two hosts with a pod each, traffic between them, one table.

use super::Failure;
use super::output::print;
use super::progress::Progress;
use crate::books::Books;
use crate::metric::format;
use crate::path::{Path, PathSpec, Setting};
use crate::sample::Sample;
use crate::workload::{Window, Workload};
use std::time::Duration;

/// The workloads: name, seconds, and label in the table.
const STEPS: [(&str, u64, &str); 5] = [
    ("tcp-1", 4, "TCP, one stream"),
    ("tcp-4", 4, "TCP, four streams"),
    ("udp-64", 4, "UDP, 64 bytes, as fast as possible"),
    ("latency", 5, "round trips on an idle path"),
    ("latency+tcp", 5, "round trips during one TCP stream"),
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
        let expected = Duration::from_secs(seconds + 1);
        samples.push(progress.step(label, expected, || path.run(&workload, &window, false))?);
    }
    let ping = path.ping(10)?;
    let books: Vec<_> = path.statuses()?.iter().map(Books::read).collect();
    progress.finish();

    let mut text = table(&path, setting, &samples, &ping);
    for (host, books) in path.hosts().iter().zip(&books) {
        text.push_str(&books.describe(host.label()));
    }
    print(&text)?;
    path.close()?;
    let unbalanced = books.iter().any(|books| !books.balance());
    if unbalanced {
        return Err(Failure::Regression(
            "a gateway lost count: packets in differ from packets out + drops".into(),
        ));
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
        rows.extend(losses(sample).map(|losses| ("  lost where".to_owned(), losses)));
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

/// Where a run lost its packets; nothing if it lost none.
fn losses(sample: &Sample) -> Option<String> {
    const PLACES: [(&str, &str); 6] = [
        ("TUN queue", "drops_tun"),
        ("socket", "drops_socket"),
        ("gateway", "drops_gateway"),
        ("receiver", "drops_sink"),
        ("other device", "drops_device"),
        ("CPU backlog", "drops_backlog"),
    ];
    let lost = sample.get("lost").filter(|lost| *lost > 0.0)?;
    let mut places = PLACES.map(|(place, key)| (place, sample.get(key).unwrap_or(0.0))).to_vec();
    let found: f64 = places.iter().map(|(_, drops)| drops).sum();
    places.push(("not found", (lost - found).max(0.0)));
    // The usual places are named even where nothing was lost.
    let mut places: Vec<_> = places.into_iter().enumerate().collect();
    places.retain(|(index, (_, drops))| *index < 4 || *drops > 0.0);
    let places: Vec<_> =
        places.iter().map(|(_, (place, drops))| format!("{place} {drops}")).collect();
    Some(format!("{lost} packets: {}", places.join(", ")))
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
        parts.extend(number("goodput").map(|value| format!("with {value} Gbit/s of TCP")));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_packets_stand_where_they_were_lost_and_the_rest_was_not_found() {
        let mut sample = Sample::default();
        sample.set("lost", 0.0);
        assert_eq!(losses(&sample), None);

        sample.set("lost", 100.0);
        sample.set("drops_tun", 80.0);
        sample.set("drops_backlog", 5.0);

        assert_eq!(
            losses(&sample).as_deref(),
            Some(
                "100 packets: TUN queue 80, socket 0, gateway 0, receiver 0, CPU backlog 5, not \
                 found 15"
            )
        );
    }
}
