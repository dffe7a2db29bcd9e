//! Peers as somebody wants them: from a file, from etcd, from the control socket.

use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

/// A gateway and what is behind it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PeerSpec {
    /// Unique among the peers.
    pub name: String,
    /// Its UDP address.
    pub endpoint: SocketAddr,
    /// The inner networks behind it.
    pub subnets: Vec<IpNet>,
}

/// Peers by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSet(BTreeMap<String, PeerSpec>);

/// Why peers cannot live together, or beside this gateway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPeers {
    /// Two peers have one name.
    #[error("two peers are called {0:?}: give each a name of its own")]
    SameName(String),
    /// Two peers hold one network.
    #[error("subnet {subnet} is behind {first:?} and behind {name:?}: keep it at one peer")]
    SameSubnet {
        /// The network.
        subnet: IpNet,
        /// Who had it.
        first: String,
        /// Who wants it.
        name: String,
    },
    /// A peer holds a network twice.
    #[error("duplicate subnet {subnet} at peer {name:?}: remove one")]
    Twice {
        /// The network.
        subnet: IpNet,
        /// The peer.
        name: String,
    },
    /// A peer's network is in one of ours.
    #[error(
        "subnet {subnet} of peer {name:?} is in {local}, which is behind this gateway: \
         set `local` to the networks behind this gateway"
    )]
    Local {
        /// The peer.
        name: String,
        /// Its network.
        subnet: IpNet,
        /// Ours.
        local: IpNet,
    },
    /// A peer is where this gateway listens.
    #[error("peer {0:?} has this gateway's own address: remove that peer from this gateway's file")]
    Ourselves(String),
    /// A peer at an address that stands for all hosts of one of this host's networks.
    #[error(
        "endpoint {endpoint} of peer {name:?} is a broadcast address of this host's network: give the \
         peer's own address"
    )]
    Broadcast {
        /// The peer.
        name: String,
        /// What it has.
        endpoint: SocketAddr,
    },
    /// A peer without an address to send to.
    #[error("endpoint {endpoint} of peer {name:?} cannot be a host's address")]
    NoHost {
        /// The peer.
        name: String,
        /// What it has.
        endpoint: SocketAddr,
    },
    /// A peer whose IPv4 address is written as an IPv6 one.
    #[error(
        "endpoint {endpoint} of peer {name:?} is an IPv4 address in IPv6's form: write {plain}"
    )]
    Mapped {
        /// The peer.
        name: String,
        /// What it has.
        endpoint: SocketAddr,
        /// What to write.
        plain: SocketAddr,
    },
    /// A peer that the socket cannot reach.
    #[error(
        "endpoint {endpoint} of peer {name:?} cannot be reached from {listen}: listen on [::]:{port}, \
         which is for both families",
        port = listen.port()
    )]
    Family {
        /// The peer.
        name: String,
        /// What it has.
        endpoint: SocketAddr,
        /// Where the gateway listens.
        listen: SocketAddr,
    },
    /// A peer that is reached through the tunnel only.
    #[error(
        "endpoint {endpoint} of peer {name:?} is inside the overlay, in {network}: datagrams to it \
         would go through the tunnel again, without end; give the address on the network between \
         the hosts"
    )]
    Inside {
        /// The peer.
        name: String,
        /// What it has.
        endpoint: SocketAddr,
        /// The inner network that contains it.
        network: IpNet,
    },
}

impl InvalidPeers {
    /// The peer that should change, and which of its networks, unless it is its endpoint.
    #[must_use]
    pub fn place(&self) -> (&str, Option<IpNet>) {
        match self {
            Self::SameSubnet { name, subnet, .. }
            | Self::Twice { name, subnet }
            | Self::Local { name, subnet, .. } => (name, Some(*subnet)),
            Self::SameName(name)
            | Self::Ourselves(name)
            | Self::NoHost { name, .. }
            | Self::Broadcast { name, .. }
            | Self::Mapped { name, .. }
            | Self::Family { name, .. }
            | Self::Inside { name, .. } => (name, None),
        }
    }
}

/// Where a gateway stands among its peers.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// Where it receives.
    pub listen: SocketAddr,
    /// The inner networks behind it.
    pub local: &'a [IpNet],
}

