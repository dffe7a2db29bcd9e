//! Masquerading and forwarding rules, flannel's to the letter.
//!
//! The rules are pure text; `iptables-restore` or `nft` puts them into the kernel, in one transaction.
//! They stay when the gateway ends, so that containers can reach the outside while it restarts.

mod command;
mod iptables;
mod nftables;

pub use command::CommandError;

use ipnet::Ipv4Net;
use std::net::Ipv4Addr;
use tracing::{debug, error, info};

/// The networks that the rules are for, and which rules are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The whole overlay.
    pub network: Ipv4Net,
    /// This node's subnet.
    pub subnet: Ipv4Net,
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

/// Removes the rules of a former network of this node.
pub async fn forget(network: Ipv4Net) {
    iptables::forget(network).await;
    nftables::forget(network).await;
}

/// Removes the rules of a network, and the chains and tables if no other network has rules in them. What
/// fails is logged.
#[cfg(feature = "fast-path")]
pub async fn remove(network: Ipv4Net) {
    iptables::remove(network).await;
    if let Err(reason) = nftables::remove(network).await {
        debug!("could not clean-up nftables tables: {reason}");
    }
}

/// Never masqueraded, whatever the network.
const MULTICAST: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4);

/// The networks that a listed rule names; an address is a network of its own.
fn networks(rule: &str) -> impl Iterator<Item = Ipv4Net> {
    let network = |word: &str| {
        let address = || word.parse::<Ipv4Addr>().ok().map(Ipv4Net::from);
        word.parse::<Ipv4Net>().ok().or_else(address)
    };
    rule.split_whitespace().filter_map(network).filter(|network| *network != MULTICAST)
}

/// Whether a listed rule is one of this network.
fn is_own(rule: &str, network: Ipv4Net) -> bool {
    networks(rule).any(|other| network.contains(&other))
}

/// Whether a listed rule is one of other networks.
fn is_foreign(rule: &str, network: Ipv4Net) -> bool {
    let mut networks = networks(rule).peekable();
    networks.peek().is_some()
        && networks.all(|other| !network.contains(&other) && !other.contains(&network))
}

/// The rules of this node.
#[derive(Debug)]
pub struct Firewall {
    scope: Scope,
    backend: Backend,
    rules: Vec<iptables::Rule>,
}

impl Firewall {
    /// Removes the other backend's rules of an earlier start, then sets the rules. A failure is logged:
    /// traffic between containers needs no rules.
    pub async fn start(scope: Scope, backend: Backend) -> Self {
        let mut firewall = Self { scope, backend, rules: Vec::new() };
        match backend {
            Backend::Iptables => {
                info!("Starting flannel in iptables mode...");
                if let Err(reason) = nftables::remove(scope.network).await {
                    debug!("could not clean-up nftables tables: {reason}");
                }
                firewall.start_iptables().await;
            }
            Backend::Nftables => {
                info!("Starting flannel in nftables mode...");
                iptables::remove(scope.network).await;
                if let Err(reason) = nftables::apply(&scope).await {
                    error!("nftables: couldn't setup rules: {reason}");
                }
            }
        }
        firewall
    }

    async fn start_iptables(&mut self) {
        let scope = self.scope;
        if !scope.masquerade && !scope.forward {
            return;
        }
        if scope.masquerade {
            info!("Setting up masking rules");
        }
        if scope.forward {
            info!("Changing default FORWARD chain policy to ACCEPT");
        }
        let random_fully = scope.random_fully && iptables::has_random_fully().await;
        self.rules = iptables::rules(&Scope { random_fully, ..scope });
        match iptables::apply(scope.network, &self.rules).await {
            Ok(()) => info!("bootstrap done"),
            Err(reason) => error!("Failed to setup IPTables: {reason}"),
        }
    }

    /// Restores the rules if one is missing.
    pub async fn ensure(&self) {
        if self.backend == Backend::Nftables || self.rules.is_empty() {
            return;
        }
        match iptables::all_exist(&self.rules).await {
            Ok(true) => return,
            Ok(false) => info!("Some iptables rules are missing; deleting and recreating rules"),
            Err(reason) => {
                error!("Failed to ensure iptables rules: {reason}");
                return;
            }
        }
        match iptables::apply(self.scope.network, &self.rules).await {
            Ok(()) => info!("bootstrap done"),
            Err(reason) => error!("Failed to ensure iptables rules: {reason}"),
        }
    }
}
