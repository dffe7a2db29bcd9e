//! The command line.

mod args;
mod demo;
mod progress;

use crate::path::{External, PathSpec, Setting, Unavailable, UnknownPath, find_twill};
use crate::testbed::{TestbedError, Underlay, Wire};
use crate::workload::WorkloadError;
use args::{Cli, Command, SettingArgs};
use clap::Parser;
use std::process::ExitCode;

/// Why a command did not end well.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Path(#[from] UnknownPath),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    #[error(transparent)]
    Testbed(#[from] TestbedError),
    #[error("{0}")]
    Regression(String),
}

/// Runs the command that the process was given: 0 when all went well, 1 when something is worse
/// than it should be, 2 when it could not be found out.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(args) => path(&args.path, &args.external)
            .map_err(Failure::from)
            .and_then(|spec| demo::run(&spec, &setting(&args.setting, args.wire.into()))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("twill-perf: {failure}");
            ExitCode::from(if matches!(failure, Failure::Regression(_)) { 1 } else { 2 })
        }
    }
}

fn setting(args: &SettingArgs, wire: Wire) -> Setting {
    Setting {
        underlay: Underlay { mtu: args.mtu, wire, loss: args.loss / 100.0, rate_mbit: args.rate },
        hosts: args.hosts,
        twill: args.twill.clone().unwrap_or_else(find_twill),
        gateway_cpus: args.gateway_cpus.clone(),
    }
}

/// A path by name, among ours and those that the user brought.
fn path(name: &str, external: &[External]) -> Result<PathSpec, UnknownPath> {
    match external.iter().find(|external| external.name == name) {
        Some(external) => Ok(PathSpec::External(external.clone())),
        None => name.parse(),
    }
}
