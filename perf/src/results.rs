//! The results of one run of the harness, as kept in `results.json`.

use crate::environment::Environment;
use crate::measure::is_counted_apart;
use crate::metric;
use crate::sample::{Sample, from_pairs};
use crate::stats::{Estimate, paired_ratios};
use hdrhistogram::Histogram;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, io};
use twill_testbed::Underlay;

/// The version of the file's layout.
pub(crate) const SCHEMA: u32 = 1;

/// Everything about one run of the harness.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Results {
    /// The version of this layout.
    pub(crate) schema: u32,
    /// How far the run came, if a signal ended it early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interrupted: Option<String>,
    /// The machine, its kernel, and the programs that made the results.
    pub(crate) environment: Environment,
    /// The settings of the run, enough to repeat it.
    pub(crate) plan: PlanRecord,
    /// The unit of each number by its key; a share lies between 0 and 1.
    #[serde(default)]
    pub(crate) units: BTreeMap<String, String>,
    /// Paths that could not be built.
    pub(crate) unavailable: Vec<Missing>,
    /// The measurements.
    pub(crate) cells: Vec<Cell>,
}

/// The settings of the run, as on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct PlanRecord {
    /// Paths by name.
    pub(crate) paths: Vec<String>,
    /// `NAME=COMMAND` of the paths that the user brought.
    pub(crate) external: Vec<String>,
    /// Workloads by name.
    pub(crate) workloads: Vec<String>,
    /// Wires by name.
    pub(crate) wires: Vec<String>,
    /// Rounds that were asked for, after one that is thrown away.
    pub(crate) rounds: u32,
    /// Measured time of each run, milliseconds.
    pub(crate) measure_ms: u64,
    /// The seed for the order of paths and the intervals.
    pub(crate) seed: u64,
    /// The path that ratios refer to.
    pub(crate) baseline: String,
    /// Underlay MTU, bytes.
    pub(crate) mtu: u16,
    /// Hosts on the underlay.
    pub(crate) hosts: u8,
    /// Injected loss, millionths.
    pub(crate) loss_ppm: u32,
    /// Rate limit of each host, Mbit/s.
    pub(crate) rate_mbit: Option<u32>,
    /// CPUs that gateways may use.
    pub(crate) gateway_cpus: Option<String>,
    /// Share of a CPU that every worker of a twill got, millionths.
    pub(crate) worker_share_ppm: Option<u32>,
}

impl PlanRecord {
    /// The settings that differ from the defaults, in words.
    pub(crate) fn conditions(&self) -> String {
        let percent = |ppm: u32| f64::from(ppm) * 1e-4;
        let all = [
            (self.mtu != Underlay::default().mtu).then(|| format!("MTU {}", self.mtu)),
            (self.hosts > 2).then(|| format!("{} hosts", self.hosts)),
            (self.loss_ppm > 0).then(|| format!("{} % injected loss", percent(self.loss_ppm))),
            self.rate_mbit.map(|rate| format!("each host limited to {rate} Mbit/s")),
            self.gateway_cpus.as_ref().map(|cpus| format!("gateways on CPUs {cpus}")),
            self.worker_share_ppm
                .map(|ppm| format!("each worker limited to {} % of a CPU", percent(ppm))),
        ];
        all.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// A path that could not be measured on a wire, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Missing {
    /// The wire.
    pub(crate) wire: String,
    /// The path.
    pub(crate) path: String,
    /// The reason.
    pub(crate) reason: String,
}

/// One workload over one path and wire, all rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cell {
    /// The wire.
    pub(crate) wire: String,
    /// The path.
    pub(crate) path: String,
    /// The workload.
    pub(crate) workload: String,
    /// The key of the number that stands for the workload.
    pub(crate) headline: String,
    /// The round that is thrown away; only system calls are taken from it.
    pub(crate) discarded: Option<Sample>,
    /// All rounds in order; null for a run that failed.
    pub(crate) rounds: Vec<Option<Sample>>,
    /// Why runs failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) failures: Vec<String>,
}

impl Cell {
    /// The values of a number over the rounds. System calls are counted in the discarded round
    /// only.
    #[must_use]
    pub fn values(&self, key: &str) -> Vec<f64> {
        if is_counted_apart(key) {
            return self.discarded.iter().filter_map(|sample| sample.get(key)).collect();
        }
        self.rounds.iter().flatten().filter_map(|sample| sample.get(key)).collect()
    }

