//! The words as typed.

use crate::path::External;
use crate::workload::Workload;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use twill_testbed::Wire;

/// Compares network paths between containers: throughput, loss, latency, and what they cost.
///
/// Builds its own hosts and pods in network namespaces, runs its own traffic between them, and
/// removes everything however it ends. Needs root.
#[derive(Debug, Parser)]
#[command(name = "twill-perf", version, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Measure a matrix of paths, workloads and wires
    Run(RunArgs),
    /// Measure the essentials in a minute
    Quick(QuickArgs),
    /// Measure twill with 1, 2, 4 … queues
    Scale(ScaleArgs),
    /// Set two runs side by side
    Compare(CompareArgs),
    /// Make the report of a run again
    Report(ReportArgs),
    /// Fail if something is worse than before, or than it must be
    Check(CheckArgs),
    /// Two hosts with a pod each, real traffic between them, one table, under a minute
    Demo(DemoArgs),
}

/// How to measure, whatever is measured.
#[derive(Clone, Debug, Args)]
pub(super) struct HowArgs {
    /// Rounds that count; one more before them is thrown away
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) rounds: u32,
    /// Measured time of each run, seconds
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    pub(super) seconds: f64,
    /// What the order of paths and the intervals are drawn from [default: the clock]
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// A gateway of your own, NAME=COMMAND or NAME,mtu=BYTES=COMMAND; docs/PERF.md has examples
    #[arg(long, value_name = "NAME=COMMAND")]
    pub(super) external: Vec<External>,
    #[command(flatten)]
    pub(super) setting: SettingArgs,
    /// Folder for results.json, report.html and .hgrm files [default: results/ and the time]
    #[arg(long, value_name = "FOLDER")]
    pub(super) output: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(super) struct RunArgs {
    /// Paths: veth, host-gw, vxlan, twill, twill:ENGINE,-OFFLOAD,queues=N (and more words), classic,
    /// or a name that --external gives; repeat for several [default: host-gw vxlan twill classic]
    #[arg(long, short, num_args = 1..)]
    pub(super) path: Vec<String>,
    /// Workloads: tcp-N, udp-SIZE[xFLOWS][@RATE], udp-mix, ndr-SIZE, rr, latency, latency@50,
    /// latency@90, latency+tcp, iperf3; repeat for several [default: tcp-1 tcp-4 udp-64 udp-64x64
    /// latency latency+tcp]
    #[arg(long, short, num_args = 1..)]
    pub(super) workload: Vec<Workload>,
    /// Wires [default: both]
    #[arg(long, value_enum, num_args = 1..)]
    pub(super) wire: Vec<WireName>,
    /// The path that ratios refer to; measured, too, if it is not among the paths [default: vxlan if
    /// it is, else the first path]
    #[arg(long, value_name = "PATH")]
    pub(super) baseline: Option<String>,
    #[command(flatten)]
    pub(super) how: HowArgs,
}

#[derive(Clone, Debug, Args)]
pub(super) struct QuickArgs {
    /// Paths [default: vxlan twill classic]
    #[arg(long, short, num_args = 1..)]
    pub(super) path: Vec<String>,
    /// What crosses the underlay at once
    #[arg(long, value_enum, default_value_t = WireName::Mtu)]
    pub(super) wire: WireName,
    #[command(flatten)]
    pub(super) setting: SettingArgs,
    /// Folder for results [default: results/ and the time]
    #[arg(long, value_name = "FOLDER")]
    pub(super) output: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(super) struct ScaleArgs {
    /// Most queues [default: the CPUs at hand]
    #[arg(long)]
    pub(super) queues: Option<u16>,
    /// The engine
    #[arg(long)]
    pub(super) engine: Option<String>,
    /// Give every worker this share of a CPU and no more: whether many share the work well then
    /// shows on a machine with few CPUs, too
    #[arg(long, value_name = "PERCENT", value_parser = some_percent, conflicts_with = "gateway_cpus")]
    pub(super) worker_share: Option<f64>,
    /// What crosses the underlay at once
    #[arg(long, value_enum, default_value_t = WireName::Mtu)]
    pub(super) wire: WireName,
    #[command(flatten)]
    pub(super) how: HowArgs,
}

#[derive(Clone, Debug, Args)]
pub(super) struct CompareArgs {
    /// The results.json before
    pub(super) before: PathBuf,
    /// The results.json after
    pub(super) after: PathBuf,
    /// Share by which a number may differ before it counts, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, value_parser = percent)]
    pub(super) tolerance: f64,
}

#[derive(Clone, Debug, Args)]
pub(super) struct ReportArgs {
    /// The results.json
    pub(super) results: PathBuf,
    /// Folder for the report [default: the file's own]
    #[arg(long, value_name = "FOLDER")]
    pub(super) output: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
#[command(group = clap::ArgGroup::new("goal").required(true).args(["against", "targets"]))]
pub(super) struct CheckArgs {
    /// An earlier results.json that must not be undercut
    #[arg(long, value_name = "FILE")]
    pub(super) against: Option<PathBuf>,
    /// A file of targets that must be reached, perf/targets.toml for one
    #[arg(long, value_name = "FILE")]
    pub(super) targets: Option<PathBuf>,
    /// Judge this results.json instead of measuring now
    #[arg(long, value_name = "FILE")]
    pub(super) results: Option<PathBuf>,
    /// Share by which a number may be worse than before, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, value_parser = percent)]
    pub(super) tolerance: f64,
    /// Print the targets as a table in Markdown
    #[arg(long)]
    pub(super) markdown: bool,
    #[command(flatten)]
    pub(super) how: HowArgs,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("0 to 100 percent".to_owned()),
    }
}

fn some_percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent) if (0.1..=90.0).contains(&percent) => Ok(percent),
        _ => Err("0.1 to 90 percent".to_owned()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.2..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("0.2 to 3600 seconds".to_owned()),
    }
}

/// The hosts and the network between them.
#[derive(Clone, Debug, Args)]
pub(super) struct SettingArgs {
    /// Underlay MTU, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1500, value_parser = clap::value_parser!(u16).range(576..))]
    pub(super) mtu: u16,
    /// Share of packets that every host loses on arrival, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = percent)]
    pub(super) loss: f64,
    /// Limit of what every host sends, Mbit/s
    #[arg(long, value_name = "MBIT")]
    pub(super) rate: Option<u32>,
    /// Hosts; traffic flows between the first two
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=64))]
    pub(super) hosts: u8,
    /// CPUs that gateways may use, as taskset takes them (0,2-3)
    #[arg(long, value_name = "LIST")]
    pub(super) gateway_cpus: Option<String>,
    /// The twill binary [default: beside this program, else from PATH]
    #[arg(long, value_name = "FILE", env = "TWILL")]
    pub(super) twill: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(super) struct DemoArgs {
    /// The path to show
    #[arg(long, default_value = "twill")]
    pub(super) path: String,
    /// What crosses the underlay at once
    #[arg(long, value_enum, default_value_t = WireName::Mtu)]
    pub(super) wire: WireName,
    #[command(flatten)]
    pub(super) setting: SettingArgs,
    /// A gateway of your own, NAME=COMMAND
    #[arg(long, value_name = "NAME=COMMAND")]
    pub(super) external: Vec<External>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum WireName {
    /// Super-packets cross whole
    Offloaded,
    /// Nothing larger than the MTU
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
