//! etcd as a store of leases.

use super::client::{Access, EtcdKeys};
use super::{AcquireError, Keeper, Keeping, Kept, Keys, LeaseAttrs, Leases, acquire};
use crate::subnet::{
    Addresses, BackendError, HostAddress, Joined, LeaseStore, Memory, MemoryError, NetworkConfig,
    NetworkError, NodeAddress,
};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::error;

/// Pause between two attempts to read the network's configuration.
const CONFIG_RETRY: Duration = Duration::from_secs(1);
/// How often a reason that stays the same is logged again.
const REMINDER: Duration = Duration::from_secs(60);

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The network has another backend.
    #[error("Error fetching backend: {0}")]
    Backend(#[from] BackendError),
    /// No subnet.
    #[error("Error registering network: {0}")]
    Acquire(#[from] AcquireError),
}

/// Leases in etcd.
pub struct EtcdStore {
    keys: EtcdKeys,
    margin: Duration,
}

impl EtcdStore {
    /// Leases below a prefix, renewed `margin` before they end. Nothing is sent yet.
    #[must_use]
    pub fn new(access: Access, prefix: &str, margin: Duration) -> Self {
        Self { keys: EtcdKeys::new(access, super::Prefix::new(prefix)), margin }
    }
}

impl LeaseStore for EtcdStore {
    type Known = Leases;
    type Error = StoreError;

    async fn network_config(&self) -> Result<NetworkConfig, StoreError> {
        let mut told: Option<(String, Instant)> = None;
        loop {
            let reason = match self.keys.config().await {
                Ok(text) => match NetworkConfig::parse(&text) {
                    Ok(config) => return Ok(config),
                    Err(NetworkError::Backend(other)) => return Err(other.into()),
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

    async fn public_ip(&self) -> Result<Addresses, StoreError> {
        Ok(Addresses::default())
    }

    async fn join(
        self,
        config: &NetworkConfig,
        node: NodeAddress,
    ) -> Result<Joined<Self>, StoreError> {
        let HostAddress { public_ip, local, .. } = node.host.borrow().clone();
        let attrs = LeaseAttrs { public_ip };
        let (_, previous) = node.previous;
        let held = Box::pin(acquire(&self.keys, config, attrs, previous)).await?;
        let keeping = Keeping {
            networks: config.networks(),
            held: held.clone(),
            local,
            margin: self.margin,
            port: config.backend.port,
        };
        let (mut keeper, known) = Keeper::new(self.keys, keeping);
        keeper.follow_host(node.host);
        let keeping = async {
            let _revoked = keeper.run().await;
            Ok(())
        };
        Ok(Joined { subnets: held.subnets, known, keeping: Box::pin(keeping) })
    }

    fn resume(
        self,
        config: &NetworkConfig,
        host: watch::Receiver<HostAddress>,
        memory: Memory,
    ) -> Result<Joined<Self>, MemoryError> {
        let kept: Kept = memory.of(KEPT_IN)?;
        self.keys.remember(kept.held.granted.lease);
        let keeping = Keeping {
            networks: config.networks(),
            held: kept.held.clone(),
            local: host.borrow().local.clone(),
            margin: self.margin,
            port: config.backend.port,
        };
        let (mut keeper, known) = Keeper::resume(self.keys, keeping, &kept, &memory.peers);
        keeper.follow_host(host);
        let keeping = async {
            let _revoked = keeper.run().await;
            Ok(())
        };
        Ok(Joined { subnets: memory.subnets, known, keeping: Box::pin(keeping) })
    }
}

/// Where the leases are.
pub(crate) const KEPT_IN: &str = "etcd";

impl Leases {
    /// What a successor goes on from; none before the keeper began.
    #[must_use]
    pub fn memory(&self) -> Option<Memory> {
        let kept = self.kept.as_deref()?;
        Some(Memory {
            kept_in: KEPT_IN.to_owned(),
            subnets: kept.held.subnets,
            public_ip: kept.held.attrs.public_ip,
            given: Addresses::default(),
            peers: self.peers.iter().cloned().collect(),
            store: serde_json::json!(kept),
        })
    }
}
