//! Making this node part of the network: its pod network is read, its address is written.

use super::address::{self, AddressSource};
use super::annotations::{Annotations, WrongAddress, network_is_available};
use super::api::Node;
use super::client::CallError;
use super::nodes::Nodes;
use super::table::PodNetwork;
use crate::subnet::{Addresses, HostAddress, Subnets};
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
    /// The whole overlay, of each family.
    pub networks: Subnets,
    /// Our addresses, unless the node object says otherwise.
    pub host: HostAddress,
    /// Where the address comes from that the node publishes, unless it was given one.
    pub address: AddressSource,
    /// Whether to tell the cluster that the node's network is there.
    pub sets_condition: bool,
}

/// What a node has when it is part of the network.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Registration {
    /// The node's identity.
    pub uid: String,
    /// Its pod networks; the name is that of versions that had one.
    #[serde(rename = "subnet")]
    pub subnets: Subnets,
    /// Where others reach it.
    pub public_ip: Addresses,
}

/// Why a node cannot be part of the network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Its pod network is another one's.
    #[error(
        "pod network {subnets} of node {node:?} is not in {networks}, the Network of the \
         configuration: make the cluster's --cluster-cidr and Network agree"
    )]
    Outside {
        /// The node.
        node: String,
        /// Its pod networks.
        subnets: Subnets,
        /// The overlay.
        networks: Subnets,
    },
    /// It has no pod network of a family that the network has.
    #[error(
        "pod network {given} of node {node:?} has none of {family}, which the network config has: give \
         --cluster-cidr networks of the same families, or change EnableIPv4 and EnableIPv6"
    )]
    Unusable {
        /// The node.
        node: String,
        /// What it has.
        given: String,
        /// What it lacks.
        family: &'static str,
    },
}

/// Why the node object names no address that other nodes could use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoAddress {
    /// The annotation `public-ip-overwrite` or `public-ipv6-overwrite` is none.
    #[error(
        "annotation {} of node {node:?} is {:?}: write the {} address that the other nodes reach it \
         by, or remove it",
        .mistake.name, .mistake.given, .mistake.family
    )]
    Overwrite { node: String, mistake: WrongAddress },
    /// The status has no address of the wanted type.
    #[error(
        "status.addresses of node {node:?} has no {kind} of {family}, which TWILL_NODE_ADDRESS={} \
         asks for; it has: {there}. The kubelet or the cloud's controller manager writes it; or set \
         the annotation {annotation}",
        .wanted.name()
    )]
    Status {
        node: String,
        wanted: AddressSource,
        kind: &'static str,
        family: &'static str,
        there: String,
        annotation: &'static str,
    },
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
    pub(super) subnets: Subnets,
    /// Where others reach it; an error if the node object does not say so.
    pub(super) public_ip: Result<Addresses, NoAddress>,
}

impl Member {
    /// Looks at the node as the API server has it; before anything is written.
    pub(super) fn state(&self, node: Option<&Node>) -> Result<State, JoinError> {
        let Some(node) = node else {
            let text = format!("there is no node {:?} yet: is NODE_NAME right?", self.name);
            return Ok(State::Waiting(text));
        };
        let name = || self.name.clone();
        let networks = self.networks;
        let lacking = |subnets: Subnets| match networks {
            Subnets { v4: Some(_), .. } if subnets.v4.is_none() => Some("IPv4"),
            Subnets { v6: Some(_), .. } if subnets.v6.is_none() => Some("IPv6"),
            _ => None,
        };
        let unusable = |given: String, family| JoinError::Unusable { node: name(), given, family };
        let subnets = match PodNetwork::of(node) {
            PodNetwork::Of(subnets) => match lacking(subnets) {
                None => subnets.of_families_of(&networks),
                Some(family) => return Err(unusable(subnets.to_string(), family)),
            },
            PodNetwork::Unusable(given) => {
                let family = lacking(Subnets::default()).unwrap_or("IPv4");
                return Err(unusable(given, family));
            }
            PodNetwork::Pending => {
                let text = format!(
                    "node {:?} has no pod network yet: kube-controller-manager gives one if it \
                     runs with --allocate-node-cidrs=true and --cluster-cidr",
                    self.name
                );
                return Ok(State::Waiting(text));
            }
        };
        if !networks.contain(&subnets) {
            return Err(JoinError::Outside { node: name(), subnets, networks });
        }
        let uid = node.metadata.uid.clone();
        Ok(State::Ready(Place { uid, subnets, public_ip: self.address(node) }))
    }

