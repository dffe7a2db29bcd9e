//! `twill peer`: lists and changes the peers of a running gateway.
//!
//! For programs, too: it asks no questions, and to repeat a command changes nothing.

use super::completion::peers;
use super::show::{self, print};
use super::{GatewayArgs, Outcome};
use crate::config::file::{Endpoint, FileErrors, Mistake, network, parse};
use crate::config::load::{AddressError, address};
use crate::control::{Request, call};
use crate::subnet::PeerSpec;
use crate::telemetry::status::PeerStatus;
use clap::{Args, Subcommand};
use clap_complete::ArgValueCandidates;
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
    /// Add a peer, or replace the one of the same name
    Add {
        /// Inner networks behind the peer, separated by commas
        #[arg(value_delimiter = ',', value_parser = network, required = true)]
        subnets: Vec<IpNet>,
        /// UDP address of the peer: HOST or HOST:PORT [default port: this gateway's]
        endpoint: Endpoint,
        /// Name of the peer [default: its first network]
        #[arg(long)]
        name: Option<String>,
    },
    /// Remove a peer; succeeds if it does not exist
    Del {
        /// Name of the peer, or one of its networks
        #[arg(add = ArgValueCandidates::new(peers))]
        which: String,
    },
    /// Replace all peers with those of a configuration file
    Sync {
        /// Configuration file; only its [[peer]] tables are read
        file: PathBuf,
    },
    /// List the peers
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn peer(args: PeerArgs) -> Outcome {
    let socket = args.gateway.socket()?;
    match args.command {
        PeerCommand::Add { subnets, endpoint, name } => {
            let name = name.unwrap_or_else(|| subnets[0].trunc().to_string());
            let peer = PeerSpec { name, endpoint: with_open_port(&endpoint)?, subnets };
            call(&socket, Request::PeerAdd { peer })?;
        }
        PeerCommand::Del { which } => {
            call(&socket, Request::PeerDel { which })?;
        }
        PeerCommand::Sync { file } => {
            let text = std::fs::read_to_string(&file)
                .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            let name = file.display().to_string();
            let wrong = |mistakes: Vec<Mistake>| FileErrors::new(&name, &text, &mistakes);
            let (words, mistakes) = parse(&text).map_err(wrong)?;
            if !mistakes.is_empty() {
                return Err(wrong(mistakes).into());
            }
            let peers = words.peers.iter().map(|peer| {
                let endpoint = with_open_port(peer.endpoint.get_ref())?;
                let subnets = peer.subnets.iter().map(|subnet| *subnet.get_ref()).collect();
                Ok(PeerSpec { name: peer.name.clone(), endpoint, subnets })
            });
            let peers = peers.collect::<Result<_, AddressError>>()?;
            call(&socket, Request::PeerSync { peers })?;
        }
        PeerCommand::List { json } => {
            print(&match json {
                true => format!("{:#}\n", call(&socket, Request::PeerList)?),
                false => table(&show::status(&socket)?.peers),
            })?;
        }
    }
    Ok(())
}

/// The endpoint's address, IPv4 if a name has both families. Port 0 stands for the gateway's own
/// port, which only the gateway knows.
fn with_open_port(endpoint: &Endpoint) -> Result<SocketAddr, AddressError> {
    let v6 = address(endpoint, ([0u16; 8], 0).into());
    address(endpoint, ([0u8; 4], 0).into()).or(v6)
}

/// One line for each peer: name, endpoint, subnets, and how it is silent.
fn table(peers: &[PeerStatus]) -> String {
    let width = peers.iter().map(|peer| peer.name.len()).max().unwrap_or(0);
    let line = |peer: &PeerStatus| {
        let subnets: Vec<_> = peer.subnets.iter().map(ToString::to_string).collect();
        let silence = peer.silence().map(|silence| format!("  silent: {silence}"));
        let silence = silence.unwrap_or_default();
        format!("{:width$}  {}  {}{silence}\n", peer.name, peer.endpoint, subnets.join(","))
    };
    peers.iter().map(line).collect()
}
