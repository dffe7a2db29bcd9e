//! The commands that measure: `run`, `quick`, `scale`.

use super::args::{HowArgs, QuickArgs, RunArgs, ScaleArgs, WireName};
use super::interrupt::Keeper;
use super::output::{Output, print};
use super::progress::Progress;
use super::{Failure, path, setting};
use crate::experiment::{Observer, Plan, lock};
use crate::path::PathSpec;
use crate::report::{html, tables, write_hgrm};
use crate::results::Results;
use crate::workload::Workload;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use twill_testbed::{Testbed, Wire};

const DEFAULT_PATHS: [&str; 4] = ["host-gw", "vxlan", "twill", "classic"];
const DEFAULT_WORKLOADS: [&str; 6] =
    ["tcp-1", "tcp-4", "udp-64", "udp-64x64", "latency", "latency+tcp"];
const ROUNDS: u32 = 5;
const MEASURE: Duration = Duration::from_secs(3);
/// The essentials: with three paths and three rounds they take a minute.
const QUICK_PATHS: [&str; 3] = ["vxlan", "twill", "classic"];
const QUICK_WORKLOADS: [&str; 3] = ["tcp-1", "udp-64", "latency"];
const QUICK_ROUNDS: u32 = 3;
const QUICK_MEASURE: Duration = Duration::from_millis(1200);

impl Observer for Progress {
    fn step<T>(&mut self, label: &str, expected: Duration, work: impl FnOnce() -> T) -> T {
        Progress::step(self, label, expected, work)
    }

    fn skip(&mut self, steps: usize, expected: Duration) {
        Progress::skip(self, steps, expected);
    }
}

pub(super) fn run(args: &RunArgs) -> Result<(), Failure> {
    let how = &args.how;
    let mut names: Vec<_> = args.path.iter().map(String::as_str).collect();
    if names.is_empty() {
        names.extend(DEFAULT_PATHS);
        names.extend(how.external.iter().map(|external| external.name.as_str()));
    }
    let workloads =
        if args.workload.is_empty() { parse(&DEFAULT_WORKLOADS)? } else { args.workload.clone() };
    let (paths, baseline) = with_baseline(paths(&names, how)?, args.baseline.as_deref(), how)?;
    let plan = Plan { paths, workloads, wires: wires(&args.wire), baseline, ..how.plan() };
    measure(&plan, how.output.as_deref(), Output::new(&args.format)).map(drop)
}

/// The paths and their baseline, which is added if it is not among them.
fn with_baseline(
    mut paths: Vec<PathSpec>,
    wanted: Option<&str>,
    how: &HowArgs,
) -> Result<(Vec<PathSpec>, PathSpec), Failure> {
    let baseline = match wanted {
        Some(name) => path(name, &how.external)?,
        None if paths.contains(&PathSpec::Vxlan) => PathSpec::Vxlan,
        None => paths[0].clone(),
    };
    if !paths.contains(&baseline) {
        paths.insert(0, baseline.clone());
    }
    Ok((paths, baseline))
}

pub(super) fn quick(args: &QuickArgs) -> Result<(), Failure> {
    let names: Vec<_> = args.path.iter().map(String::as_str).collect();
    let names = if names.is_empty() { QUICK_PATHS.to_vec() } else { names };
    let paths = names.iter().map(|name| path(name, &[])).collect::<Result<Vec<_>, _>>()?;
    let plan = Plan {
        baseline: paths[0].clone(),
        paths,
        workloads: parse(&QUICK_WORKLOADS)?,
        wires: vec![args.wire.into()],
        rounds: QUICK_ROUNDS,
        measure: QUICK_MEASURE,
        seed: clock(),
        setting: setting(&args.setting, args.wire.into()),
    };
    measure(&plan, args.output.as_deref(), Output::new(&args.format)).map(drop)
}

