//! A consistent picture of all peers at one moment, immutable once published.

use super::table::{Holder, Table};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A peer's number. It stays the same while the peer exists, so counters are arrays; it may be used
/// again later. Numbers are dense: the highest sets the size of those arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerIndex(pub u32);

/// A gateway that holds subnets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number.
    pub index: PeerIndex,
    /// Its name in files and reports.
    pub name: Arc<str>,
    /// Its UDP address.
    pub endpoint: SocketAddr,
    /// The inner networks behind it.
    pub subnets: Vec<IpNet>,
}

/// What a [`View`] is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// All peers, each with its own index. Of two that hold the same network, the later counts.
    pub peers: Vec<Peer>,
    /// Inner networks behind this gateway (the lease, or the static local subnets). They win over
    /// a peer that claims the same network.
    pub local: Vec<IpNet>,
    /// This gateway's own inner addresses, the TUN device's.
    pub addresses: Vec<IpAddr>,
}

/// What the datapath knows of the overlay at one moment.
#[derive(Debug)]
pub struct View {
    peers: Vec<Option<Peer>>,
    addresses: Vec<IpAddr>,
    /// What the table was built of, in that order.
    networks: Vec<(IpNet, Holder)>,
    table: Table,
    /// Outer addresses and who is there, sorted.
    endpoints: Vec<(IpAddr, PeerIndex)>,
    carries_v6: bool,
    nests: bool,
}

/// Networks whose addresses never cross the tunnel, unless the overlay itself names a network as
/// long or longer: "this" network, loopback, link-local, multicast, class E (RFC 6890); the same of
/// IPv6, and IPv4-mapped addresses.
const RESERVED_V4: [(Ipv4Addr, u8); 5] = [
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];
const RESERVED_V6: [(Ipv6Addr, u8); 5] = [
    (Ipv6Addr::UNSPECIFIED, 128),
    (Ipv6Addr::LOCALHOST, 128),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

impl View {
    /// Builds the look-ups.
    #[must_use]
    pub fn new(overlay: Overlay) -> Self {
        let Overlay { peers, local, addresses } = overlay;
        let mut networks = reserved();
        networks.extend(peers.iter().flat_map(|peer| {
            peer.subnets.iter().map(|subnet| (*subnet, Holder::Peer(peer.index)))
        }));
        networks.extend(local.iter().map(|subnet| (*subnet, Holder::Local)));
        networks.extend(addresses.iter().map(|address| (IpNet::from(*address), Holder::Local)));
        let table = with_broadcasts(&mut networks, &local, &addresses);

        let mut endpoints: Vec<_> =
            peers.iter().map(|peer| (peer.endpoint.ip().to_canonical(), peer.index)).collect();
        endpoints.sort_unstable();
        let nests = endpoints
            .iter()
            .any(|(address, _)| matches!(holder(&table, *address), Holder::Peer(_)));
        let carries_v6 = local.iter().any(|net| matches!(net, IpNet::V6(_)))
            || addresses.iter().any(IpAddr::is_ipv6)
            || peers.iter().flat_map(|peer| &peer.subnets).any(|net| matches!(net, IpNet::V6(_)));
        Self { peers: by_index(peers), addresses, networks, table, endpoints, carries_v6, nests }
    }

    /// Who holds an inner address.
    #[inline]
    #[must_use]
    pub fn holder(&self, address: IpAddr) -> Holder {
        holder(&self.table, address)
    }

    /// Who holds an inner IPv4 address.
    #[inline]
    #[must_use]
    pub fn holder_v4(&self, address: Ipv4Addr) -> Holder {
        self.table.v4(address)
    }

    /// Who holds an inner IPv6 address.
    #[inline]
    #[must_use]
    pub fn holder_v6(&self, address: Ipv6Addr) -> Holder {
        self.table.v6(address)
    }

    /// All networks and who holds them, for look-ups elsewhere: the longest network around an address
    /// decides, and of two that are equal the later one.
    #[must_use]
    pub fn networks(&self) -> &[(IpNet, Holder)] {
        &self.networks
    }

    /// The peer with this number.
    #[inline]
    #[must_use]
    pub fn peer(&self, index: PeerIndex) -> Option<&Peer> {
        self.peers.get(index.0 as usize)?.as_ref()
    }

    /// All peers, by number.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().flatten()
    }

    /// One more than the highest peer number: the length of arrays indexed by [`PeerIndex`].
    #[must_use]
    pub fn peer_slots(&self) -> usize {
        self.peers.len()
    }

    /// The peers whose datagrams come from this outer address, by number; the port is free for the
    /// sender to choose. Several gateways may share an address behind NAT, or by mistake.
    pub fn peers_at(&self, address: IpAddr) -> impl Iterator<Item = PeerIndex> + '_ {
        let address = address.to_canonical();
        let from = self.endpoints.partition_point(|(other, _)| *other < address);
        self.endpoints[from..]
            .iter()
            .take_while(move |(other, _)| *other == address)
            .map(|(_, index)| *index)
    }

    /// Whether the peer's datagrams come from this outer address.
    #[inline]
    #[must_use]
    pub fn is_at(&self, index: PeerIndex, address: IpAddr) -> bool {
        self.peer(index)
            .is_some_and(|peer| peer.endpoint.ip().to_canonical() == address.to_canonical())
    }

    /// This gateway's own inner addresses.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Whether the overlay has any IPv6 network or address; without one, IPv6 is not carried.
    #[inline]
    #[must_use]
    pub fn carries_v6(&self) -> bool {
        self.carries_v6
    }

    /// Whether some peer's endpoint lies inside the overlay: its datagrams could then come back to
    /// the TUN device and be wrapped again, without end.
    #[inline]
    #[must_use]
    pub fn nests(&self) -> bool {
        self.nests
    }

    /// Whether this is the UDP address of a peer.
    #[must_use]
    pub fn is_endpoint(&self, address: SocketAddr) -> bool {
        self.peers_at(address.ip()).any(|index| {
            self.peer(index).is_some_and(|peer| peer.endpoint.port() == address.port())
        })
    }

    /// Memory held by the look-ups, bytes; names and subnet lists of the peers not counted.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.table.bytes()
            + self.networks.capacity() * size_of::<(IpNet, Holder)>()
            + self.peers.capacity() * size_of::<Option<Peer>>()
            + self.endpoints.capacity() * size_of::<(IpAddr, PeerIndex)>()
    }
}

