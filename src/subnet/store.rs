//! What a daemon needs of a store of leases, whatever the store is.

use super::families::{Addresses, Subnets};
use super::network::NetworkConfig;
use super::peers::PeerSpec;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::pin::Pin;
use tokio::sync::watch;

/// Where a node of a flannel network gets its subnet, and learns of the others': etcd, or the nodes
/// of a Kubernetes cluster.
///
/// A store keeps its own way of remembering what it has seen; all that leaves it is
/// [`Known`](LeaseStore::Known), which is complete each time. While a store is away, what was known
/// last stays.
#[expect(async_fn_in_trait, reason = "all of the control plane runs on one thread")]
pub trait LeaseStore: Sized {
    /// What is known of all leases at one moment.
    type Known: Clone;
    /// Why there is no subnet, or no longer one.
    type Error: std::error::Error + 'static;

    /// The network's configuration; waits until there is one that can be used.
    ///
    /// # Errors
    /// When waiting does not help.
    async fn network_config(&self) -> Result<NetworkConfig, Self::Error>;

    /// The addresses that an administrator gave this node in the store; they win over the command
    /// line's.
    ///
    /// # Errors
    /// When what is there is no address.
    async fn public_ip(&self) -> Result<Addresses, Self::Error>;

    /// Gets this node a subnet of each family that the network has.
    ///
    /// # Errors
    /// When there is none for it.
    async fn join(
        self,
        config: &NetworkConfig,
        node: NodeAddress,
    ) -> Result<Joined<Self>, Self::Error>;

    /// Goes on with the subnet of a node in another process, which ends. Asks the store nothing.
    ///
    /// # Errors
    /// When the memory is not one of this store.
    fn resume(
        self,
        config: &NetworkConfig,
        host: watch::Receiver<HostAddress>,
        memory: Memory,
    ) -> Result<Joined<Self>, MemoryError>;
}

/// What a node hands to its successor, so that this one needs no store to go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Where the leases are kept: a store takes no other one's memory.
    pub kept_in: String,
    /// Our subnets; the name is that of versions that had one.
    #[serde(rename = "subnet")]
    pub subnets: Subnets,
    /// Where others reach us.
    pub public_ip: Addresses,
    /// The addresses that an administrator gave us.
    #[serde(default, skip_serializing_if = "Addresses::is_empty")]
    pub given: Addresses,
    /// The peers.
    #[serde(default)]
    pub peers: Vec<PeerSpec>,
    /// What only the store understands.
    #[serde(default)]
    pub store: serde_json::Value,
}

impl Memory {
    /// The store's part, if the memory is one of this kind of store.
    #[cfg(feature = "etcd")]
    pub(super) fn of<T: serde::de::DeserializeOwned>(
        &self,
        kept_in: &'static str,
    ) -> Result<T, MemoryError> {
        if self.kept_in != kept_in {
            return Err(MemoryError::Elsewhere { theirs: self.kept_in.clone(), ours: kept_in });
        }
        serde_json::from_value(self.store.clone())
            .map_err(|error| MemoryError::Unreadable(error.to_string()))
    }
}

/// Why a store cannot go on from a memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// It is another store's.
    #[error(
        "the running node has its lease in {theirs}, and this one would have it in {ours}: restart \
         the node instead"
    )]
    Elsewhere {
        /// Where the running node has it.
        theirs: String,
        /// Where this one would.
        ours: &'static str,
    },
    /// Fields are missing, or not what they should be.
    #[error("cannot read the running node's lease: {0}: restart the node instead")]
    Unreadable(String),
}

/// The addresses of a node's host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostAddress {
    /// Where others reach it: what it was given, or what its interface has.
    pub public_ip: Addresses,
    /// Those that an administrator gave it.
    pub given: Addresses,
    /// All that its interfaces have.
    pub local: Vec<IpAddr>,
}

impl HostAddress {
    /// Waits until the host has other addresses; pends if nobody says so.
    pub(super) async fn next(host: &mut Option<watch::Receiver<Self>>) -> Self {
        if let Some(host) = host
            && host.changed().await.is_ok()
        {
            return host.borrow_and_update().clone();
        }
        std::future::pending().await
    }
}

/// What a node brings along.
#[derive(Clone, Debug)]
pub struct NodeAddress {
    /// Where it is, now and later: its store follows.
    pub host: watch::Receiver<HostAddress>,
    /// The networks and the subnets of the last time.
    pub previous: (Subnets, Subnets),
}

/// A node that has a subnet.
pub struct Joined<S: LeaseStore> {
    /// The subnets.
    pub subnets: Subnets,
    /// What is known, from now on.
    pub known: watch::Receiver<S::Known>,
    /// Keeps the subnet and follows the others; must be polled. Ends when the subnet is gone: in
    /// order, or with the reason.
    pub keeping: Pin<Box<dyn Future<Output = Result<(), S::Error>>>>,
}
