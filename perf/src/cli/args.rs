//! The command line as the user types it.

use super::shell::{paths, workloads};
use super::soak::SoakArgs;
use crate::path::{Engine, External};
use crate::workload::Workload;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::ArgValueCandidates;
use std::path::PathBuf;
use twill_shell::completion::CompletionsArgs;
use twill_shell::manual::ManualArgs;
use twill_testbed::Wire;

/// Compare network paths between containers
///
/// Measures throughput, loss, latency and CPU cost. Builds hosts and pods in network namespaces,
/// sends its own traffic between them, and removes everything when it ends, even if it is killed.
/// Needs root.
#[derive(Debug, Parser)]
#[command(name = "twill-perf", version, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Measure paths, workloads and wires against each other
    Run(RunArgs),
    /// Measure the essentials in a minute
    Quick(QuickArgs),
    /// Measure twill with 1, 2, 4 … queues
    Scale(ScaleArgs),
    /// Compare two results.json files
    Compare(CompareArgs),
    /// Write the report of a results.json file again
    Report(ReportArgs),
    /// Fail if twill is slower than before, or than required
    Check(CheckArgs),
    /// Show one path under five kinds of traffic
    Demo(DemoArgs),
    /// Run gateways under load with faults for hours, and check invariants
    Soak(SoakArgs),
    /// Print the JSON schema of results.json
    Schema,
    /// Print the script that completes command lines in a shell
    #[command(
        after_help = "Load the script at the start of the shell: source <(twill-perf completions bash)"
    )]
    Completions(CompletionsArgs),
    /// Write the manual pages to a folder
    Manual(ManualArgs),
}

/// How tables are printed.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct FormatArgs {
    /// Print Markdown tables
    #[arg(long)]
    pub(super) markdown: bool,
    /// Print comma-separated values: one table, all numbers
    #[arg(long, conflicts_with = "markdown")]
    pub(super) csv: bool,
}

/// How to measure.
#[derive(Clone, Debug, Args)]
pub(super) struct HowArgs {
    /// Measure so many rounds, after one that is thrown away [default: 5]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) rounds: Option<u32>,
    /// Measure each run for so many seconds [default: 3]
    #[arg(long, value_parser = seconds)]
    pub(super) seconds: Option<f64>,
    /// Seed the order of paths and the intervals [default: the clock]
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// Add a gateway of your own: NAME=COMMAND or NAME,mtu=BYTES=COMMAND
    ///
    /// docs/PERF.md has examples.
    #[arg(long, value_name = "NAME=COMMAND")]
    pub(super) external: Vec<External>,
    #[command(flatten)]
    pub(super) setting: SettingArgs,
    /// Write results to this folder [default: results/TIME]
    #[arg(long, value_name = "FOLDER")]
    pub(super) output: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(super) struct RunArgs {
    /// Measure these paths [default: host-gw vxlan twill classic]
    ///
    /// veth, host-gw, vxlan, twill, classic, or a NAME from --external. twill:WORDS takes words
    /// separated by commas: an engine (auto, uring, tokio-uring, epoll), -OFFLOAD (tso, uso, gso,
    /// gro, coalesce-tcp, coalesce-udp), queues=N, scheduling=POLICY, busy-poll=MICROSECONDS or auto,
    /// device-queue=PACKETS, -telemetry, and bin=FILE for another twill program.
    #[arg(long, short, num_args = 1.., add = ArgValueCandidates::new(paths))]
    pub(super) path: Vec<String>,
    /// Run these workloads [default: tcp-1 tcp-4 udp-64 udp-64x64 latency latency+tcp]
    ///
    /// tcp-STREAMS, udp-SIZE[xFLOWS][@RATE], udp-mix, ndr-SIZE, rr, latency, latency@50,
    /// latency@90, latency+tcp, iperf3. SIZE is in bytes, RATE in packets per second.
    #[arg(long, short, num_args = 1.., add = ArgValueCandidates::new(workloads))]
    pub(super) workload: Vec<Workload>,
    /// Use these wires between the hosts [default: both]
    #[arg(long, value_enum, num_args = 1..)]
    pub(super) wire: Vec<WireName>,
    /// Divide by this path's numbers [default: vxlan if measured, else the first path]
    #[arg(long, value_name = "PATH", add = ArgValueCandidates::new(paths))]
    pub(super) baseline: Option<String>,
    #[command(flatten)]
    pub(super) how: HowArgs,
    #[command(flatten)]
    pub(super) format: FormatArgs,
}

#[derive(Clone, Debug, Args)]
pub(super) struct QuickArgs {
    /// Measure these paths [default: vxlan twill classic]
    #[arg(long, short, num_args = 1.., add = ArgValueCandidates::new(paths))]
    pub(super) path: Vec<String>,
    /// Use this wire between the hosts
    #[arg(long, value_enum, default_value_t = WireName::Mtu)]
    pub(super) wire: WireName,
    #[command(flatten)]
    pub(super) setting: SettingArgs,
    /// Write results to this folder [default: results/TIME]
    #[arg(long, value_name = "FOLDER")]
    pub(super) output: Option<PathBuf>,
    #[command(flatten)]
    pub(super) format: FormatArgs,
}

#[derive(Clone, Debug, Args)]
pub(super) struct ScaleArgs {
    /// Measure up to so many queues [default: the number of CPUs]
    #[arg(long)]
    pub(super) queues: Option<u16>,
    /// Use this engine [default: auto]
    #[arg(long, value_enum)]
    pub(super) engine: Option<Engine>,
    /// Limit each worker to this share of a CPU
    ///
    /// Shows on a machine with few CPUs whether many workers share the work well.
    #[arg(long, value_name = "PERCENT", value_parser = some_percent, conflicts_with = "gateway_cpus")]
    pub(super) worker_share: Option<f64>,
    /// Use this wire between the hosts
    #[arg(long, value_enum, default_value_t = WireName::Mtu)]
    pub(super) wire: WireName,
    #[command(flatten)]
    pub(super) how: HowArgs,
    #[command(flatten)]
    pub(super) format: FormatArgs,
}

#[derive(Clone, Debug, Args)]
pub(super) struct CompareArgs {
    /// The earlier results.json
    pub(super) before: PathBuf,
    /// The later results.json
    pub(super) after: PathBuf,
    /// Ignore differences up to this share
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, value_parser = percent)]
    pub(super) tolerance: f64,
    #[command(flatten)]
    pub(super) format: FormatArgs,
}

