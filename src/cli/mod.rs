//! The command line: parses arguments, runs the command, prints the result.
//!
//! All output goes through `twill-shell`, which ends quietly when the reader has closed the pipe.

mod check;
mod completion;
mod doctor;
#[cfg(feature = "fast-path")]
mod down;
#[cfg(feature = "etcd")]
mod flanneld;
mod hist;
mod manual;
mod peer;
mod reload;
mod run;
mod show;
mod status;
mod top;
mod upgrade;

use crate::config::load::{SOCKET_FOLDER, default_socket};
use crate::control::{self, report};
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::ArgValueCandidates;
#[cfg(feature = "etcd")]
use clap_complete::ArgValueCompleter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use twill_shell::completion::CompletionsArgs;
use twill_shell::manual::ManualArgs;
use twill_shell::print_error;

/// UDP encapsulation gateway: flannel's udp backend, many times the speed.
#[derive(Debug, Parser)]
#[command(name = "twill", version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a gateway from a configuration file
    Run(run::RunArgs),
    /// Run a node of a flannel network, with flanneld's flags
    #[cfg(feature = "etcd")]
    #[command(disable_help_flag = true)]
    Flanneld {
        /// Flags of flanneld; -help lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true,
              add = ArgValueCompleter::new(flanneld::completion::complete))]
        flags: Vec<String>,
    },
    /// Read the configuration file again in a running gateway
    Reload(reload::ReloadArgs),
    /// Check a configuration file and print the resulting settings
    Check(check::CheckArgs),
    /// List or change the peers of a running gateway
    Peer(peer::PeerArgs),
    /// Print the state and the counters of running gateways
    Status(status::StatusArgs),
    /// Show rates, latencies, drops and peers, live
    Top(top::TopArgs),
    /// Print or record the histograms of a running gateway
    Hist(hist::HistArgs),
    /// Start this program in the place of a running gateway, without losing a packet
    Upgrade(upgrade::UpgradeArgs),
    /// Remove the device and the programs of a gateway that has ended and kept forwarding
    #[cfg(feature = "fast-path")]
    Down(down::DownArgs),
    /// Show what this kernel and container support
    Doctor(doctor::DoctorArgs),
    /// Print the script that completes command lines in a shell
    #[command(
        after_help = "Load the script at the start of the shell: source <(twill completions bash)"
    )]
    Completions(CompletionsArgs),
    /// Write the manual pages to a folder
    Manual(ManualArgs),
}

/// The gateway that a command is for.
#[derive(Clone, Debug, Default, clap::Args)]
struct GatewayArgs {
    /// Control socket of the gateway
    #[arg(long, value_name = "PATH", env = "TWILL_SOCKET", global = true)]
    socket: Option<PathBuf>,
    /// Device name; selects /run/twill/NAME.sock [default: the only gateway that runs]
    #[arg(long, value_name = "NAME", global = true,
          add = ArgValueCandidates::new(completion::devices))]
    device: Option<String>,
}

impl GatewayArgs {
    /// The socket of the gateway that is named, or of the only one.
    fn socket(&self) -> Result<PathBuf, String> {
        only(self.sockets()?)
    }

    /// The socket of the gateway that is named, or those of all gateways.
    fn sockets(&self) -> Result<Vec<PathBuf>, String> {
        let running = || control::running(Path::new(SOCKET_FOLDER));
        match (&self.socket, &self.device) {
            (Some(socket), _) => Ok(vec![socket.clone()]),
            (None, Some(device)) => named(device, running()).map(|socket| vec![socket]),
            (None, None) => match running() {
                none if none.is_empty() => Err(format!(
                    "no gateway answers in {SOCKET_FOLDER}: start one with `twill run`, or name its \
                     socket with --socket"
                )),
                all => Ok(all),
            },
        }
    }
}

/// A device's socket; when it does not exist and gateways run, the error lists them.
fn named(device: &str, running: Vec<PathBuf>) -> Result<PathBuf, String> {
    let socket = default_socket(device);
    if running.is_empty() || socket.exists() {
        return Ok(socket);
    }
    Err(format!("no gateway {device:?} is running; these are: {}", devices(&running)))
}