impl Default for View {
    fn default() -> Self {
        Self::new(Overlay::default())
    }
}

#[inline]
fn holder(table: &Table, address: IpAddr) -> Holder {
    match address {
        IpAddr::V4(address) => table.v4(address),
        IpAddr::V6(address) => table.v6(address),
    }
}

fn reserved() -> Vec<(IpNet, Holder)> {
    let v4 =
        RESERVED_V4.iter().map(|(address, len)| IpNet::V4(Ipv4Net::new_assert(*address, *len)));
    let v6 =
        RESERVED_V6.iter().map(|(address, len)| IpNet::V6(Ipv6Net::new_assert(*address, *len)));
    let broadcast = (IpNet::from(IpAddr::V4(Ipv4Addr::BROADCAST)), Holder::Broadcast);
    v4.chain(v6).map(|network| (network, Holder::Reserved)).chain([broadcast]).collect()
}

/// The table with the last address of every local IPv4 network marked, where nothing more specific
/// holds it. Networks of 31 and 32 bits have no broadcast address (RFC 3021).
fn with_broadcasts(
    networks: &mut Vec<(IpNet, Holder)>,
    local: &[IpNet],
    addresses: &[IpAddr],
) -> Table {
    let table = Table::build(networks.iter().copied());
    let broadcasts: Vec<_> = local
        .iter()
        .filter(|network| matches!(network, IpNet::V4(v4) if v4.prefix_len() < 31))
        .map(IpNet::broadcast)
        .filter(|last| holder(&table, *last) == Holder::Local && !addresses.contains(last))
        .map(|last| (IpNet::from(last), Holder::Broadcast))
        .collect();
    if broadcasts.is_empty() {
        return table;
    }
    networks.extend(broadcasts);
    Table::build(networks.iter().copied())
}

