//! What is beside the tunnel: firewall rules and the blackhole route.

use super::Member;
use crate::gateway::shell::tunnel::Tunnel;
use crate::host::firewall::{self, Backend, Firewall, Scope};
use crate::host::{Network, Previous};
use crate::subnet::NetworkConfig;
use ipnet::Ipv4Net;
use tracing::{error, info};

/// Removes what belongs to a former network or subnet of this node.
async fn forget(previous: &Previous, own: Ipv4Net, config: &NetworkConfig, network: &Network) {
    if let Some(former) = previous.network.filter(|former| *former != config.network) {
        firewall::forget(former).await;
    }
    let Some(former) = previous.subnet.filter(|former| *former != own) else { return };
    match network.remove_blackhole(former).await {
        Ok(true) => info!("Removed blackhole route {former} of the former subnet"),
        Ok(false) => {}
        Err(reason) => error!("{reason}"),
    }
}

/// Sets up what is beside the tunnel and keeps it there for as long as the tunnel is.
pub(super) async fn beside(member: &Member, tunnel: &mut Tunnel) {
    let Member { options, config, subnet, previous } = member;
    let subnet = *subnet;
    let rules = options.rules;
    let is_new = previous.network != Some(config.network) || previous.subnet != Some(subnet);
    if is_new && rules.masquerade && !config.nftables {
        let show = |net: Option<Ipv4Net>| net.map_or("none".to_owned(), |net| net.to_string());
        info!(
            "Current network or subnet ({}, {}) is not equal to previous one ({}, {}), trying to \
             recycle old iptables rules",
            config.network,
            subnet,
            show(previous.network),
            show(previous.subnet)
        );
    }
    forget(previous, subnet, config, &tunnel.network).await;
    let scope = Scope {
        network: config.network,
        subnet,
        masquerade: rules.masquerade,
        forward: rules.forward,
        random_fully: rules.random_fully,
    };
    let backend = if config.nftables { Backend::Nftables } else { Backend::Iptables };
    let firewall = Firewall::start(scope, backend).await;
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
                match network.ensure_blackhole(subnet).await {
                    Ok(true) => info!("Added blackhole route {subnet}"),
                    Ok(false) => {}
                    Err(reason) => error!("{reason}"),
                }
                tokio::time::sleep(rules.resync).await;
            }
        });
    }
}
