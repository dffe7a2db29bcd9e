//! `twill check`: what a configuration file means, without running it.

use super::Outcome;
use super::run::CONFIG;
use super::show::print;
use crate::config::load::{Standalone, load};
use clap::Args;
use ipnet::IpNet;
use std::fmt::{self, Write};
use std::path::PathBuf;

#[derive(Clone, Debug, Args)]
pub(super) struct CheckArgs {
    /// Configuration file
    #[arg(default_value = CONFIG)]
    file: PathBuf,
}

pub(super) fn check(args: &CheckArgs) -> Outcome {
    let loaded = load(&args.file, |_| {})?;
    let mut text = format!("{}: ok\n", args.file.display());
    describe(&loaded, &mut text)?;
    print(&text)
}

fn describe(loaded: &Standalone, out: &mut String) -> fmt::Result {
    let settings = &loaded.settings;
    let sources = list(&settings.peer_sources);
    let rows = [
        ("device", format!("{} ({})", settings.device, list(&settings.addresses))),
        ("encryption", "none: who is on the path can read and change packets".to_owned()),
        ("mtu", settings.mtu.to_string()),
        ("listen", settings.listen.to_string()),
        ("local", list(&settings.local)),
        ("queues", settings.queues.count().to_string()),
        ("engine", settings.engine.to_string()),
        ("offloads", settings.offloads.to_string()),
        ("ingress check", settings.ingress_check.to_string()),
        ("peer sources", if sources.is_empty() { "peers only".to_owned() } else { sources }),
        ("source ports", settings.source_ports.to_string()),
        ("steering", settings.steering.to_string()),
        ("fast path", settings.fast_path.to_string()),
        ("pinning", settings.pinning.to_string()),
        ("scheduling", settings.scheduling.to_string()),
        ("busy poll", settings.busy_poll.to_string()),
        ("socket buffer", format!("{} bytes", settings.socket_buffer)),
        ("device queue", format!("{} packets", settings.device_queue)),
        ("socket", loaded.socket.display().to_string()),
        ("socket group", or(loaded.socket_group, "none")),
        ("metrics", or(loaded.metrics, "not served")),
        ("telemetry", settings.telemetry.to_string()),
        ("probes", or(loaded.probe.map(|every| format!("every {every:?}")), "none")),
    ];
    for (name, value) in rows {
        writeln!(out, "  {name:13} {value}")?;
    }
    for peer in loaded.peers.iter() {
        let subnets = list(&peer.subnets);
        writeln!(out, "  peer          {} at {} with {subnets}", peer.name, peer.endpoint)?;
    }
    for warning in &loaded.warnings {
        writeln!(out, "  warning       {warning}")?;
    }
    Ok(())
}

fn list(networks: &[IpNet]) -> String {
    networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn or(value: Option<impl ToString>, none: &str) -> String {
    value.map_or_else(|| none.to_owned(), |value| value.to_string())
}
