//! What the leases in the store mean for this node. Pure: events in, peers and findings out.

use super::keys::{Entry, Event, KeyList, Position};
use super::lease::{self, Lease, LeaseAttrs, Malformed};
use crate::subnet::{PeerSet, PeerSpec};
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};

/// What this node knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// The whole overlay.
    pub network: Ipv4Net,
    /// Our subnet.
    pub subnet: Ipv4Net,
    /// The key of our lease.
    pub key: Vec<u8>,
    /// What we wrote there.
    pub attrs: LeaseAttrs,
    /// This host's addresses: a lease that has one of them is a former one of our own.
    pub local: Vec<Ipv4Addr>,
}

/// The leases, as far as they have been followed.
#[derive(Debug)]
pub struct LeaseTable {
    own: Own,
    known: BTreeMap<Ipv4Net, Known>,
    /// The same by address, to find those that share one.
    by_address: BTreeSet<(Ipv4Addr, Ipv4Net)>,
    at: Position,
    /// What was last found at a key, as long as it is there: it is told and counted once.
    found: HashMap<Vec<u8>, Finding>,
    counts: LeaseCounts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    key: Vec<u8>,
    public_ip: Ipv4Addr,
    revision: i64,
    /// The store that has it now has not shown it yet.
    unconfirmed: bool,
}

/// Leases that are not followed, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseCounts {
    /// Keys or values that are no lease.
    pub malformed: u64,
    /// Leases of another backend.
    pub foreign_backend: u64,
    /// Leases with a PublicIP that another lease has too.
    pub duplicate_public_ip: u64,
    /// Leases outside the network, over our own subnet, or with a PublicIP behind themselves or us.
    pub out_of_place: u64,
}

/// What somebody should be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// A key or value that is no lease.
    #[error("ignoring {key}: {why}")]
    Malformed {
        /// The key.
        key: String,
        /// Why.
        why: Malformed,
    },
    /// A lease of another backend.
    #[error(
        "ignoring lease {subnet} of {public_ip}: its backend is {backend:?}, not \"udp\"; all nodes \
         of a network must have the same backend"
    )]
    ForeignBackend {
        /// Its subnet.
        subnet: Ipv4Net,
        /// Its node.
        public_ip: Ipv4Addr,
        /// Its backend.
        backend: String,
    },
    /// Two leases with one PublicIP.
    #[error(
        "lease {key} has PublicIP {public_ip}, which lease {other} has too: two nodes with one \
         address take each other's packets; give each its own with --public-ip"
    )]
    DuplicatePublicIp {
        /// The key.
        key: String,
        /// The address.
        public_ip: Ipv4Addr,
        /// Who else has it.
        other: Ipv4Net,
    },
    /// A lease outside the network, or over our own subnet.
    #[error("ignoring lease {subnet} of {public_ip}: it is outside {network} or overlaps {own}")]
    OutOfPlace {
        /// Its subnet.
        subnet: Ipv4Net,
        /// Its node.
        public_ip: Ipv4Addr,
        /// The overlay.
        network: Ipv4Net,
        /// Our subnet.
        own: Ipv4Net,
    },
    /// A lease at an address of this host.
    #[error(
        "ignoring lease {subnet}: its PublicIP {public_ip} is an address of this host, so it is a \
         former lease of this node; remove it unless it ends by itself"
    )]
    Former {
        /// Its subnet.
        subnet: Ipv4Net,
        /// Our address.
        public_ip: Ipv4Addr,
    },
    /// A lease whose node would be reached through the tunnel only.
    #[error(
        "ignoring lease {subnet}: its PublicIP {public_ip} is inside {inside}, so datagrams to it \
         would enter the tunnel again; give that node the address on the network between the nodes with \
         --public-ip"
    )]
    Inside {
        /// Its subnet.
        subnet: Ipv4Net,
        /// Its node.
        public_ip: Ipv4Addr,
        /// Its own subnet, or ours.
        inside: Ipv4Net,
    },
}

