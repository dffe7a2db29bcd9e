//! How peers are reached through the underlay, as the host's routes say.

use super::tables::Reach;
use super::underlay::unfinished;
use crate::sys::netlink::Netlink;
use crate::sys::route::{self, Link};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::Ipv4Addr;

/// The ways to all peers at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Paths {
    /// How each address is reached, if by a link that the program can use.
    ways: HashMap<Ipv4Addr, Reach>,
    /// Those links by index.
    links: BTreeMap<u32, Link>,
}

impl Paths {
    /// Asks the kernel for the ways from `from`, or from whatever address of ours the routes prefer; of
    /// links that do not finish packets only if any link will do.
    pub(super) fn ask(
        addresses: impl Iterator<Item = Ipv4Addr>,
        from: Option<Ipv4Addr>,
        any_link: bool,
    ) -> io::Result<Self> {
        let mut netlink = Netlink::open()?;
        let mut paths = Self::default();
        let mut links: HashMap<u32, Option<Link>> = HashMap::new();
        for address in addresses {
            let Some(hop) = route::hop(&mut netlink, address, from)? else { continue };
            let link = links.entry(hop.device).or_insert_with(|| {
                let link = route::link(&mut netlink, hop.device).ok();
                // The program writes Ethernet headers.
                let link = link.filter(|link| link.is_ethernet && link.address.len() == 6);
                link.filter(|it| any_link || matches!(unfinished(&it.name), Ok(None)))
            });
            let Some(link) = link else { continue };
            let mtu = hop.mtu.unwrap_or(link.mtu).min(link.mtu);
            paths.links.entry(hop.device).or_insert_with(|| link.clone());
            paths.ways.insert(address, Reach { device: hop.device, source: hop.source, mtu });
        }
        Ok(paths)
    }

    pub(super) fn to(&self, address: Ipv4Addr) -> Option<Reach> {
        self.ways.get(&address).copied()
    }

    /// The links by which peers are reached.
    pub(super) fn links(&self) -> impl Iterator<Item = (u32, &Link)> {
        self.links.iter().map(|(index, link)| (*index, link))
    }
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
