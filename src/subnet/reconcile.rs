//! From the peers that somebody wants to the view that workers look up.

use super::{PeerSet, PeerSpec};
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use twill_datapath::route::{Overlay, PeerIndex, View};

/// The most peers that a gateway knows at a time: flannel's 65,536 leases, twice.
const MAX_PEERS: usize = 131_072;

/// More peers than a gateway can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} peers are more than the 131072 that a gateway can know")]
pub struct TooManyPeers(usize);

/// What a new set of peers changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PeerDiff {
    /// Peers that were not there, or whose endpoint or networks are new.
    pub changed: Vec<String>,
    /// Peers that are gone.
    pub removed: Vec<String>,
    /// Networks that need a route now.
    #[serde(skip)]
    pub routes_added: Vec<IpNet>,
    /// Networks that need none any more.
    #[serde(skip)]
    pub routes_removed: Vec<IpNet>,
}

impl PeerDiff {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// Keeps the numbers of peers stable while the set changes.
#[derive(Debug)]
pub struct Reconciler {
    local: Vec<IpNet>,
    addresses: Vec<IpAddr>,
    current: PeerSet,
    numbers: HashMap<String, PeerIndex>,
    free: BTreeSet<PeerIndex>,
}

impl Reconciler {
    /// For a gateway that holds `local` and has the inner `addresses`.
    #[must_use]
    pub fn new(local: Vec<IpNet>, addresses: Vec<IpAddr>) -> Self {
        Self {
            local,
            addresses,
            current: PeerSet::default(),
            numbers: HashMap::new(),
            free: BTreeSet::new(),
        }
    }

    /// The peers as they are.
    #[must_use]
    pub fn current(&self) -> &PeerSet {
        &self.current
    }

    /// Makes `wanted` the peers and says what that changed; nothing, when they are the same.
    ///
    /// # Errors
    /// [`TooManyPeers`]; the peers are as before.
    pub fn apply(&mut self, wanted: PeerSet) -> Result<PeerDiff, TooManyPeers> {
        if wanted.len() > MAX_PEERS {
            return Err(TooManyPeers(wanted.len()));
        }
        let mut change = PeerDiff::default();
        for peer in self.current.iter() {
            if wanted.find(&peer.name).is_none() {
                change.removed.push(peer.name.clone());
            }
        }
        for name in &change.removed {
            self.free.extend(self.numbers.remove(name));
        }
        for peer in wanted.iter() {
            if self.current.find(&peer.name) != Some(peer) {
                change.changed.push(peer.name.clone());
            }
            self.number(&peer.name);
        }
        if !change.is_empty() {
            let before = networks(&self.current);
            let after = networks(&wanted);
            change.routes_added = after.difference(&before).copied().collect();
            change.routes_removed = before.difference(&after).copied().collect();
        }
        self.current = wanted;
        Ok(change)
    }

    /// The look-ups for the peers as they are.
    #[must_use]
    pub fn view(&self) -> View {
        let peers = self.current.iter().map(|peer| self.routed(peer)).collect();
        View::new(Overlay { peers, local: self.local.clone(), addresses: self.addresses.clone() })
    }

    fn routed(&self, peer: &PeerSpec) -> twill_datapath::route::Peer {
        twill_datapath::route::Peer {
            index: self.numbers[&peer.name],
            name: peer.name.as_str().into(),
            endpoint: peer.endpoint,
            subnets: peer.subnets.clone(),
        }
    }

    /// Gives a peer the lowest free number, unless it has one.
    fn number(&mut self, name: &str) {
        if self.numbers.contains_key(name) {
            return;
        }
        let next = PeerIndex(self.numbers.len() as u32 + self.free.len() as u32);
        let index = self.free.pop_first().unwrap_or(next);
        self.numbers.insert(name.to_owned(), index);
    }
}

fn networks(peers: &PeerSet) -> BTreeSet<IpNet> {
    peers.iter().flat_map(|peer| peer.subnets.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peer(name: u8, host: u8) -> PeerSpec {
        PeerSpec {
            name: format!("p{name}"),
            endpoint: ([192, 0, 2, host], 8285).into(),
            subnets: vec![format!("10.10.{name}.0/24").parse().unwrap()],
        }
    }

    #[test]
    fn applying_the_same_peers_again_changes_nothing() {
        let mut reconciler = Reconciler::new(Vec::new(), Vec::new());
        let peers: PeerSet = [peer(1, 1), peer(2, 2)].into_iter().collect();

        let first = reconciler.apply(peers.clone()).unwrap();
        let second = reconciler.apply(peers).unwrap();

        assert_eq!(first.changed, ["p1", "p2"]);
        assert_eq!(first.routes_added.len(), 2);
        assert!(second.is_empty() && second.routes_added.is_empty());
    }

    #[test]
    fn too_many_peers_leave_the_peers_as_they_are() {
        let mut reconciler = Reconciler::new(Vec::new(), Vec::new());
        let few: PeerSet = [peer(1, 1)].into_iter().collect();
        reconciler.apply(few.clone()).unwrap();
        let many =
            (0..=MAX_PEERS).map(|i| PeerSpec { name: i.to_string(), ..peer(1, 1) }).collect();

        assert_eq!(reconciler.apply(many), Err(TooManyPeers(MAX_PEERS + 1)));

        assert_eq!(reconciler.current(), &few);
    }

    #[test]
    fn a_new_endpoint_is_a_change_without_a_new_route() {
        let mut reconciler = Reconciler::new(Vec::new(), Vec::new());
        reconciler.apply([peer(1, 1)].into_iter().collect()).unwrap();

        let change = reconciler.apply([peer(1, 9)].into_iter().collect()).unwrap();

        assert_eq!(change.changed, ["p1"]);
        assert!(change.routes_added.is_empty() && change.routes_removed.is_empty());
    }

    proptest! {
        #[test]
        fn numbers_stay_with_their_peers_and_stay_dense(
            sets in proptest::collection::vec(proptest::collection::btree_set(0u8..20, 0..20), 1..8),
        ) {
            let mut reconciler = Reconciler::new(Vec::new(), Vec::new());
            let mut most = 0;
            for names in sets {
                let before = reconciler.numbers.clone();

                reconciler.apply(names.iter().map(|name| peer(*name, *name)).collect()).unwrap();

                most = most.max(names.len());
                let mut used = BTreeSet::new();
                for (name, index) in &reconciler.numbers {
                    prop_assert!(used.insert(*index), "one number, two peers");
                    prop_assert!(before.get(name).is_none_or(|old| old == index));
                    prop_assert!((index.0 as usize) < 20.min(most + before.len()));
                }
                prop_assert_eq!(reconciler.view().peers().count(), names.len());
            }
        }
    }
}
