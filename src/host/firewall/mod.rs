//! Masquerading and forwarding rules, flannel's to the letter.
//!
//! The rules are pure text; `iptables-restore` or `nft` puts them into the kernel, in one transaction.
//! They stay when the gateway ends, so that containers can reach the outside while it restarts.

mod command;
mod iptables;
mod nftables;

pub use command::CommandError;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};
use tracing::{debug, error, info};

/// The networks of one family that rules are for, and which rules are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The whole overlay.
    pub network: IpNet,
    /// This node's subnet.
    pub subnet: IpNet,
    /// Masquerade packets that leave the overlay.
    pub masquerade: bool,
    /// Accept forwarded packets from and to the overlay.
    pub forward: bool,
    /// Masquerade with random source ports where the host can.
    pub random_fully: bool,
}

/// The tool that sets the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// `iptables-restore`.
    Iptables,
    /// `nft`.
    Nftables,
}

impl Scope {
    /// Never masqueraded, whatever the network.
    fn multicast(&self) -> IpNet {
        if self.network.addr().is_ipv4() { MULTICAST[0] } else { MULTICAST[1] }
    }
}

/// Removes the rules of a former network of this node.
pub async fn forget(network: IpNet) {
    iptables::forget(network).await;
    nftables::forget(network).await;
}

/// Removes the rules of networks, and the chains and tables if no other network has rules in them. What
/// fails is logged.
#[cfg(feature = "fast-path")]
pub async fn remove(networks: &[IpNet]) {
    iptables::remove(networks).await;
    if let Err(reason) = nftables::remove(networks).await {
        debug!("could not clean-up nftables tables: {reason}");
    }
}

/// The multicast addresses of each family.
const MULTICAST: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8)),
];

/// The networks that a listed rule names; an address is a network of its own.
fn networks(rule: &str) -> impl Iterator<Item = IpNet> {
    let network = |word: &str| {
        let address = || word.parse::<std::net::IpAddr>().ok().map(IpNet::from);
        word.parse::<IpNet>().ok().or_else(address)
    };
    rule.split_whitespace().filter_map(network).filter(|network| !MULTICAST.contains(network))
}

/// Whether a listed rule is one of this network.
fn is_own(rule: &str, network: IpNet) -> bool {
    networks(rule).any(|other| network.contains(&other))
}

/// Whether a listed rule is one of other networks.
fn is_foreign(rule: &str, network: IpNet) -> bool {
    let mut networks = networks(rule).peekable();
    networks.peek().is_some()
        && networks.all(|other| !network.contains(&other) && !other.contains(&network))
}

/// The rules of this node.
#[derive(Debug)]
pub struct Firewall {
    backend: Backend,
    /// Of each network, what iptables has.
    rules: Vec<(IpNet, Vec<iptables::Rule>)>,
}

impl Firewall {
    /// Removes the other backend's rules of an earlier start, then sets the rules of each scope. A failure
    /// is logged: traffic between containers needs no rules.
    pub async fn start(scopes: &[Scope], backend: Backend) -> Self {
        let networks: Vec<_> = scopes.iter().map(|scope| scope.network).collect();
        let mut rules = Vec::new();
        match backend {
            Backend::Iptables => {
                info!("Starting flannel in iptables mode...");
                if let Err(reason) = nftables::remove(&networks).await {
                    debug!("could not clean-up nftables tables: {reason}");
                }
                for scope in scopes {
                    rules.extend(start_iptables(*scope).await.map(|rules| (scope.network, rules)));
                }
            }
            Backend::Nftables => {
                info!("Starting flannel in nftables mode...");
                iptables::remove(&networks).await;
                for scope in scopes {
                    if let Err(reason) = nftables::apply(scope).await {
                        error!("nftables: couldn't setup rules: {reason}");
                    }
                }
            }
        }
        Self { backend, rules }
    }

    /// Restores the rules of each network of which one is missing.
    pub async fn ensure(&self) {
        if self.backend == Backend::Nftables {
            return;
        }
        for (network, rules) in &self.rules {
            ensure(*network, rules).await;
        }
    }
}

async fn start_iptables(scope: Scope) -> Option<Vec<iptables::Rule>> {
    if !scope.masquerade && !scope.forward {
        return None;
    }
    let (of_v6, before) =
        if scope.network.addr().is_ipv6() { (" for IPv6", "IPv6: ") } else { ("", "") };
    if scope.masquerade {
        info!("Setting up masking rules{of_v6}");
    }
    if scope.forward {
        info!("{before}Changing default FORWARD chain policy to ACCEPT");
    }
    let random_fully = scope.random_fully && iptables::has_random_fully(scope.network).await;
    let rules = iptables::rules(&Scope { random_fully, ..scope });
    match iptables::apply(scope.network, &rules).await {
        Ok(()) => info!("bootstrap done"),
        Err(reason) => error!("Failed to setup IPTables: {reason}"),
    }
    Some(rules)
}

async fn ensure(network: IpNet, rules: &[iptables::Rule]) {
    match iptables::all_exist(network, rules).await {
        Ok(true) => return,
        Ok(false) => info!("Some iptables rules are missing; deleting and recreating rules"),
        Err(reason) => {
            error!("Failed to ensure iptables rules: {reason}");
            return;
        }
    }
    match iptables::apply(network, rules).await {
        Ok(()) => info!("bootstrap done"),
        Err(reason) => error!("Failed to ensure iptables rules: {reason}"),
    }
}