    /// The median of a number over the rounds.
    pub(crate) fn estimate(&self, key: &str, seed: u64) -> Option<Estimate> {
        Estimate::of(&self.values(key), seed)
    }

    /// The ratios of a number to the baseline's in the same round.
    pub(crate) fn ratios(&self, baseline: &Self, key: &str) -> Vec<f64> {
        let value = |sample: &Option<Sample>| sample.as_ref()?.get(key);
        let pair = |(one, other)| Some((value(one)?, value(other)?));
        if is_counted_apart(key) {
            let pair = pair((&self.discarded, &baseline.discarded));
            return paired_ratios(pair.as_slice());
        }
        let pairs = self.rounds.iter().zip(&baseline.rounds).filter_map(pair);
        paired_ratios(&pairs.collect::<Vec<_>>())
    }

    /// The ratio of a number to the baseline's in the same round.
    pub(crate) fn ratio(&self, baseline: &Self, key: &str, seed: u64) -> Option<Estimate> {
        Estimate::of(&self.ratios(baseline, key), seed)
    }

    /// Why nothing can be concluded from a number: a run failed, or rounds lack it.
    pub(crate) fn flaw(&self, key: &str) -> Option<String> {
        let wanted = if is_counted_apart(key) { 1 } else { self.rounds.len() };
        let values = self.values(key).len();
        let why = match self.failures.first() {
            Some(failure) => failure.clone(),
            None if values == 0 => format!("no round has the {}", metric::name(key)),
            None if values < wanted => {
                format!("{values} of {wanted} rounds have the {}", metric::name(key))
            }
            None => return None,
        };
        Some(format!("{} over {}, {} wire: {why}", self.workload, self.path, self.wire))
    }

    /// Whether its path is a twill, other than `classic`.
    pub(crate) fn is_twill(&self) -> bool {
        self.path == "twill" || self.path.starts_with("twill:")
    }

    /// The keys that its rounds have.
    pub(crate) fn keys(&self) -> BTreeSet<&str> {
        let samples = self.rounds.iter().flatten().chain(&self.discarded);
        samples.flat_map(|sample| sample.values.keys().map(String::as_str)).collect()
    }

    /// All rounds' times of one kind together, nanoseconds.
    pub(crate) fn times(&self, name: &str) -> Option<Histogram<u64>> {
        let rounds = self.rounds.iter().flatten();
        let pairs: Vec<_> = rounds.filter_map(|sample| sample.times.get(name)).flatten().collect();
        (!pairs.is_empty()).then(|| from_pairs(pairs))
    }

    /// The notes of the rounds, each with the number of rounds that have it.
    pub(crate) fn notes(&self) -> Vec<(String, usize)> {
        let mut notes: Vec<(String, BTreeSet<usize>)> = Vec::new();
        for (round, sample) in self.rounds.iter().flatten().enumerate() {
            for note in &sample.notes {
                match notes.iter_mut().find(|(known, _)| remark(known).eq(remark(note))) {
                    Some((_, rounds)) => rounds.extend([round]),
                    None => notes.push((note.clone(), BTreeSet::from([round]))),
                }
            }
        }
        notes.into_iter().map(|(note, rounds)| (note, rounds.len())).collect()
    }
}

/// A note without its figures, which differ from round to round.
fn remark(note: &str) -> impl Iterator<Item = &str> {
    note.split_whitespace().filter(|word| !word.starts_with(|first: char| first.is_ascii_digit()))
}

impl Results {
    /// The JSON schema of the file.
    pub(crate) fn schema() -> String {
        format!("{:#}\n", schemars::schema_for!(Self).to_value())
    }

    /// Keeps what was measured so far and says how far that is.
    pub(crate) fn interrupt(&mut self) {
        let (wires, rounds) = (self.plan.wires.len(), self.plan.rounds);
        self.interrupted = Some(match self.cells.last() {
            Some(last) => {
                let wire = last.wire.clone();
                let cells = self.cells.iter().filter(|cell| cell.wire == wire);
                let whole = cells.map(|cell| cell.rounds.len()).min().unwrap_or(0);
                let position = 1 + self.plan.wires.iter().position(|w| *w == wire).unwrap_or(0);
                format!(
                    "{whole} of {rounds} rounds finished on the {wire} wire, wire {position} of \
                     {wires}"
                )
            }
            None => "nothing was measured".to_owned(),
        });
        self.cells.retain(|cell| !cell.rounds.is_empty());
    }

