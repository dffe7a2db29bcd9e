//! What the leases in the store mean for this node. Pure: events in, peers and findings out.

use super::finding::{Finding, LeaseCounts};
use super::keys::{Entry, Event, KeyList, Position};
use super::lease::{self, Lease, LeaseAttrs};
use crate::subnet::{PeerSet, PeerSpec, Subnets};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

/// What this node knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// The whole overlay, of each family.
    pub networks: Subnets,
    /// Our subnets.
    pub subnets: Subnets,
    /// The key of our lease.
    pub key: Vec<u8>,
    /// What we wrote there.
    pub attrs: LeaseAttrs,
    /// This host's addresses: a lease that has one of them is a former one of our own.
    pub local: Vec<IpAddr>,
}

/// The leases, as far as they have been followed.
#[derive(Debug)]
pub struct LeaseTable {
    own: Own,
    /// What our key said before this host had another address, until it says what it should.
    former: Option<LeaseAttrs>,
    /// Each subnet by itself: of two keys that name it, the last written counts.
    known: BTreeMap<IpNet, Known>,
    /// The same by address, to find those that share one.
    by_address: BTreeSet<(IpAddr, IpNet)>,
    at: Position,
    /// What was last found at a key, as long as it is there: it is told and counted once.
    found: HashMap<Vec<u8>, Finding>,
    counts: LeaseCounts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    /// What its lease is at. All subnets of one key are one peer.
    key: Vec<u8>,
    /// Where we send to.
    address: IpAddr,
    revision: i64,
    /// The store that has it now has not shown it yet.
    unconfirmed: bool,
}

