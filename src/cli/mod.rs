//! The command line: words as typed, and what they mean.

mod check;
mod peer;
mod run;
mod status;

use crate::config::load::default_socket;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// UDP encapsulation gateway: flannel's udp backend, many times the speed.
#[derive(Debug, Parser)]
#[command(name = "twill", version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a gateway whose peers stand in a file.
    Run(run::RunArgs),
    /// Check a configuration file and show what it means.
    Check(check::CheckArgs),
    /// Look at or change the peers of a running gateway.
    Peer(peer::PeerArgs),
    /// Show what a running gateway does.
    Status(status::StatusArgs),
}

/// Which gateway is meant.
#[derive(Clone, Debug, clap::Args)]
struct GatewayArgs {
    /// The gateway's control socket.
    #[arg(long, value_name = "PATH", env = "TWILL_SOCKET", global = true)]
    socket: Option<PathBuf>,
    /// The gateway's device, whose control socket has its usual name.
    #[arg(long, value_name = "NAME", default_value = "twill0", global = true)]
    device: String,
}

impl GatewayArgs {
    fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| default_socket(&self.device))
    }
}

/// Parses the process's arguments and runs what they ask for. Mistakes in them end the process with
/// status 2 and the usage.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::check(&args),
        Command::Peer(args) => peer::peer(args),
        Command::Status(args) => status::status(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("twill: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What a command may end with: something to print.
type Outcome = Result<(), Box<dyn std::error::Error>>;
