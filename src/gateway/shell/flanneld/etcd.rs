//! A node whose lease is in etcd.

use super::{Ends, FlanneldError, Ground, Member};
use crate::config::flanneld::{Etcd, Flanneld};
use crate::host::Previous;
use crate::subnet::etcd::{Access, AccessError, EtcdManager};
use crate::subnet::{
    BackendError, Holder, Keeper, Keeping, Leases, Manager, NetworkConfig, NetworkError, Prefix,
    acquire,
};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info, warn};

/// Pause between two attempts to read the network's configuration.
const CONFIG_RETRY: Duration = Duration::from_secs(1);
/// How often a reason that stays the same is logged again.
const REMINDER: Duration = Duration::from_secs(60);

/// Gets a lease, and keeps it from then on.
pub(super) async fn join(
    manager: EtcdManager,
    options: Flanneld,
    previous: Previous,
) -> Result<(Member, Ground, watch::Receiver<Leases>, Ends), FlanneldError> {
    let config = network_config(&manager).await?;
    let ground = Ground::prepare(&options, &config).await?;
    let holder = Holder { public_ip: ground.external.public_ip };
    let held = Box::pin(acquire(&manager, &config, holder, previous.subnet)).await?;
    let keeping = Keeping {
        network: config.network,
        key: manager.prefix().lease(held.subnet),
        held,
        margin: options.renew_margin,
        port: config.backend.port,
    };
    let (keeper, leases) = Keeper::new(manager, keeping);
    let member = Member { options, config, subnet: held.subnet, previous };
    let kept = async {
        let _revoked = keeper.run().await;
        Ok(())
    };
    Ok((member, ground, leases, Box::pin(kept)))
}

/// What leases are kept by. Certificates that are of no use are found here, before anything else.
pub(super) async fn manager(etcd: &Etcd, previous: Previous) -> Result<EtcdManager, AccessError> {
    let access = Access::new(etcd.endpoints.clone(), etcd.tls.as_ref(), etcd.credentials.clone())?;
    access.check().await?;
    warn_of_plain(&access, etcd.tls.is_some());
    let before = previous.subnet.map_or_else(|| "None".to_owned(), |subnet| subnet.to_string());
    info!("Created subnet manager: Etcd Local Manager with Previous Subnet: {before}");
    Ok(EtcdManager::new(access, Prefix::new(&etcd.prefix)))
}

/// flannel's words for those who look for them, if they are true.
fn warn_of_plain(access: &Access, is_certified: bool) {
    let plain: Vec<_> = access.plain_endpoints().collect();
    let plain = plain.join(", ");
    match is_certified {
        _ if plain.is_empty() => {}
        false => warn!(
            "no certificate provided: connecting to etcd with http. This is insecure ({plain})"
        ),
        true => warn!(
            "connecting to etcd with http in spite of a certificate: {plain}. This is insecure: \
             write https://"
        ),
    }
}

/// Asks for the configuration until there is one that can be used.
async fn network_config(manager: &EtcdManager) -> Result<NetworkConfig, BackendError> {
    let mut told: Option<(String, Instant)> = None;
    loop {
        let reason = match manager.config().await {
            Ok(text) => match NetworkConfig::parse(&text) {
                Ok(config) => return Ok(config),
                Err(NetworkError::Backend(other)) => return Err(other),
                Err(mistake) => mistake.to_string(),
            },
            Err(cause) => cause.to_string(),
        };
        let is_news =
            told.as_ref().is_none_or(|(last, at)| *last != reason || at.elapsed() >= REMINDER);
        if is_news {
            error!("Couldn't fetch network config: {reason}; trying again every second");
            told = Some((reason, Instant::now()));
        }
        tokio::time::sleep(CONFIG_RETRY).await;
    }
}
