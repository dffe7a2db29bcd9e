//! What must be reached, and whether it was.

use crate::metric::{self, Better, format};
use crate::report::grid;
use crate::results::Results;
use crate::stats::Estimate;
use serde::Deserialize;

/// A file of targets.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    /// The targets in the order in which they are shown.
    pub target: Vec<Target>,
}

/// One number that a path must reach.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// What it is, for people.
    pub name: String,
    /// The wires on which it holds.
    pub wires: Vec<String>,
    /// The workload.
    pub workload: String,
    /// The path that must reach it.
    #[serde(default = "twill")]
    pub path: String,
    /// The path whose number the ratio refers to; the number itself counts without.
    pub baseline: Option<String>,
    /// Whether the baseline is a gateway that the user brings: without it, the target is shown as
    /// not measured.
    #[serde(default)]
    pub external: bool,
    /// The key of the number; the workload's headline without.
    pub metric: Option<String>,
    /// The worst that is allowed.
    pub at_least: f64,
    /// What is hoped for.
    pub aim: f64,
}

fn twill() -> String {
    "twill".to_owned()
}

/// One target on one wire.
#[derive(Clone, Debug)]
pub struct Finding<'a> {
    /// The target.
    pub target: &'a Target,
    /// The wire.
    pub wire: &'a str,
    /// What was measured; nothing if it was not.
    pub measured: Option<Estimate>,
    /// Whether less is better.
    less: bool,
}

/// How a finding stands to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// At the aim or beyond.
    Aim,
    /// At what is demanded or beyond.
    Reached,
    /// Short of what is demanded.
    Missed,
    /// Not measured.
    Unknown,
}

impl Targets {
    /// Reads a file's text.
    ///
    /// # Errors
    /// When it is no TOML, or holds unknown keys.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Looks the numbers up.
    #[must_use]
    pub fn find<'a>(&'a self, results: &Results) -> Vec<Finding<'a>> {
        let each =
            |target: &'a Target| target.wires.iter().map(move |wire| (target, wire.as_str()));
        self.target.iter().flat_map(each).map(|(target, wire)| target.find(wire, results)).collect()
    }
}

impl Target {
    fn find<'a>(&'a self, wire: &'a str, results: &Results) -> Finding<'a> {
        let seed = results.plan.seed;
        let cell = results.cell(wire, &self.path, &self.workload);
        let key = self.metric.as_deref().or(cell.map(|cell| cell.headline.as_str())).unwrap_or("");
        let measured = cell.and_then(|cell| match &self.baseline {
            Some(baseline) => cell.ratio(results.cell(wire, baseline, &self.workload)?, key, seed),
            None => cell.estimate(key, seed),
        });
        let less = metric::by_key(key).is_some_and(|metric| metric.better == Better::Less);
        Finding { target: self, wire, measured, less }
    }
}

impl Finding<'_> {
    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let Some(measured) = self.measured else { return Standing::Unknown };
        let reaches = |limit: f64| {
            if self.less { measured.median <= limit } else { measured.median >= limit }
        };
        match (reaches(self.target.aim), reaches(self.target.at_least)) {
            (true, _) => Standing::Aim,
            (_, true) => Standing::Reached,
            _ => Standing::Missed,
        }
    }
}

/// Findings as rows, a title row first.
#[must_use]
pub fn rows(findings: &[Finding<'_>]) -> Vec<Vec<String>> {
    let title = ["target", "wire", "demanded", "aim", "measured", "95 % interval", ""];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    for finding in findings {
        let target = finding.target;
        let limit = if finding.less { "≤" } else { "≥" };
        let word = match finding.standing() {
            Standing::Aim => "aim reached",
            Standing::Reached => "reached",
            Standing::Missed => "MISSED",
            Standing::Unknown => "not measured",
        };
        let (measured, interval) = match finding.measured {
            Some(measured) => (
                format(measured.median),
                format!("{} … {}", format(measured.low), format(measured.high)),
            ),
            None => (String::new(), String::new()),
        };
        rows.push(vec![
            target.name.clone(),
            finding.wire.to_owned(),
            format!("{limit} {}", format(target.at_least)),
            format(target.aim),
            measured,
            interval,
            word.to_owned(),
        ]);
    }
    rows
}

/// Findings for a terminal.
#[must_use]
pub fn table(findings: &[Finding<'_>]) -> String {
    grid(&rows(findings))
}

/// Rows as a table in Markdown.
#[must_use]
pub fn markdown(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
        if index == 0 {
            text.push_str(&format!("|{}\n", "---|".repeat(row.len())));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::PathSpec;
    use crate::workload::Workload;

    #[test]
    fn the_projects_targets_name_paths_workloads_and_numbers_that_exist() {
        let targets = Targets::parse(include_str!("../targets.toml")).unwrap();

        assert!(targets.target.len() >= 10);
        for target in &targets.target {
            assert!(target.workload.parse::<Workload>().is_ok(), "{target:?}");
            assert!(target.path.parse::<PathSpec>().is_ok(), "{target:?}");
            let baseline = target.baseline.as_deref().filter(|_| !target.external);
            assert!(baseline.is_none_or(|name| name.parse::<PathSpec>().is_ok()), "{target:?}");
            let key = target.metric.as_deref();
            assert!(key.is_none_or(|key| metric::by_key(key).is_some()), "{target:?}");
        }
    }
}