    /// Where others reach the node: what its administrator says comes first.
    fn address(&self, node: &Node) -> Result<Addresses, NoAddress> {
        let HostAddress { public_ip, given, .. } = self.host;
        let overwrite = self
            .annotations
            .overwrite(&node.metadata)
            .map_err(|mistake| NoAddress::Overwrite { node: self.name.clone(), mistake })?;
        let Some(kind) = self.address.kind() else {
            return Ok(overwrite.of_families_of(&public_ip).or(public_ip));
        };
        let found = overwrite.or(given).or(address::of_kind(&node.status, kind));
        // Those of families that the network does not have stay out.
        let found = found.of_families_of(&public_ip);
        let (family, annotation) = match found {
            Addresses { v4: None, .. } if public_ip.v4.is_some() => ("IPv4", "public-ip-overwrite"),
            Addresses { v6: None, .. } if public_ip.v6.is_some() => {
                ("IPv6", "public-ipv6-overwrite")
            }
            _ => return Ok(found),
        };
        Err(NoAddress::Status {
            node: self.name.clone(),
            wanted: self.address,
            kind,
            family,
            there: address::listed(&node.status),
            annotation,
        })
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
        let Place { uid, subnets, public_ip } = match self.state(node.as_ref())? {
            State::Ready(place) => place,
            State::Waiting(reason) => return Ok(Attempt::Waiting(reason)),
        };
        let public_ip = match public_ip {
            Ok(public_ip) => public_ip,
            Err(reason) => return Ok(Attempt::Waiting(reason.to_string())),
        };
        if let Some(node) = &node {
            self.register(nodes, node, public_ip).await?;
        }
        if self.sets_condition {
            let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
            nodes.patch(&self.name, &network_is_available(&now)).await?;
        }
        Ok(Attempt::Joined(Registration { uid, subnets, public_ip }))
    }