impl LeaseCounts {
    fn add(&mut self, finding: &Finding) {
        let count = match finding {
            Finding::Malformed { .. } => &mut self.malformed,
            Finding::ForeignBackend { .. } => &mut self.foreign_backend,
            Finding::DuplicatePublicIp { .. } => &mut self.duplicate_public_ip,
            Finding::OutOfPlace { .. } | Finding::Inside { .. } | Finding::Former { .. } => {
                &mut self.out_of_place
            }
        };
        *count += 1;
    }
}

/// What became of our own key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnKey {
    /// It says what we wrote, under this entry.
    Ours(Entry),
    /// It says something else.
    Taken(String),
    /// It is gone.
    Gone,
}

/// What a step brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Whether peers came, went, or moved.
    pub peers_changed: bool,
    /// What became of our own key, if anything did.
    pub own: Option<OwnKey>,
    /// What to tell.
    pub findings: Vec<Finding>,
}

impl LeaseTable {
    /// A table that knows nothing yet.
    #[must_use]
    pub fn new(own: Own) -> Self {
        Self {
            own,
            known: BTreeMap::new(),
            by_address: BTreeSet::new(),
            at: Position::default(),
            found: HashMap::new(),
            counts: LeaseCounts::default(),
        }
    }

    /// A table that knows what another one knew, whose store was there: until the store shows its
    /// leases, these are the peers.
    #[must_use]
    pub(crate) fn resume(
        own: Own,
        at: Position,
        peers: &[PeerSpec],
        unconfirmed: &[Ipv4Net],
    ) -> Self {
        let mut table = Self::new(own);
        table.at = at;
        for peer in peers {
            let (SocketAddr::V4(endpoint), [IpNet::V4(subnet)]) = (peer.endpoint, &*peer.subnets)
            else {
                continue;
            };
            let known = Known {
                // The first list brings key and revision.
                key: Vec::new(),
                public_ip: *endpoint.ip(),
                revision: 0,
                unconfirmed: unconfirmed.contains(subnet),
            };
            table.by_address.insert((known.public_ip, *subnet));
            table.known.insert(*subnet, known);
        }
        table
    }

    /// Where the store was last.
    #[must_use]
    pub(crate) fn position(&self) -> Position {
        self.at
    }

    /// Subnets that a replaced store has not shown again.
    #[must_use]
    pub(crate) fn unconfirmed(&self) -> Vec<Ipv4Net> {
        let unconfirmed = self.known.iter().filter(|(_, known)| known.unconfirmed);
        unconfirmed.map(|(subnet, _)| *subnet).collect()
    }

    /// The node's own part.
    #[must_use]
    pub fn own(&self) -> &Own {
        &self.own
    }

    /// The key of our lease, for people.
    #[must_use]
    pub(crate) fn own_name(&self) -> String {
        text(&self.own.key)
    }

    /// The revision from which changes are still unknown.
    #[must_use]
    pub(crate) fn next_revision(&self) -> i64 {
        self.at.revision + 1
    }

    /// How many leases were not followed.
    #[must_use]
    pub fn counts(&self) -> LeaseCounts {
        self.counts
    }

    /// The store answered from here. If it is another one, which was wiped or restored, what it lacks
    /// stays: nodes that still run will write their leases again.
    pub fn saw(&mut self, at: Position) -> Continuity {
        if self.at != Position::default() && self.at.is_replaced_by(&at) {
            for known in self.known.values_mut() {
                known.unconfirmed = true;
            }
            self.at = Position::default();
            return Continuity::Replaced;
        }
        // The revision moves on with what is followed, not with what others write.
        self.at = Position { revision: self.at.revision, ..at };
        Continuity::Same
    }

