//! `twill run`.

use super::{Outcome, warn_of_filter};
use crate::config::file::{FeatureName, Interface, Queues, address, network};
use crate::config::{MAX_BUSY_POLL_US, Pinning, SourcePorts, Steering};
use crate::engine::EngineChoice;
use crate::gateway::standalone;
use crate::telemetry::log::{self, LogFormat};
use clap::Args;
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::PathBuf;
use twill_datapath::IngressCheck;
use twill_datapath::offload::feature::Feature;

/// Flags win over the environment, the environment over the file.
#[derive(Clone, Debug, Args)]
pub(super) struct RunArgs {
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", env = "TWILL_CONFIG")]
    config: PathBuf,
    #[command(flatten)]
    data: DataArgs,
}

/// The data plane and what is seen of it.
#[derive(Clone, Debug, Args)]
pub(super) struct DataArgs {
    /// Engine: auto, uring, tokio-uring, epoll or classic.
    #[arg(long, env = "TWILL_ENGINE")]
    engine: Option<EngineChoice>,
    /// Workers: a number, or auto for one per CPU.
    #[arg(long, env = "TWILL_QUEUES")]
    queues: Option<Queues>,
    /// Offloads to switch, such as gso=off,coalesce-udp=off.
    #[arg(long, value_name = "NAME=on|off", value_delimiter = ',', env = "TWILL_OFFLOAD")]
    offload: Vec<Switch>,
    /// What a datagram must be: strict, peer or off.
    #[arg(long, env = "TWILL_INGRESS_CHECK")]
    ingress_check: Option<IngressCheck>,
    /// Outer networks from which any peer's datagrams may come.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = network,
          env = "TWILL_PEER_SOURCE")]
    peer_source: Vec<IpNet>,
    /// Whether flows are spread over source ports: fixed or spread.
    #[arg(long, env = "TWILL_SOURCE_PORTS")]
    source_ports: Option<SourcePorts>,
    /// What spreads the datagrams of a peer with one source port: peers (nothing) or flows.
    #[arg(long, env = "TWILL_STEERING")]
    steering: Option<Steering>,
    /// Whether workers are bound to CPUs: none, cpus or nic.
    #[arg(long, env = "TWILL_PINNING")]
    pinning: Option<Pinning>,
    /// Microseconds for which a worker looks for packets before it sleeps.
    #[arg(long, value_name = "MICROSECONDS", env = "TWILL_BUSY_POLL_US",
          value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_BUSY_POLL_US)))]
    busy_poll_us: Option<u32>,
    /// The control socket.
    #[arg(long, value_name = "PATH", env = "TWILL_SOCKET")]
    socket: Option<PathBuf>,
    /// Where to serve metrics, such as 127.0.0.1:9285.
    #[arg(long, value_name = "ADDRESS", value_parser = address, env = "TWILL_METRICS")]
    metrics: Option<SocketAddr>,
    /// Keep histograms and numbers by peer: true or false.
    #[arg(long, env = "TWILL_TELEMETRY")]
    telemetry: Option<bool>,
    /// Seconds between two probes of a peer through the tunnel, 0 for none.
    #[arg(long, value_name = "SECONDS", env = "TWILL_PROBE_SECONDS")]
    probe_seconds: Option<u32>,
    /// Log lines for people or for machines.
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
        let wrong = || format!("{word:?}: write an offload's name, then =on or =off");
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

impl DataArgs {
    /// Puts what was typed in place of what the file says.
    pub(super) fn change(&self, interface: &mut Interface) {
        set(&mut interface.engine, self.engine);
        set(&mut interface.queues, self.queues);
        set(&mut interface.ingress_check, self.ingress_check);
        set(&mut interface.pinning, self.pinning);
        set(&mut interface.steering, self.steering);
        set(&mut interface.busy_poll_us, self.busy_poll_us);
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
    log::init(data.log_format);
    warn_of_filter();
    standalone::run(config, move |interface| data.change(interface))?;
    Ok(())
}
