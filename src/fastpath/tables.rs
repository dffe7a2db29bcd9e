//! What the program looks up, made of a view. Pure.

use super::layout::{KEY_BITS, Key, LOCAL, OTHER, PEER, Route, Space};
use ipnet::{IpNet, Ipv4Net};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use twill_datapath::route::{Holder, Peer, PeerIndex, View};

/// How a peer is reached through the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    /// By which device.
    pub(super) device: u32,
    /// From which of the host's addresses.
    pub(super) source: Ipv4Addr,
    /// The MTU of the path, bytes.
    pub(super) mtu: u32,
}

/// A table's contents, by the length of the prefix in bits and the key.
pub(super) type Table = HashMap<(u32, Key), Route>;

/// What must happen to a table so that it has other contents.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) removed: Vec<(u32, Key)>,
    pub(super) set: Vec<((u32, Key), Route)>,
}

/// The table for a view. What is not in it, or is held by others, goes to user space.
pub(super) fn table(view: &View, reach: impl Fn(Ipv4Addr) -> Option<Reach>) -> Table {
    let mut table = Table::new();
    let route =
        |index: PeerIndex| view.peer(index).map_or(OTHERS, |peer| route(peer, view, &reach));
    for (network, holder) in view.networks() {
        let IpNet::V4(network) = network else { continue };
        let route = match holder {
            Holder::Peer(index) => route(*index),
            Holder::Local => Route { holder: LOCAL, ..Route::default() },
            Holder::Nobody | Holder::Reserved | Holder::Broadcast => OTHERS,
        };
        table.insert(key(Space::InnerV4, *network), route);
    }
    for peer in view.peers() {
        let IpAddr::V4(address) = peer.endpoint.ip().to_canonical() else { continue };
        // Of several at one address, user space counts for the first.
        let Some(first) = view.peers_at(address.into()).next() else { continue };
        table.insert(key(Space::OuterV4, address.into()), route(first));
        if let Some(Reach { source, .. }) = reach(address) {
            let own = Route { holder: LOCAL, ..Route::default() };
            table.insert(key(Space::OuterV4, source.into()), own);
        }
    }
    table
}

/// What turns one table into another.
pub(super) fn difference(from: &Table, to: &Table) -> Change {
    Change {
        removed: from.keys().filter(|key| !to.contains_key(key)).copied().collect(),
        set: to
            .iter()
            .filter(|(key, route)| from.get(key) != Some(route))
            .map(|(key, route)| (*key, *route))
            .collect(),
    }
}

/// Where each peer of a table is reached, by its number.
pub(super) fn endpoints(table: &Table) -> HashMap<u32, SocketAddr> {
    let peers = table.values().filter(|route| route.holder == PEER);
    peers
        .map(|route| {
            let port = u16::from_be_bytes(route.port);
            (route.peer, (Ipv4Addr::from(route.endpoint), port).into())
        })
        .collect()
}

const OTHERS: Route = Route {
    holder: OTHER,
    peer: 0,
    endpoint: [0; 4],
    source: [0; 4],
    device: 0,
    mtu: 0,
    port: [0; 2],
    padding: 0,
};

fn key(space: Space, network: Ipv4Net) -> (u32, Key) {
    (KEY_BITS + u32::from(network.prefix_len()), Key::new(space, network.network()))
}

