//! The alerts of `dist/alerts.yml`, checked by Prometheus's own tool and against a running gateway.

use crate::{PROBED, with};
use std::collections::BTreeSet;
use std::process::Command;
use twill_testbed::pair::Pair;

const ALERTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/alerts.yml");
const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/telemetry/alerts.yml");

#[test]
fn promtool_accepts_the_alerts_and_their_tests_pass() {
    for (command, file) in [("check", ALERTS), ("test", TESTS)] {
        let output = Command::new("promtool")
            .args([command, "rules", file])
            .output()
            .expect("promtool, of Debian's package prometheus");

        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn every_alert_is_tested() {
    let (alerts, tests) = (read(ALERTS), read(TESTS));
    let names: Vec<_> =
        alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();

    assert_eq!(names.len(), 12);
    for name in names {
        let fires = tests.contains(&format!("alertname=\"{name}\""))
            || tests.contains(&format!("alertname: {name}\n"));
        assert!(fires, "no test expects {name}");
    }
}

#[test]
fn a_running_gateway_has_each_metric_that_an_alert_asks_for() {
    let Some(pair) = Pair::start("alerts", &with(PROBED)) else { return };
    pair.assert_connected();
    let page = pair.page(0, "/metrics");
    let alerts = read(ALERTS);
    // Those of leases come from nodes with etcd and from nodes of a cluster.
    let elsewhere = ["twill_etcd_", "twill_lease_", "twill_kube_"];
    let words = alerts.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    let asked: BTreeSet<_> = words
        .filter(|word| word.starts_with("twill_"))
        .filter(|name| !elsewhere.iter().any(|prefix| name.starts_with(prefix)))
        .collect();

    assert!(asked.len() >= 8, "{asked:?}");
    for name in asked {
        let is_there =
            |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        assert!(page.lines().any(is_there), "{name} is not on\n{page}");
    }
}

fn read(file: &str) -> String {
    std::fs::read_to_string(file).unwrap()
}
