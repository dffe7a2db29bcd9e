//! Making this node part of the network: its pod network is read, its address is written.

use super::annotations::{Annotations, network_is_available};
use super::api::Node;
use super::client::CallError;
use super::nodes::Nodes;
use super::table::{PodNetwork, is_host};
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

/// Pause between two looks at a node that is not ready for us.
const RETRY: Duration = Duration::from_secs(1);
/// How often a reason that stays the same is logged again.
const REMINDER: Duration = Duration::from_secs(60);

/// Which node of which network this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The node's name.
    pub name: String,
    /// The keys of the annotations.
    pub annotations: Annotations,
    /// The whole overlay.
    pub network: Ipv4Net,
    /// Our address, unless an annotation says otherwise.
    pub public_ip: Ipv4Addr,
    /// This host's addresses.
    pub local: Vec<Ipv4Addr>,
    /// Whether to tell the cluster that the node's network is there.
    pub sets_condition: bool,
}

/// What a node has when it is part of the network.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Registration {
    /// The node's identity.
    pub uid: String,
    /// Its pod network.
    pub subnet: Ipv4Net,
    /// Where others reach it.
    pub public_ip: Ipv4Addr,
}

/// Why a node cannot be part of the network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Its pod network is another one's.
    #[error(
        "pod network {subnet} of node {node:?} is not in {network}, the Network of the \
         configuration: make the cluster's --cluster-cidr and Network agree"
    )]
    Outside {
        /// The node.
        node: String,
        /// Its pod network.
        subnet: Ipv4Net,
        /// The overlay.
        network: Ipv4Net,
    },
    /// Its pod network is of another family.
    #[error(
        "pod network {given} of node {node:?} is not an IPv4 network, and udp carries IPv4 only"
    )]
    Unusable {
        /// The node.
        node: String,
        /// What it has.
        given: String,
    },
}

/// The annotation `public-ip-overwrite` is no address that other nodes could use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "annotation public-ip-overwrite of node {node:?} is {given:?}: write the IPv4 address that the \
     other nodes reach it by, or remove it"
)]
pub(super) struct Overwrite {
    node: String,
    given: String,
}

/// How far a node is from being part of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It must be waited for, for this reason.
    Waiting(String),
    /// It can be one of ours, or is.
    Ready(Place),
}

/// What the cluster gives a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) uid: String,
    pub(super) subnet: Ipv4Net,
    /// Where others reach it; an error if its administrator wrote what is no address.
    pub(super) public_ip: Result<Ipv4Addr, Overwrite>,
}

impl Member {
    /// Looks at the node as the API server has it; before anything is written.
    pub(super) fn state(&self, node: Option<&Node>) -> Result<State, JoinError> {
        let Some(node) = node else {
            let text = format!("there is no node {:?} yet: is NODE_NAME right?", self.name);
            return Ok(State::Waiting(text));
        };
        let name = || self.name.clone();
        let subnet = match PodNetwork::of(node) {
            PodNetwork::V4(subnet) => subnet,
            PodNetwork::Unusable(given) => return Err(JoinError::Unusable { node: name(), given }),
            PodNetwork::Pending => {
                let text = format!(
                    "node {:?} has no pod network yet: kube-controller-manager gives one if it \
                     runs with --allocate-node-cidrs=true and --cluster-cidr",
                    self.name
                );
                return Ok(State::Waiting(text));
            }
        };
        let network = self.network;
        if !network.contains(&subnet) {
            return Err(JoinError::Outside { node: name(), subnet, network });
        }
        let uid = node.metadata.uid.clone();
        Ok(State::Ready(Place { uid, subnet, public_ip: self.address(node) }))
    }

    fn address(&self, node: &Node) -> Result<Ipv4Addr, Overwrite> {
        let Some(given) = self.annotations.overwrite(&node.metadata) else {
            return Ok(self.public_ip);
        };
        let address = given.parse().ok().filter(|address| is_host(*address));
        address.ok_or_else(|| Overwrite { node: self.name.clone(), given: given.to_owned() })
    }

    /// Waits until the node can be part of the network, and makes it so.
    ///
    /// # Errors
    /// [`JoinError`]: what waiting does not cure.
    pub async fn join(&self, nodes: &Nodes) -> Result<Registration, JoinError> {
        let mut told = Reminder::default();
        loop {
            match self.try_join(nodes).await {
                Ok(Attempt::Joined(joined)) => return Ok(joined),
                Ok(Attempt::Waiting(reason)) => told.warn(&reason),
                Err(Failure::Join(error)) => return Err(error),
                Err(Failure::Call(error)) => told.warn(&error.to_string()),
            }
            sleep(RETRY).await;
        }
    }

