//! `twill-perf soak`: options, signals, files.

use super::Failure;
use super::measure::{clock, stamp};
use super::output::print;
use crate::environment::Environment;
use crate::path::{Setting, find_twill};
use crate::soak::{self, Kind, Options};
use clap::{Args, ValueEnum};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::register_usize;
use std::fs;
use std::path::PathBuf;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use twill_shell::print_error;
use twill_testbed::{Testbed, Underlay};

#[derive(Clone, Debug, Args)]
#[command(group = clap::ArgGroup::new("length").required(true).args(["hours", "minutes"]))]
pub(super) struct SoakArgs {
    /// Run for so many hours
    #[arg(long, value_name = "COUNT", value_parser = some_time)]
    hours: Option<f64>,
    /// Run for so many minutes
    #[arg(long, value_name = "COUNT", value_parser = some_time)]
    minutes: Option<f64>,
    /// Repeat the faults of this seed [default: the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Run these gateways [default: both]
    #[arg(long, value_enum, num_args = 1..)]
    gateways: Vec<Gateways>,
    /// Run this twill program [default: $TWILL, else beside twill-perf, else from PATH]
    #[arg(long, value_name = "FILE")]
    twill: Option<PathBuf>,
    /// Write the report to this folder [default: results/TIME]
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Gateways {
    /// `twill run`, with peers from a file
    Run,
    /// `twill flanneld`, with peers from an etcd
    Flanneld,
}

fn some_time(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(time) if time > 0.0 && time <= 10_000.0 => Ok(time),
        _ => Err("must be more than 0 and at most 10000".to_owned()),
    }
}

impl SoakArgs {
    fn options(&self) -> Options {
        let seconds = self.hours.unwrap_or(0.0) * 3600.0 + self.minutes.unwrap_or(0.0) * 60.0;
        let mut kinds: Vec<_> = [(Gateways::Run, Kind::Run), (Gateways::Flanneld, Kind::Flanneld)]
            .into_iter()
            .filter(|(name, _)| self.gateways.is_empty() || self.gateways.contains(name))
            .map(|(_, kind)| kind)
            .collect();
        kinds.dedup();
        Options {
            seed: self.seed.unwrap_or_else(clock),
            length: Duration::from_secs_f64(seconds),
            kinds,
            setting: Setting {
                underlay: Underlay::default(),
                hosts: 2,
                twill: self.twill.clone().unwrap_or_else(find_twill),
                gateway_cpus: None,
                worker_share: None,
            },
        }
    }
}

pub(super) fn run(args: &SoakArgs) -> Result<(), Failure> {
    let options = args.options();
    // Whoever may not make a namespace learns it now, and before a file is written.
    drop(Testbed::new()?.namespace("trial")?);
    if options.kinds.contains(&Kind::Flanneld) {
        need_etcd()?;
    }
    let folder = args.output.clone();
    let folder = folder.unwrap_or_else(|| PathBuf::from(format!("results/{}", stamp(clock()))));
    let unusable =
        |error| Failure::Unusable(format!("cannot write to {}: {error}", folder.display()));
    fs::create_dir_all(&folder).map_err(unusable)?;
    let signal = Arc::new(AtomicUsize::new(0));
    for number in [SIGINT, SIGTERM] {
        register_usize(number, Arc::clone(&signal), number as usize)
            .map_err(|error| Failure::Unusable(format!("cannot wait for signals: {error}")))?;
    }
    let (minutes, seed) = (options.length.as_secs_f64() / 60.0, options.seed);
    print_error(&format!("soak for {minutes} minutes, --seed {seed}\n"));

    let environment = Environment::read(&options.setting.twill);
    let soaked = soak::run(&options, environment, &signal, &folder, &print_error)?;

    let text = soaked.text();
    let json = serde_json::to_string_pretty(&soaked)
        .map_err(|error| Failure::Unusable(format!("cannot write the report: {error}")))?;
    fs::write(folder.join("soak.json"), json + "\n").map_err(unusable)?;
    fs::write(folder.join("soak.txt"), &text).map_err(unusable)?;
    print(&format!("{text}report: {}\n", folder.join("soak.json").display()))?;
    if let Some(found) = &soaked.violation {
        return Err(Failure::Regression(found.describe(soaked.seed).trim_end().to_owned()));
    }
    if let Some(failure) = soaked.failure {
        return Err(Failure::Unusable(format!("the soak could not go on: {failure}")));
    }
    match signal.load(Ordering::Relaxed) {
        0 => Ok(()),
        number => exit(128 + number as i32),
    }
}

fn need_etcd() -> Result<(), Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let absent =
        |name: &&str| !std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    match ["etcd", "etcdctl"].iter().find(|name| absent(name)) {
        None => Ok(()),
        Some(name) => Err(Failure::Unusable(format!(
            "no `{name}` in PATH: install it (Debian: etcd-server and etcd-client), or leave nodes \
             of flannel's out (--gateways run)"
        ))),
    }
}
