//! The command line: words as typed, and what they mean.

mod check;
mod doctor;
#[cfg(feature = "etcd")]
mod flanneld;
mod hist;
mod peer;
mod run;
mod show;
mod status;
mod top;

use crate::config::load::default_socket;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

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
    /// Run a node of a flannel network in flanneld's place, with flanneld's flags.
    #[cfg(feature = "etcd")]
    #[command(disable_help_flag = true)]
    Flanneld {
        /// flanneld's flags.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
    /// Check a configuration file and show what it means.
    Check(check::CheckArgs),
    /// Look at or change the peers of a running gateway.
    Peer(peer::PeerArgs),
    /// Show what a running gateway does.
    Status(status::StatusArgs),
    /// Watch a running gateway: rates, latencies, drops and peers, live.
    Top(top::TopArgs),
    /// Show or record a running gateway's histograms.
    Hist(hist::HistArgs),
    /// Say what this kernel and container allow, and what twill will therefore do.
    Doctor(doctor::DoctorArgs),
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
    #[cfg(feature = "etcd")]
    if is_called("flanneld") {
        return flanneld::main(std::env::args().skip(1));
    }
    let result = match Args::parse().command {
        #[cfg(feature = "etcd")]
        Command::Flanneld { flags } => return flanneld::main(flags.into_iter()),
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::check(&args),
        Command::Peer(args) => peer::peer(args),
        Command::Status(args) => status::status(&args),
        Command::Top(args) => top::top(&args),
        Command::Hist(args) => hist::hist(&args),
        Command::Doctor(args) => doctor::doctor(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("twill: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says that `RUST_LOG` makes no sense, if it does not; it is passed over then.
fn warn_of_filter() {
    let Ok(words) = std::env::var(EnvFilter::DEFAULT_ENV) else { return };
    if let Err(mistake) = EnvFilter::try_new(&words) {
        tracing::warn!("ignoring RUST_LOG {words:?}: {mistake}");
    }
}

/// Whether the program was called by this name, by a link for one.
#[cfg(feature = "etcd")]
fn is_called(name: &str) -> bool {
    let called = std::env::args_os().next().map(PathBuf::from);
    called.is_some_and(|path| path.file_name().is_some_and(|file| file == name))
}

/// What a command may end with: something to print.
type Outcome = Result<(), Box<dyn std::error::Error>>;