fn by_index(peers: Vec<Peer>) -> Vec<Option<Peer>> {
    let slots = peers.iter().map(|peer| peer.index.0 as usize + 1).max().unwrap_or(0);
    let mut slotted = vec![None; slots];
    for peer in peers {
        let slot = peer.index.0 as usize;
        slotted[slot] = Some(peer);
    }
    slotted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_belongs_to_the_most_specific_network() {
        let view = view();

        assert_eq!(view.holder(ip("10.10.1.7")), Holder::Peer(PeerIndex(0)));
        assert_eq!(view.holder(ip("10.10.2.7")), Holder::Peer(PeerIndex(3)));
        assert_eq!(view.holder(ip("10.10.0.7")), Holder::Local);
        assert_eq!(view.holder(ip("10.99.0.1")), Holder::Local, "the TUN device's own address");
        assert_eq!(view.holder(ip("10.99.0.2")), Holder::Nobody);
        assert_eq!(view.holder(ip("fd00::1:7")), Holder::Peer(PeerIndex(3)));
    }

    #[test]
    fn addresses_that_cross_no_tunnel_are_reserved() {
        let mut overlay = overlay();
        overlay.peers[0].subnets.push("0.0.0.0/0".parse().unwrap());
        overlay.peers[0].subnets.push("::/0".parse().unwrap());
        let view = View::new(overlay);

        for address in ["0.0.0.0", "127.0.0.1", "169.254.169.254", "224.0.0.1", "240.0.0.1"] {
            assert_eq!(view.holder(ip(address)), Holder::Reserved, "{address}");
        }
        for address in ["::", "::1", "::ffff:10.10.1.1", "fe80::1", "ff02::2"] {
            assert_eq!(view.holder(ip(address)), Holder::Reserved, "{address}");
        }
        assert_eq!(view.holder(ip("1.1.1.1")), Holder::Peer(PeerIndex(0)));
    }

    #[test]
    fn the_last_address_of_a_local_network_is_its_broadcast() {
        let view = view();

        assert_eq!(view.holder(ip("10.10.0.255")), Holder::Broadcast);
        assert_eq!(view.holder(ip("255.255.255.255")), Holder::Broadcast);
        assert_eq!(view.holder(ip("10.10.1.255")), Holder::Peer(PeerIndex(0)));
    }

    #[test]
    fn the_longest_of_the_networks_decides_as_the_look_up_does() {
        let mut overlay = overlay();
        overlay.peers[1].subnets.push("10.10.0.0/24".parse().unwrap());
        let view = View::new(overlay);
        let longest = |address: IpAddr| {
            let around = view.networks().iter().filter(|(network, _)| network.contains(&address));
            around.max_by_key(|(network, _)| network.prefix_len()).map(|(_, holder)| *holder)
        };

        for address in
            ["10.10.0.7", "10.10.0.255", "10.10.1.7", "10.99.0.1", "127.0.0.1", "fd00::1:7"]
        {
            assert_eq!(longest(ip(address)), Some(view.holder(ip(address))), "{address}");
        }
        assert_eq!(longest(ip("10.99.0.2")), None);
    }

    #[test]
    fn networks_of_two_addresses_or_one_have_no_broadcast() {
        let mut overlay = overlay();
        overlay.local = ["10.10.0.0/31", "10.10.0.8/32"].map(|net| net.parse().unwrap()).into();

        let view = View::new(overlay);

        assert_eq!(view.holder(ip("10.10.0.1")), Holder::Local);
        assert_eq!(view.holder(ip("10.10.0.8")), Holder::Local);
    }

    #[test]
    fn an_address_of_our_own_is_no_broadcast() {
        let mut overlay = overlay();
        overlay.addresses.push(ip("10.10.0.255"));

        assert_eq!(View::new(overlay).holder(ip("10.10.0.255")), Holder::Local);
    }

    #[test]
    fn a_broadcast_address_inside_a_peers_network_stays_the_peers() {
        let mut overlay = overlay();
        overlay.local = vec!["10.10.0.0/16".parse().unwrap()];
        overlay.peers[0].subnets = vec!["10.10.255.0/24".parse().unwrap()];

        let view = View::new(overlay);

        assert_eq!(view.holder(ip("10.10.255.255")), Holder::Peer(PeerIndex(0)));
    }

    #[test]
    fn our_own_network_never_belongs_to_a_peer() {
        let mut overlay = overlay();
        overlay.peers[0].subnets.push("10.10.0.0/24".parse().unwrap());

        assert_eq!(View::new(overlay).holder(ip("10.10.0.7")), Holder::Local);
    }

    #[test]
    fn all_peers_behind_one_outer_address_are_found() {
        let view = view();

        let found: Vec<_> = view.peers_at(ip("192.0.2.9")).collect();

        assert_eq!(found, [PeerIndex(0), PeerIndex(3)]);
        assert_eq!(view.peers_at(ip("192.0.2.1")).count(), 0);
        assert_eq!(view.peers_at(ip("::ffff:192.0.2.9")).count(), 2, "as a dual-stack socket says");
    }

    #[test]
    fn an_endpoint_is_known_by_address_and_port() {
        let view = view();

        assert!(view.is_endpoint("192.0.2.9:8285".parse().unwrap()));
        assert!(!view.is_endpoint("192.0.2.9:53".parse().unwrap()));
    }

    #[test]
    fn an_endpoint_inside_the_overlay_is_noticed() {
        assert!(!view().nests());

        let mut overlay = overlay();
        overlay.peers[0].endpoint = "10.10.2.1:8285".parse().unwrap();

        assert!(View::new(overlay).nests());
    }

    #[test]
    fn ipv6_is_carried_only_where_the_overlay_has_some() {
        assert!(view().carries_v6());
        assert!(!View::default().carries_v6());

        let mut overlay = overlay();
        overlay.peers[1].subnets.retain(|net| matches!(net, IpNet::V4(_)));

        assert!(!View::new(overlay).carries_v6());
    }

    #[test]
    fn sixty_five_thousand_peers_take_a_few_megabytes() {
        let peers = (0..65_000u32).map(|index| Peer {
            index: PeerIndex(index),
            name: "peer".into(),
            endpoint: SocketAddr::from((Ipv4Addr::from(0xac10_0000 | index), 8285)),
            subnets: vec![
                Ipv4Net::new_assert(Ipv4Addr::from(0x0a00_0000 | (index << 8)), 24).into(),
            ],
        });

        let view = View::new(Overlay { peers: peers.collect(), ..Overlay::default() });

        assert!(view.bytes() < 10 << 20, "{} bytes", view.bytes());
        assert_eq!(view.holder(ip("10.253.231.9")), Holder::Peer(PeerIndex(0xfde7)));
        assert_eq!(view.peers_at(ip("172.16.253.231")).next(), Some(PeerIndex(0xfde7)));
    }

    #[test]
    fn an_unused_number_is_no_peer() {
        let view = view();

        assert!(view.peer(PeerIndex(1)).is_none());
        assert!(view.peer(PeerIndex(99)).is_none());
        assert_eq!(view.peer_slots(), 4);
        assert_eq!(view.peers().count(), 2);
    }

    fn view() -> View {
        View::new(overlay())
    }

    fn overlay() -> Overlay {
        let peer = |index, subnets: &[&str]| Peer {
            index: PeerIndex(index),
            name: "peer".into(),
            endpoint: "192.0.2.9:8285".parse().unwrap(),
            subnets: subnets.iter().map(|net| net.parse().unwrap()).collect(),
        };
        Overlay {
            peers: vec![peer(0, &["10.10.1.0/24"]), peer(3, &["10.10.2.0/24", "fd00::1:0/112"])],
            local: vec!["10.10.0.0/24".parse().unwrap()],
            addresses: vec![ip("10.99.0.1")],
        }
    }

    fn ip(address: &str) -> IpAddr {
        address.parse().unwrap()
    }
}
