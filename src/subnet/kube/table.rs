//! What the nodes of a cluster mean for this node. Pure: nodes in, peers and findings out.
//!
//! A node is known by its name and its uid. Its pod network cannot change as long as the uid stays,
//! so the watch brings metadata only: a node is read in full when it is new or has no network yet.

use super::annotations::{Annotations, Record};
use super::api::{Metadata, Node};
use crate::subnet::{Addresses, PeerSet, PeerSpec, Subnets};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

/// What this node knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// The node's name.
    pub name: String,
    /// The whole overlay, of each family.
    pub networks: Subnets,
    /// Our pod networks.
    pub subnets: Subnets,
    /// Where others reach us.
    pub public_ip: Addresses,
    /// This host's addresses: a node that has one of them is a former one of our own.
    pub local: Vec<IpAddr>,
}

/// The nodes, as far as they have been followed.
#[derive(Debug)]
pub struct NodeTable {
    annotations: Annotations,
    nodes: BTreeMap<String, Known>,
    /// Peers that a store lacks which does not have its former data, until their nodes return.
    lost: BTreeMap<String, PeerSpec>,
    /// What was found last: each finding is told once, as long as it stays.
    found: BTreeSet<Finding>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    uid: String,
    pod_network: PodNetwork,
    record: Record,
}

/// The networks of a node's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodNetwork {
    /// The controller manager has given none yet.
    Pending,
    /// These: the first of each family.
    Of(Subnets),
    /// What is there is no network.
    Unusable(String),
}

impl PodNetwork {
    /// The network of a node's pods, as flannel reads it.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        let spec = &node.spec;
        let one = std::slice::from_ref(&spec.pod_cidr);
        let all = if spec.pod_cidrs.is_empty() { one } else { &spec.pod_cidrs };
        if all.iter().all(String::is_empty) {
            return Self::Pending;
        }
        let mut subnets = Subnets::default();
        for network in all.iter().filter_map(|cidr| cidr.parse::<IpNet>().ok()) {
            match network {
                IpNet::V4(v4) => _ = subnets.v4.get_or_insert(v4.trunc()),
                IpNet::V6(v6) => _ = subnets.v6.get_or_insert(v6.trunc()),
            }
        }
        if subnets.is_empty() { Self::Unusable(all.join(", ")) } else { Self::Of(subnets) }
    }
}

/// What must be done before a change is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// Read the node in full, and hand it to [`NodeTable::read`].
    Node,
}

/// What somebody should be told of another node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Finding {
    /// Its address or its pod network makes no sense.
    #[error("ignoring node {node:?}: its {what} {value:?} is not an {family} {what}")]
    Malformed {
        /// The node.
        node: String,
        /// `IPv4`, `IPv6`, or both.
        family: &'static str,
        /// `address` or `network`.
        what: &'static str,
        /// What is there.
        value: String,
    },
    /// It has another backend.
    #[error(
        "ignoring node {node:?}: its backend is {backend:?}, not \"udp\"; all nodes of a network \
         must have the same backend"
    )]
    ForeignBackend {
        /// The node.
        node: String,
        /// Its backend.
        backend: String,
    },
    /// Two nodes have one address.
    #[error(
        "nodes {node:?} and {other:?} have one address, {public_ip}: each takes the other's \
         packets; give each its own with the annotation public-ip-overwrite"
    )]
    DuplicatePublicIp {
        /// The node.
        node: String,
        /// The other one.
        other: String,
        /// The address.
        public_ip: IpAddr,
    },
    /// Its pod network is not where it should be.
    #[error(
        "ignoring node {node:?}: its pod network {subnets} is outside {networks} or overlaps {own}"
    )]
    OutOfPlace {
        /// The node.
        node: String,
        /// Its pod networks.
        subnets: Subnets,
        /// The overlay.
        networks: Subnets,
        /// Our pod networks.
        own: Subnets,
    },
    /// It is at an address of this host.
    #[error(
        "ignoring node {node:?}: its address {public_ip} is one of this host: it is a former node \
         of this host; delete it"
    )]
    Former {
        /// The node.
        node: String,
        /// Our address.
        public_ip: IpAddr,
    },
    /// It could be reached through the tunnel only.
    #[error(
        "ignoring node {node:?}: its address {public_ip} is inside {inside}, so datagrams to it \
         would go into the tunnel again; give it the address on the network between the nodes with \
         the annotation public-ip-overwrite"
    )]
    Inside {
        /// The node.
        node: String,
        /// Its address.
        public_ip: IpAddr,
        /// Its own pod network, or ours.
        inside: IpNet,
    },
}