    async fn try_join(&self, nodes: &Nodes) -> Result<Attempt, Failure> {
        let node = nodes.get(&self.name).await?;
        let Place { uid, subnet, public_ip } = match self.state(node.as_ref())? {
            State::Ready(place) => place,
            State::Waiting(reason) => return Ok(Attempt::Waiting(reason)),
        };
        let public_ip = match public_ip {
            Ok(public_ip) => public_ip,
            Err(overwrite) => return Ok(Attempt::Waiting(overwrite.to_string())),
        };
        if let Some(node) = &node {
            self.register(nodes, node, public_ip).await?;
        }
        if self.sets_condition {
            let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
            nodes.patch(&self.name, &network_is_available(&now)).await?;
        }
        Ok(Attempt::Joined(Registration { uid, subnet, public_ip }))
    }

    /// Writes our annotations unless they are there.
    pub(super) async fn register(
        &self,
        nodes: &Nodes,
        node: &Node,
        public_ip: Ipv4Addr,
    ) -> Result<(), CallError> {
        if self.annotations.are_ours(&node.metadata, public_ip) {
            return Ok(());
        }
        nodes.patch(&self.name, &self.annotations.patch(public_ip)).await?;
        info!("Registered node {:?} with address {public_ip}", self.name);
        Ok(())
    }
}

enum Attempt {
    Joined(Registration),
    Waiting(String),
}

#[derive(Debug)]
enum Failure {
    Join(JoinError),
    Call(CallError),
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        Self::Join(error)
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// Logs a reason when it is new, and again each minute.
#[derive(Debug, Default)]
struct Reminder(Option<(String, Instant)>);

impl Reminder {
    fn warn(&mut self, reason: &str) {
        let is_told =
            self.0.as_ref().is_some_and(|(told, at)| told == reason && at.elapsed() < REMINDER);
        if !is_told {
            warn!("{reason}; trying again every second");
            self.0 = Some((reason.to_owned(), Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::annotations::DEFAULT_PREFIX;
    use super::*;

    #[test]
    fn a_node_that_is_not_there_or_has_no_network_is_waited_for() {
        for (node, words) in [(None, "there is no node \"n1\""), (Some(node("")), "no pod network")]
        {
            let Ok(State::Waiting(reason)) = member().state(node.as_ref()) else { panic!() };

            assert!(reason.contains(words), "{reason}");
        }
    }

    #[test]
    fn a_network_that_is_not_ours_is_refused_with_both_networks_named() {
        let error = member().state(Some(&node("10.99.1.0/24"))).unwrap_err().to_string();

        assert!(error.contains("10.99.1.0/24") && error.contains("10.244.0.0/16"), "{error}");
    }

    #[test]
    fn an_annotation_overwrites_the_address_that_was_found() {
        let mut node = node("10.244.1.0/24");
        let key = format!("{DEFAULT_PREFIX}/public-ip-overwrite");

        let found = public_ip(&node).unwrap();
        node.metadata.annotations.insert(key, "203.0.113.7".to_owned());
        let overwritten = public_ip(&node).unwrap();

        assert_eq!(found, Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(overwritten, Ipv4Addr::new(203, 0, 113, 7));
    }

    #[test]
    fn an_annotation_that_no_other_node_could_use_as_an_address_is_named() {
        let mut node = node("10.244.1.0/24");
        let key = format!("{DEFAULT_PREFIX}/public-ip-overwrite");
        for given in ["seven", "127.0.0.1", "0.0.0.0", "2001:db8::1", "192.0.2.1/24"] {
            node.metadata.annotations.insert(key.clone(), given.to_owned());

            let error = public_ip(&node).unwrap_err().to_string();

            let is_named = error.contains("public-ip-overwrite of node \"n1\"");
            assert!(is_named && error.contains(&format!("{given:?}")), "{error}");
        }
    }

    fn public_ip(node: &Node) -> Result<Ipv4Addr, Overwrite> {
        match member().state(Some(node)).unwrap() {
            State::Ready(place) => place.public_ip,
            State::Waiting(reason) => panic!("{reason}"),
        }
    }

    fn member() -> Member {
        Member {
            name: "n1".to_owned(),
            annotations: Annotations::new(DEFAULT_PREFIX).unwrap(),
            network: "10.244.0.0/16".parse().unwrap(),
            public_ip: Ipv4Addr::new(192, 0, 2, 1),
            local: Vec::new(),
            sets_condition: true,
        }
    }

    fn node(pod_cidr: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = "n1".to_owned();
        node.spec.pod_cidr = pod_cidr.to_owned();
        node
    }
}