impl PeerSet {
    /// Peers whose names must differ.
    ///
    /// # Errors
    /// [`InvalidPeers::SameName`].
    pub fn of(peers: impl IntoIterator<Item = PeerSpec>) -> Result<Self, InvalidPeers> {
        let mut set = Self::default();
        for peer in peers {
            if let Some(other) = set.0.insert(peer.name.clone(), peer) {
                return Err(InvalidPeers::SameName(other.name));
            }
        }
        Ok(set)
    }

    /// Puts a peer in, or in place of the one of its name; says whether that changed anything.
    pub fn insert(&mut self, peer: PeerSpec) -> bool {
        self.0.insert(peer.name.clone(), peer.clone()) != Some(peer)
    }

    /// Takes a peer out.
    pub fn remove(&mut self, name: &str) -> Option<PeerSpec> {
        self.0.remove(name)
    }

    /// The peer of a name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&PeerSpec> {
        self.0.get(name)
    }

    /// All peers, by name.
    pub fn iter(&self) -> impl Iterator<Item = &PeerSpec> {
        self.0.values()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks that the peers can live together, and beside a gateway at `site`.
    ///
    /// # Errors
    /// The first conflict.
    pub fn check(&self, site: Site<'_>) -> Result<(), InvalidPeers> {
        match self.conflicts(site).into_iter().next() {
            Some(conflict) => Err(conflict),
            None => Ok(()),
        }
    }

    /// All reasons why the peers cannot live together, or not beside a gateway at `site`. A network
    /// inside another peer's is fine, and so is ours inside a peer's: the longer prefix wins.
    #[must_use]
    pub(crate) fn conflicts(&self, site: Site<'_>) -> Vec<InvalidPeers> {
        let mut conflicts = Vec::new();
        let mut owners: HashMap<IpNet, &str> = HashMap::with_capacity(self.len());
        for peer in self.iter() {
            for subnet in &peer.subnets {
                let (name, subnet) = (peer.name.clone(), *subnet);
                if let Some(local) = site.local.iter().find(|local| local.contains(&subnet)) {
                    conflicts.push(InvalidPeers::Local { name, subnet, local: *local });
                    continue;
                }
                match owners.insert(subnet, &peer.name) {
                    Some(first) if first == name => {
                        conflicts.push(InvalidPeers::Twice { subnet, name });
                    }
                    Some(first) => {
                        let first = first.to_owned();
                        conflicts.push(InvalidPeers::SameSubnet { subnet, first, name });
                    }
                    None => {}
                }
            }
        }
        let overlay = Networks::of(owners.into_keys().chain(site.local.iter().copied()));
        conflicts.extend(self.iter().filter_map(|peer| misplaced(peer, site.listen, &overlay)));
        conflicts
    }
}

/// Whether a gateway that receives at `listen` reaches an address: of its family, or of any at `[::]`.
#[must_use]
pub(crate) fn reaches(listen: SocketAddr, to: SocketAddr) -> bool {
    let has_both = listen.is_ipv6() && listen.ip().is_unspecified();
    has_both || listen.is_ipv6() == to.is_ipv6()
}

/// What is wrong with where a peer is.
fn misplaced(peer: &PeerSpec, listen: SocketAddr, overlay: &Networks) -> Option<InvalidPeers> {
    let (name, endpoint) = (peer.name.clone(), peer.endpoint);
    if !is_host(endpoint.ip()) {
        return Some(InvalidPeers::NoHost { name, endpoint });
    }
    let plain = SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port());
    if endpoint.is_ipv6() && plain.is_ipv4() {
        return Some(InvalidPeers::Mapped { name, endpoint, plain });
    }
    if endpoint == listen {
        return Some(InvalidPeers::Ourselves(name));
    }
    if !reaches(listen, endpoint) {
        return Some(InvalidPeers::Family { name, endpoint, listen });
    }
    let network = overlay.containing(endpoint.ip())?;
    Some(InvalidPeers::Inside { name, endpoint, network })
}

