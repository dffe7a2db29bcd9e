//! Longest-prefix look-up: which holder the most specific network around an address has.
//!
//! A trie over the address's bytes, one level per byte, leaves pushed down: every entry says either
//! where the next level is or who holds all addresses below, so a look-up reads one entry per level
//! and never backs up.
//!
//! ```text
//!          10 ─────┐          52 ────┐            0…255: holder of 10.10.52.0/24
//! root [256] ──> [256] ──> [256] ──> [256] only for prefixes longer than 24
//! ```
//!
//! A level's node is 1 KiB. 65,000 leases of /24 under one /8 need 256 + 2 nodes: 258 KiB. At worst,
//! with every /24 under a different /16, it is one node each: 64 MiB. IPv6 leases of /64 under one
//! /48 cost as little; scattered over all of IPv6 they would cost six nodes each.

use super::PeerIndex;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use ipnet::IpNet;

/// Who an inner address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// No network of the overlay.
    Nobody,
    /// A network behind this gateway, or the gateway itself.
    Local,
    /// All hosts of a network behind this gateway, or of any network.
    Broadcast,
    /// Loopback, link-local, multicast and the like: nothing that crosses a tunnel.
    Reserved,
    /// A network behind this peer.
    Peer(PeerIndex),
}

/// Networks and their holders. Built once, then only read.
#[derive(Debug)]
pub struct Table {
    v4: Trie,
    v6: Trie,
}

impl Table {
    /// Builds the table; of two entries for the same network the later one counts. Costs time and
    /// memory in proportion to the number of networks, see the module's text.
    #[must_use]
    pub fn build(networks: impl IntoIterator<Item = (IpNet, Holder)>) -> Self {
        let mut networks: Vec<_> = networks.into_iter().collect();
        // Short prefixes first: what comes later is more specific and may overwrite. The sort is
        // stable, so the order among equals stands.
        networks.sort_by_key(|(network, _)| network.prefix_len());
        let mut table = Self { v4: Trie::new(), v6: Trie::new() };
        for (network, holder) in networks {
            let prefix_len = usize::from(network.prefix_len());
            match network.network() {
                IpAddr::V4(address) => table.v4.insert(&address.octets(), prefix_len, holder),
                IpAddr::V6(address) => table.v6.insert(&address.octets(), prefix_len, holder),
            }
        }
        table
    }

    /// Who holds an IPv4 address.
    #[inline]
    #[must_use]
    pub fn v4(&self, address: Ipv4Addr) -> Holder {
        self.v4.lookup(address.octets())
    }

    /// Who holds an IPv6 address.
    #[inline]
    #[must_use]
    pub fn v6(&self, address: Ipv6Addr) -> Holder {
        self.v6.lookup(address.octets())
    }

    /// Memory held, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        (self.v4.nodes.capacity() + self.v6.nodes.capacity()) * size_of::<Node>()
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::build([])
    }
}

type Node = [Entry; 256];

#[derive(Debug)]
struct Trie {
    nodes: Vec<Node>,
}

impl Trie {
    fn new() -> Self {
        Self { nodes: vec![[Entry::leaf(Holder::Nobody); 256]] }
    }

    /// Every prefix inserted before must be as long or shorter.
    fn insert(&mut self, octets: &[u8], prefix_len: usize, holder: Holder) {
        let last = prefix_len.saturating_sub(1) / 8;
        let mut node = 0;
        for octet in &octets[..last] {
            node = self.descend(node, usize::from(*octet));
        }
        let from = usize::from(octets[last]);
        let count = 1 << ((last + 1) * 8 - prefix_len).min(8);
        self.nodes[node][from..from + count].fill(Entry::leaf(holder));
    }

    /// The node below an entry, made of the entry's own holder if there is none yet.
    fn descend(&mut self, node: usize, octet: usize) -> usize {
        let entry = self.nodes[node][octet];
        entry.child().unwrap_or_else(|| {
            self.nodes.push([entry; 256]);
            let child = self.nodes.len() - 1;
            self.nodes[node][octet] = Entry::branch(child);
            child
        })
    }