pub(super) fn scale(args: &ScaleArgs) -> Result<(), Failure> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let most = args.queues.unwrap_or(u16::try_from(cpus).unwrap_or(u16::MAX));
    let counts: Vec<_> =
        (0..9).map(|power| 1u16 << power).take_while(|count| *count < most).chain([most]).collect();
    let engine = args.engine.as_ref().map_or(String::new(), |engine| format!("{engine},"));
    let names: Vec<_> =
        counts.iter().map(|count| format!("twill:{engine}queues={count}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let paths = paths(&names, &args.how)?;
    let mut plan = Plan {
        baseline: paths[0].clone(),
        paths,
        workloads: parse(&["tcp-1", "tcp-4", "tcp-16", "udp-64x64", "udp-512x64"])?,
        wires: vec![args.wire.into()],
        ..args.how.plan()
    };
    if let Some(percent) = args.worker_share {
        let workers = 2 * counts.iter().map(|count| usize::from(*count)).sum::<usize>();
        plan.setting.worker_share = Some(granted(percent, workers, cpus)? / 100.0);
    }
    measure(&plan, args.how.output.as_deref(), Output::new(&args.format)).map(drop)
}

/// The share of a CPU that each of so many workers gets, percent, if there are enough CPUs.
fn granted(percent: f64, workers: usize, cpus: usize) -> Result<f64, Failure> {
    // What Linux gives away at most; and where all gateways stand, one works and the rest sleep.
    let most = 95.0 * cpus as f64 / workers as f64;
    if percent <= most {
        return Ok(percent);
    }
    Err(Failure::Unusable(format!(
        "--worker-share: {workers} workers cannot each have {percent} % of a CPU on {cpus} CPUs; \
         use at most {:.1} %, or fewer queues",
        (most * 10.0).floor() / 10.0
    )))
}

impl HowArgs {
    /// A plan without paths and workloads.
    pub(super) fn plan(&self) -> Plan {
        Plan {
            paths: Vec::new(),
            workloads: Vec::new(),
            wires: Vec::new(),
            rounds: self.rounds.unwrap_or(ROUNDS),
            measure: self.seconds.map_or(MEASURE, Duration::from_secs_f64),
            seed: self.seed.unwrap_or_else(clock),
            baseline: PathSpec::Vxlan,
            setting: setting(&self.setting, Wire::default()),
        }
    }
}

/// Runs a plan, saves its files, prints its tables.
pub(super) fn measure(
    plan: &Plan,
    output: Option<&Path>,
    printed: Output,
) -> Result<Results, Failure> {
    // Whoever may not make a namespace learns it now, once, and before a file is written.
    drop(Testbed::new()?.namespace("trial")?);
    let folder = output
        .map_or_else(|| PathBuf::from(format!("results/{}", stamp(clock()))), Path::to_path_buf);
    fs::create_dir_all(&folder).map_err(|error| {
        Failure::Unusable(format!("cannot create {}: {error}", folder.display()))
    })?;
    let (steps, expected) = plan.expected();
    let mut progress = Progress::new(steps, expected);
    let results = Arc::new(Mutex::new(plan.no_results()));
    let keeper = Keeper::start(&results, folder.clone(), printed)?;
    plan.run(&results, &mut progress);
    keeper.stop();
    progress.finish();

    let results = lock(&results).clone();
    save(&results, &folder, printed)?;
    if results.cells.is_empty() {
        return Err(Failure::Unusable(
            "no path could be measured: the reasons stand above".to_owned(),
        ));
    }
    Ok(results)
}

/// Saves results and their report in a folder, and prints the tables.
pub(super) fn save(results: &Results, folder: &Path, output: Output) -> Result<(), Failure> {
    results.save(&folder.join("results.json"))?;
    let written = write_report(results, folder)?;
    if output.measurements {
        print(&tables(results, output.layout))?;
    }
    output.remark(&written)
}

/// Writes the page and the histograms; returns a sentence about them.
pub(super) fn write_report(results: &Results, folder: &Path) -> Result<String, Failure> {
    let unusable =
        |error| Failure::Unusable(format!("cannot write to {}: {error}", folder.display()));
    fs::create_dir_all(folder).map_err(unusable)?;
    let page = folder.join("report.html");
    let histograms = write_hgrm(results, &folder.join("hgrm")).map_err(unusable)?;
    fs::write(&page, html(results)).map_err(unusable)?;
    Ok(format!("\nreport: {}, with {histograms} histograms in hgrm/\n", page.display()))
}

pub(super) fn paths(names: &[&str], how: &HowArgs) -> Result<Vec<PathSpec>, Failure> {
    let paths = names.iter().map(|name| path(name, &how.external));
    Ok(paths.collect::<Result<_, _>>()?)
}

fn parse(names: &[&str]) -> Result<Vec<Workload>, Failure> {
    Ok(names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?)
}

fn wires(names: &[WireName]) -> Vec<Wire> {
    if names.is_empty() { Wire::ALL.to_vec() } else { names.iter().map(|n| (*n).into()).collect() }
}

pub(super) fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// A date and time that sorts as text, UTC.
pub(super) fn stamp(seconds: u64) -> String {
    const FORMAT: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour][minute][second]");
    let at = OffsetDateTime::from_unix_timestamp(seconds as i64);
    at.ok().and_then(|at| at.format(FORMAT).ok()).unwrap_or_else(|| seconds.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::args::{Cli, Command};
    use super::*;
    use clap::Parser;

    #[test]
    fn shares_are_granted_as_far_as_there_are_cpus() {
        assert_eq!(granted(2.0, 62, 2).ok(), Some(2.0));
        assert_eq!(granted(90.0, 2, 2).ok(), Some(90.0));

        let refused = granted(3.1, 62, 2).expect_err("more than there is").to_string();

        assert!(refused.contains("at most 3.0 %"), "{refused}");
    }

    #[test]
    fn a_baseline_is_always_among_the_paths() {
        let args = ["twill-perf", "run", "--path", "twill", "classic"];
        let chosen = |baseline: &[&str], names: &[&str]| {
            let Command::Run(run) = Cli::parse_from(args.iter().chain(baseline)).command else {
                panic!("another command")
            };
            let paths = paths(names, &run.how).unwrap();
            let (paths, baseline) =
                with_baseline(paths, run.baseline.as_deref(), &run.how).unwrap();
            let paths: Vec<_> = paths.iter().map(PathSpec::to_string).collect();
            (paths.join(" "), baseline.to_string())
        };
        let pair = |paths: &str, baseline: &str| (paths.to_owned(), baseline.to_owned());

        assert_eq!(chosen(&[], &["twill", "vxlan"]), pair("twill vxlan", "vxlan"));
        assert_eq!(chosen(&[], &["twill", "classic"]), pair("twill classic", "twill"));
        assert_eq!(
            chosen(&["--baseline", "classic"], &["twill"]),
            pair("classic twill", "classic")
        );
    }

    #[test]
    fn times_are_written_as_dates() {
        assert_eq!(stamp(0), "1970-01-01T000000");
        assert_eq!(stamp(951_782_400), "2000-02-29T000000");
        assert_eq!(stamp(1_767_225_599), "2025-12-31T235959");
    }
}
