//! What is beside the tunnel: firewall rules and the blackhole route.

use super::Member;
use crate::gateway::shell::tunnel::Tunnel;
use crate::host::firewall::{self, Backend, Firewall, Scope};
use crate::host::{Network, Previous};
use crate::subnet::Subnets;
use tracing::{error, info};

/// Removes what belongs to a former network or subnet of this node.
async fn forget(previous: &Previous, member: &Member, network: &Network) {
    let now: Vec<_> = member.config.networks().iter().collect();
    for former in previous.networks.iter().filter(|former| !now.contains(former)) {
        firewall::forget(former).await;
    }
    let own: Vec<_> = member.subnets.iter().collect();
    for former in previous.subnets.iter().filter(|former| !own.contains(former)) {
        match network.remove_blackhole(former).await {
            Ok(true) => info!("Removed blackhole route {former} of the former subnet"),
            Ok(false) => {}
            Err(reason) => error!("{reason}"),
        }
    }
}

/// The rules of each family.
fn scopes(networks: Subnets, subnets: Subnets, member: &Member) -> Vec<Scope> {
    let rules = member.options.rules;
    let pairs = networks.iter().zip(subnets.iter());
    let scope = |(network, subnet)| Scope {
        network,
        subnet,
        masquerade: rules.masquerade,
        forward: rules.forward,
        random_fully: rules.random_fully,
    };
    pairs.map(scope).collect()
}

/// Sets up what is beside the tunnel and keeps it there for as long as the tunnel is.
pub(super) async fn beside(member: &Member, tunnel: &mut Tunnel) {
    let Member { options, config, subnets, previous } = member;
    let (networks, subnets) = (config.networks(), *subnets);
    let rules = options.rules;
    let is_new = previous.networks != networks || previous.subnets != subnets;
    if is_new && rules.masquerade && !config.nftables {
        info!(
            "Current network or subnet ({networks}, {subnets}) is not equal to previous one ({}, {}), \
             trying to recycle old iptables rules",
            previous.networks, previous.subnets
        );
    }
    forget(previous, member, &tunnel.network).await;
    let backend = if config.nftables { Backend::Nftables } else { Backend::Iptables };
    let firewall = Firewall::start(&scopes(networks, subnets, member), backend).await;
    tunnel.tasks.spawn(async move {
        loop {
            tokio::time::sleep(rules.resync).await;
            firewall.ensure().await;
        }
    });
    if rules.blackhole {
        let network = tunnel.network.clone();
        tunnel.tasks.spawn(async move {
            loop {
                for subnet in subnets.iter() {
                    match network.ensure_blackhole(subnet).await {
                        Ok(true) => info!("Added blackhole route {subnet}"),
                        Ok(false) => {}
                        Err(reason) => error!("{reason}"),
                    }
                }
                tokio::time::sleep(rules.resync).await;
            }
        });
    }
}