fn only(mut running: Vec<PathBuf>) -> Result<PathBuf, String> {
    match running.pop() {
        Some(only) if running.is_empty() => Ok(only),
        last => {
            running.extend(last);
            let names = devices(&running);
            Err(format!("several gateways are running: choose one with --device: {names}"))
        }
    }
}

fn devices(sockets: &[PathBuf]) -> String {
    let names = sockets.iter().filter_map(|socket| Some(socket.file_stem()?.to_string_lossy()));
    names.collect::<Vec<_>>().join(", ")
}

/// Parses the process's arguments and runs the command. Invalid arguments end the process with
/// status 2 and the usage.
#[must_use]
pub fn main() -> ExitCode {
    twill_shell::completion::answer(<Args as CommandFactory>::command);
    #[cfg(feature = "etcd")]
    if is_called("flanneld") {
        return flanneld::main(std::env::args().skip(1));
    }
    let result = match Args::parse().command {
        #[cfg(feature = "etcd")]
        Command::Flanneld { flags } => return flanneld::main(flags.into_iter()),
        Command::Run(args) => run::run(args),
        Command::Reload(args) => reload::reload(&args),
        Command::Check(args) => check::check(&args),
        Command::Peer(args) => peer::peer(args),
        Command::Status(args) => status::status(&args),
        Command::Top(args) => top::top(&args),
        Command::Hist(args) => hist::hist(&args),
        Command::Upgrade(args) => upgrade::upgrade(&args),
        #[cfg(feature = "fast-path")]
        Command::Down(args) => down::down(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Completions(args) => completion::completions(&args),
        Command::Manual(args) => manual::manual(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::failed(&error);
            // The long form shows the lines of a file with its mistakes.
            print_error(&format!("twill: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Logs an invalid `RUST_LOG`, which is ignored.
fn warn_of_filter() {
    let Ok(words) = std::env::var(EnvFilter::DEFAULT_ENV) else { return };
    if let Err(mistake) = EnvFilter::try_new(&words) {
        tracing::warn!("ignoring invalid RUST_LOG {words:?}: {mistake}");
    }
}

/// Whether the program was started by this name, as through a link.
#[cfg(feature = "etcd")]
fn is_called(name: &str) -> bool {
    let called = std::env::args_os().next().map(PathBuf::from);
    called.is_some_and(|path| path.file_name().is_some_and(|file| file == name))
}

/// The result of a command; `main` prints the error.
type Outcome = Result<(), Box<dyn std::error::Error>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_gateway_is_taken_and_several_are_listed() {
        let at = |name: &str| default_socket(name);
        let one = vec![at("flannel0")];
        let two = vec![at("flannel0"), at("twill0")];

        assert_eq!(only(one.clone()), Ok(at("flannel0")));
        let several = only(two.clone()).unwrap_err();
        assert!(several.ends_with("choose one with --device: flannel0, twill0"), "{several}");
        let missing = named("no-such", two).unwrap_err();
        assert!(missing.contains("\"no-such\"") && missing.ends_with("flannel0, twill0"));
        assert_eq!(named("no-such", Vec::new()), Ok(at("no-such")), "connecting says why");
    }

    #[test]
    fn help_texts_are_imperatives_without_a_full_stop() {
        fn check(command: &clap::Command) {
            let options = command.get_arguments().filter_map(clap::Arg::get_help);
            for help in command.get_about().into_iter().chain(options) {
                let text = help.to_string();
                assert!(!text.ends_with('.') && !text.contains('\n'), "{text}");
            }
            command.get_subcommands().for_each(check);
        }
        check(&Args::command());
    }

    #[test]
    fn options_with_a_closed_set_list_their_values() {
        let mut command = Args::command();
        let run = command.find_subcommand_mut("run").unwrap();
        let help = run.render_help().to_string();
        let help: String = help.split_whitespace().collect::<Vec<_>>().join(" ");

        for values in [
            "auto, uring, tokio-uring, epoll, classic",
            "strict, peer, off",
            "fixed, spread",
            "peers, flows",
            "none, cpus, nic",
            "true, false",
            "human, json",
        ] {
            assert!(help.contains(&format!("[possible values: {values}]")), "{values}:\n{help}");
        }
        for feature in twill_datapath::offload::feature::Feature::ALL {
            assert!(help.contains(feature.name()), "{feature}");
        }
    }
}
