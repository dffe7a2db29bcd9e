//! The command line: parses it, runs the command, prints, and returns the exit code.

mod args;
mod check;
mod demo;
mod interrupt;
mod measure;
mod output;
mod progress;
mod shell;
mod soak;

use crate::path::{
    External, InvalidTemplate, PathSpec, Setting, Unavailable, UnknownPath, find_twill,
};
use crate::report::{changes, comparison};
use crate::results::{Results, ResultsError};
use crate::workload::{UnknownWorkload, WorkloadError};
use args::{Cli, Command, CompareArgs, ReportArgs, SettingArgs};
use clap::{CommandFactory, Parser};
use output::{Output, print};
use std::path::Path;
use std::process::ExitCode;
use twill_testbed::{TestbedError, Underlay, Wire};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Path(#[from] UnknownPath),
    #[error(transparent)]
    Template(#[from] InvalidTemplate),
    #[error(transparent)]
    Word(#[from] UnknownWorkload),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    #[error(transparent)]
    Testbed(#[from] TestbedError),
    #[error(transparent)]
    Results(#[from] ResultsError),
    #[error("{0}")]
    Unusable(String),
    #[error("{0}")]
    Regression(String),
}

/// Runs the command. Returns 0 if all went well, 1 if something is worse than it should be, and 2
/// if that could not be found out.
#[must_use]
pub fn main() -> ExitCode {
    twill_shell::completion::answer(Cli::command);
    let result = match Cli::parse().command {
        Command::Run(args) => measure::run(&args),
        Command::Quick(args) => measure::quick(&args),
        Command::Scale(args) => measure::scale(&args),
        Command::Compare(args) => compare(&args),
        Command::Report(args) => report(&args),
        Command::Check(args) => check::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Schema => print(&Results::schema()),
        Command::Completions(args) => shell::completions(&args),
        Command::Manual(args) => shell::manual(&args),
        Command::Demo(args) => path(&args.path, &args.external)
            .map_err(Failure::from)
            .and_then(|spec| demo::run(&spec, &setting(&args.setting, args.wire.into()))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            twill_shell::print_error(&format!("twill-perf: {failure}\n"));
            ExitCode::from(if matches!(failure, Failure::Regression(_)) { 1 } else { 2 })
        }
    }
}

fn compare(args: &CompareArgs) -> Result<(), Failure> {
    let (before, after) = (Results::load(&args.before)?, Results::load(&args.after)?);
    let output = Output::new(&args.format);
    let changes = changes(&before, &after, args.tolerance / 100.0);
    print(&comparison(&changes, output.layout))?;
    let machine = |results: &Results| {
        format!("{}, {}", results.environment.date(), results.environment.describe())
    };
    output.remark(&format!(
        "\nThese runs were not interleaved: a change of the machine between them looks like a \
         change of the path.\nbefore: {}\nafter:  {}\n",
        machine(&before),
        machine(&after)
    ))
}

fn report(args: &ReportArgs) -> Result<(), Failure> {
    let results = Results::load(&args.results)?;
    let beside = args.results.parent().unwrap_or_else(|| Path::new(""));
    let written = measure::write_report(&results, args.output.as_deref().unwrap_or(beside))?;
    print(&written)
}

fn setting(args: &SettingArgs, wire: Wire) -> Setting {
    let usual = Underlay::default();
    Setting {
        underlay: Underlay {
            mtu: args.mtu.unwrap_or(usual.mtu),
            wire,
            loss: args.loss.map_or(usual.loss, |percent| percent / 100.0),
            rate_mbit: args.rate,
        },
        hosts: args.hosts.unwrap_or(2),
        twill: args.twill.clone().unwrap_or_else(find_twill),
        gateway_cpus: args.gateway_cpus.clone(),
        worker_share: None,
    }
}

/// A path by its name, which may be one that the user brings.
fn path(name: &str, external: &[External]) -> Result<PathSpec, UnknownPath> {
    match external.iter().find(|external| external.name == name) {
        Some(external) => Ok(PathSpec::External(external.clone())),
        None => name.parse(),
    }
}