    /// The measurements of one workload over one path and wire.
    #[must_use]
    pub fn cell(&self, wire: &str, path: &str, workload: &str) -> Option<&Cell> {
        self.cells
            .iter()
            .find(|cell| cell.wire == wire && cell.path == path && cell.workload == workload)
    }

    /// Wires and workloads in the order in which they were measured.
    pub(crate) fn groups(&self) -> Vec<(&str, &str)> {
        let mut groups = Vec::new();
        for cell in &self.cells {
            let group = (cell.wire.as_str(), cell.workload.as_str());
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        groups
    }

    /// The paths of one wire and workload.
    pub(crate) fn group<'a>(
        &'a self,
        wire: &'a str,
        workload: &'a str,
    ) -> impl Iterator<Item = &'a Cell> {
        self.cells.iter().filter(move |cell| cell.wire == wire && cell.workload == workload)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or has another layout.
    pub fn load(path: &Path) -> Result<Self, ResultsError> {
        let fail = |source| ResultsError::File { path: path.display().to_string(), source };
        let text = fs::read_to_string(path).map_err(fail)?;
        let results: Self = serde_json::from_str(&text)
            .map_err(|source| ResultsError::Format { path: path.display().to_string(), source })?;
        if results.schema == SCHEMA {
            Ok(results)
        } else {
            Err(ResultsError::Schema { path: path.display().to_string(), schema: results.schema })
        }
    }

    /// Writes a file, and its folder if need be.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn save(&self, path: &Path) -> Result<(), ResultsError> {
        let fail = |source| ResultsError::File { path: path.display().to_string(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(fail)?;
        }
        let text = serde_json::to_string(self)
            .map_err(|source| ResultsError::Format { path: path.display().to_string(), source })?;
        fs::write(path, text).map_err(fail)
    }
}

/// Why results could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// The file itself.
    #[error("cannot read or write {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What came back.
        source: io::Error,
    },
    /// Its content.
    #[error("{path} is not a results file: {source}")]
    Format {
        /// The file.
        path: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Another version of the harness wrote it.
    #[error("{path} has layout {schema}, but this program reads layout {SCHEMA}: measure again")]
    Schema {
        /// The file.
        path: String,
        /// Its layout.
        schema: u32,
    },
}

