//! `twill check`.

use super::Outcome;
use crate::config::load::load;
use clap::Args;
use ipnet::IpNet;
use std::path::PathBuf;

#[derive(Clone, Debug, Args)]
pub(super) struct CheckArgs {
    /// The configuration file.
    file: PathBuf,
}

pub(super) fn check(args: &CheckArgs) -> Outcome {
    let loaded = load(&args.file, |_| {})?;
    let settings = &loaded.settings;
    println!("{}: ok", args.file.display());
    println!("  device        {} ({})", settings.device, list(&settings.addresses));
    println!("  mtu           {}", settings.mtu);
    println!("  listen        {}", settings.listen);
    println!("  local         {}", list(&settings.local));
    println!("  queues        {}", settings.queues.count());
    println!("  engine        {}", settings.engine);
    println!("  offloads      {}", settings.offloads);
    println!("  ingress check {}", settings.ingress_check);
    let sources = list(&settings.peer_sources);
    println!("  peer sources  {}", if sources.is_empty() { "none but peers" } else { &sources });
    println!("  source ports  {}", settings.source_ports);
    println!("  steering      {}", settings.steering);
    println!("  pinning       {}", settings.pinning);
    let busy = Some(settings.busy_poll).filter(|time| !time.is_zero());
    println!("  busy poll     {}", or(busy.map(|time| format!("{time:?}")), "none"));
    println!("  socket buffer {} bytes", settings.socket_buffer);
    println!("  device queue  {} packets", settings.device_queue);
    println!("  socket        {}", loaded.socket.display());
    println!("  socket group  {}", or(loaded.socket_group, "none"));
    println!("  metrics       {}", or(loaded.metrics, "not served"));
    println!("  telemetry     {}", settings.telemetry);
    println!(
        "  probes        {}",
        or(loaded.probe.map(|every| format!("every {every:?}")), "none")
    );
    for peer in loaded.peers.iter() {
        println!("  peer          {} at {} with {}", peer.name, peer.endpoint, list(&peer.subnets));
    }
    for warning in &loaded.warnings {
        println!("  warning       {warning}");
    }
    Ok(())
}

fn list(networks: &[IpNet]) -> String {
    networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn or(value: Option<impl ToString>, none: &str) -> String {
    value.map_or_else(|| none.to_owned(), |value| value.to_string())
}
