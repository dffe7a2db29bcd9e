//! Runs a matrix of wires, paths and workloads in interleaved rounds.

use crate::environment::{Environment, offloads_on};
use crate::path::{Path, PathSpec, Setting};
use crate::results::{Cell, Missing, PlanRecord, Results, SCHEMA};
use crate::sample::Sample;
use crate::workload::{Window, Workload, WorkloadError};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::time::Duration;
use twill_testbed::{Underlay, Wire};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The paths to compare.
    pub paths: Vec<PathSpec>,
    /// The traffic.
    pub workloads: Vec<Workload>,
    /// The wires.
    pub wires: Vec<Wire>,
    /// Rounds that count; one more before them is thrown away.
    pub rounds: u32,
    /// Measured time of each run.
    pub measure: Duration,
    /// What the order of paths is drawn from.
    pub seed: u64,
    /// The path that ratios refer to.
    pub baseline: PathSpec,
    /// What all paths share; its wire is replaced by each of `wires`.
    pub setting: Setting,
}

/// Told of every run before it begins: what it is and how long it takes.
pub trait Observer {
    /// Does one step, which it may announce.
    fn step<T>(&mut self, label: &str, expected: Duration, work: impl FnOnce() -> T) -> T;

    /// So many steps of so much time will not come.
    fn skip(&mut self, steps: usize, expected: Duration);
}

impl Plan {
    /// How many steps it has, and how long they take.
    #[must_use]
    pub fn expected(&self) -> (usize, Duration) {
        let (runs, time) = self.expected_path();
        let paths = self.wires.len() * self.paths.len();
        ((runs + 1) * paths, (time + BUILD) * paths as u32)
    }

    /// The runs over one path on one wire.
    fn expected_path(&self) -> (usize, Duration) {
        let passes = self.rounds + 1;
        let once: Duration = self.workloads.iter().map(|load| self.expected_run(load)).sum();
        (self.workloads.len() * passes as usize, once * passes)
    }

    fn expected_run(&self, workload: &Workload) -> Duration {
        let window = Window::of(self.measure);
        let one = window.warm_up + window.measure + Duration::from_millis(250);
        match workload {
            // Flooded once, then about eight trials of a quarter, then measured.
            Workload::Search(_) => one * 4,
            Workload::Latency(crate::workload::Beside::Share(_)) => one + one / 2,
            Workload::Iperf3 => one + Duration::from_secs(1),
            _ => one,
        }
    }

    /// Runs it. What fails is recorded and the rest goes on.
    pub fn run(&self, observer: &mut impl Observer) -> Results {
        let mut results = Results {
            schema: SCHEMA,
            environment: Environment::read(&self.setting.twill),
            plan: self.record(),
            unavailable: Vec::new(),
            cells: Vec::new(),
        };
        let mut order = StdRng::seed_from_u64(self.seed);
        for wire in &self.wires {
            self.run_wire(*wire, &mut order, observer, &mut results);
        }
        results
    }