    /// Compares what is known with all leases.
    pub fn listed(&mut self, snapshot: &KeyList) -> Applied {
        let mut applied = Applied { own: Some(OwnKey::Gone), ..Applied::default() };
        let keys = snapshot.entries.iter().filter_map(|entry| lease::subnet(&entry.key).ok());
        let listed: BTreeSet<_> = keys.collect();
        applied.peers_changed =
            self.retain(|subnet, known| known.unconfirmed || listed.contains(subnet));
        let keys: HashSet<_> = snapshot.entries.iter().map(|entry| entry.key.as_slice()).collect();
        self.found.retain(|key, _| keys.contains(key.as_slice()));
        let mut entries: Vec<_> = snapshot.entries.iter().collect();
        entries.sort_by_key(|entry| entry.revision);
        // A list is the truth, also of a store that was restored and counts from an earlier revision.
        self.known.values_mut().for_each(|known| known.revision = 0);
        for entry in entries {
            self.put(entry, &mut applied);
        }
        self.at = snapshot.at;
        applied
    }

    /// Follows changes; those that are known already are passed over.
    pub fn changed(&mut self, events: &[Event]) -> Applied {
        let mut applied = Applied::default();
        let known = self.at.revision;
        for event in events.iter().filter(|event| event.revision() > known) {
            match event {
                Event::Put(entry) => self.put(entry, &mut applied),
                Event::Delete { key, .. } => self.delete(key, &mut applied),
            }
            self.at.revision = self.at.revision.max(event.revision());
        }
        applied
    }

    /// Gives up what a replaced store has not shown again; says whether there was any.
    pub(crate) fn forget_unconfirmed(&mut self) -> bool {
        self.retain(|_, known| !known.unconfirmed)
    }

    /// The peers, all on one port.
    #[must_use]
    pub fn peers(&self, port: u16) -> PeerSet {
        let peers = self.known.iter().map(|(subnet, known)| PeerSpec {
            name: subnet.to_string(),
            endpoint: SocketAddr::from((known.public_ip, port)),
            subnets: vec![IpNet::V4(*subnet)],
        });
        peers.collect()
    }

    /// What an entry of our own key says.
    #[must_use]
    pub(crate) fn own_key(&self, entry: &Entry) -> OwnKey {
        match lease::parse(&entry.key, &entry.value) {
            Ok(lease) if lease.attrs == self.own.attrs => OwnKey::Ours(entry.clone()),
            _ => OwnKey::Taken(text(&entry.value)),
        }
    }

    fn put(&mut self, entry: &Entry, applied: &mut Applied) {
        if entry.key == self.own.key {
            applied.own = Some(self.own_key(entry));
            return;
        }
        match lease::parse(&entry.key, &entry.value) {
            Ok(lease) => self.put_peer(entry, lease, applied),
            Err(why) => {
                let finding = Finding::Malformed { key: text(&entry.key), why };
                self.find(entry, Some(finding), applied);
            }
        }
    }

    fn put_peer(&mut self, entry: &Entry, lease: Lease, applied: &mut Applied) {
        let subnet = lease.subnet;
        let public_ip = lease.attrs.public_ip;
        if let Some(finding) = self.refusal(lease) {
            applied.peers_changed |= self.remove(subnet);
            self.find(entry, Some(finding), applied);
            return;
        }
        let revision = entry.revision;
        let known = Known { key: entry.key.clone(), public_ip, revision, unconfirmed: false };
        let before = self.known.get(&subnet);
        if before.is_some_and(|before| !before.unconfirmed && before.revision > revision) {
            return;
        }
        let moved = before.map(|before| before.public_ip) != Some(public_ip);
        if moved {
            let key = text(&entry.key);
            let other = self.other_with(public_ip, subnet);
            let finding = other.map(|other| Finding::DuplicatePublicIp { key, public_ip, other });
            self.find(entry, finding, applied);
        } else if !matches!(self.found.get(&entry.key), Some(Finding::DuplicatePublicIp { .. })) {
            self.found.remove(&entry.key);
        }
        // What we would send to our own address would come back to us.
        if public_ip == self.own.attrs.public_ip {
            applied.peers_changed |= self.remove(subnet);
            return;
        }
        applied.peers_changed |= moved;
        self.remove(subnet);
        self.by_address.insert((public_ip, subnet));
        self.known.insert(subnet, known);
    }