#[derive(Clone, Debug, Args)]
pub(super) struct ReportArgs {
    /// The results.json
    pub(super) results: PathBuf,
    /// Write the report to this folder [default: that of the file]
    #[arg(long, value_name = "FOLDER")]
    pub(super) output: Option<PathBuf>,
}

/// Options that make no sense if nothing is measured.
const MEASURING: [&str; 11] = [
    "rounds",
    "seconds",
    "seed",
    "external",
    "mtu",
    "loss",
    "rate",
    "hosts",
    "gateway_cpus",
    "twill",
    "output",
];

#[derive(Clone, Debug, Args)]
#[command(group = clap::ArgGroup::new("goal").required(true).args(["against", "targets"]))]
pub(super) struct CheckArgs {
    /// Measure an earlier results.json again and compare
    ///
    /// --rounds and --seconds may differ from the earlier run. The network and the CPUs of the
    /// gateways may not.
    #[arg(long, value_name = "FILE")]
    pub(super) against: Option<PathBuf>,
    /// Compare with required numbers, such as perf/targets.toml
    #[arg(long, value_name = "FILE")]
    pub(super) targets: Option<PathBuf>,
    /// Judge this results.json instead of measuring
    #[arg(long, value_name = "FILE", conflicts_with_all = MEASURING)]
    pub(super) results: Option<PathBuf>,
    /// Accept numbers that are worse by this share
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, value_parser = percent)]
    pub(super) tolerance: f64,
    #[command(flatten)]
    pub(super) how: HowArgs,
    #[command(flatten)]
    pub(super) format: FormatArgs,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("must be 0 to 100 percent".to_owned()),
    }
}

fn some_percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent) if (0.1..=90.0).contains(&percent) => Ok(percent),
        _ => Err("must be 0.1 to 90 percent".to_owned()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.2..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("must be 0.2 to 3600 seconds".to_owned()),
    }
}

/// The hosts and the network between them.
#[derive(Clone, Debug, Args)]
pub(super) struct SettingArgs {
    /// Set the MTU between the hosts, bytes [default: 1500]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(576..))]
    pub(super) mtu: Option<u16>,
    /// Lose this share of packets on arrival at each host [default: 0]
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(super) loss: Option<f64>,
    /// Limit what each host sends, Mbit/s [default: no limit]
    #[arg(long, value_name = "MBIT")]
    pub(super) rate: Option<u32>,
    /// Build so many hosts; traffic flows between two [default: 2]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(2..=64))]
    pub(super) hosts: Option<u8>,
    /// Run gateways on these CPUs only, such as 0,2-3 [default: all]
    #[arg(long, value_name = "LIST")]
    pub(super) gateway_cpus: Option<String>,
    /// Run this twill program [default: $TWILL, else beside twill-perf, else from PATH]
    #[arg(long, value_name = "FILE")]
    pub(super) twill: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(super) struct DemoArgs {
    /// Show this path
    #[arg(long, default_value = "twill", add = ArgValueCandidates::new(paths))]
    pub(super) path: String,
    /// Use this wire between the hosts
    #[arg(long, value_enum, default_value_t = WireName::Mtu)]
    pub(super) wire: WireName,
    #[command(flatten)]
    pub(super) setting: SettingArgs,
    /// Add a gateway of your own: NAME=COMMAND
    #[arg(long, value_name = "NAME=COMMAND")]
    pub(super) external: Vec<External>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum WireName {
    /// Super-packets cross whole, as between virtual machines
    Offloaded,
    /// Packets no larger than the MTU, as on most NICs
    Mtu,
}

impl From<WireName> for Wire {
    fn from(name: WireName) -> Self {
        match name {
            WireName::Offloaded => Self::Offloaded,
            WireName::Mtu => Self::Mtu,
        }
    }
}