/// Goodputs by round over VXLAN, the baseline, and over twill, for tests of reports.
#[cfg(test)]
pub(crate) fn sample_run(vxlan: &[f64], twill: &[f64]) -> Results {
    let cell = |(path, goodputs): (&str, &[f64])| {
        let round = |goodput: &f64| {
            let mut sample = Sample::new(1.0);
            sample.set("goodput", *goodput);
            Some(sample)
        };
        let [wire, path, workload, headline] = ["mtu", path, "tcp-1", "goodput"].map(str::to_owned);
        let rounds = goodputs.iter().map(round).collect();
        Cell { wire, path, workload, headline, discarded: None, rounds, failures: Vec::new() }
    };
    Results {
        schema: SCHEMA,
        interrupted: None,
        environment: Environment::default(),
        plan: PlanRecord {
            wires: vec!["mtu".to_owned()],
            rounds: vxlan.len() as u32,
            measure_ms: 1000,
            mtu: 1500,
            hosts: 2,
            baseline: "vxlan".to_owned(),
            ..PlanRecord::default()
        },
        units: metric::units(),
        unavailable: Vec::new(),
        cells: [("vxlan", vxlan), ("twill", twill)].into_iter().map(cell).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(values: &[(&str, f64)]) -> Sample {
        let mut sample = Sample::new(1.0);
        for (key, value) in values {
            sample.set(key, *value);
        }
        sample
    }

    fn cell(discarded: Sample, rounds: Vec<Option<Sample>>) -> Cell {
        let [wire, path, workload, headline] =
            ["mtu", "twill", "tcp-1", "goodput"].map(str::to_owned);
        let failures = Vec::new();
        Cell { wire, path, workload, headline, discarded: Some(discarded), rounds, failures }
    }

    #[test]
    fn a_number_of_every_round_is_never_taken_from_the_discarded_one() {
        let discarded = sample(&[("goodput", 9.0), ("calls_per_packet", 0.1)]);
        let all_failed = cell(discarded.clone(), vec![None, None]);
        let measured = cell(discarded, vec![Some(sample(&[("goodput", 5.0)])); 2]);

        assert!(all_failed.values("goodput").is_empty());
        assert!(all_failed.ratios(&all_failed, "goodput").is_empty());
        assert_eq!(measured.values("goodput"), [5.0, 5.0]);
        assert_eq!(measured.values("calls_per_packet"), [0.1]);
        assert_eq!(measured.ratios(&measured, "calls_per_packet"), [1.0]);
    }

    #[test]
    fn the_schema_of_the_file_is_the_one_that_is_checked_in() {
        let checked_in = include_str!("../results.schema.json");

        assert_eq!(
            Results::schema(),
            checked_in,
            "write it again: twill-perf schema > perf/results.schema.json"
        );
    }

    #[test]
    fn an_interrupted_run_says_how_many_rounds_are_whole_and_leaves_out_what_has_none() {
        let mut results = sample_run(&[8.0; 3], &[4.0; 3]);
        results.cells[0].rounds.truncate(2);
        results.cells[1].rounds.truncate(1);
        let mut early = results.clone();
        early.cells[1].rounds.clear();

        results.interrupt();
        early.interrupt();

        let said = |results: &Results| results.interrupted.clone().unwrap();
        assert_eq!(said(&results), "1 of 3 rounds finished on the mtu wire, wire 1 of 1");
        assert_eq!(said(&early), "0 of 3 rounds finished on the mtu wire, wire 1 of 1");
        assert_eq!((results.cells.len(), early.cells.len()), (2, 1));
    }

    #[test]
    fn failures_and_rounds_without_the_number_are_flaws() {
        let round = sample(&[("goodput", 5.0)]);
        let discarded = sample(&[("calls_per_packet", 0.1)]);
        let whole = cell(discarded.clone(), vec![Some(round.clone()); 2]);
        let short = cell(discarded, vec![Some(round), None]);
        let failed = Cell { failures: vec!["round 0: no answer".to_owned()], ..whole.clone() };

        let flaw = |cell: &Cell, key| cell.flaw(key).unwrap_or_default();

        assert_eq!(flaw(&whole, "goodput") + &flaw(&whole, "calls_per_packet"), "");
        assert!(flaw(&whole, "rtt_p99").contains("no round has the round trip p99"));
        assert!(flaw(&short, "goodput").contains("1 of 2 rounds"), "{}", flaw(&short, "goodput"));
        assert!(flaw(&failed, "goodput").ends_with("mtu wire: round 0: no answer"));
    }

    #[test]
    fn notes_are_counted_by_remark_whatever_their_figures() {
        let note = |notes: &[&str]| {
            let mut round = sample(&[]);
            notes.iter().for_each(|note| round.note((*note).to_owned()));
            Some(round)
        };
        let [busy, late, later] = [
            "the generator is the bottleneck: one of its threads filled a core",
            "the generator is the bottleneck: 1 % of probes left 120 µs late or more",
            "the generator is the bottleneck: 1 % of probes left 99 µs late or more",
        ];
        let cell = cell(sample(&[]), vec![note(&[busy, late]), note(&[busy]), note(&[later])]);

        assert_eq!(cell.notes(), [(busy.to_owned(), 2), (late.to_owned(), 2)]);
    }

    #[test]
    fn a_record_names_the_conditions_that_were_asked_for() {
        let usual = PlanRecord { mtu: 1500, hosts: 2, ..PlanRecord::default() };
        let unusual = PlanRecord {
            mtu: 9000,
            hosts: 5,
            loss_ppm: 5_000,
            rate_mbit: Some(100),
            gateway_cpus: Some("0,2-3".to_owned()),
            worker_share_ppm: Some(20_000),
            ..PlanRecord::default()
        };

        assert_eq!(usual.conditions(), "");
        assert_eq!(
            unusual.conditions(),
            "MTU 9000, 5 hosts, 0.5 % injected loss, each host limited to 100 Mbit/s, gateways on \
             CPUs 0,2-3, each worker limited to 2 % of a CPU"
        );
    }
}