    /// All paths of a wire stand side by side; those that do not run rest.
    fn run_wire(
        &self,
        wire: Wire,
        order: &mut StdRng,
        observer: &mut impl Observer,
        results: &mut Results,
    ) {
        let underlay = Underlay { wire, ..self.setting.underlay.clone() };
        let setting = Setting { underlay, ..self.setting.clone() };
        let mut paths = Vec::new();
        for spec in &self.paths {
            let label = format!("{wire} wire: building {spec}");
            match observer.step(&label, BUILD, || Path::build(spec, &setting)) {
                Ok(path) => paths.push(path),
                Err(missing) => {
                    let (steps, expected) = self.expected_path();
                    observer.skip(steps, expected);
                    results.unavailable.push(Missing {
                        wire: wire.to_string(),
                        path: missing.path,
                        reason: missing.reason,
                    });
                }
            }
        }
        record_offloads(wire, &paths, results);

        let first = results.cells.len();
        for workload in &self.workloads {
            for path in &paths {
                results.cells.push(Cell {
                    wire: wire.to_string(),
                    path: path.name().to_owned(),
                    workload: workload.to_string(),
                    headline: workload.headline().to_owned(),
                    discarded: None,
                    rounds: Vec::new(),
                    failures: Vec::new(),
                });
            }
        }
        for round in 0..=self.rounds {
            for (index, workload) in self.workloads.iter().enumerate() {
                let mut turn: Vec<_> = (0..paths.len()).collect();
                turn.shuffle(order);
                for path in turn {
                    let cell = &mut results.cells[first + index * paths.len() + path];
                    let label = format!(
                        "{wire} wire, round {round} of {}: {workload} over {}",
                        self.rounds, cell.path
                    );
                    let run = || self.run_once(&paths[path], workload, round == 0);
                    let outcome = observer.step(&label, self.expected_run(workload), run);
                    book(cell, round, outcome);
                }
            }
        }
        for path in paths {
            let name = path.name().to_owned();
            if let Err(error) = path.close() {
                let cells = results.cells[first..].iter_mut();
                for cell in cells.filter(|cell| cell.path == name) {
                    cell.failures.push(format!("at the end: {error}"));
                }
            }
        }
    }

    fn run_once(
        &self,
        path: &Path,
        workload: &Workload,
        counting: bool,
    ) -> Result<Sample, WorkloadError> {
        let mut meter = path.meter();
        meter.count_calls(counting);
        let before = path.drops()?;
        let mut sample = workload.run(path.course(), &Window::of(self.measure), &mut meter)?;
        meter.describe(&mut sample);
        if let (Some(before), Some(after)) = (before, path.drops()?) {
            let mut all = 0;
            for (reason, count) in after {
                let dropped = count - before.get(&reason).copied().unwrap_or(0).min(count);
                if dropped > 0 {
                    sample.set(&format!("drops_gateway_{reason}"), dropped as f64);
                }
                all += dropped;
            }
            sample.set("drops_gateway", all as f64);
        }
        Ok(sample)
    }

    fn record(&self) -> PlanRecord {
        let names = |names: &mut dyn Iterator<Item = String>| names.collect::<Vec<_>>();
        let external = self.paths.iter().filter_map(|path| match path {
            PathSpec::External(external) => Some(external.to_string()),
            _ => None,
        });
        PlanRecord {
            paths: names(&mut self.paths.iter().map(PathSpec::to_string)),
            external: external.collect(),
            workloads: names(&mut self.workloads.iter().map(Workload::to_string)),
            wires: names(&mut self.wires.iter().map(Wire::to_string)),
            rounds: self.rounds,
            measure_ms: self.measure.as_millis() as u64,
            seed: self.seed,
            baseline: self.baseline.to_string(),
            mtu: self.setting.underlay.mtu,
            hosts: self.setting.hosts,
            loss_ppm: millionths(self.setting.underlay.loss),
            rate_mbit: self.setting.underlay.rate_mbit,
            gateway_cpus: self.setting.gateway_cpus.clone(),
            worker_share_ppm: self.setting.worker_share.map(millionths),
        }
    }
}

/// How long building a path takes, about.
const BUILD: Duration = Duration::from_millis(700);

fn millionths(share: f64) -> u32 {
    (share * 1e6).round() as u32
}

fn book(cell: &mut Cell, round: u32, outcome: Result<Sample, WorkloadError>) {
    let sample = match outcome {
        Ok(sample) => Some(sample),
        Err(error) => {
            cell.failures.push(format!("round {round}: {error}"));
            None
        }
    };
    if round == 0 {
        // Only its numbers are of use; its times would double the file.
        cell.discarded =
            sample.map(|sample| Sample { times: Default::default(), series: None, ..sample });
    } else {
        cell.rounds.push(sample);
    }
}

fn record_offloads(wire: Wire, paths: &[Path], results: &mut Results) {
    let host = paths.iter().find_map(|path| path.hosts().first());
    if let Some(host) = host {
        let listed = host.run("ethtool", &["-k", host.underlay_device()]).unwrap_or_default();
        results.environment.offloads.insert(wire.to_string(), offloads_on(&listed));
    }
}