/// The peers, and what is new to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// The peers, by the name of their node.
    pub peers: PeerSet,
    /// Findings that were not there the last time.
    pub news: Vec<Finding>,
}

impl NodeTable {
    /// A table that knows nothing yet.
    #[must_use]
    pub fn new(annotations: Annotations) -> Self {
        let (nodes, lost) = (BTreeMap::new(), BTreeMap::new());
        Self { annotations, nodes, lost, found: BTreeSet::new() }
    }

    /// These are all nodes.
    pub fn listed(&mut self, nodes: &[Node]) {
        self.nodes.clear();
        for node in nodes {
            self.read(node);
        }
    }

    /// These are all nodes of a store that was wiped or restored. The peers of before stay peers until
    /// their nodes return, or something of theirs is given to another node.
    pub fn listed_after_loss<'a>(
        &mut self,
        nodes: &[Node],
        before: impl Iterator<Item = &'a PeerSpec>,
    ) {
        self.lose(before);
        self.listed(nodes);
    }

    /// These peers are of a store that does not have its former data.
    pub fn lose<'a>(&mut self, peers: impl Iterator<Item = &'a PeerSpec>) {
        self.lost.extend(peers.map(|peer| (peer.name.clone(), peer.clone())));
    }

    /// The names of the peers that such a store lacks.
    pub fn lost(&self) -> impl Iterator<Item = &String> {
        self.lost.keys()
    }

    /// Nodes that have not returned are gone. Says whether there were any.
    pub fn forget_lost(&mut self) -> bool {
        !std::mem::take(&mut self.lost).is_empty()
    }

    /// A node was read in full.
    pub fn read(&mut self, node: &Node) {
        let known = Known {
            uid: node.metadata.uid.clone(),
            pod_network: PodNetwork::of(node),
            record: self.annotations.read(&node.metadata),
        };
        if known.record.is_managed {
            self.lost.remove(&node.metadata.name);
        }
        self.nodes.insert(node.metadata.name.clone(), known);
    }

    /// A node is new or has changed.
    pub fn seen(&mut self, metadata: &Metadata) -> Need {
        match self.nodes.get_mut(&metadata.name) {
            Some(known)
                if known.uid == metadata.uid && known.pod_network != PodNetwork::Pending =>
            {
                known.record = self.annotations.read(metadata);
                if known.record.is_managed {
                    self.lost.remove(&metadata.name);
                }
                Need::Nothing
            }
            _ => Need::Node,
        }
    }

    /// A node is gone. News of one that was made again under its name come too late.
    pub fn gone(&mut self, metadata: &Metadata) {
        if self.nodes.get(&metadata.name).is_some_and(|known| known.uid == metadata.uid) {
            self.nodes.remove(&metadata.name);
            self.lost.remove(&metadata.name);
        }
    }

    /// How many nodes are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no node is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The peers of this node, all on one port.
    pub fn peers(&mut self, own: &Own, port: u16) -> Peers {
        let mut found = BTreeSet::new();
        let mut at: HashMap<IpAddr, &str> = HashMap::new();
        at.extend(own.public_ip.iter().map(|ours| (ours, own.name.as_str())));
        let mut peers = Vec::new();
        let others = self.nodes.iter().filter(|(name, _)| **name != own.name);
        for (name, known) in others {
            let (public_ip, subnets) = match place(name, known, own) {
                Ok(Some(place)) => place,
                Ok(None) => continue,
                Err(finding) => {
                    found.insert(finding);
                    continue;
                }
            };
            if let Some(other) = at.insert(public_ip, name) {
                let (node, other) = (name.clone(), other.to_owned());
                found.insert(Finding::DuplicatePublicIp { node, other, public_ip });
            }
            // What we would send to our own address would come back to us.
            if !own.public_ip.are(public_ip) {
                peers.push(Place { name, public_ip, subnets });
            }
        }
        let lost = self.still_lost(own, &peers, &at);
        let peers = peers.iter().map(|place| place.peer(port)).chain(lost.cloned()).collect();
        let news = found.difference(&self.found).cloned().collect();
        self.found = found;
        Peers { peers, news }
    }

    /// The peers that a wiped store has not got back, except for those whose address or pod network
    /// another node has now.
    fn still_lost(
        &self,
        own: &Own,
        peers: &[Place<'_>],
        taken: &HashMap<IpAddr, &str>,
    ) -> impl Iterator<Item = &PeerSpec> {
        let mut lost: Vec<_> = self.lost.values().filter(|peer| peer.name != own.name).collect();
        if lost.is_empty() {
            return lost.into_iter();
        }
        let subnets = peers.iter().flat_map(|place| place.subnets.iter());
        let subnets: BTreeMap<_, _> = subnets.map(|subnet| (subnet.network(), subnet)).collect();
        let overlaps = |subnet: &IpNet| {
            let last = subnets.range(..=subnet.broadcast()).next_back();
            last.is_some_and(|(_, other)| other.broadcast() >= subnet.network())
        };
        lost.retain(|peer| {
            !taken.contains_key(&peer.endpoint.ip()) && !peer.subnets.iter().any(overlaps)
        });
        lost.into_iter()
    }

    /// What is wrong with other nodes now.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.found.iter()
    }
}