    /// Why a lease cannot be a peer's, if it cannot. A PublicIP somewhere else in the network is
    /// fine, as long as the host has a route of its own to it: flannel's documentation has a network
    /// of 10.0.0.0/8.
    fn refusal(&self, lease: Lease) -> Option<Finding> {
        let Lease { subnet, attrs: LeaseAttrs { public_ip }, foreign_backend } = lease;
        let Own { network, subnet: own, .. } = self.own;
        if let Some(backend) = foreign_backend {
            return Some(Finding::ForeignBackend { subnet, public_ip, backend });
        }
        if !network.contains(&subnet) || own.contains(&subnet) || subnet.contains(&own) {
            return Some(Finding::OutOfPlace { subnet, public_ip, network, own });
        }
        // What we would send to an address of ours would come back to us, and go around.
        if public_ip != self.own.attrs.public_ip && self.own.local.contains(&public_ip) {
            return Some(Finding::Former { subnet, public_ip });
        }
        let inside = [subnet, own].into_iter().find(|net| net.contains(&public_ip))?;
        Some(Finding::Inside { subnet, public_ip, inside })
    }

    /// Tells and counts what was found at a key, unless that is what was found there before.
    fn find(&mut self, entry: &Entry, finding: Option<Finding>, applied: &mut Applied) {
        let Some(finding) = finding else {
            self.found.remove(&entry.key);
            return;
        };
        if self.found.get(&entry.key) == Some(&finding) {
            return;
        }
        self.counts.add(&finding);
        self.found.insert(entry.key.clone(), finding.clone());
        applied.findings.push(finding);
    }

    fn delete(&mut self, key: &[u8], applied: &mut Applied) {
        self.found.remove(key);
        if key == self.own.key {
            applied.own = Some(OwnKey::Gone);
            return;
        }
        let Ok(subnet) = lease::subnet(key) else { return };
        // Two spellings of one subnet are two keys; only the one that counts takes it away.
        if self.known.get(&subnet).is_some_and(|known| known.key == key) {
            applied.peers_changed |= self.remove(subnet);
        }
    }

    fn remove(&mut self, subnet: Ipv4Net) -> bool {
        let removed = self.known.remove(&subnet);
        removed.is_some_and(|known| self.by_address.remove(&(known.public_ip, subnet)))
    }

    /// Keeps some of what is known; says whether anything went.
    fn retain(&mut self, mut stays: impl FnMut(&Ipv4Net, &Known) -> bool) -> bool {
        let leaving = self.known.iter().filter(|(subnet, known)| !stays(subnet, known));
        let gone: Vec<_> = leaving.map(|(subnet, _)| *subnet).collect();
        for subnet in &gone {
            self.remove(*subnet);
        }
        !gone.is_empty()
    }

    fn other_with(&self, public_ip: Ipv4Addr, subnet: Ipv4Net) -> Option<Ipv4Net> {
        if public_ip == self.own.attrs.public_ip {
            return Some(self.own.subnet);
        }
        let from = (public_ip, Ipv4Net::default());
        let sharing =
            self.by_address.range(from..).take_while(|(address, _)| *address == public_ip);
        sharing.map(|(_, other)| *other).find(|other| *other != subnet)
    }
}

/// Whether a store is the one that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// It is.
    Same,
    /// It was wiped, or restored from a backup.
    Replaced,
}

