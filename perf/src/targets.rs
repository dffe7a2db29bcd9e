//! The numbers that are required of paths, and whether a run reached them.

use crate::metric::{self, Better, format};
use crate::report::between;
use crate::results::Results;
use crate::stats::Estimate;
use serde::Deserialize;

/// A file of targets.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Targets {
    /// The targets in the order in which they are shown.
    pub(crate) target: Vec<Target>,
}

/// One number that a path must reach.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    /// What it is, for people.
    pub(crate) name: String,
    /// The wires on which it holds.
    pub(crate) wires: Vec<String>,
    /// The workload.
    pub(crate) workload: String,
    /// The path that must reach it.
    #[serde(default = "twill")]
    pub(crate) path: String,
    /// The path by whose number to divide; the number itself is judged if not set.
    pub(crate) baseline: Option<String>,
    /// Whether the baseline is a gateway that the user brings. The target is not measured without
    /// it.
    #[serde(default)]
    pub(crate) external: bool,
    /// The key of the number; that of the workload's headline if not set.
    pub(crate) metric: Option<String>,
    /// The worst that is allowed.
    pub(crate) at_least: f64,
    /// The number to aim for.
    pub(crate) aim: f64,
}

fn twill() -> String {
    "twill".to_owned()
}

/// One target on one wire.
#[derive(Clone, Debug)]
pub(crate) struct Finding<'a> {
    /// The target.
    pub(crate) target: &'a Target,
    /// The wire.
    pub(crate) wire: &'a str,
    /// The measured number, if every round has it.
    pub(crate) measured: Option<Estimate>,
    /// Why there is no number.
    pub(crate) flaw: Option<String>,
    /// Whether less is better.
    less: bool,
}

/// Whether a target was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// At the aim or beyond.
    Aim,
    /// At what is required or beyond.
    Reached,
    /// Short of what is required.
    Missed,
    /// Not measured, or not in every round.
    Unknown,
}

impl Targets {
    /// Reads a file's text.
    ///
    /// # Errors
    /// When it is not TOML, or has unknown keys.
    pub(crate) fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Looks the numbers up.
    pub(crate) fn find<'a>(&'a self, results: &Results) -> Vec<Finding<'a>> {
        let each =
            |target: &'a Target| target.wires.iter().map(move |wire| (target, wire.as_str()));
        self.target.iter().flat_map(each).map(|(target, wire)| target.find(wire, results)).collect()
    }
}

impl Target {
    fn find<'a>(&'a self, wire: &'a str, results: &Results) -> Finding<'a> {
        let found = self.look_up(wire, results);
        let headline = results.cell(wire, &self.path, &self.workload).map(|cell| &cell.headline);
        let key = self.metric.as_ref().or(headline).map_or("", String::as_str);
        let less = metric::by_key(key).is_some_and(|metric| metric.better == Better::Less);
        let (measured, flaw) = match found {
            Ok(measured) => (Some(measured), None),
            Err(flaw) => (None, Some(flaw)),
        };
        Finding { target: self, wire, measured, flaw, less }
    }

    /// The number, or why nothing can be concluded from it.
    fn look_up(&self, wire: &str, results: &Results) -> Result<Estimate, String> {
        let cell = |path: &str| {
            let cell = results.cell(wire, path, &self.workload);
            cell.ok_or_else(|| format!("{} over {path}, {wire} wire: not measured", self.workload))
        };
        let own = cell(&self.path)?;
        let key = self.metric.as_deref().unwrap_or(&own.headline);
        let baseline = self.baseline.as_deref().map(cell).transpose()?;
        if let Some(flaw) = own.flaw(key).or_else(|| baseline?.flaw(key)) {
            return Err(flaw);
        }
        let seed = results.plan.seed;
        let measured = match baseline {
            Some(baseline) => own.ratio(baseline, key, seed),
            None => own.estimate(key, seed),
        };
        measured.ok_or_else(|| {
            format!("{} over {}: the number of the baseline is 0", self.workload, self.path)
        })
    }
}

impl Finding<'_> {
    /// Whether the target was reached.
    pub(crate) fn standing(&self) -> Standing {
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
pub(crate) fn rows(findings: &[Finding<'_>]) -> Vec<Vec<String>> {
    let title = ["target", "wire", "required", "aim", "measured", "95 % interval", "result"];
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
            Some(measured) => {
                (format(measured.median), between(&measured, "95 % interval", format))
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::PathSpec;
    use crate::results::{Cell, PlanRecord, SCHEMA};
    use crate::sample::Sample;
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

    #[test]
    fn a_target_is_judged_only_by_rounds_that_all_went_well() {
        let targets = Targets::parse(
            "[[target]]\nname = \"TCP\"\nwires = [\"mtu\"]\nworkload = \"tcp-1\"\n\
             baseline = \"vxlan\"\nat_least = 0.5\naim = 0.9\n",
        )
        .unwrap();
        let well = [Some(6.0), Some(6.0)];
        let standing = |twill: [Option<f64>; 2], vxlan: [Option<f64>; 2]| {
            let results = results(&[("twill", twill), ("vxlan", vxlan)]);
            targets.find(&results)[0].standing()
        };

        assert_eq!(standing(well, well), Standing::Aim);
        assert_eq!(standing([Some(1.0), Some(1.0)], well), Standing::Missed);
        assert_eq!(standing([Some(6.0), None], well), Standing::Unknown);
        assert_eq!(standing(well, [None, Some(6.0)]), Standing::Unknown);
        assert_eq!(standing([None, None], [None, None]), Standing::Unknown);
        assert_eq!(targets.find(&results(&[]))[0].standing(), Standing::Unknown);
    }

    /// Goodputs by path and round, the discarded round's above all.
    fn results(paths: &[(&str, [Option<f64>; 2])]) -> Results {
        let sample = |goodput| {
            let mut sample = Sample::new(1.0);
            sample.set("goodput", goodput);
            sample
        };
        let cells = paths.iter().map(|(path, rounds)| Cell {
            wire: "mtu".to_owned(),
            path: (*path).to_owned(),
            workload: "tcp-1".to_owned(),
            headline: "goodput".to_owned(),
            discarded: Some(sample(99.0)),
            rounds: rounds.map(|goodput| goodput.map(sample)).to_vec(),
            failures: Vec::new(),
        });
        Results {
            schema: SCHEMA,
            interrupted: None,
            units: Default::default(),
            environment: Default::default(),
            plan: PlanRecord { rounds: 2, ..PlanRecord::default() },
            unavailable: Vec::new(),
            cells: cells.collect(),
        }
    }
}
