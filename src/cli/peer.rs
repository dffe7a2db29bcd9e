//! `twill peer`: arguments only, nothing asked, the same call twice changes nothing the second
//! time, so that a program can drive it.

use super::{GatewayArgs, Outcome};
use crate::config::file::{Endpoint, FileErrors, Mistake, network, parse};
use crate::config::load::address;
use crate::control::{Request, call};
use crate::subnet::Peer;
use clap::{Args, Subcommand};
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Clone, Debug, Args)]
pub(super) struct PeerArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    #[command(subcommand)]
    command: PeerCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum PeerCommand {
    /// Add a peer, or change the one of its name.
    Add {
        /// Inner networks behind the peer, separated by commas.
        #[arg(value_delimiter = ',', value_parser = network, required = true)]
        subnets: Vec<IpNet>,
        /// Its address: host or host:port; the port is the gateway's own unless given.
        endpoint: Endpoint,
        /// What to call it; its first network unless given.
        #[arg(long)]
        name: Option<String>,
    },
    /// Take a peer out; one that is not there is fine.
    Del {
        /// Its name, or one of its networks.
        which: String,
    },
    /// Make the peers exactly those of a configuration file.
    Sync {
        /// The file; only its [[peer]] tables count.
        file: PathBuf,
    },
    /// List the peers.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn peer(args: PeerArgs) -> Outcome {
    let socket = args.gateway.socket();
    match args.command {
        PeerCommand::Add { subnets, endpoint, name } => {
            let name = name.unwrap_or_else(|| subnets[0].trunc().to_string());
            let peer = Peer { name, endpoint: with_open_port(&endpoint)?, subnets };
            call(&socket, Request::PeerAdd { peer })?;
        }
        PeerCommand::Del { which } => {
            call(&socket, Request::PeerDel { which })?;
        }
        PeerCommand::Sync { file } => {
            let text = std::fs::read_to_string(&file)
                .map_err(|error| format!("reading {}: {error}", file.display()))?;
            let name = file.display().to_string();
            let wrong = |mistakes: Vec<Mistake>| FileErrors::new(&name, &text, &mistakes);
            let (words, mistakes) = parse(&text).map_err(wrong)?;
            if !mistakes.is_empty() {
                return Err(wrong(mistakes).into());
            }
            let peers = words.peers.iter().map(|peer| {
                let endpoint = with_open_port(peer.endpoint.get_ref())?;
                let subnets = peer.subnets.iter().map(|subnet| *subnet.get_ref()).collect();
                Ok(Peer { name: peer.name.clone(), endpoint, subnets })
            });
            let peers = peers.collect::<Result<_, String>>()?;
            call(&socket, Request::PeerSync { peers })?;
        }
        PeerCommand::List { json } => {
            let peers = call(&socket, Request::PeerList)?;
            if json {
                println!("{peers:#}");
            } else {
                print_peers(&serde_json::from_value::<Vec<Peer>>(peers)?);
            }
        }
    }
    Ok(())
}

/// The endpoint's address, of IPv4 if a name has both; port 0 stands for the gateway's own, which
/// only it knows.
fn with_open_port(endpoint: &Endpoint) -> Result<SocketAddr, String> {
    let v6 = address(endpoint, ([0u16; 8], 0).into());
    address(endpoint, ([0u8; 4], 0).into()).or(v6)
}

fn print_peers(peers: &[Peer]) {
    let width = peers.iter().map(|peer| peer.name.len()).max().unwrap_or(0);
    for peer in peers {
        let subnets: Vec<_> = peer.subnets.iter().map(ToString::to_string).collect();
        println!("{:width$}  {}  {}", peer.name, peer.endpoint, subnets.join(","));
    }
}
