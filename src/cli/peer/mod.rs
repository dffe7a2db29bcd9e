//! `twill peer`: lists and changes the peers of a running gateway.
//!
//! For programs, too: it asks no questions, and to repeat a command changes nothing.

mod save;

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
use serde::Serialize;
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
    #[command(visible_aliases = ["rm", "remove"])]
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
    /// Write the peers to the gateway's configuration file
    #[command(
        after_help = "The file's comments stay. Peers that differ are changed in their places, \
                            new ones come at the end."
    )]
    Save,
    /// List the peers
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Print the [[peer]] tables of a configuration file
        #[arg(long, conflicts_with = "json")]
        toml: bool,
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
        PeerCommand::Save => return save::run(&socket),
        PeerCommand::List { json, toml } => {
            print(&match (json, toml) {
                (true, _) => format!("{:#}\n", call(&socket, Request::PeerList)?),
                (_, true) => tables(serde_json::from_value(call(&socket, Request::PeerList)?)?)?,
                _ => table(&show::status(&socket)?.peers),
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

/// The peers as a configuration file has them.
fn tables(peer: Vec<PeerSpec>) -> Result<String, toml::ser::Error> {
    #[derive(Serialize)]
    struct Tables {
        peer: Vec<PeerSpec>,
    }
    match peer.is_empty() {
        // Of no peers, the crate writes a list, which would exclude tables below it.
        true => Ok(String::new()),
        false => toml::to_string(&Tables { peer }),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_back_as_the_same_peers() {
        let peer = |name: &str, endpoint: &str, subnets: &[&str]| PeerSpec {
            name: name.to_owned(),
            endpoint: endpoint.parse().unwrap(),
            subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
        };
        let peers = vec![
            peer("b", "192.0.2.2:8285", &["10.10.2.0/24"]),
            peer("quo\"te\\µ#=", "[2001:db8::2]:9000", &["10.10.3.0/24", "2001:db8:3::/48"]),
        ];

        let text = tables(peers.clone()).unwrap();

        let (file, mistakes) = parse(&text).unwrap();
        assert_eq!(mistakes, [], "{text}");
        let read = file.peers.iter().map(|peer| PeerSpec {
            name: peer.name.clone(),
            endpoint: with_open_port(peer.endpoint.get_ref()).unwrap(),
            subnets: peer.subnets.iter().map(|subnet| *subnet.get_ref()).collect(),
        });
        assert_eq!(read.collect::<Vec<_>>(), peers, "{text}");
        assert!(tables(Vec::new()).unwrap().is_empty());
    }
}
