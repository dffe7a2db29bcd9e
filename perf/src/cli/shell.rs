//! What helps at a shell: completions and manual pages.

use super::Failure;
use super::args::Cli;
use super::output::print;
use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::CompleteEnv;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use std::path::PathBuf;

/// Set by the scripts to the shell's name.
const VARIABLE: &str = "TWILL_COMPLETE";
/// zsh reads a script in its search path at the first completion, as the body of the function that
/// completes.
const AUTOLOADED: &str =
    "[[ $funcstack[1] != _twill-perf ]] || _clap_dynamic_completer_twill_perf \"$@\"\n";

#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Load the script at the start of the shell: source <(twill-perf completions bash)"
)]
pub(super) struct CompletionsArgs {
    /// Shell that reads the script
    shell: Shell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Clone, Debug, Args)]
pub(super) struct ManualArgs {
    /// Folder for the pages, such as /usr/local/share/man/man1
    folder: PathBuf,
}

/// Answers a script and ends the process, if a script has started it.
pub(super) fn answer() {
    CompleteEnv::with_factory(Cli::command).var(VARIABLE).complete();
}

/// Prints the script of a shell.
pub(super) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let shell: &dyn EnvCompleter = match args.shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    shell
        .write_registration(VARIABLE, "twill-perf", "twill-perf", "twill-perf", &mut script)
        .map_err(|error| Failure::Unusable(format!("cannot write the script: {error}")))?;
    if args.shell == Shell::Zsh {
        script.extend_from_slice(AUTOLOADED.as_bytes());
    }
    print(&String::from_utf8_lossy(&script))
}

/// Writes one manual page for each command.
pub(super) fn manual(args: &ManualArgs) -> Result<(), Failure> {
    let folder = args.folder.display();
    std::fs::create_dir_all(&args.folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &args.folder))
        .map_err(|error| {
            Failure::Unusable(format!("cannot write manual pages to {folder}: {error}"))
        })
}

/// Names of paths; words after `twill:` are up to the user.
pub(super) fn paths() -> Vec<CompletionCandidate> {
    ["veth", "host-gw", "vxlan", "twill", "classic"].map(CompletionCandidate::new).into()
}

/// Names of workloads, numbers for example.
pub(super) fn workloads() -> Vec<CompletionCandidate> {
    WORKLOADS.map(CompletionCandidate::new).into()
}

const WORKLOADS: [&str; 13] = [
    "tcp-1",
    "tcp-4",
    "tcp-16",
    "udp-64",
    "udp-64x64",
    "udp-mix",
    "ndr-64",
    "rr",
    "latency",
    "latency@50",
    "latency@90",
    "latency+tcp",
    "iperf3",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::PathSpec;
    use crate::workload::Workload;

    #[test]
    fn all_names_that_are_offered_are_known() {
        for name in WORKLOADS {
            assert!(name.parse::<Workload>().is_ok(), "{name}");
        }
        for path in paths() {
            let name = path.get_value().to_str().unwrap().to_owned();
            assert!(name.parse::<PathSpec>().is_ok(), "{name}");
        }
    }

    #[test]
    fn each_command_has_a_manual_page() {
        let folder = tempfile::tempdir().unwrap();

        manual(&ManualArgs { folder: folder.path().join("man1") }).unwrap();

        for command in Cli::command().get_subcommands() {
            let page = folder.path().join(format!("man1/twill-perf-{}.1", command.get_name()));
            assert!(page.exists(), "{}", page.display());
        }
    }
}