/// What became of our own key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnKey {
    /// It says what we wrote, under this entry.
    Ours(Entry),
    /// It says what we wrote at our former address.
    Former(Entry),
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
            former: None,
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
        unconfirmed: &[IpNet],
    ) -> Self {
        let mut table = Self::new(own);
        table.at = at;
        for peer in peers {
            for subnet in &peer.subnets {
                let known = Known {
                    // The first list brings key and revision; until then, the name holds the peer together.
                    key: peer.name.clone().into(),
                    address: peer.endpoint.ip(),
                    revision: 0,
                    unconfirmed: unconfirmed.contains(subnet),
                };
                table.by_address.insert((known.address, *subnet));
                table.known.insert(*subnet, known);
            }
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
    pub(crate) fn unconfirmed(&self) -> Vec<IpNet> {
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
        let keys = snapshot.entries.iter().filter_map(|entry| lease::subnets(&entry.key).ok());
        let listed: BTreeSet<_> = keys.flat_map(|subnets| subnets.iter()).collect();
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

    /// This host has other addresses. What others have is judged by them with the next list.
    pub(crate) fn move_to(&mut self, attrs: LeaseAttrs, local: Vec<IpAddr>) {
        if attrs != self.own.attrs {
            self.former = self.former.or(Some(self.own.attrs));
        }
        self.own.attrs = attrs;
        self.own.local = local;
    }

    /// What our key says until it is written again.
    pub(crate) fn former(&self) -> Option<LeaseAttrs> {
        self.former
    }

    pub(crate) fn set_former(&mut self, former: Option<LeaseAttrs>) {
        self.former = former;
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
        let is_v6 = |subnet: &IpNet| subnet.addr().is_ipv6();
        let mut second: HashMap<_, Vec<_>> = HashMap::new();
        for (subnet, known) in self.known.iter().filter(|(subnet, _)| is_v6(subnet)) {
            second.entry(&*known.key).or_default().push(*subnet);
        }
        let mut peers = Vec::with_capacity(self.known.len());
        for (subnet, known) in &self.known {
            let mut subnets = vec![*subnet];
            if is_v6(subnet) {
                // Of this key, unless it went with the IPv4 subnet.
                let Some(rest) = second.remove(&*known.key) else { continue };
                subnets = rest;
            } else if !second.is_empty() {
                subnets.extend(second.remove(&*known.key).into_iter().flatten());
            }
            let endpoint = SocketAddr::from((known.address, port));
            peers.push(PeerSpec { name: subnets[0].to_string(), endpoint, subnets });
        }
        peers.into_iter().collect()
    }

    /// What an entry of our own key says.
    #[must_use]
    pub(crate) fn own_key(&self, entry: &Entry) -> OwnKey {
        match lease::parse(&entry.key, &entry.value) {
            Ok(lease) if lease.attrs == self.own.attrs => OwnKey::Ours(entry.clone()),
            Ok(lease) if Some(lease.attrs) == self.former => OwnKey::Former(entry.clone()),
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
        let named = lease.subnets;
        let (subnets, address) = match self.place(lease) {
            Ok(place) => place,
            Err(finding) => {
                let gone = named.iter().filter(|subnet| self.remove(*subnet)).count();
                applied.peers_changed |= gone > 0;
                self.find(entry, Some(finding), applied);
                return;
            }
        };
        // Carried no longer, since its node has no IPv6 address any more.
        for subnet in named.iter().filter(|subnet| subnets.iter().all(|it| it != *subnet)) {
            applied.peers_changed |= self.remove_of(subnet, &entry.key);
        }
        let known = |subnet| self.known.get(&subnet);
        let is_newer = |known: &Known| !known.unconfirmed && known.revision > entry.revision;
        let wins = subnets.iter().filter(|subnet| !known(*subnet).is_some_and(is_newer));
        let wins: Vec<_> = wins
            .map(|subnet| {
                let moved = known(subnet).map(|before| before.address) != Some(address);
                let regrouped = known(subnet).is_some_and(|before| before.key != entry.key);
                (subnet, moved, regrouped && self.own.networks.v6.is_some())
            })
            .collect();
        if wins.is_empty() {
            return;
        }
        if wins.iter().any(|(_, moved, _)| *moved) {
            let key = text(&entry.key);
            let other = self.other_with(address, subnets);
            let finding =
                other.map(|other| Finding::DuplicatePublicIp { key, public_ip: address, other });
            self.find(entry, finding, applied);
        } else if !matches!(self.found.get(&entry.key), Some(Finding::DuplicatePublicIp { .. })) {
            self.found.remove(&entry.key);
        }
        let is_ours = self.own.attrs.public_ip.are(address);
        for (subnet, moved, regrouped) in wins {
            // What we would send to our own address would come back to us.
            if is_ours {
                applied.peers_changed |= self.remove(subnet);
                continue;
            }
            applied.peers_changed |= moved || regrouped;
            self.remove(subnet);
            self.by_address.insert((address, subnet));
            let (key, revision) = (entry.key.clone(), entry.revision);
            self.known.insert(subnet, Known { key, address, revision, unconfirmed: false });
        }
    }

    /// What of a lease is a peer's, and where we send to; or why it cannot be a peer's. A PublicIP somewhere
    /// else in the network is fine, as long as the host has a route of its own to it: flannel's documentation
    /// has a network of 10.0.0.0/8.
    fn place(&self, lease: Lease) -> Result<(Subnets, IpAddr), Finding> {
        let Lease { subnets: named, attrs: LeaseAttrs { public_ip }, foreign_backend } = lease;
        let Own { networks, subnets: own, attrs: ours, ref local, .. } = self.own;
        if let Some(backend) = foreign_backend {
            return Err(Finding::ForeignBackend { subnets: named, public_ip, backend });
        }
        let mut subnets = named.of_families_of(&networks);
        if public_ip.v6.is_none() {
            // A stock node has no use for it: its programs take all for IPv4.
            subnets.v6 = None;
        }
        if subnets.is_empty() || !networks.contain(&subnets) || own.overlap(&subnets) {
            return Err(Finding::OutOfPlace { subnets: named, public_ip, networks, own });
        }
        let Some(address) = public_ip.reached_from(&ours.public_ip) else {
            let own = ours.public_ip.outer().expect("a node has an address");
            return Err(Finding::OtherFamily { subnets, public_ip, own });
        };
        let (is_ours, public_ip) = (ours.public_ip.are(address), address);
        // What we would send to an address of ours would come back to us, and go around.
        if !is_ours && local.contains(&address) {
            return Err(Finding::Former { subnets, public_ip });
        }
        let mut behind = subnets.iter().chain(own.iter());
        match behind.find(|network| network.contains(&address)) {
            Some(inside) => Err(Finding::Inside { subnets, public_ip, inside }),
            None => Ok((subnets, address)),
        }
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
        let Ok(subnets) = lease::subnets(key) else { return };
        for subnet in subnets.iter() {
            applied.peers_changed |= self.remove_of(subnet, key);
        }
    }

    /// Two spellings of one subnet are two keys; only the one that counts takes it away.
    fn remove_of(&mut self, subnet: IpNet, key: &[u8]) -> bool {
        self.known.get(&subnet).is_some_and(|known| known.key == key) && self.remove(subnet)
    }

    fn remove(&mut self, subnet: IpNet) -> bool {
        let removed = self.known.remove(&subnet);
        removed.is_some_and(|known| self.by_address.remove(&(known.address, subnet)))
    }

    /// Keeps some of what is known; says whether anything went.
    fn retain(&mut self, mut stays: impl FnMut(&IpNet, &Known) -> bool) -> bool {
        let leaving = self.known.iter().filter(|(subnet, known)| !stays(subnet, known));
        let gone: Vec<_> = leaving.map(|(subnet, _)| *subnet).collect();
        for subnet in &gone {
            self.remove(*subnet);
        }
        !gone.is_empty()
    }

    /// A subnet of another lease with this address.
    fn other_with(&self, address: IpAddr, subnets: Subnets) -> Option<IpNet> {
        if self.own.attrs.public_ip.are(address) {
            return self.own.subnets.iter().next();
        }
        let from = (address, IpNet::default());
        let sharing = self.by_address.range(from..).take_while(|(other, _)| *other == address);
        sharing.map(|(_, other)| *other).find(|other| subnets.iter().all(|own| own != *other))
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
    use std::net::Ipv4Addr;

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
            networks: "10.5.0.0/16".parse().unwrap(),
            subnets: "10.5.1.0/24".parse().unwrap(),
            key: OWN_KEY.into(),
            attrs: LeaseAttrs { public_ip: Ipv4Addr::new(192, 0, 2, 1).into() },
            local: vec![[198, 51, 100, 1].into()],
        })
    }

    /// A node of a network of both families.
    fn of_both() -> LeaseTable {
        LeaseTable::new(Own {
            networks: "10.5.0.0/16, fd00:5::/48".parse().unwrap(),
            subnets: "10.5.1.0/24, fd00:5:0:1::/64".parse().unwrap(),
            key: b"/coreos.com/network/subnets/10.5.1.0-24&fd00:5:0:1::-64".to_vec(),
            attrs: LeaseAttrs { public_ip: "192.0.2.1, 2001:db8::1".parse().unwrap() },
            local: Vec::new(),
        })
    }

    #[test]
    fn a_key_that_says_our_former_address_is_ours_until_it_is_written_again() {
        let mut table = table();
        let before = put("10.5.1.0/24", "192.0.2.1", 1);
        let attrs = LeaseAttrs { public_ip: Ipv4Addr::new(192, 0, 2, 77).into() };

        table.move_to(attrs, Vec::new());

        assert_eq!(table.own_key(&before), OwnKey::Former(before.clone()));
        let now = put("10.5.1.0/24", "192.0.2.77", 2);
        assert_eq!(table.own_key(&now), OwnKey::Ours(now.clone()));
        let taken = put("10.5.1.0/24", "192.0.2.9", 2);
        assert!(matches!(table.own_key(&taken), OwnKey::Taken(_)));
        table.set_former(None);
        assert!(matches!(table.own_key(&before), OwnKey::Taken(_)), "another node's, by now");
    }

    fn put_both(subnets: &str, public_ip: &str, revision: i64) -> Entry {
        let attrs = LeaseAttrs { public_ip: public_ip.parse().unwrap() };
        let name = subnets.replace('/', "-").replace(", ", "&");
        let key = format!("/coreos.com/network/subnets/{name}").into();
        Entry { key, value: attrs.value().into(), revision, lease: 1 }
    }

    /// `SUBNETS ADDRESS` of each peer.
    fn carried(table: &LeaseTable) -> Vec<String> {
        let subnets = |peer: &PeerSpec| {
            peer.subnets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let peers = table.peers(PORT);
        peers.iter().map(|peer| format!("{} {}", subnets(peer), peer.endpoint.ip())).collect()
    }

    #[test]
    fn a_lease_of_both_families_is_one_peer_at_its_ipv4_address() {
        let mut table = of_both();
        let two = "10.5.2.0/24, fd00:5:0:2::/64";

        let entries = [
            put_both("10.5.1.0/24, fd00:5:0:1::/64", "192.0.2.1, 2001:db8::1", 1),
            put_both(two, "192.0.2.2, 2001:db8::2", 2),
            put("10.5.3.0/24", "192.0.2.3", 3),
        ];
        let applied = table.listed(&list(&entries, 9));

        assert!(matches!(applied.own, Some(OwnKey::Ours(_))) && applied.findings.is_empty());
        assert_eq!(carried(&table), [format!("{two} 192.0.2.2"), "10.5.3.0/24 192.0.2.3".into()]);
        assert_eq!(table.peers(PORT).iter().next().unwrap().name, "10.5.2.0/24");

        let moved = put_both(two, "192.0.2.7, 2001:db8::7", 10);
        assert!(table.changed(&[Event::Put(moved.clone())]).peers_changed);
        assert_eq!(carried(&table)[0], format!("{two} 192.0.2.7"));

        let peers: Vec<_> = table.peers(PORT).iter().cloned().collect();
        let mut resumed = LeaseTable::resume(table.own.clone(), at(10), &peers, &[]);
        assert_eq!(carried(&resumed), carried(&table), "before the first list");
        resumed.listed(&list(std::slice::from_ref(&moved), 10));
        assert_eq!(carried(&resumed), carried(&table)[..1]);

        let gone = Event::Delete { key: moved.key, revision: 11 };
        assert!(table.changed(&[gone]).peers_changed);
        assert_eq!(carried(&table), ["10.5.3.0/24 192.0.2.3"]);
    }

    #[test]
    fn a_stock_nodes_ipv6_subnet_is_not_carried() {
        let mut table = of_both();
        let two = "10.5.2.0/24, fd00:5:0:2::/64";

        let stock = table.changed(&[Event::Put(put_both(two, "192.0.2.2", 10))]);
        assert!(stock.findings.is_empty(), "{stock:?}");
        assert_eq!(carried(&table), ["10.5.2.0/24 192.0.2.2"]);

        table.changed(&[Event::Put(put_both(two, "192.0.2.2, 2001:db8::2", 11))]);
        assert_eq!(carried(&table), [format!("{two} 192.0.2.2")], "replaced by twill");

        assert!(table.changed(&[Event::Put(put_both(two, "192.0.2.2", 12))]).peers_changed);
        assert_eq!(carried(&table), ["10.5.2.0/24 192.0.2.2"], "and back");
    }

    #[test]
    fn a_network_of_ipv6_has_its_peers_at_ipv6_addresses() {
        let mut table = LeaseTable::new(Own {
            networks: "fd00:5::/48".parse().unwrap(),
            subnets: "fd00:5:0:1::/64".parse().unwrap(),
            attrs: LeaseAttrs { public_ip: "2001:db8::1".parse().unwrap() },
            ..of_both().own
        });
        let lease = |subnet: &str, public_ip: &str, revision| {
            Event::Put(put_both(&format!("0.0.0.0/0, {subnet}"), public_ip, revision))
        };

        let applied = table.changed(&[
            lease("fd00:5:0:2::/64", "2001:db8::2", 11),
            lease("fd00:5:0:3::/64", "192.0.2.3, 2001:db8::3", 12),
            lease("fd00:5:0:4::/64", "192.0.2.4", 13),
            lease("fd00:5:0:5::/64", "2001:db8::1", 14),
            lease("fd00:6::/64", "2001:db8::6", 15),
            lease("fd00:5:0:7::/64", "fd00:5:0:7::1", 16),
            event("10.5.8.0/24", "192.0.2.8", 17),
            lease("fd00:5:0:9::/64", "fe80::9", 18),
        ]);

        assert_eq!(carried(&table), ["fd00:5:0:2::/64 2001:db8::2", "fd00:5:0:3::/64 2001:db8::3"]);
        assert_eq!(table.counts().out_of_place, 5, "{applied:?}");
        assert_eq!(table.counts().duplicate_public_ip, 1);
    }

    #[test]
    fn a_node_is_reached_over_ipv4_where_it_has_it_and_else_over_ipv6() {
        let mut table = of_both();
        let lease = |number: u8, public_ip: &str| {
            let subnets = format!("10.5.{number}.0/24, fd00:5:0:{number}::/64");
            Event::Put(put_both(&subnets, public_ip, 10 + i64::from(number)))
        };

        table.changed(&[
            lease(2, "192.0.2.2, 2001:db8::2"),
            lease(3, "2001:db8::3"),
            lease(4, "192.0.2.4, fe80::4"),
            // Our own.
            lease(5, "2001:db8::1"),
        ]);

        let both =
            |number: u8, at: &str| format!("10.5.{number}.0/24, fd00:5:0:{number}::/64 {at}");
        let expected = [both(2, "192.0.2.2"), both(3, "2001:db8::3"), both(4, "192.0.2.4")];
        assert_eq!(carried(&table), expected);
        assert_eq!(table.counts().duplicate_public_ip, 1);
    }

    #[test]
    fn a_node_without_our_outer_family_is_named() {
        let mut table = of_both();

        table.own.attrs.public_ip = "192.0.2.1, fe80::1".parse().unwrap();

        let two = put_both("10.5.2.0/24, fd00:5:0:2::/64", "2001:db8::2", 10);
        let applied = table.changed(&[Event::Put(two)]);

        assert_eq!(carried(&table).len(), 0);
        let told = applied.findings[0].to_string();
        assert!(told.contains("2001:db8::2") && told.contains("sends from 192.0.2.1"), "{told}");
    }

    #[test]
    fn subnets_of_one_family_may_change_keys() {
        let mut table = of_both();
        let old = put_both("10.5.2.0/24, fd00:5:0:2::/64", "192.0.2.2, 2001:db8::2", 10);
        table.changed(&[Event::Put(old.clone())]);

        let new = put_both("10.5.2.0/24, fd00:5:0:3::/64", "192.0.2.2, 2001:db8::2", 11);
        assert!(table.changed(&[Event::Put(new)]).peers_changed);
        assert_eq!(
            carried(&table),
            ["10.5.2.0/24, fd00:5:0:3::/64 192.0.2.2", "fd00:5:0:2::/64 192.0.2.2"]
        );

        assert!(table.changed(&[Event::Delete { key: old.key, revision: 12 }]).peers_changed);
        assert_eq!(carried(&table), ["10.5.2.0/24, fd00:5:0:3::/64 192.0.2.2"]);
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