    #[inline]
    fn lookup<const N: usize>(&self, octets: [u8; N]) -> Holder {
        let mut node = 0;
        for octet in octets {
            let entry = self.nodes[node][usize::from(octet)];
            match entry.child() {
                Some(child) => node = child,
                None => return entry.holder(),
            }
        }
        // No prefix is longer than the address, so its last octet always finds a leaf.
        Holder::Nobody
    }
}

/// A holder, or with the top bit set the number of a node.
#[derive(Clone, Copy, Debug)]
struct Entry(u32);

impl Entry {
    const BRANCH: u32 = 1 << 31;
    const NOBODY: u32 = 0;
    const LOCAL: u32 = 1;
    const BROADCAST: u32 = 2;
    const RESERVED: u32 = 3;
    const FIRST_PEER: u32 = 4;

    fn branch(node: usize) -> Self {
        Self(node as u32 | Self::BRANCH)
    }

    fn leaf(holder: Holder) -> Self {
        Self(match holder {
            Holder::Nobody => Self::NOBODY,
            Holder::Local => Self::LOCAL,
            Holder::Broadcast => Self::BROADCAST,
            Holder::Reserved => Self::RESERVED,
            Holder::Peer(PeerIndex(index)) => Self::FIRST_PEER + index,
        })
    }

    #[inline]
    fn child(self) -> Option<usize> {
        (self.0 & Self::BRANCH != 0).then_some((self.0 & !Self::BRANCH) as usize)
    }