/// Where a peer is and what is behind it.
struct Place<'a> {
    name: &'a str,
    public_ip: IpAddr,
    subnets: Subnets,
}

impl Place<'_> {
    fn peer(&self, port: u16) -> PeerSpec {
        PeerSpec {
            name: self.name.to_owned(),
            endpoint: SocketAddr::from((self.public_ip, port)),
            subnets: self.subnets.iter().collect(),
        }
    }
}

/// Where a node is and what is behind it; nothing for one that is not part of the network yet.
fn place(name: &str, known: &Known, own: &Own) -> Result<Option<(IpAddr, Subnets)>, Finding> {
    let Known { pod_network, record, .. } = known;
    let node = || name.to_owned();
    if !record.is_managed {
        return Ok(None);
    }
    if !record.is_udp() {
        return Err(Finding::ForeignBackend { node: node(), backend: record.backend.clone() });
    }
    let Own { networks, subnets: ours, public_ip, .. } = *own;
    let wrong = |what, family: &Subnets, value: String| {
        let family = match (family.v4, family.v6) {
            (Some(_), Some(_)) => "IPv4 or IPv6",
            (None, Some(_)) => "IPv6",
            _ => "IPv4",
        };
        Finding::Malformed { node: node(), family, what, value }
    };
    let mut subnets = match pod_network {
        PodNetwork::Pending => return Ok(None),
        PodNetwork::Of(subnets) => subnets.of_families_of(&networks),
        PodNetwork::Unusable(value) => return Err(wrong("network", &networks, value.clone())),
    };
    if subnets.is_empty() {
        let PodNetwork::Of(there) = pod_network else { return Ok(None) };
        return Err(wrong("network", &networks, there.to_string()));
    }
    let addresses = record.addresses();
    if addresses.v6.is_none() && subnets.v4.is_some() {
        // A stock node, which carries no IPv6.
        subnets.v6 = None;
    }
    let Some(address) = addresses.reached_from(&public_ip) else {
        let (family, value) = match public_ip.v4 {
            Some(_) => (Subnets { v6: None, ..networks }, &record.public_ip),
            None => (Subnets { v4: None, ..networks }, &record.public_ipv6),
        };
        return Err(wrong("address", &family, value.clone()));
    };
    if !networks.contain(&subnets) || ours.overlap(&subnets) {
        return Err(Finding::OutOfPlace { node: node(), subnets, networks, own: ours });
    }
    // What we would send to an address of ours would come back to us, and go around.
    if !public_ip.are(address) && own.local.contains(&address) {
        return Err(Finding::Former { node: node(), public_ip: address });
    }
    match subnets.iter().chain(ours.iter()).find(|inside| inside.contains(&address)) {
        Some(inside) => Err(Finding::Inside { node: node(), public_ip: address, inside }),
        None => Ok(Some((address, subnets))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::annotations::DEFAULT_PREFIX;
    use super::*;

    #[test]
    fn managed_nodes_with_a_network_and_an_address_are_peers() {
        let mut table = table();
        table.listed(&[
            node("n1", "10.244.1.0/24", OWN_IP),
            node("n2", "10.244.2.0/24", "192.0.2.2"),
        ]);

        let peers = table.peers(&own(), 8285);

        assert_eq!(named(&peers), [("n2", "192.0.2.2:8285", "10.244.2.0/24")].map(text));
        assert!(peers.news.is_empty(), "{:?}", peers.news);
    }

    #[test]
    fn a_node_without_a_network_or_without_a_flannel_is_waited_for() {
        let mut table = table();
        let mut bare = node("n3", "10.244.3.0/24", "192.0.2.3");
        bare.metadata.annotations.clear();
        table.listed(&[node("n2", "", "192.0.2.2"), bare]);

        let peers = table.peers(&own(), 8285);

        assert!(peers.peers.is_empty());
        assert!(peers.news.is_empty(), "{:?}", peers.news);
        assert_eq!(
            table.seen(&node("n2", "", "").metadata),
            Need::Node,
            "its network may be there"
        );
        assert_eq!(table.seen(&node("n3", "", "192.0.2.3").metadata), Need::Nothing);
        assert_eq!(table.peers(&own(), 8285).peers.len(), 1, "its flannel has come");
    }

    #[test]
    fn a_peer_whose_annotation_vanishes_is_no_peer_any_more() {
        let mut table = table();
        let mut other = node("n2", "10.244.2.0/24", "192.0.2.2");
        table.listed(std::slice::from_ref(&other));
        assert_eq!(table.peers(&own(), 8285).peers.len(), 1);

        other.metadata.annotations.clear();
        assert_eq!(table.seen(&other.metadata), Need::Nothing);

        assert!(table.peers(&own(), 8285).peers.is_empty());
    }

    #[test]
    fn a_node_that_is_made_again_is_read_again_and_late_news_of_the_old_one_change_nothing() {
        let mut table = table();
        let old = node("n2", "10.244.2.0/24", "192.0.2.2");
        table.listed(std::slice::from_ref(&old));
        let mut new = node("n2", "10.244.9.0/24", "192.0.2.2");
        new.metadata.uid = "another".to_owned();

        assert_eq!(table.seen(&new.metadata), Need::Node);
        table.read(&new);
        table.gone(&old.metadata);

        let expected = [("n2", "192.0.2.2:8285", "10.244.9.0/24")].map(text);
        assert_eq!(named(&table.peers(&own(), 8285)), expected);
        table.gone(&new.metadata);
        assert!(table.is_empty());
    }

    #[test]
    fn nodes_that_a_wiped_store_does_not_know_stay_peers_until_they_return_or_lose_their_place() {
        let mut table = table();
        let nodes = ["n2", "n3", "n4", "n5"].map(|name| {
            let number = &name[1..];
            node(name, &format!("10.244.{number}.0/24"), &format!("192.0.2.{number}"))
        });
        table.listed(&nodes);
        let before = table.peers(&own(), 8285).peers;
        table.listed_after_loss(&[], before.iter());
        assert_eq!(table.lost().collect::<Vec<_>>(), ["n2", "n3", "n4", "n5"]);
        let names = |table: &mut NodeTable| -> Vec<String> {
            named(&table.peers(&own(), 8285)).into_iter().map(|(name, ..)| name).collect()
        };
        assert_eq!(names(&mut table), ["n2", "n3", "n4", "n5"]);

        // Another node has the network of n3, another one the address of n4.
        let mut made_again = node("n2", "10.244.22.0/24", "");
        made_again.metadata.annotations.clear();
        table.read(&made_again);
        table.read(&node("n8", "10.244.3.0/25", "192.0.2.8"));
        table.read(&node("n9", "10.244.9.0/24", "192.0.2.4"));
        assert_eq!(names(&mut table), ["n2", "n5", "n8", "n9"], "n2 has no flannel yet");
        table.read(&node("n2", "10.244.22.0/24", "192.0.2.22"));
        let n2 = named(&table.peers(&own(), 8285)).remove(0);
        assert_eq!(n2, text(("n2", "192.0.2.22:8285", "10.244.22.0/24")));

        table.read(&node("n5", "10.244.5.0/24", "192.0.2.5"));
        table.gone(&node("n5", "", "").metadata);
        assert_eq!(names(&mut table), ["n2", "n8", "n9"], "n5 was deleted for good");
        assert!(table.forget_lost() && !table.forget_lost());
    }

    #[test]
    fn nodes_that_cannot_be_peers_are_told_once_with_the_reason() {
        let mut table = table();
        let mut vxlan = node("n6", "10.244.6.0/24", "192.0.2.6");
        vxlan.metadata.annotations.insert(format!("{DEFAULT_PREFIX}/backend-type"), "vxlan".into());
        table.listed(&[
            node("n2", "10.99.2.0/24", "192.0.2.2"),
            node("n3", "fd00::/64", "192.0.2.3"),
            node("n4", "10.244.4.0/24", "nonsense"),
            node("n5", "10.244.5.0/24", "10.244.5.1"),
            vxlan,
            node("n7", "10.244.1.128/25", "192.0.2.7"),
            node("n8", "10.244.8.0/24", "198.51.100.1"),
        ]);

        let first = table.peers(&own(), 8285);
        let second = table.peers(&own(), 8285);

        let told: Vec<_> = first.news.iter().map(ToString::to_string).collect();
        for words in [
            "node \"n2\": its pod network 10.99.2.0/24 is outside 10.244.0.0/16",
            "node \"n3\": its network \"fd00::/64\" is not an IPv4 network",
            "node \"n4\": its address \"nonsense\" is not an IPv4 address",
            "node \"n5\": its address 10.244.5.1 is inside 10.244.5.0/24",
            "node \"n6\": its backend is \"vxlan\", not \"udp\"",
            "node \"n8\": its address 198.51.100.1 is one of this host",
            "node \"n7\": its pod network 10.244.1.128/25 is outside 10.244.0.0/16 or overlaps",
        ] {
            assert!(told.iter().any(|line| line.contains(words)), "{words} in {told:#?}");
        }
        assert!(first.peers.is_empty());
        assert!(second.news.is_empty(), "told once");
    }

    #[test]
    fn two_nodes_with_one_address_are_both_served_and_told() {
        let mut table = table();
        table.listed(&[
            node("n2", "10.244.2.0/24", "192.0.2.2"),
            node("n3", "10.244.3.0/24", "192.0.2.2"),
        ]);

        let peers = table.peers(&own(), 8285);

        assert_eq!(peers.peers.len(), 2);
        assert!(
            matches!(&peers.news[..], [Finding::DuplicatePublicIp { node, .. }] if node == "n3")
        );
    }

    #[test]
    fn a_node_at_our_own_address_is_no_peer() {
        let mut table = table();
        table.listed(&[node("old", "10.244.2.0/24", OWN_IP)]);

        let peers = table.peers(&own(), 8285);

        assert!(peers.peers.is_empty());
        assert_eq!(peers.news.len(), 1);
    }

    #[test]
    fn of_several_pod_networks_the_first_of_each_family_counts() {
        let mut both = node("n2", "", "192.0.2.2");
        let networks = ["fd00:2::/64", "10.244.2.0/24", "10.244.3.0/24"];
        both.spec.pod_cidrs = networks.map(str::to_owned).to_vec();

        let expected = "10.244.2.0/24, fd00:2::/64".parse().unwrap();
        assert_eq!(PodNetwork::of(&both), PodNetwork::Of(expected));
    }

    #[test]
    fn a_network_of_both_families_has_peers_with_both_and_stock_nodes_with_ipv4() {
        let mut own = own();
        own.networks = "10.244.0.0/16, fd00:244::/56".parse().unwrap();
        own.subnets = "10.244.1.0/24, fd00:244:0:1::/64".parse().unwrap();
        own.public_ip = "192.0.2.1, 2001:db8::1".parse().unwrap();
        let both = |name: &str, number: u8| {
            let mut node = node(name, "", &format!("192.0.2.{number}"));
            let v4 = format!("10.244.{number}.0/24");
            node.spec.pod_cidrs = vec![v4, format!("fd00:244:0:{number}::/64")];
            node
        };
        let mut twill = both("n2", 2);
        let key = format!("{DEFAULT_PREFIX}/public-ipv6");
        twill.metadata.annotations.insert(key.clone(), "2001:db8::2".to_owned());
        let mut table = table();
        let mut without_v4 = both("v6", 5);
        without_v4.metadata.annotations.remove(&format!("{DEFAULT_PREFIX}/public-ip"));
        without_v4.metadata.annotations.insert(key, "2001:db8::5".to_owned());
        let old = node("old", "10.244.4.0/24", "192.0.2.4");
        table.listed(&[twill, both("stock", 3), old, without_v4]);

        let peers = table.peers(&own, 8285);

        let subnets = peers.peers.iter().map(|peer| (peer.endpoint.ip(), peer.subnets.len()));
        let ip = |number| IpAddr::from([192, 0, 2, number]);
        let v6 = "2001:db8::5".parse().unwrap();
        assert_eq!(subnets.collect::<Vec<_>>(), [(ip(2), 2), (ip(4), 1), (ip(3), 1), (v6, 2)]);
        assert!(peers.news.is_empty(), "{:?}", peers.news);
    }

    #[test]
    fn a_network_of_ipv6_has_its_peers_at_ipv6_addresses() {
        let mut own = own();
        own.networks = "fd00:244::/56".parse().unwrap();
        own.subnets = "fd00:244:0:1::/64".parse().unwrap();
        own.public_ip = "2001:db8::1".parse().unwrap();
        let mut twill = node("n2", "fd00:244:0:2::/64", "192.0.2.2");
        let key = format!("{DEFAULT_PREFIX}/public-ipv6");
        twill.metadata.annotations.insert(key, "2001:db8::2".to_owned());
        let mut table = table();
        table.listed(&[twill, node("stock", "fd00:244:0:3::/64", "192.0.2.3")]);

        let peers = table.peers(&own, 8285);

        let expected = ("n2", "[2001:db8::2]:8285", "fd00:244:0:2::/64");
        assert_eq!(named(&peers), [text(expected)]);
        let told = peers.news[0].to_string();
        assert!(told.contains("\"stock\": its address \"\" is not an IPv6 address"), "{told}");
    }

    const OWN_IP: &str = "192.0.2.1";

    fn own() -> Own {
        Own {
            name: "n1".to_owned(),
            networks: "10.244.0.0/16".parse().unwrap(),
            subnets: "10.244.1.0/24".parse().unwrap(),
            public_ip: OWN_IP.parse().unwrap(),
            local: vec!["198.51.100.1".parse().unwrap()],
        }
    }

    fn table() -> NodeTable {
        NodeTable::new(Annotations::new(DEFAULT_PREFIX).unwrap())
    }

    fn node(name: &str, pod_cidr: &str, public_ip: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = name.to_owned();
        node.metadata.uid = format!("uid of {name}");
        node.spec.pod_cidr = pod_cidr.to_owned();
        let annotations = [
            ("backend-data", "null"),
            ("backend-type", ""),
            ("kube-subnet-manager", "true"),
            ("public-ip", public_ip),
        ];
        node.metadata.annotations = annotations
            .map(|(name, value)| (format!("{DEFAULT_PREFIX}/{name}"), value.to_owned()))
            .into();
        node
    }

    fn named(peers: &Peers) -> Vec<(String, String, String)> {
        let peers = peers.peers.iter();
        peers
            .map(|peer| (peer.name.clone(), peer.endpoint.to_string(), peer.subnets[0].to_string()))
            .collect()
    }

    fn text((name, endpoint, subnet): (&str, &str, &str)) -> (String, String, String) {
        (name.to_owned(), endpoint.to_owned(), subnet.to_owned())
    }
}