/// Bytes for people, not too many of them.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: u16 = 8285;
    const OWN_KEY: &str = "/coreos.com/network/subnets/10.5.1.0-24";

    #[test]
    fn all_but_our_own_subnet_are_peers() {
        let mut table = table();

        let applied = table.listed(&list(&[own(1), put("10.5.2.0/24", "192.0.2.2", 2)], 9));

        assert!(applied.peers_changed && applied.findings.is_empty());
        assert_eq!(applied.own, Some(OwnKey::Ours(own(1))));
        assert_eq!(peers(&table), ["10.5.2.0/24 192.0.2.2:8285"]);
        assert_eq!(table.next_revision(), 10);
    }

    #[test]
    fn peers_come_move_and_go_with_their_keys() {
        let mut table = listed(&[own(1)]);

        assert!(table.changed(&[event("10.5.2.0/24", "192.0.2.2", 11)]).peers_changed);
        assert_eq!(peers(&table), ["10.5.2.0/24 192.0.2.2:8285"]);

        assert!(table.changed(&[event("10.5.2.0/24", "192.0.2.7", 12)]).peers_changed);
        assert_eq!(peers(&table), ["10.5.2.0/24 192.0.2.7:8285"]);

        assert!(!table.changed(&[event("10.5.2.0/24", "192.0.2.7", 13)]).peers_changed, "renewed");

        assert!(table.changed(&[gone("10.5.2.0/24", 14)]).peers_changed);
        assert_eq!(peers(&table).len(), 0);
        assert_eq!(table.next_revision(), 15);
    }

    #[test]
    fn a_moved_peer_is_noticed_after_a_compaction_too() {
        let mut table = listed(&[own(1), put("10.5.2.0/24", "192.0.2.2", 2)]);

        let moved = put("10.5.2.0/24", "192.0.2.7", 30);
        let new = put("10.5.3.0/24", "192.0.2.3", 31);
        let applied = table.listed(&list(&[own(1), moved, new], 40));

        assert!(applied.peers_changed);
        assert_eq!(peers(&table), ["10.5.2.0/24 192.0.2.7:8285", "10.5.3.0/24 192.0.2.3:8285"]);
    }

    #[test]
    fn a_lease_at_another_address_of_this_host_is_no_peer() {
        let mut table = table();

        let applied = table.listed(&list(&[own(1), put("10.5.9.0/24", "198.51.100.1", 2)], 9));

        assert_eq!(peers(&table).len(), 0);
        assert!(matches!(applied.findings[..], [Finding::Former { .. }]), "{applied:?}");
    }

    #[test]
    fn a_lease_that_went_during_a_compaction_is_withdrawn() {
        let mut table = listed(&[own(1), put("10.5.2.0/24", "192.0.2.2", 2)]);

        let applied = table.listed(&list(&[own(1)], 40));

        assert!(applied.peers_changed);
        assert_eq!(peers(&table).len(), 0);
    }

    #[test]
    fn changes_that_are_known_already_or_come_late_are_passed_over() {
        let mut table = listed(&[own(1), put("10.5.2.0/24", "192.0.2.2", 5)]);
        table.changed(&[gone("10.5.2.0/24", 20)]);

        let late = [
            event("10.5.2.0/24", "192.0.2.2", 5),
            event("10.5.2.0/24", "192.0.2.9", 19),
            gone("10.5.1.0/24", 3),
        ];

        assert_eq!(table.changed(&late), Applied::default());
        assert_eq!(peers(&table).len(), 0);
        assert_eq!(table.next_revision(), 21);
    }

    #[test]
    fn of_two_keys_of_one_subnet_the_last_written_counts() {
        let other_key = |ip: &str, revision| Entry {
            key: b"/coreos.com/network/subnets/10.5.2.0-24&fd00::-64".to_vec(),
            ..put("10.5.2.0/24", ip, revision)
        };

        let first = listed(&[put("10.5.2.0/24", "192.0.2.2", 5), other_key("192.0.2.3", 6)]);
        let mut second = listed(&[put("10.5.2.0/24", "192.0.2.2", 7), other_key("192.0.2.3", 6)]);

        assert_eq!(peers(&first), ["10.5.2.0/24 192.0.2.3:8285"]);
        assert_eq!(peers(&second), ["10.5.2.0/24 192.0.2.2:8285"]);
        let loser = Event::Delete { key: other_key("", 0).key, revision: 12 };
        assert!(!second.changed(&[loser]).peers_changed);
    }

    #[test]
    fn malformed_leases_are_counted_and_the_others_applied() {
        let mut table = table();
        let bad = |key: &str, value: &str| Entry {
            key: format!("/coreos.com/network/subnets/{key}").into(),
            value: value.into(),
            revision: 2,
            lease: 1,
        };
        let good = r#"{"PublicIP":"192.0.2.2"}"#;

        let applied = table.listed(&list(
            &[
                bad("10.5.2.0-24", "{}"),
                bad("10.5.3.0-24", r#"{"PublicIP":"fd00::1"}"#),
                bad("10.5.4.0-24", r#"{"PublicIP":"0.0.0.0"}"#),
                bad("10.5.5.0-24", "x"),
                bad("10.5.6.0-0", good),
                bad("10.5.6.0-32", good),
                bad("hello", good),
                bad("10.5.7.0-24", &" ".repeat(1 << 20)),
                put("10.5.8.0/24", "192.0.2.8", 3),
            ],
            9,
        ));

        assert_eq!(table.counts().malformed, 8);
        assert_eq!(applied.findings.len(), 8);
        assert!(applied.findings.iter().all(|finding| finding.to_string().len() < 400));
        assert_eq!(peers(&table), ["10.5.8.0/24 192.0.2.8:8285"]);
    }

    #[test]
    fn a_peer_stays_when_its_value_becomes_unreadable() {
        let mut table = listed(&[own(1), put("10.5.2.0/24", "192.0.2.2", 2)]);
        let broken = Entry { value: b"{".to_vec(), ..put("10.5.2.0/24", "", 12) };

        let applied = table.changed(&[Event::Put(broken.clone())]);
        let again = table.listed(&list(&[own(1), broken], 40));

        assert!(!applied.peers_changed && !again.peers_changed);
        assert_eq!(peers(&table), ["10.5.2.0/24 192.0.2.2:8285"]);
    }

    #[test]
    fn a_lease_of_another_backend_is_no_peer_and_said_so() {
        let mut table = listed(&[own(1), put("10.5.2.0/24", "192.0.2.2", 2)]);
        let mut vxlan = put("10.5.2.0/24", "192.0.2.2", 12);
        vxlan.value = br#"{"PublicIP":"192.0.2.2","BackendType":"vxlan"}"#.to_vec();

        let applied = table.changed(&[Event::Put(vxlan)]);

        assert!(applied.peers_changed);
        assert_eq!(peers(&table).len(), 0);
        assert_eq!(table.counts().foreign_backend, 1);
        assert!(applied.findings[0].to_string().contains("\"vxlan\""), "{:?}", applied.findings);
    }

    #[test]
    fn one_address_at_two_leases_is_named_and_both_are_peers() {
        let mut table = listed(&[own(1), put("10.5.2.0/24", "192.0.2.2", 2)]);

        let applied = table.changed(&[event("10.5.3.0/24", "192.0.2.2", 12)]);

        assert_eq!(table.counts().duplicate_public_ip, 1);
        let told = applied.findings[0].to_string();
        assert!(told.contains("subnets/10.5.3.0-24") && told.contains("192.0.2.2"), "{told}");
        assert_eq!(peers(&table).len(), 2);
    }

    #[test]
    fn a_lease_with_our_own_address_is_no_peer() {
        let mut table = listed(&[own(1)]);

        let applied = table.changed(&[event("10.5.3.0/24", "192.0.2.1", 12)]);

        assert_eq!(peers(&table).len(), 0);
        assert!(!applied.peers_changed);
        assert_eq!(table.counts().duplicate_public_ip, 1);
    }

    #[test]
    fn a_lease_outside_the_network_or_over_ours_is_refused() {
        let mut table = listed(&[own(1)]);

        for subnet in ["10.9.0.0/24", "10.5.1.128/25", "10.5.0.0/23", "10.0.0.0/8"] {
            assert!(!table.changed(&[event(subnet, "192.0.2.9", next(&table))]).peers_changed);
        }

        assert_eq!(table.counts().out_of_place, 4);
        assert_eq!(peers(&table).len(), 0);
    }

    #[test]
    fn a_lease_whose_node_is_behind_itself_or_behind_us_is_refused() {
        let mut table = listed(&[own(1), put("10.5.2.0/24", "192.0.2.2", 2)]);

        let moved = table.changed(&[event("10.5.2.0/24", "10.5.2.7", 12)]);
        let behind_us = table.changed(&[event("10.5.3.0/24", "10.5.1.7", 13)]);
        let beside = table.changed(&[event("10.5.4.0/24", "10.5.200.7", 14)]);

        assert!(moved.peers_changed && !behind_us.peers_changed && beside.peers_changed);
        assert_eq!(table.counts().out_of_place, 2);
        let told = moved.findings[0].to_string();
        assert!(told.contains("10.5.2.7 is inside 10.5.2.0/24"), "{told}");
        assert_eq!(peers(&table), ["10.5.4.0/24 10.5.200.7:8285"]);
    }

    #[test]
    fn what_is_found_is_told_and_counted_once_until_it_changes() {
        let mut table = listed(&[own(1)]);
        let of = |value: &str, revision| Entry {
            value: value.as_bytes().to_vec(),
            ..put("10.5.2.0/24", "", revision)
        };
        let shared = put("10.5.3.0/24", "192.0.2.1", 2);
        let mut told = |entries: &[Entry]| {
            let applied = table.listed(&list(entries, 40));
            (applied.findings.len(), table.counts().malformed, table.counts().duplicate_public_ip)
        };

        assert_eq!(told(&[own(1), of("{", 2), shared.clone()]), (2, 1, 1));
        assert_eq!(told(&[own(1), of("{", 3), shared.clone()]), (0, 1, 1), "the same again");
        assert_eq!(told(&[own(1), of("[", 4), shared.clone()]), (1, 2, 1), "another mistake");
        assert_eq!(told(&[own(1), shared]), (0, 2, 1), "gone");
        assert_eq!(told(&[own(1), of("[", 5)]), (1, 3, 1), "back");
    }

    #[test]
    fn a_store_that_was_wiped_after_a_compaction_is_another_one() {
        let mut table = listed(&[own(1), put("10.5.2.0/24", "192.0.2.2", 2)]);
        let wiped = Position { revision: 4, ..at(4) };

        assert_eq!(table.saw(wiped), Continuity::Replaced);
        let applied = table.listed(&KeyList { entries: Vec::new(), at: wiped });

        assert!(!applied.peers_changed);
        assert_eq!(peers(&table).len(), 1);
    }

    #[test]
    fn our_own_key_is_ours_taken_or_gone() {
        let mut table = listed(&[own(1)]);
        let stolen = put("10.5.1.0/24", "192.0.2.66", 11);

        let taken = table.changed(&[Event::Put(stolen)]).own;
        let back = table.changed(&[Event::Put(own(12))]).own;
        let gone = table.changed(&[gone("10.5.1.0/24", 13)]).own;

        assert!(matches!(taken, Some(OwnKey::Taken(value)) if value.contains("192.0.2.66")));
        assert_eq!(back, Some(OwnKey::Ours(own(12))));
        assert_eq!(gone, Some(OwnKey::Gone));
        assert_eq!(peers(&table).len(), 0);
    }

    #[test]
    fn a_list_without_our_key_says_that_it_is_gone() {
        let mut table = table();

        assert_eq!(table.listed(&list(&[], 9)).own, Some(OwnKey::Gone));
    }

    #[test]
    fn in_a_wiped_store_peers_stay_until_they_come_back_or_are_given_up() {
        let mut table = listed(&[
            own(1),
            put("10.5.2.0/24", "192.0.2.2", 2),
            put("10.5.3.0/24", "192.0.2.3", 3),
        ]);

        let wiped = Position { revision: 4, ..at(4) };
        assert_eq!(table.saw(wiped), Continuity::Replaced);
        let applied = table.listed(&KeyList { entries: Vec::new(), at: wiped });
        assert!(!applied.peers_changed);
        assert_eq!(applied.own, Some(OwnKey::Gone));
        assert_eq!(peers(&table).len(), 2);

        let back = table.changed(&[event("10.5.2.0/24", "192.0.2.2", 5)]);
        assert!(!back.peers_changed, "nothing moved");
        let moved = table.changed(&[event("10.5.3.0/24", "192.0.2.33", 6)]);
        assert!(moved.peers_changed);
        assert!(!table.forget_unconfirmed(), "both are confirmed");
        assert_eq!(table.saw(at(7)), Continuity::Same);
    }

    #[test]
    fn what_a_wiped_store_never_shows_again_can_be_given_up() {
        let mut table = listed(&[own(1), put("10.5.2.0/24", "192.0.2.2", 2)]);
        table.saw(Position { cluster: 99, ..at(50) });
        table.listed(&KeyList { entries: vec![own(3)], at: at(50) });

        assert_eq!(peers(&table).len(), 1);
        assert!(table.forget_unconfirmed());
        assert_eq!(peers(&table).len(), 0);
    }

    #[test]
    fn a_store_that_goes_on_is_the_same() {
        let mut table = listed(&[own(1)]);

        assert_eq!(table.saw(at(10)), Continuity::Same);
        assert_eq!(table.saw(Position { term: 3, ..at(400) }), Continuity::Same);
        assert_eq!(table.next_revision(), 11, "what others wrote is not what was followed");
        assert_eq!(table.saw(Position { term: 2, ..at(400) }), Continuity::Replaced);
    }

    fn table() -> LeaseTable {
        LeaseTable::new(Own {
            network: "10.5.0.0/16".parse().unwrap(),
            subnet: "10.5.1.0/24".parse().unwrap(),
            key: OWN_KEY.into(),
            attrs: LeaseAttrs { public_ip: Ipv4Addr::new(192, 0, 2, 1) },
            local: vec![Ipv4Addr::new(198, 51, 100, 1)],
        })
    }

    /// A table that has listed these at revision 10.
    fn listed(entries: &[Entry]) -> LeaseTable {
        let mut table = table();
        table.listed(&list(entries, 10));
        table
    }

    fn at(revision: i64) -> Position {
        Position { cluster: 1, term: 2, revision }
    }

    fn next(table: &LeaseTable) -> i64 {
        table.next_revision()
    }

    fn list(entries: &[Entry], revision: i64) -> KeyList {
        KeyList { entries: entries.to_vec(), at: at(revision) }
    }

    fn put(subnet: &str, public_ip: &str, revision: i64) -> Entry {
        let key = format!("/coreos.com/network/subnets/{}", subnet.replace('/', "-"));
        let value = format!(r#"{{"PublicIP":"{public_ip}","PublicIPv6":null}}"#);
        Entry { key: key.into(), value: value.into(), revision, lease: 1 }
    }

    fn own(revision: i64) -> Entry {
        put("10.5.1.0/24", "192.0.2.1", revision)
    }

    fn event(subnet: &str, public_ip: &str, revision: i64) -> Event {
        Event::Put(put(subnet, public_ip, revision))
    }

    fn gone(subnet: &str, revision: i64) -> Event {
        Event::Delete { key: put(subnet, "", 0).key, revision }
    }

    fn peers(table: &LeaseTable) -> Vec<String> {
        let peers = table.peers(PORT);
        peers.iter().map(|peer| format!("{} {}", peer.name, peer.endpoint)).collect()
    }
}