/// Networks to look addresses up in.
struct Networks {
    all: HashSet<IpNet>,
    /// Their prefix lengths.
    lens: BTreeSet<u8>,
}

impl Networks {
    fn of(networks: impl Iterator<Item = IpNet>) -> Self {
        let all: HashSet<_> = networks.map(|network| network.trunc()).collect();
        let lens = all.iter().map(IpNet::prefix_len).collect();
        Self { all, lens }
    }

    fn containing(&self, address: IpAddr) -> Option<IpNet> {
        let networks = self.lens.iter().filter_map(|len| IpNet::new(address, *len).ok());
        networks.map(|network| network.trunc()).find(|network| self.all.contains(network))
    }
}

impl FromIterator<PeerSpec> for PeerSet {
    fn from_iter<I: IntoIterator<Item = PeerSpec>>(peers: I) -> Self {
        Self(peers.into_iter().map(|peer| (peer.name.clone(), peer)).collect())
    }
}

fn is_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !broadcast
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_are_all_told_and_name_their_cure() {
        let peers: PeerSet = [
            peer("a", "192.0.2.2:8285", &["10.10.2.0/24"]),
            peer("b", "192.0.2.3:8285", &["10.10.2.0/24", "10.10.1.128/25"]),
            peer("c", "10.10.2.9:8285", &["10.10.3.0/24", "10.10.3.0/24"]),
            peer("d", "192.0.2.1:8285", &["10.10.4.0/24"]),
            peer("e", "224.0.0.1:8285", &["10.10.5.0/24"]),
            peer("f", "[2001:db8::2]:8285", &["10.10.6.0/24"]),
            peer("g", "10.10.1.9:8285", &["10.10.7.0/24"]),
            peer("h", "[::ffff:192.0.2.8]:8285", &["10.10.8.0/24"]),
        ]
        .into_iter()
        .collect();

        let told: Vec<_> =
            peers.conflicts(site(&local())).iter().map(ToString::to_string).collect();

        let expected = [
            "subnet 10.10.2.0/24 is behind \"a\" and behind \"b\": keep it at one peer",
            "subnet 10.10.1.128/25 of peer \"b\" is in 10.10.1.0/24, which is behind this gateway: \
             set `local` to the networks behind this gateway",
            "duplicate subnet 10.10.3.0/24 at peer \"c\": remove one",
            "endpoint 10.10.2.9:8285 of peer \"c\" is inside the overlay, in 10.10.2.0/24: datagrams \
             to it would go through the tunnel again, without end; give the address on the network \
             between the hosts",
            "peer \"d\" has this gateway's own address: remove that peer from this gateway's file",
            "endpoint 224.0.0.1:8285 of peer \"e\" cannot be a host's address",
            "endpoint [2001:db8::2]:8285 of peer \"f\" cannot be reached from 192.0.2.1:8285: \
             listen on [::]:8285, which is for both families",
            "endpoint 10.10.1.9:8285 of peer \"g\" is inside the overlay, in 10.10.1.0/24: datagrams \
             to it would go through the tunnel again, without end; give the address on the network \
             between the hosts",
            "endpoint [::ffff:192.0.2.8]:8285 of peer \"h\" is an IPv4 address in IPv6's form: write \
             192.0.2.8:8285",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn networks_inside_each_other_live_together() {
        let peers: PeerSet = [
            peer("hub", "192.0.2.2:8285", &["10.10.0.0/16"]),
            peer("spoke", "192.0.2.3:8285", &["10.10.3.0/24"]),
            peer("same-host", "192.0.2.1:9000", &["10.10.4.0/24"]),
        ]
        .into_iter()
        .collect();

        assert_eq!(peers.check(site(&local())), Ok(()));
    }

    fn peer(name: &str, endpoint: &str, subnets: &[&str]) -> PeerSpec {
        PeerSpec {
            name: name.to_owned(),
            endpoint: endpoint.parse().unwrap(),
            subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
        }
    }

    fn local() -> [IpNet; 1] {
        ["10.10.1.0/24".parse().unwrap()]
    }

    fn site(local: &[IpNet]) -> Site<'_> {
        Site { listen: ([192, 0, 2, 1], 8285).into(), local }
    }
}
