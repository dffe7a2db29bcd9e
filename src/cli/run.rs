//! `twill run`: a gateway from a configuration file.

use super::{Outcome, warn_of_filter};
use crate::config::file::{FeatureName, Interface, Queues, address, network};
use crate::config::{BusyPoll, FastPath, Pinning, Scheduling, SourcePorts, Steering, Succession};
use crate::engine::EngineChoice;
use crate::gateway::standalone;
use crate::telemetry::log::{self, LogFormat};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::PathBuf;
use twill_datapath::IngressCheck;
use twill_datapath::offload::feature::Feature;

/// The configuration file without another name.
pub(super) const CONFIG: &str = "/etc/twill/twill.toml";

#[derive(Clone, Debug, Args)]
#[command(after_help = "Flags override the environment, the environment overrides the file.")]
pub(super) struct RunArgs {
    /// Configuration file
    #[arg(long, short, value_name = "FILE", env = "TWILL_CONFIG", default_value = CONFIG)]
    config: PathBuf,
    #[command(flatten)]
    data: DataArgs,
}

/// Settings of the data plane, of telemetry and of the log.
#[derive(Clone, Debug, Args)]
pub(super) struct DataArgs {
    /// Take over from the running gateway without losing a packet
    #[arg(long, env = "TWILL_TAKE_OVER")]
    take_over: bool,
    /// When a successor has taken over, wait for SIGTERM instead of ending
    #[arg(long, env = "TWILL_WAIT_AFTER_HAND_OVER")]
    wait_after_hand_over: bool,
    /// Select the engine; auto takes the fastest that works
    #[arg(long, value_enum, env = "TWILL_ENGINE")]
    engine: Option<EngineChoice>,
    /// Set the number of workers: 1 to 256, or auto for one per CPU
    #[arg(long, value_name = "COUNT", env = "TWILL_QUEUES")]
    queues: Option<Queues>,
    /// Switch offloads on or off: tso, uso, gso, gro, coalesce-tcp, coalesce-udp
    #[arg(long, value_name = "NAME=on|off", value_delimiter = ',', env = "TWILL_OFFLOAD")]
    offload: Vec<Switch>,
    /// Validate the source of datagrams
    #[arg(long, value_enum, env = "TWILL_INGRESS_CHECK")]
    ingress_check: Option<CheckName>,
    /// Accept any peer's datagrams from these outer networks, too
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = network,
          env = "TWILL_PEER_SOURCE")]
    peer_source: Vec<IpNet>,
    /// Send from one port, or from one port per worker
    #[arg(long, value_enum, env = "TWILL_SOURCE_PORTS")]
    source_ports: Option<SourcePorts>,
    /// Distribute datagrams over workers by peer or by inner flow
    #[arg(long, value_enum, env = "TWILL_STEERING")]
    steering: Option<Steering>,
    /// Carry packets in the kernel, by eBPF programs or module devices
    #[arg(long, value_enum, env = "TWILL_FAST_PATH")]
    fast_path: Option<FastPath>,
    /// Go on with the fast path when the gateway ends, until it starts again
    #[arg(long, env = "TWILL_KEEP_FORWARDING")]
    keep_forwarding: Option<bool>,
    /// Bind workers to CPUs
    #[arg(long, value_enum, env = "TWILL_PINNING")]
    pinning: Option<Pinning>,
    /// Give workers CPU time before others: normal, nice:N or realtime
    #[arg(long, value_name = "POLICY", env = "TWILL_SCHEDULING")]
    scheduling: Option<Scheduling>,
    /// Poll for packets this long before sleeping: auto, or 0 to 1000000
    #[arg(long, value_name = "MICROSECONDS", env = "TWILL_BUSY_POLL_US")]
    busy_poll_us: Option<BusyPoll>,
    /// Control socket [default: /run/twill/NAME.sock]
    #[arg(long, value_name = "PATH", env = "TWILL_SOCKET")]
    socket: Option<PathBuf>,
    /// Serve metrics and health pages at this address, such as 127.0.0.1:9285
    #[arg(long, value_name = "ADDRESS", value_parser = address, env = "TWILL_METRICS")]
    metrics: Option<SocketAddr>,
    /// Keep histograms and counters by peer
    #[arg(long, env = "TWILL_TELEMETRY")]
    telemetry: Option<bool>,
    /// Set the interval between probes of a peer, 0 for none
    #[arg(long, value_name = "SECONDS", env = "TWILL_PROBE_SECONDS")]
    probe_seconds: Option<u32>,
    /// Log format
    #[arg(long, value_enum, default_value_t = LogFormat::Human, env = "TWILL_LOG_FORMAT")]
    pub(super) log_format: LogFormat,
}

/// `NAME=on` or `NAME=off`.
#[derive(Clone, Copy, Debug)]
struct Switch {
    feature: Feature,
    on: bool,
}

impl std::str::FromStr for Switch {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let wrong = || format!("invalid offload {word:?}: write NAME=on or NAME=off");
        let (name, value) = word.split_once('=').ok_or_else(wrong)?;
        let on = match value {
            "on" => true,
            "off" => false,
            _ => return Err(wrong()),
        };
        let feature = name.parse::<Feature>().map_err(|error| error.to_string())?;
        Ok(Self { feature, on })
    }
}

/// An [`IngressCheck`] on the command line; the pure crate has no clap.
#[derive(Clone, Copy, Debug)]
struct CheckName(IngressCheck);

impl ValueEnum for CheckName {
    fn value_variants<'a>() -> &'a [Self] {
        const { &[Self(IngressCheck::ALL[0]), Self(IngressCheck::ALL[1]), Self(IngressCheck::ALL[2])] }
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(self.0.name().into())
    }
}

impl DataArgs {
    /// What comes before and after this gateway.
    pub(super) fn succession(&self) -> Succession {
        Succession { take_over: self.take_over, waits: self.wait_after_hand_over }
    }

    /// Overrides the file's settings with those of the command line.
    pub(super) fn change(&self, interface: &mut Interface) {
        set(&mut interface.engine, self.engine);
        set(&mut interface.queues, self.queues);
        set(&mut interface.ingress_check, self.ingress_check.map(|CheckName(check)| check));
        set(&mut interface.fast_path, self.fast_path);
        set(&mut interface.keep_forwarding, self.keep_forwarding);
        set(&mut interface.pinning, self.pinning);
        set(&mut interface.scheduling, self.scheduling);
        set(&mut interface.steering, self.steering);
        set(&mut interface.busy_poll, self.busy_poll_us);
        set(&mut interface.source_ports, self.source_ports.map(Some));
        set(&mut interface.socket, self.socket.clone().map(Some));
        set(&mut interface.metrics, self.metrics.map(Some));
        set(&mut interface.telemetry, self.telemetry);
        set(&mut interface.probe_seconds, self.probe_seconds);
        if !self.peer_source.is_empty() {
            interface.peer_sources.clone_from(&self.peer_source);
        }
        for switch in &self.offload {
            interface.offloads.insert(FeatureName(switch.feature), switch.on);
        }
    }
}

fn set<T>(value: &mut T, typed: Option<T>) {
    if let Some(typed) = typed {
        *value = typed;
    }
}

pub(super) fn run(args: RunArgs) -> Outcome {
    let RunArgs { config, data } = args;
    let succession = data.succession();
    log::init(data.log_format);
    warn_of_filter();
    standalone::run(config, move |interface| data.change(interface), succession)?;
    Ok(())
}