    #[inline]
    fn holder(self) -> Holder {
        match self.0 {
            Self::NOBODY => Holder::Nobody,
            Self::LOCAL => Holder::Local,
            Self::BROADCAST => Holder::Broadcast,
            Self::RESERVED => Holder::Reserved,
            peer => Holder::Peer(PeerIndex(peer - Self::FIRST_PEER)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::{Ipv4Net, Ipv6Net};
    use prefix_trie::PrefixMap;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::time::Instant;

    #[test]
    fn an_empty_table_knows_nobody() {
        let table = Table::default();

        assert_eq!(table.v4(Ipv4Addr::new(10, 0, 0, 1)), Holder::Nobody);
        assert_eq!(table.v6(Ipv6Addr::LOCALHOST), Holder::Nobody);
    }

    #[test]
    fn the_longest_prefix_wins_whatever_the_order() {
        let nets = [("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.2.0/24", 3), ("10.1.2.3/32", 4)];

        for rotation in 0..nets.len() {
            let mut nets = nets;
            nets.rotate_left(rotation);
            let table = Table::build(nets.map(|(net, index)| (net.parse().unwrap(), peer(index))));

            assert_eq!(table.v4(Ipv4Addr::new(10, 9, 9, 9)), peer(1));
            assert_eq!(table.v4(Ipv4Addr::new(10, 1, 9, 9)), peer(2));
            assert_eq!(table.v4(Ipv4Addr::new(10, 1, 2, 9)), peer(3));
            assert_eq!(table.v4(Ipv4Addr::new(10, 1, 2, 3)), peer(4));
            assert_eq!(table.v4(Ipv4Addr::new(11, 0, 0, 0)), Holder::Nobody);
        }
    }

    #[test]
    fn of_two_holders_of_one_network_the_later_counts() {
        let net: IpNet = "10.0.0.0/13".parse().unwrap();

        let table = Table::build([(net, peer(7)), (net, peer(3))]);

        assert_eq!(table.v4(Ipv4Addr::new(10, 7, 255, 255)), peer(3));
        assert_eq!(table.v4(Ipv4Addr::new(10, 8, 0, 0)), Holder::Nobody);
    }

    #[test]
    fn a_default_route_covers_everything() {
        let table = Table::build(["0.0.0.0/0", "::/0"].map(|net| (net.parse().unwrap(), peer(0))));

        assert_eq!(table.v4(Ipv4Addr::UNSPECIFIED), peer(0));
        assert_eq!(table.v4(Ipv4Addr::BROADCAST), peer(0));
        assert_eq!(table.v6(Ipv6Addr::LOCALHOST), peer(0));
    }

    #[test]
    fn sixty_five_thousand_leases_fit_into_a_megabyte_and_take_little_time() {
        let leases = (0..65_000u32).map(|lease| {
            let address = Ipv4Addr::from(0x0a00_0000 | lease << 8);
            (IpNet::V4(Ipv4Net::new(address, 24).unwrap()), peer(lease))
        });

        let start = Instant::now();
        let table = Table::build(leases);
        println!("built in {:?}, {} bytes", start.elapsed(), table.bytes());

        assert!(table.bytes() < 1 << 20, "{} bytes", table.bytes());
        assert_eq!(table.v4(Ipv4Addr::new(10, 253, 231, 9)), peer(0xfde7));
    }

    fn peer(index: u32) -> Holder {
        Holder::Peer(PeerIndex(index))
    }

    fn arb_v4_nets() -> impl Strategy<Value = Vec<Ipv4Net>> {
        // Few distinct octets, so that networks nest and collide.
        let octet = prop_oneof![Just(0u8), Just(10), Just(255), any::<u8>()];
        let net = ([octet.clone(), octet.clone(), octet.clone(), octet], 0u8..=32)
            .prop_map(|(octets, len)| Ipv4Net::new(Ipv4Addr::from(octets), len).unwrap().trunc());
        vec(net, 0..60)
    }

    fn arb_v6_nets() -> impl Strategy<Value = Vec<Ipv6Net>> {
        let group = prop_oneof![Just(0u16), Just(0xfd00), Just(0x12), any::<u16>()];
        let net = (proptest::array::uniform8(group), 0u8..=128)
            .prop_map(|(groups, len)| Ipv6Net::new(Ipv6Addr::from(groups), len).unwrap().trunc());
        vec(net, 0..60)
    }

    proptest! {
        #[test]
        fn v4_look_ups_agree_with_prefix_trie(nets in arb_v4_nets(), probes in vec(any::<u32>(), 20)) {
            let mut oracle = PrefixMap::new();
            for (index, net) in nets.iter().enumerate() {
                oracle.insert(*net, peer(index as u32));
            }

            let table = Table::build(nets.iter().enumerate().map(|(index, net)| (IpNet::V4(*net), peer(index as u32))));

            // Random addresses, and both sides of every network's ends.
            let ends = nets.iter().flat_map(|net| {
                let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
                [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
            });
            for address in probes.into_iter().chain(ends).map(Ipv4Addr::from) {
                let expected = oracle.get_lpm(&Ipv4Net::from(address)).map_or(Holder::Nobody, |(_, holder)| *holder);
                prop_assert_eq!(table.v4(address), expected, "{}", address);
            }
        }

        #[test]
        fn v6_look_ups_agree_with_prefix_trie(nets in arb_v6_nets(), probes in vec(any::<u128>(), 20)) {
            let mut oracle = PrefixMap::new();
            for (index, net) in nets.iter().enumerate() {
                oracle.insert(*net, peer(index as u32));
            }

            let table = Table::build(nets.iter().enumerate().map(|(index, net)| (IpNet::V6(*net), peer(index as u32))));

            let ends = nets.iter().flat_map(|net| {
                let (first, last) = (u128::from(net.network()), u128::from(net.broadcast()));
                [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
            });
            for address in probes.into_iter().chain(ends).map(Ipv6Addr::from) {
                let expected = oracle.get_lpm(&Ipv6Net::from(address)).map_or(Holder::Nobody, |(_, holder)| *holder);
                prop_assert_eq!(table.v6(address), expected, "{}", address);
            }
        }
    }
}
