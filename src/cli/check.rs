//! `twill check`.

use super::Outcome;
use crate::config::load::load;
use clap::Args;
use std::path::PathBuf;

#[derive(Clone, Debug, Args)]
pub(super) struct CheckArgs {
    /// The configuration file.
    file: PathBuf,
}

pub(super) fn check(args: &CheckArgs) -> Outcome {
    let loaded = load(&args.file, |_| {})?;
    let settings = &loaded.settings;
    let list = |networks: &[ipnet::IpNet]| {
        networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    println!("{}: ok", args.file.display());
    println!("  device        {} ({})", settings.device, list(&settings.addresses));
    println!("  mtu           {}", settings.mtu);
    println!("  listen        {}", settings.listen);
    println!("  local         {}", list(&settings.local));
    println!("  queues        {}", settings.queues.count());
    println!("  engine        {}", settings.engine);
    println!("  offloads      {}", settings.offloads);
    println!("  ingress check {}", settings.ingress_check);
    println!("  socket        {}", loaded.socket.display());
    for peer in loaded.peers.iter() {
        println!("  peer          {} at {} with {}", peer.name, peer.endpoint, list(&peer.subnets));
    }
    for warning in &loaded.warnings {
        println!("  warning       {warning}");
    }
    Ok(())
}
