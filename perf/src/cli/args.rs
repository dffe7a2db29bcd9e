//! The words as typed.

use crate::path::External;
use crate::testbed::Wire;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

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
    /// Two hosts with a pod each, real traffic between them, one table, under a minute
    Demo(DemoArgs),
}

/// The hosts and the network between them.
#[derive(Clone, Debug, Args)]
pub(super) struct SettingArgs {
    /// Underlay MTU, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1500)]
    pub(super) mtu: u16,
    /// Share of packets that every host loses on arrival, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
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
