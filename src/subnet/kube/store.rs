//! The nodes of a Kubernetes cluster as a store of leases.

use super::annotations::{Annotations, WrongAddress};
use super::{
    Access, AddressSource, CallError, Cluster, FollowEnd, Follower, JoinError, Kept, Member, Nodes,
    join::Registration,
};
use crate::subnet::{
    Addresses, HostAddress, Joined, LeaseStore, Memory, MemoryError, NetworkConfig, NetworkError,
    NodeAddress, PeerSet, Subnets,
};
use std::cell::OnceCell;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::warn;

/// How long an API server that is away keeps a node from starting with what `subnet.env` says.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two questions to an API server that does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Which node of which network this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The annotations' keys.
    pub annotations: Annotations,
    /// The file with the network's configuration.
    pub net_config: PathBuf,
    /// Whether to tell the cluster that the node has a network.
    pub sets_condition: bool,
    /// Where the address comes from that the node publishes.
    pub address: AddressSource,
    /// Which node this is.
    pub node: NodeName,
}

/// How a node knows its own name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeName {
    /// It was told: `NODE_NAME`.
    Given(String),
    /// It is the node on which this pod runs.
    OfPod {
        /// `POD_NAMESPACE`.
        namespace: String,
        /// `POD_NAME`.
        pod: String,
    },
}

/// Why there is no network, or no place in it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The network's configuration.
    #[error(
        "reading the network config {path}: {source}: mount it there, or give -net-config-path"
    )]
    ReadConfig {
        /// The file.
        path: PathBuf,
        /// What came back.
        source: std::io::Error,
    },
    /// What it says.
    #[error("network config {path}: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: NetworkError,
    },
    /// The pod that this is.
    #[error("pod {namespace}/{pod} runs on no node: are POD_NAME and POD_NAMESPACE right?")]
    NoNode {
        /// Its namespace.
        namespace: String,
        /// Its name.
        pod: String,
    },
    /// An annotation that is no address.
    #[error("annotation {name} of node {node:?} is {given:?}: write an {family} address")]
    NodePublicIp {
        /// The node.
        node: String,
        /// `node-public-ip` or `node-public-ipv6`.
        name: &'static str,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// What is there.
        given: String,
    },
    /// The node cannot be part of the network.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// It cannot be any longer.
    #[error(transparent)]
    End(#[from] FollowEnd),
}

/// Leases in the nodes of a cluster.
pub struct KubeStore {
    nodes: Nodes,
    membership: Membership,
    name: OnceCell<String>,
}

impl KubeStore {
    /// A store that connects when it is first asked something.
    #[must_use]
    pub fn new(access: Access, membership: Membership) -> Self {
        Self { nodes: Nodes::new(access), membership, name: OnceCell::new() }
    }

    /// The node's name; that of a pod's node is asked for until the API server answers.
    async fn name(&self) -> Result<String, StoreError> {
        if let Some(name) = self.name.get() {
            return Ok(name.clone());
        }
        let name = match &self.membership.node {
            NodeName::Given(name) => name.clone(),
            NodeName::OfPod { namespace, pod } => self.of_pod(namespace, pod).await?,
        };
        Ok(self.name.get_or_init(|| name).clone())
    }

    async fn of_pod(&self, namespace: &str, pod: &str) -> Result<String, StoreError> {
        let mut told = false;
        loop {
            match self.nodes.of_pod(namespace, pod).await {
                Ok(Some(name)) => return Ok(name),
                Ok(None) => {
                    let (namespace, pod) = (namespace.to_owned(), pod.to_owned());
                    return Err(StoreError::NoNode { namespace, pod });
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        warn!("{error}; trying again every second");
                    }
                }
            }
            sleep(RETRY).await;
        }
    }

    /// Joins, or goes on with the subnet of the last time while no API server answers: pods that
    /// start meanwhile have their network, and peers come when it answers.
    async fn join_or_resume(
        &self,
        member: &Member,
        config: &NetworkConfig,
        (networks, subnets): (Subnets, Subnets),
    ) -> Result<Registration, JoinError> {
        let is_whole = subnets.of_families_of(&networks) == subnets && !subnets.is_empty();
        if networks != config.networks() || !is_whole || !networks.contain(&subnets) {
            return member.join(&self.nodes).await;
        }
        match timeout(PATIENCE, member.join(&self.nodes)).await {
            Ok(joined) => joined,
            Err(_) if is_away(&self.nodes.revision().await) => {
                warn!(
                    "the API server does not answer: starting with subnet {subnets} of subnet.env"
                );
                let public_ip = member.host.public_ip;
                Ok(Registration { uid: String::new(), subnets, public_ip })
            }
            Err(_) => member.join(&self.nodes).await,
        }
    }
}

