//! Peers as somebody wants them: from a file, from etcd, from the control socket.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// A gateway and what is behind it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Peer {
    /// Unique among the peers.
    pub name: String,
    /// Its UDP address.
    pub endpoint: SocketAddr,
    /// The inner networks behind it.
    pub subnets: Vec<IpNet>,
}

/// Peers by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSet(BTreeMap<String, Peer>);

/// Why peers cannot live together, or beside this gateway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPeers {
    /// Two peers have one name.
    #[error("two peers are called {0:?}: give each its own name")]
    SameName(String),
    /// Two peers hold one network.
    #[error("subnet {subnet} is behind {first:?} and behind {second:?}: keep it at one of them")]
    SameSubnet {
        /// The network.
        subnet: IpNet,
        /// Who had it.
        first: String,
        /// Who wants it.
        second: String,
    },
    /// A peer's network is our own.
    #[error("subnet {subnet} of peer {name:?} overlaps {local}, which is behind this gateway")]
    Local {
        /// The peer.
        name: String,
        /// Its network.
        subnet: IpNet,
        /// Ours.
        local: IpNet,
    },
    /// A peer is where this gateway listens.
    #[error("peer {0:?} has this gateway's own address: leave it out of its own file")]
    Ourselves(String),
    /// A peer without an address to send to.
    #[error("endpoint {endpoint} of peer {name:?} is no address of a host")]
    NoHost {
        /// The peer.
        name: String,
        /// What it has.
        endpoint: SocketAddr,
    },
}

impl PeerSet {
    /// Puts a peer in, or in place of the one of its name; says whether that changed anything.
    pub fn insert(&mut self, peer: Peer) -> bool {
        self.0.insert(peer.name.clone(), peer.clone()) != Some(peer)
    }

    /// Takes a peer out.
    pub fn remove(&mut self, name: &str) -> Option<Peer> {
        self.0.remove(name)
    }

    /// The peer of a name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Peer> {
        self.0.get(name)
    }

    /// All peers, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
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

    /// Checks that the peers can live together, and beside a gateway that listens on `listen` and
    /// holds `local`. A network inside another peer's is fine: the longer prefix wins.
    ///
    /// # Errors
    /// The first conflict, [`InvalidPeers`].
    pub fn check(&self, listen: SocketAddr, local: &[IpNet]) -> Result<(), InvalidPeers> {
        let mut owners = BTreeMap::new();
        for peer in self.iter() {
            if !is_host(peer.endpoint.ip()) {
                let (name, endpoint) = (peer.name.clone(), peer.endpoint);
                return Err(InvalidPeers::NoHost { name, endpoint });
            }
            if peer.endpoint == listen {
                return Err(InvalidPeers::Ourselves(peer.name.clone()));
            }
            for subnet in &peer.subnets {
                let name = peer.name.clone();
                if let Some(ours) = local.iter().find(|ours| overlap(ours, subnet)) {
                    return Err(InvalidPeers::Local { name, subnet: *subnet, local: *ours });
                }
                if let Some(first) = owners.insert(*subnet, name.clone()) {
                    return Err(InvalidPeers::SameSubnet { subnet: *subnet, first, second: name });
                }
            }
        }
        Ok(())
    }
}

impl FromIterator<Peer> for PeerSet {
    fn from_iter<I: IntoIterator<Item = Peer>>(peers: I) -> Self {
        Self(peers.into_iter().map(|peer| (peer.name.clone(), peer)).collect())
    }
}

fn is_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !broadcast
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}
