//! Where the node is: the store's keeper and the tunnel follow the host's address together.

use super::{Ground, device_mtu, local, look};
use crate::config::flanneld::External;
use crate::gateway::shell::ServeError;
use crate::gateway::shell::tunnel::Tunnel;
use crate::host::Network;
use crate::host::external_interface::{self, ExternalInterface};
use crate::subnet::{Addresses, HostAddress, NetworkConfig};
use std::net::IpAddr;
use tokio::sync::watch;
use tracing::info;
use tracing::subscriber::{NoSubscriber, with_default};

/// The node's address, for those who follow it.
pub(super) struct Address {
    pub(super) host: watch::Sender<HostAddress>,
    /// The interface that it is of.
    interface: String,
}

impl Address {
    /// That of a node whose administrator gave it these addresses.
    pub(super) fn of(ground: &Ground, given: Addresses) -> Self {
        let host = watch::Sender::new(ground.host(given));
        Self { host, interface: ground.external.name.clone() }
    }

    /// Has the tunnel go on at the host's address of now, and tells those who follow. Says whether there
    /// is another one.
    pub(super) async fn follow(
        &mut self,
        external: &External,
        config: &NetworkConfig,
        tunnel: &mut Tunnel,
    ) -> Result<bool, ServeError> {
        let now = chosen_now(external, config, &tunnel.network).await;
        let Some((chosen, local)) = now else { return Ok(false) };
        let Some((from, to)) = tunnel.settings.moved(chosen.addresses) else { return Ok(false) };
        if let Some(why) = self.hindrance(&chosen, config, tunnel) {
            return Err(ServeError::Moved { from, to, why });
        }
        let moved = tunnel.move_to(chosen.addresses).await;
        moved.map_err(|error| ServeError::Moved { from, to, why: error.to_string() })?;
        info!("this host's address has changed from {from} to {to}: the gateway goes on there");
        self.interface = chosen.name;
        self.host.send_modify(|host| {
            host.public_ip = chosen.public_ip;
            host.local = local;
        });
        Ok(true)
    }

    /// Why the gateway cannot go on over this interface.
    fn hindrance(
        &self,
        chosen: &ExternalInterface,
        config: &NetworkConfig,
        tunnel: &Tunnel,
    ) -> Option<String> {
        let settings = &tunnel.settings;
        let name = &chosen.name;
        let (before, now) = (settings.sources(), chosen.addresses);
        if (before.v4.is_some(), before.v6.is_some()) != (now.v4.is_some(), now.v6.is_some()) {
            return Some(format!("{name} has {now}, which are of other IP families than {before}"));
        }
        let (before, now) = (settings.mtu, device_mtu(config, chosen));
        if before != now {
            return Some(format!(
                "{name} allows the device an MTU of {now} instead of {before}, which containers \
                 have already"
            ));
        }
        if settings.fast_path.is_device() {
            return Some("devices of the kernel's modules cannot follow".to_owned());
        }
        if *name != self.interface && tunnel.gateway.fast_path().is_some() {
            return Some(format!(
                "the fast path was chosen for {}, not for {name}",
                self.interface
            ));
        }
        None
    }
}

/// The interface of the tunnel if the node started now, and all addresses of the host; none if there is
/// no interface for it.
async fn chosen_now(
    wanted: &External,
    config: &NetworkConfig,
    network: &Network,
) -> Option<(ExternalInterface, Vec<IpAddr>)> {
    let (survey, path) = look(wanted, network).await.ok()?;
    // It is asked again and again: what it logs belongs to the start.
    let silence = NoSubscriber::default();
    let networks = config.networks();
    let chosen =
        with_default(silence, || external_interface::choose(wanted, networks, &survey, path));
    Some((chosen.ok()?, local(&survey)))
}
