//! A node whose subnet is its pod network, and whose address is an annotation.

use super::{Ends, FlanneldError, Ground, Member};
use crate::config::flanneld::{Flanneld, Kube, NodeName};
use crate::host::Previous;
use crate::subnet::kube::{
    self, Access, AccessError, CallError, Cluster, FollowEnd, Follower, JoinError, Joined, Nodes,
};
use crate::subnet::{NetworkConfig, NetworkError};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

/// How long an API server that is away keeps a node from starting with what `subnet.env` says.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two questions to an API server that does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Why there is no cluster to be a node of.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// How the API server is reached.
    #[error(transparent)]
    Access(#[from] AccessError),
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
    #[error("annotation node-public-ip of node {node:?} is {given:?}: write an IPv4 address")]
    NodePublicIp {
        /// The node.
        node: String,
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

/// How the API server is reached; nothing is sent.
pub(super) fn nodes(kube: &Kube) -> Result<Nodes, KubeError> {
    let access = Access::new(&kube.access)?;
    if access.trusts_anybody() {
        warn!("insecure-skip-tls-verify: anybody may pose as the API server");
    }
    info!("Created subnet manager: Kubernetes Subnet Manager");
    Ok(Nodes::new(access))
}

/// Makes this host a node of the network, and follows the others from then on.
pub(super) async fn join(
    nodes: Nodes,
    kube: Kube,
    mut options: Flanneld,
    previous: Previous,
) -> Result<(Member, Ground, watch::Receiver<Cluster>, Ends), FlanneldError> {
    let config = network_config(&kube)?;
    let name = node_name(&nodes, &kube.node).await?;
    if let Some(address) = node_public_ip(&nodes, &kube, &name).await? {
        options.external.public_ip = Some(address);
    }
    let ground = Ground::prepare(&options, &config).await?;
    let member = kube::Member {
        name,
        annotations: kube.annotations,
        network: config.network,
        public_ip: ground.external.public_ip,
        sets_condition: kube.sets_condition,
    };
    let joined = join_or_resume(&nodes, &member, &config, previous).await?;
    let subnet = joined.subnet;
    let (follower, cluster) = Follower::new(nodes, member, joined, config.backend.port);
    let ends = async { Err(KubeError::from(follower.run().await).into()) };
    Ok((Member { options, config, subnet, previous }, ground, cluster, Box::pin(ends)))
}

fn network_config(kube: &Kube) -> Result<NetworkConfig, FlanneldError> {
    let path = kube.net_config.clone();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(KubeError::ReadConfig { path, source }.into()),
    };
    match NetworkConfig::parse(&text) {
        Ok(config) => Ok(config),
        Err(NetworkError::Backend(other)) => Err(other.into()),
        Err(source) => Err(KubeError::Config { path, source }.into()),
    }
}

/// The node's name; that of a pod's node is asked for until the API server answers.
async fn node_name(nodes: &Nodes, node: &NodeName) -> Result<String, KubeError> {
    let (namespace, pod) = match node {
        NodeName::Given(name) => return Ok(name.clone()),
        NodeName::OfPod { namespace, pod } => (namespace, pod),
    };
    let mut told = false;
    loop {
        match nodes.of_pod(namespace, pod).await {
            Ok(Some(name)) => return Ok(name),
            Ok(None) => {
                let (namespace, pod) = (namespace.clone(), pod.clone());
                return Err(KubeError::NoNode { namespace, pod });
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

/// The address that an annotation of the node gives it; none while the API server is away.
async fn node_public_ip(
    nodes: &Nodes,
    kube: &Kube,
    name: &str,
) -> Result<Option<Ipv4Addr>, KubeError> {
    let Ok(Some(node)) = nodes.get(name).await else { return Ok(None) };
    let Some(given) = kube.annotations.node_public_ip(&node.metadata) else { return Ok(None) };
    match given.parse() {
        Ok(address) => Ok(Some(address)),
        Err(_) => Err(KubeError::NodePublicIp { node: name.to_owned(), given: given.to_owned() }),
    }
}

/// Joins, or goes on with the subnet of the last time while no API server answers: pods that start
/// meanwhile have their network, and peers come when it answers.
async fn join_or_resume(
    nodes: &Nodes,
    member: &kube::Member,
    config: &NetworkConfig,
    previous: Previous,
) -> Result<Joined, KubeError> {
    let subnet = match (previous.network, previous.subnet) {
        (Some(network), Some(subnet)) if network == config.network => subnet,
        _ => return Ok(member.join(nodes).await?),
    };
    match timeout(PATIENCE, member.join(nodes)).await {
        Ok(joined) => Ok(joined?),
        Err(_) if is_away(nodes.revision().await) => {
            warn!("the API server is away: starting with subnet {subnet} of subnet.env");
            let public_ip = member.public_ip;
            Ok(Joined { uid: String::new(), subnet, public_ip })
        }
        Err(_) => Ok(member.join(nodes).await?),
    }
}

fn is_away<T>(answer: Result<T, CallError>) -> bool {
    matches!(answer, Err(CallError::Unreachable { .. }))
}