impl LeaseStore for KubeStore {
    type Known = Cluster;
    type Error = StoreError;

    async fn network_config(&self) -> Result<NetworkConfig, StoreError> {
        let path = self.membership.net_config.clone();
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                NetworkConfig::parse(&text).map_err(|source| StoreError::Config { path, source })
            }
            Err(source) => Err(StoreError::ReadConfig { path, source }),
        }
    }

    /// The annotations; none while the API server is away.
    async fn public_ip(&self) -> Result<Addresses, StoreError> {
        let node = self.name().await?;
        let Ok(Some(known)) = self.nodes.get(&node).await else { return Ok(Addresses::default()) };
        self.membership.annotations.node_public_ip(&known.metadata).map_err(|mistake| {
            let WrongAddress { name, family, given } = mistake;
            StoreError::NodePublicIp { node, name, family, given }
        })
    }

    async fn join(
        self,
        config: &NetworkConfig,
        node: NodeAddress,
    ) -> Result<Joined<Self>, StoreError> {
        let member = Member {
            name: self.name().await?,
            annotations: self.membership.annotations.clone(),
            networks: config.networks(),
            host: node.host.borrow().clone(),
            address: self.membership.address,
            sets_condition: self.membership.sets_condition,
        };
        let joined = self.join_or_resume(&member, config, node.previous).await?;
        let subnets = joined.subnets;
        let port = config.backend.port;
        let (mut follower, known) = Follower::new(self.nodes, member, joined, port);
        follower.follow_host(node.host);
        let keeping = async { Err(follower.run().await.into()) };
        Ok(Joined { subnets, known, keeping: Box::pin(keeping) })
    }

    fn resume(
        self,
        config: &NetworkConfig,
        host: watch::Receiver<HostAddress>,
        memory: Memory,
    ) -> Result<Joined<Self>, MemoryError> {
        let kept: Kept = memory.of(KEPT_IN)?;
        let peers = PeerSet::of(memory.peers)
            .map_err(|mistake| MemoryError::Unreadable(mistake.to_string()))?;
        let member = Member {
            name: kept.node.clone(),
            annotations: self.membership.annotations,
            networks: config.networks(),
            host: HostAddress { public_ip: memory.public_ip, ..host.borrow().clone() },
            address: self.membership.address,
            sets_condition: self.membership.sets_condition,
        };
        let (mut follower, known) =
            Follower::resume(self.nodes, member, kept, peers, config.backend.port);
        follower.follow_host(host);
        let keeping = async { Err(follower.run().await.into()) };
        Ok(Joined { subnets: memory.subnets, known, keeping: Box::pin(keeping) })
    }
}

/// Where the leases are.
pub(crate) const KEPT_IN: &str = "the nodes of the Kubernetes cluster";

impl Cluster {
    /// What a successor goes on from; none before the follower began.
    #[must_use]
    pub fn memory(&self) -> Option<Memory> {
        let kept = self.kept.as_deref()?;
        Some(Memory {
            kept_in: KEPT_IN.to_owned(),
            subnets: kept.joined.subnets,
            public_ip: kept.public_ip,
            given: Addresses::default(),
            peers: self.peers.iter().cloned().collect(),
            store: serde_json::json!(kept),
        })
    }
}

fn is_away<T>(answer: &Result<T, CallError>) -> bool {
    matches!(answer, Err(CallError::Unreachable { .. }))
}
