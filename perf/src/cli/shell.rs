//! What helps at a shell: completions and manual pages.

use super::Failure;
use super::args::Cli;
use super::output::print;
use clap::CommandFactory;
use clap_complete::engine::CompletionCandidate;
use twill_shell::completion::{CompletionsArgs, script};
use twill_shell::manual::{Manual, ManualArgs};

/// What the manual pages say besides commands and options.
const MANUAL: Manual = Manual {
    source: concat!("twill-perf ", env!("CARGO_PKG_VERSION")),
    files: &[
        ("results/TIME/results.json", "all numbers of a run; `twill-perf schema` describes them"),
        ("results/TIME/report.html", "the same as a page with tables and curves"),
    ],
    other: "twill",
    options: |_| None,
};

/// Prints the script of a shell.
pub(super) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let script = script("twill-perf", args)
        .map_err(|error| Failure::Unusable(format!("cannot write the script: {error}")))?;
    print(&script)
}

/// Writes one manual page for each command.
pub(super) fn manual(args: &ManualArgs) -> Result<(), Failure> {
    MANUAL.write(Cli::command(), &args.folder).map_err(|error| Failure::Unusable(error.to_string()))
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
    fn options_with_a_closed_set_list_their_values() {
        let help = |command: &str| {
            let mut cli = Cli::command();
            let help = cli.find_subcommand_mut(command).expect(command).render_long_help();
            help.to_string()
        };

        for value in ["auto", "uring", "tokio-uring", "epoll", "classic"] {
            let scale = help("scale");
            let (_, engines) = scale.split_once("--engine").expect("--engine");
            let (_, values) = engines.split_once("possible values: ").expect("its values");
            let (values, _) = values.split_once(']').expect("their end");
            assert!(values.split(", ").any(|it| it == value), "{value}: {values}");
        }
        for wire in ["offloaded", "mtu"] {
            assert!(help("run").contains(&format!("- {wire}:")), "{}", help("run"));
        }
    }

    #[test]
    fn each_command_has_a_manual_page() {
        let folder = tempfile::tempdir().unwrap();

        manual(&ManualArgs { folder: folder.path().join("man1") }).unwrap();

        for command in Cli::command().get_subcommands() {
            let page = folder.path().join(format!("man1/twill-perf-{}.1", command.get_name()));
            let text = std::fs::read_to_string(&page).expect("a page");
            assert!(text.contains("Traffic is not encrypted."), "{}", page.display());
        }
    }
}
