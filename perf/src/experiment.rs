//! Runs a matrix of wires, paths and workloads in interleaved rounds.

use crate::environment::{Environment, offloads_on, version};
use crate::metric::units;
use crate::path::{Path, PathSpec, Setting, TwillSpec};
use crate::results::{Cell, Missing, PlanRecord, Results, SCHEMA};
use crate::sample::Sample;
use crate::workload::{Window, Workload, WorkloadError};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use twill_testbed::{Underlay, Wire};

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The paths to compare.
    pub(crate) paths: Vec<PathSpec>,
    /// The traffic.
    pub(crate) workloads: Vec<Workload>,
    /// The wires.
    pub(crate) wires: Vec<Wire>,
    /// Rounds to measure, after one that is thrown away.
    pub(crate) rounds: u32,
    /// Measured time of each run.
    pub(crate) measure: Duration,
    /// The seed for the order of paths.
    pub(crate) seed: u64,
    /// The path that ratios refer to.
    pub(crate) baseline: PathSpec,
    /// What all paths share; its wire is replaced by each of `wires`.
    pub(crate) setting: Setting,
}

/// Does the steps of a plan, and shows them to the user.
pub(crate) trait Observer {
    /// Does one step that takes about `expected`.
    fn step<T>(&mut self, label: &str, expected: Duration, work: impl FnOnce() -> T) -> T;

    /// Leaves out so many steps, which would have taken `expected`.
    fn skip(&mut self, steps: usize, expected: Duration);
}

impl Plan {
    /// How many steps it has, and how long they take.
    pub(crate) fn expected(&self) -> (usize, Duration) {
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

    /// Measures everything. A failure is recorded and the rest goes on.
    ///
    /// `results` is locked only while a measurement is added, so that another thread can save what
    /// was measured so far.
    pub(crate) fn run(&self, results: &Mutex<Results>, observer: &mut impl Observer) {
        let mut order = StdRng::seed_from_u64(self.seed);
        for wire in &self.wires {
            let paths = self.build(*wire, results, observer);
            record_offloads(*wire, &paths, &mut lock(results));
            let first = self.add_cells(*wire, &paths, &mut lock(results));
            for round in 0..=self.rounds {
                self.run_round(
                    Round { wire: *wire, round, first },
                    &paths,
                    &mut order,
                    results,
                    observer,
                );
            }
            close(paths, &mut lock(results).cells[first..]);
        }
    }

    /// Results without measurements.
    pub(crate) fn no_results(&self) -> Results {
        let mut environment = Environment::read(&self.setting.twill);
        for path in &self.paths {
            let PathSpec::Twill(TwillSpec { program: Some(program), .. }) = path else { continue };
            if let Some(version) = version(program) {
                environment.tools.insert(path.to_string(), version);
            }
        }
        Results {
            schema: SCHEMA,
            interrupted: None,
            environment,
            plan: self.record(),
            units: units(),
            unavailable: Vec::new(),
            cells: Vec::new(),
        }
    }

    /// Builds the paths of a wire. All of them exist side by side; only one carries traffic at a
    /// time.
    fn build(
        &self,
        wire: Wire,
        results: &Mutex<Results>,
        observer: &mut impl Observer,
    ) -> Vec<Path> {
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
                    lock(results).unavailable.push(Missing {
                        wire: wire.to_string(),
                        path: missing.path,
                        reason: missing.reason,
                    });
                }
            }
        }
        paths
    }

    /// Adds an empty cell for each workload and path; returns the position of the first.
    fn add_cells(&self, wire: Wire, paths: &[Path], results: &mut Results) -> usize {
        let first = results.cells.len();
        for workload in &self.workloads {
            results.cells.extend(paths.iter().map(|path| Cell {
                wire: wire.to_string(),
                path: path.name().to_owned(),
                workload: workload.to_string(),
                headline: workload.headline().to_owned(),
                discarded: None,
                rounds: Vec::new(),
                failures: Vec::new(),
            }));
        }
        first
    }

    /// Runs every workload over every path once, the paths in random order.
    fn run_round(
        &self,
        at: Round,
        paths: &[Path],
        order: &mut StdRng,
        results: &Mutex<Results>,
        observer: &mut impl Observer,
    ) {
        let Round { wire, round, first } = at;
        for (index, workload) in self.workloads.iter().enumerate() {
            let mut turn: Vec<_> = paths.iter().enumerate().collect();
            turn.shuffle(order);
            for (position, path) in turn {
                let label = format!(
                    "{wire} wire, round {round} of {}: {workload} over {}",
                    self.rounds,
                    path.name()
                );
                let run = || path.run(workload, &Window::of(self.measure), round == 0);
                let outcome = observer.step(&label, self.expected_run(workload), run);
                let cell = &mut lock(results).cells[first + index * paths.len() + position];
                book(cell, round, outcome);
            }
        }
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

/// One round on one wire.
#[derive(Clone, Copy)]
struct Round {
    wire: Wire,
    /// 0 is the round that is thrown away.
    round: u32,
    /// The position of the wire's first cell.
    first: usize,
}

/// About how long it takes to build a path.
const BUILD: Duration = Duration::from_millis(700);

fn millionths(share: f64) -> u32 {
    (share * 1e6).round() as u32
}

/// Locks the results, even if another thread panicked with them.
pub(crate) fn lock(results: &Mutex<Results>) -> MutexGuard<'_, Results> {
    results.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stops the gateways; a gateway that does not stop is a failure of all measurements of its path.
fn close(paths: Vec<Path>, cells: &mut [Cell]) {
    for path in paths {
        let name = path.name().to_owned();
        if let Err(error) = path.close() {
            for cell in cells.iter_mut().filter(|cell| cell.path == name) {
                cell.failures.push(format!("at the end: {error}"));
            }
        }
    }
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
