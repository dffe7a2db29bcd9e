//! What a node needs before it can have a tunnel.

use super::FlanneldError;
use crate::config::flanneld::{Etcd, Flanneld};
use crate::host::external_interface::{self, ExternalInterface};
use crate::host::{Network, Previous};
use crate::subnet::etcd::{Access, AccessError, EtcdManager};
use crate::subnet::{BackendError, Manager, NetworkConfig, NetworkError, Prefix};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{error, info, warn};

/// Pause between two attempts to read the network's configuration.
const CONFIG_RETRY: Duration = Duration::from_secs(1);
/// How often a reason that stays the same is logged again.
const REMINDER: Duration = Duration::from_secs(60);

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
pub(super) async fn network_config(manager: &EtcdManager) -> Result<NetworkConfig, BackendError> {
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

pub(super) async fn external(
    options: &Flanneld,
    network: &Network,
) -> Result<ExternalInterface, FlanneldError> {
    let survey = network.survey().await?;
    let path = match options.external.can_reach {
        Some(address) => network.path_to(address).await.ok(),
        None => None,
    };
    Ok(external_interface::choose(&options.external, &survey, path)?)
}