    /// Writes our annotations unless they are there.
    pub(super) async fn register(
        &self,
        nodes: &Nodes,
        node: &Node,
        public_ip: Addresses,
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
    use super::super::api::StatusAddress;
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
    fn in_a_network_of_both_families_a_node_needs_a_pod_network_of_each() {
        let member = Member {
            networks: "10.244.0.0/16, fd00:244::/56".parse().unwrap(),
            host: host("192.0.2.1, 2001:db8::1"),
            ..member()
        };
        let mut node = node("10.244.1.0/24");

        let error = member.state(Some(&node)).unwrap_err().to_string();
        assert!(error.contains("10.244.1.0/24") && error.contains("none of IPv6"), "{error}");

        node.spec.pod_cidrs = vec!["10.244.1.0/24".to_owned(), "fd00:244:0:1::/64".to_owned()];
        let key = format!("{DEFAULT_PREFIX}/public-ipv6-overwrite");
        node.metadata.annotations.insert(key, "2001:db8::7".to_owned());
        let State::Ready(place) = member.state(Some(&node)).unwrap() else { panic!() };
        assert_eq!(place.subnets, "10.244.1.0/24, fd00:244:0:1::/64".parse().unwrap());
        assert_eq!(place.public_ip, Ok("192.0.2.1, 2001:db8::7".parse().unwrap()));
    }

    #[test]
    fn an_annotation_overwrites_the_address_that_was_found() {
        let mut node = node("10.244.1.0/24");
        let key = format!("{DEFAULT_PREFIX}/public-ip-overwrite");

        let found = public_ip(&node).unwrap();
        node.metadata.annotations.insert(key, "203.0.113.7".to_owned());
        let overwritten = public_ip(&node).unwrap();

        assert_eq!(found, "192.0.2.1".parse().unwrap());
        assert_eq!(overwritten, "203.0.113.7".parse().unwrap());
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

    #[test]
    fn the_status_names_the_address_unless_an_administrator_does() {
        let both = "192.0.2.1, 2001:db8::1";
        let at = |address: AddressSource, given: &str| Member {
            host: HostAddress { given: given.parse().unwrap_or_default(), ..host(both) },
            address,
            ..member()
        };
        let mut node = node("10.244.1.0/24");
        for (kind, address) in [
            ("InternalIP", "198.51.100.1"),
            ("InternalIP", "2001:db8:1::1"),
            ("ExternalIP", "203.0.113.1"),
        ] {
            let (kind, address) = (kind.to_owned(), address.to_owned());
            node.status.addresses.push(StatusAddress { kind, address });
        }
        let published = |member: &Member, node: &Node| match member.state(Some(node)).unwrap() {
            State::Ready(place) => place.public_ip.map(|public_ip| public_ip.to_string()),
            State::Waiting(reason) => panic!("{reason}"),
        };

        let interface = published(&at(AddressSource::Interface, ""), &node);
        let internal = published(&at(AddressSource::InternalIp, ""), &node);
        let given = published(&at(AddressSource::InternalIp, "203.0.113.7"), &node);
        let lacking = published(&at(AddressSource::ExternalIp, ""), &node).unwrap_err();
        let external = published(&at(AddressSource::ExternalIp, "2001:db8::7"), &node);
        let key = format!("{DEFAULT_PREFIX}/public-ip-overwrite");
        node.metadata.annotations.insert(key, "203.0.113.9".to_owned());
        let overwritten = published(&at(AddressSource::InternalIp, "203.0.113.7"), &node);

        assert_eq!(interface.as_deref(), Ok(both));
        assert_eq!(internal.as_deref(), Ok("198.51.100.1, 2001:db8:1::1"));
        assert_eq!(given.as_deref(), Ok("203.0.113.7, 2001:db8:1::1"));
        assert_eq!(external.as_deref(), Ok("203.0.113.1, 2001:db8::7"));
        assert_eq!(overwritten.as_deref(), Ok("203.0.113.9, 2001:db8:1::1"));
        let text = lacking.to_string();
        for words in [
            "node \"n1\" has no ExternalIP of IPv6",
            "TWILL_NODE_ADDRESS=external-ip",
            "it has: InternalIP 198.51.100.1, InternalIP 2001:db8:1::1, ExternalIP 203.0.113.1",
            "the annotation public-ipv6-overwrite",
        ] {
            assert!(text.contains(words), "{words} is not in {text}");
        }
    }

    fn public_ip(node: &Node) -> Result<Addresses, NoAddress> {
        match member().state(Some(node)).unwrap() {
            State::Ready(place) => place.public_ip,
            State::Waiting(reason) => panic!("{reason}"),
        }
    }

    fn member() -> Member {
        Member {
            name: "n1".to_owned(),
            annotations: Annotations::new(DEFAULT_PREFIX).unwrap(),
            networks: "10.244.0.0/16".parse().unwrap(),
            host: host("192.0.2.1"),
            address: AddressSource::Interface,
            sets_condition: true,
        }
    }

    fn host(public_ip: &str) -> HostAddress {
        HostAddress { public_ip: public_ip.parse().unwrap(), ..HostAddress::default() }
    }

    fn node(pod_cidr: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = "n1".to_owned();
        node.spec.pod_cidr = pod_cidr.to_owned();
        node
    }
}