/// A peer that cannot be reached has an MTU of 0: packets to it go to user space, and datagrams from
/// it are its own.
fn route(peer: &Peer, view: &View, reach: impl Fn(Ipv4Addr) -> Option<Reach>) -> Route {
    let IpAddr::V4(address) = peer.endpoint.ip().to_canonical() else { return OTHERS };
    let from = Route {
        holder: PEER,
        peer: peer.index.0,
        endpoint: address.octets(),
        port: peer.endpoint.port().to_be_bytes(),
        ..Route::default()
    };
    match reach(address) {
        // User space must see that nothing is wrapped twice.
        Some(Reach { device, source, mtu }) if !view.nests() => {
            Route { source: source.octets(), device, mtu, ..from }
        }
        _ => from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use twill_datapath::route::Overlay;

    const REACH: Reach = Reach { device: 7, source: Ipv4Addr::new(192, 0, 2, 1), mtu: 1500 };

    /// What the kernel's look-up finds.
    fn find(table: &Table, space: Space, address: Ipv4Addr) -> Option<Route> {
        (0..=32).rev().find_map(|bits| {
            let network = Ipv4Net::new(address, bits).unwrap().trunc();
            table.get(&key(space, network)).copied()
        })
    }

    fn view(peers: &[(&str, &[&str])]) -> View {
        let peers = peers.iter().zip(0..).map(|((endpoint, subnets), index)| Peer {
            index: PeerIndex(index),
            name: "peer".into(),
            endpoint: endpoint.parse().unwrap(),
            subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
        });
        View::new(Overlay {
            peers: peers.collect(),
            local: vec!["10.5.1.0/24".parse().unwrap()],
            addresses: vec!["10.5.1.0".parse().unwrap()],
        })
    }

    fn two() -> View {
        let second: &[&str] = &["10.5.3.0/24", "10.5.2.128/25"];
        view(&[("192.0.2.2:8285", &["10.5.2.0/24"]), ("192.0.2.3:9285", second)])
    }

    #[test]
    fn each_address_leads_where_the_view_says() {
        let (view, table) = (two(), table(&two(), |_| Some(REACH)));
        for text in
            ["10.5.2.1", "10.5.2.200", "10.5.3.1", "10.5.1.7", "10.5.1.255", "127.0.0.1", "8.8.8.8"]
        {
            let address: Ipv4Addr = text.parse().unwrap();

            let found = find(&table, Space::InnerV4, address).unwrap_or(OTHERS);

            let expected = match view.holder_v4(address) {
                Holder::Peer(PeerIndex(index)) => (PEER, index),
                Holder::Local => (LOCAL, 0),
                _ => (OTHER, 0),
            };
            assert_eq!((found.holder, found.peer), expected, "{text}");
        }
        let second = find(&table, Space::InnerV4, "10.5.2.200".parse().unwrap()).unwrap();
        assert_eq!((second.endpoint, second.port), ([192, 0, 2, 3], 9285u16.to_be_bytes()));
        assert_eq!((second.source, second.device, second.mtu), ([192, 0, 2, 1], 7, 1500));
    }

    #[test]
    fn outer_addresses_are_those_of_peers_and_our_own() {
        let table = table(&two(), |_| Some(REACH));
        let outer = |address: &str| {
            find(&table, Space::OuterV4, address.parse().unwrap()).map(|route| route.holder)
        };

        assert_eq!(outer("192.0.2.3"), Some(PEER));
        assert_eq!(outer("192.0.2.1"), Some(LOCAL));
        assert_eq!(outer("192.0.2.4"), None);
        assert_eq!(outer("10.5.2.1"), None, "an inner address is no outer one");
    }

    #[test]
    fn packets_to_peers_out_of_reach_go_to_user_space_and_those_from_them_are_theirs() {
        let nested = view(&[("10.5.3.1:8285", &["10.5.3.0/24"])]);
        for table in [table(&two(), |_| None), table(&nested, |_| Some(REACH))] {
            let found = find(&table, Space::InnerV4, "10.5.3.1".parse().unwrap()).unwrap();

            assert_eq!((found.holder, found.mtu), (PEER, 0));
        }
    }

    #[test]
    fn what_has_ipv6_outside_goes_to_user_space() {
        let table = table(&view(&[("[2001:db8::2]:8285", &["10.5.2.0/24"])]), |_| Some(REACH));

        let found = find(&table, Space::InnerV4, "10.5.2.1".parse().unwrap()).unwrap();

        assert_eq!(found, OTHERS);
    }

    proptest! {
        #[test]
        fn a_change_leads_from_one_table_to_the_other(
            before in vec((any::<u8>(), 0u32..3), 0..20), after in vec((any::<u8>(), 0u32..3), 0..20)
        ) {
            let table = |of: &[(u8, u32)]| of.iter().map(|(last, peer)| {
                let address = Ipv4Addr::new(10, 5, *last, 0);
                (key(Space::InnerV4, address.into()), Route { peer: *peer, ..OTHERS })
            }).collect::<Table>();
            let (mut changed, after) = (table(&before), table(&after));

            let change = difference(&changed, &after);
            let unneeded = change.set.iter().any(|(key, route)| changed.get(key) == Some(route));
            for key in &change.removed {
                changed.remove(key).unwrap();
            }
            changed.extend(change.set);

            prop_assert_eq!(changed, after);
            prop_assert!(!unneeded);
        }
    }
}
