//! How peers are reached through the underlay, as the host's routes say.

use super::tables::Reach;
use super::underlay::unfinished;
use crate::sys::netlink::Netlink;
use crate::sys::route::{self, Link};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::Ipv4Addr;
use std::ops::Bound::{Excluded, Unbounded};

/// How many addresses are asked for again at a time: as many take a few milliseconds.
const AGAIN: usize = 1024;

/// The ways to all peers.
#[derive(Debug)]
pub(super) struct Paths {
    /// From which of our addresses; none leaves it to the routes.
    from: Option<Ipv4Addr>,
    /// Whether links will do that do not finish packets.
    any_link: bool,
    /// How each address is reached, if by a link that the program can use.
    ways: BTreeMap<Ipv4Addr, Option<Reach>>,
    /// Those links by index.
    links: BTreeMap<u32, Link>,
    /// The address that was asked for last.
    last: Ipv4Addr,
}

impl Paths {
    pub(super) fn new(from: Option<Ipv4Addr>, any_link: bool) -> Self {
        let (ways, links) = (BTreeMap::new(), BTreeMap::new());
        Self { from, any_link, ways, links, last: Ipv4Addr::UNSPECIFIED }
    }

    /// Knows the ways to these addresses and to no others from here on.
    pub(super) fn follow(&mut self, addresses: &BTreeSet<Ipv4Addr>) -> io::Result<()> {
        self.ways.retain(|address, _| addresses.contains(address));
        let new: Vec<_> =
            addresses.iter().filter(|it| !self.ways.contains_key(it)).copied().collect();
        self.ask(new).map(drop)
    }

    /// Asks for the ways again, of many peers for some at a time, and for all if one has changed.
    /// Whether any has.
    pub(super) fn refresh(&mut self) -> io::Result<bool> {
        let behind = self.ways.range((Excluded(self.last), Unbounded));
        let all = behind.chain(self.ways.iter()).map(|(address, _)| *address);
        let some: Vec<_> = all.take(AGAIN.min(self.ways.len())).collect();
        self.last = some.last().copied().unwrap_or(self.last);
        let is_changed = self.ask(some)?;
        if is_changed && self.ways.len() > AGAIN {
            self.ask(self.ways.keys().copied().collect())?;
        }
        Ok(is_changed)
    }

    fn ask(&mut self, addresses: Vec<Ipv4Addr>) -> io::Result<bool> {
        let mut netlink = Netlink::open()?;
        let (before, mut is_changed) = (self.links.clone(), false);
        let mut links: HashMap<u32, Option<Link>> = HashMap::new();
        for address in addresses {
            let way = match route::hop(&mut netlink, address, self.from)? {
                Some(hop) => {
                    let link = links.entry(hop.device);
                    let link =
                        link.or_insert_with(|| usable(&mut netlink, hop.device, self.any_link));
                    link.as_ref().map(|link| {
                        let mtu = hop.mtu.unwrap_or(link.mtu).min(link.mtu);
                        Reach { device: hop.device, source: hop.source, mtu }
                    })
                }
                None => None,
            };
            is_changed |= self.ways.insert(address, way) != Some(way);
        }
        self.links.extend(links.into_iter().filter_map(|(index, link)| Some((index, link?))));
        let used: BTreeSet<_> = self.ways.values().flatten().map(|way| way.device).collect();
        self.links.retain(|index, _| used.contains(index));
        Ok(is_changed || self.links.keys().ne(before.keys()))
    }

    pub(super) fn to(&self, address: Ipv4Addr) -> Option<Reach> {
        self.ways.get(&address).copied().flatten()
    }

    /// The links by which peers are reached.
    pub(super) fn links(&self) -> impl Iterator<Item = (u32, &Link)> {
        self.links.iter().map(|(index, link)| (*index, link))
    }
}

/// A link, if the program can use it: it writes Ethernet headers.
fn usable(netlink: &mut Netlink, index: u32, any_link: bool) -> Option<Link> {
    let link = route::link(netlink, index).ok();
    let link = link.filter(|link| link.is_ethernet && link.address.len() == 6);
    link.filter(|it| any_link || matches!(unfinished(&it.name), Ok(None)))
}

/// Why the fast path cannot be used toward an address; none if it can.
pub(crate) fn why_not(to: Ipv4Addr) -> io::Result<Option<String>> {
    let mut netlink = Netlink::open()?;
    let Some(hop) = route::hop(&mut netlink, to, None)? else {
        return Ok(Some(format!("there is no route to {to}")));
    };
    let link = route::link(&mut netlink, hop.device)?;
    if !link.is_ethernet {
        return Ok(Some(format!("{} is no Ethernet link", link.name)));
    }
    unfinished(&link.name)
}
