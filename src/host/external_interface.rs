//! Chooses the interface that carries the tunnel, as flannel does. Pure, except for its log lines.

use super::survey::{Interface, Path, Survey};
use crate::config::flanneld::External;
use crate::config::{Addresses, Subnets};
use regex::Regex;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tracing::info;

/// The interface that carries the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalInterface {
    /// Its name.
    pub name: String,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// The addresses on which datagrams arrive: of both families if the network has both and others can
    /// reach both; of IPv6 alone if the network has no IPv4 or the flags name an IPv6 address.
    pub addresses: Addresses,
    /// The addresses to which others send them.
    pub public_ip: Addresses,
}

impl ExternalInterface {
    /// The address of IPv4, or of IPv6 where there is none.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.addresses.outer().expect("an interface without an address is not chosen")
    }
}

/// Why there is no external interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExternalError {
    /// No flag is set, and there is no default route.
    #[error("Failed to find any valid interface to use: {0}")]
    NoDefault(NoInterface),
    /// No interface matches the flags.
    #[error(
        "Failed to find interface to use that matches the interfaces and/or regexes provided: {0}"
    )]
    NoMatch(NoInterface),
}

/// Why an interface was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoInterface {
    /// No interface has the address.
    #[error(
        "error looking up interface {0}: no interface with given IP found; behind NAT, name \
             the interface with -iface"
    )]
    Address(IpAddr),
    /// The address is of a family that the network does not have.
    #[error("{0} is not of a family that the network has: see EnableIPv4 and EnableIPv6")]
    Family(IpAddr),
    /// No interface has the name.
    #[error("error looking up interface {0}: no such network interface")]
    Name(String),
    /// The regular expression is invalid.
    #[error("could not compile the IP address regex '{0}': {1}")]
    Pattern(String, String),
    /// No address and no name matches.
    #[error(
        "Could not match pattern {pattern} to any of the available network interfaces ({there})"
    )]
    NotLike {
        /// The expression.
        pattern: String,
        /// The existing interfaces.
        there: String,
    },
    /// There is no route.
    #[error("failed to get ifcanreach based interface: no route to {0}")]
    Unreachable(IpAddr),
    /// There is no default route.
    #[error("failed to get default {v6}interface: unable to find default route", v6 = if *.v6 { "v6 " } else { "" })]
    NoDefaultRoute {
        /// Of IPv6.
        v6: bool,
    },
    /// The interface has no address.
    #[error("failed to find {family} address for interface {name}")]
    NoAddress {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The interface.
        name: String,
    },
    /// The interface has no MTU.
    #[error("failed to determine MTU for {0} interface")]
    NoMtu(IpAddr),
}

/// Chooses the interface for a network of these families. `path` is how the host reaches
/// `external.can_reach`, if it does.
///
/// # Errors
/// [`ExternalError`].
pub fn choose(
    external: &External,
    networks: Subnets,
    survey: &Survey,
    path: Option<Path>,
) -> Result<ExternalInterface, ExternalError> {
    let External { interfaces, patterns, can_reach, public_ip } = external;
    let search = Search { survey, networks };
    let finish = |found| search.finish(found, *public_ip);
    if interfaces.is_empty() && patterns.is_empty() && can_reach.is_none() {
        let found = match search.of_network(*public_ip).outer() {
            Some(address) => search.owner(address),
            None => search.default_route(),
        };
        return found.and_then(finish).map_err(ExternalError::NoDefault);
    }
    let by_word = interfaces.iter().map(|word| (word.clone(), search.by(word, Search::by_word)));
    let by_pattern =
        patterns.iter().map(|word| (word.clone(), search.by(word, Search::by_pattern)));
    let by_path = can_reach.iter().map(|address| {
        let found = search.by_path(path).ok_or(NoInterface::Unreachable(*address));
        (address.to_string(), found)
    });
    let mut last = NoInterface::NoDefaultRoute { v6: false };
    for (word, found) in by_word.chain(by_pattern).chain(by_path) {
        match found.and_then(finish) {
            Ok(found) => return Ok(found),
            Err(reason) => {
                info!("Could not find valid interface matching {word}: {reason}");
                last = reason;
            }
        }
    }
    Err(ExternalError::NoMatch(last))
}

/// An interface, and those of its addresses that the flags name.
struct Found<'a> {
    interface: &'a Interface,
    named: Addresses,
}

/// The host, and the families of the network.
#[derive(Clone, Copy)]
struct Search<'a> {
    survey: &'a Survey,
    networks: Subnets,
}

impl<'a> Search<'a> {
    /// As in flannel, nothing stands for the default: `-iface=$VARIABLE` with an empty variable.
    fn by(
        self,
        word: &str,
        find: fn(Self, &str) -> Result<Found<'a>, NoInterface>,
    ) -> Result<Found<'a>, NoInterface> {
        if word.is_empty() { self.default_route() } else { find(self, word) }
    }

    fn by_word(self, word: &str) -> Result<Found<'a>, NoInterface> {
        if let Ok(address) = word.parse() {
            return self.owner(address);
        }
        let named = self.survey.interfaces.iter().find(|interface| interface.name == word);
        named.map(unnamed).ok_or_else(|| NoInterface::Name(word.to_owned()))
    }

    /// Addresses of all interfaces first, then names.
    fn by_pattern(self, pattern: &str) -> Result<Found<'a>, NoInterface> {
        let expression = Regex::new(pattern)
            .map_err(|error| NoInterface::Pattern(pattern.to_owned(), error.to_string()))?;
        for interface in &self.survey.interfaces {
            let is_like = |address: &IpAddr| expression.is_match(&address.to_string());
            let found = self.of_network(first_of_each(preferred(interface).filter(is_like)));
            if !found.is_empty() {
                // Of IPv6 alone it names the interface only: the tunnel's family is not a matter of patterns.
                let named = if self.networks.v4.is_some() && found.v4.is_none() {
                    Addresses::default()
                } else {
                    found
                };
                return Ok(Found { interface, named });
            }
        }
        let mut interfaces = self.survey.interfaces.iter();
        match interfaces.find(|interface| expression.is_match(&interface.name)) {
            Some(interface) => Ok(unnamed(interface)),
            None => {
                let there = self.survey.interfaces.iter().map(|interface| {
                    let addresses = preferred(interface).filter(|address| self.has(*address));
                    format!("{}:{:?}", interface.name, addresses.collect::<Vec<_>>())
                });
                let there = there.collect::<Vec<_>>().join(", ");
                Err(NoInterface::NotLike { pattern: pattern.to_owned(), there })
            }
        }
    }

    fn by_path(self, path: Option<Path>) -> Option<Found<'a>> {
        let path = path.filter(|path| self.has(path.source))?;
        let interface = self.with_index(path.interface)?;
        Some(Found { interface, named: first_of_each([path.source].into_iter()) })
    }

    fn default_route(self) -> Result<Found<'a>, NoInterface> {
        let v6 = self.networks.v4.is_none();
        let mut routes = self.survey.routes.iter();
        let route = routes.find(|route| {
            let to = route.destination;
            to.prefix_len() == 0 && to.addr().is_ipv6() == v6
        });
        let index = route.and_then(|route| route.interface);
        let interface = index.and_then(|index| self.with_index(index));
        interface.map(unnamed).ok_or(NoInterface::NoDefaultRoute { v6 })
    }

    fn with_index(self, index: u32) -> Option<&'a Interface> {
        self.survey.interfaces.iter().find(|interface| interface.index == index)
    }

    fn owner(self, address: IpAddr) -> Result<Found<'a>, NoInterface> {
        if !self.has(address) {
            return Err(NoInterface::Family(address));
        }
        let has = |interface: &&Interface| {
            interface.addresses.iter().any(|own| own.network.addr() == address)
        };
        let owner = self.survey.interfaces.iter().find(has);
        let interface = owner.ok_or(NoInterface::Address(address))?;
        Ok(Found { interface, named: first_of_each([address].into_iter()) })
    }

    /// Whether the network has an address's family.
    fn has(self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.networks.v4.is_some() } else { self.networks.v6.is_some() }
    }

    /// Addresses of the network's families.
    fn of_network(self, addresses: Addresses) -> Addresses {
        Addresses {
            v4: addresses.v4.filter(|_| self.networks.v4.is_some()),
            v6: addresses.v6.filter(|_| self.networks.v6.is_some()),
        }
    }

    fn finish(
        self,
        Found { interface, named }: Found<'_>,
        public_ip: Addresses,
    ) -> Result<ExternalInterface, NoInterface> {
        let missing = |family| NoInterface::NoAddress { family, name: interface.name.clone() };
        let mut own = self.of_network(named.or(first_of_each(preferred(interface))));
        if named.v4.is_none() && named.v6.is_some() {
            // Who names an IPv6 address wants the tunnel there.
            own.v4 = None;
        } else if self.networks.v4.is_some() && own.v4.is_none() {
            return Err(missing("IPv4"));
        }
        // With IPv4 on the outside, the IPv6 address only tells that this node carries IPv6.
        let is_usable = |v6: Ipv6Addr| own.v4.is_some() || !v6.is_unicast_link_local();
        if self.networks.v6.is_some() && !own.v6.is_some_and(is_usable) {
            return Err(missing("IPv6"));
        }
        let Some(address) = own.outer() else { return Err(missing("IPv4")) };
        if interface.mtu == 0 {
            return Err(NoInterface::NoMtu(address));
        }
        let public = Addresses { v4: own.v4.and(public_ip.v4), v6: own.v6.and(public_ip.v6) };
        let told = own.iter().zip(["", "v6 "].into_iter().skip(usize::from(own.v4.is_none())));
        for (own, v6) in told {
            info!("Using interface with name {} and {v6}address {own}", interface.name);
            match public.iter().find(|public| public.is_ipv6() == own.is_ipv6()) {
                Some(public) => info!("Using {public} as external address"),
                None => info!("Defaulting external {v6}address to interface address ({own})"),
            }
        }
        let (name, mtu, public_ip) = (interface.name.clone(), interface.mtu, public.or(own));
        // A link-local address does not say on which link; behind NAT, the kernel chooses instead of it.
        let v6 = own.v6.filter(|_| own.v4.is_none() || public_ip.reachable().v6.is_some());
        let is_global = |v6: &Ipv6Addr| !v6.is_unicast_link_local();
        let v6 = v6.map(|v6| Some(v6).filter(is_global).unwrap_or(Ipv6Addr::UNSPECIFIED));
        Ok(ExternalInterface { name, mtu, addresses: Addresses { v6, ..own }, public_ip })
    }
}

fn unnamed(interface: &Interface) -> Found<'_> {
    Found { interface, named: Addresses::default() }
}

fn first_of_each(addresses: impl Iterator<Item = IpAddr>) -> Addresses {
    let mut first = Addresses::default();
    for address in addresses {
        match address {
            IpAddr::V4(v4) => _ = first.v4.get_or_insert(v4),
            IpAddr::V6(v6) => _ = first.v6.get_or_insert(v6),
        }
    }
    first
}

/// An interface's addresses that may be used: global before link-local, permanent before those that
/// run out, first of their network before others.
fn preferred(interface: &Interface) -> impl Iterator<Item = IpAddr> {
    let usable = |address: &&super::survey::Address| {
        let ip = address.network.addr();
        !address.deprecated && !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified()
    };
    let is_link_local = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => Ipv4Addr::is_link_local(&v4),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let mut addresses: Vec<_> = interface.addresses.iter().filter(usable).collect();
    addresses.sort_by_key(|address| {
        (is_link_local(address.network.addr()), !address.permanent, address.secondary)
    });
    addresses.into_iter().map(|address| address.network.addr())
}

/// What of the host the overlay would hide: addresses and routes inside it that are not in our own
/// subnet, where the containers' bridge belongs. One sentence for each.
#[must_use]
pub(crate) fn collisions(survey: &Survey, networks: Subnets, subnets: Subnets) -> Vec<String> {
    let mut found = Vec::new();
    for network in networks.iter() {
        for interface in &survey.interfaces {
            for address in interface.addresses.iter().map(|address| address.network.addr()) {
                if network.contains(&address) && !subnets.have(address) {
                    let name = &interface.name;
                    found.push(format!(
                        "address {address} of {name} is inside the overlay {network}"
                    ));
                }
            }
        }
        for to in survey.routes.iter().map(|route| route.destination) {
            let overlaps = network.contains(&to) || to.contains(&network);
            let at_home = subnets.iter().any(|subnet| subnet.contains(&to));
            if overlaps && to.prefix_len() != 0 && !at_home {
                found.push(format!("the host's route to {to} overlaps the overlay {network}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::survey::{Address, Route};
    use super::*;
    use ipnet::IpNet;

    /// For a network of IPv4.
    fn choose(
        external: &External,
        survey: &Survey,
        path: Option<Path>,
    ) -> Result<ExternalInterface, ExternalError> {
        super::choose(external, subnets("10.5.0.0/16"), survey, path)
    }

    fn subnets(text: &str) -> Subnets {
        text.parse().unwrap()
    }

    fn addresses(text: &str) -> Addresses {
        text.parse().unwrap()
    }

    #[test]
    fn without_a_word_it_is_the_default_routes() {
        let found = choose(&External::default(), &host(), None).unwrap();

        assert_eq!((found.name.as_str(), found.mtu), ("eth1", 9000));
        assert_eq!(found.address(), ip("198.51.100.1"));
        assert_eq!(found.public_ip, addresses("198.51.100.1"));
    }

    #[test]
    fn an_empty_word_stands_for_the_default_routes() {
        let empty = vec![String::new()];
        let interface = External { interfaces: empty.clone(), ..External::default() };
        let pattern = External { patterns: empty, ..External::default() };

        for external in [interface, pattern] {
            assert_eq!(choose(&external, &host(), None).unwrap().name, "eth1");
        }
    }

    #[test]
    fn without_a_default_route_there_is_none() {
        let mut host = host();
        host.routes.clear();

        let error = choose(&External::default(), &host, None).unwrap_err();

        assert_eq!(error, ExternalError::NoDefault(NoInterface::NoDefaultRoute { v6: false }));
    }

    #[test]
    fn a_public_address_alone_names_the_interface_that_owns_it() {
        let own = External { public_ip: addresses("192.0.2.2"), ..External::default() };
        let foreign = External { public_ip: addresses("203.0.113.9"), ..External::default() };

        let found = choose(&own, &host(), None).unwrap();
        let error = choose(&foreign, &host(), None).unwrap_err();

        assert_eq!((found.name.as_str(), found.address()), ("eth0", ip("192.0.2.2")));
        assert!(error.to_string().contains("-iface"), "{error}");
    }

    #[test]
    fn behind_nat_the_public_address_goes_with_a_named_interface() {
        let external = External {
            interfaces: vec!["eth0".to_owned()],
            public_ip: addresses("203.0.113.9"),
            ..External::default()
        };

        let found = choose(&external, &host(), None).unwrap();

        assert_eq!((found.address(), found.public_ip), (ip("192.0.2.1"), addresses("203.0.113.9")));
    }

    #[test]
    fn the_first_interface_that_is_there_counts() {
        let found = |words: &[&str]| {
            let interfaces = words.iter().map(|word| (*word).to_owned()).collect();
            let external = External { interfaces, ..External::default() };
            choose(&external, &host(), None).map(|found| (found.name.clone(), found.address()))
        };

        assert_eq!(found(&["eth9", "eth1", "eth0"]).unwrap().0, "eth1");
        let second = ("eth0".to_owned(), ip("192.0.2.2"));
        assert_eq!(found(&["10.9.9.9", "192.0.2.2"]), Ok(second), "that address, not the first");
        assert_eq!(
            found(&["eth9"]),
            Err(ExternalError::NoMatch(NoInterface::Name("eth9".to_owned())))
        );
    }

    #[test]
    fn expressions_are_tried_on_addresses_before_names() {
        let found = |patterns: &[&str]| {
            let patterns = patterns.iter().map(|word| (*word).to_owned()).collect();
            let external = External { patterns, ..External::default() };
            choose(&external, &host(), None).map(|found| (found.name.clone(), found.address()))
        };
        let eth1 = ("eth1".to_owned(), ip("198.51.100.1"));

        assert_eq!(found(&[r"^198\."]), Ok(eth1.clone()));
        assert_eq!(found(&["^eth1$"]), Ok(eth1.clone()));
        assert_eq!(found(&["1"]).unwrap().0, "eth0", "an address with a 1 before a name with one");
        assert_eq!(found(&["(", "nope", "eth1"]), Ok(eth1));
        assert!(found(&["nope"]).unwrap_err().to_string().contains("eth0:[192.0.2.1, 192.0.2.2"));
    }

    #[test]
    fn interfaces_come_before_expressions_and_those_before_reachability() {
        let external = External {
            interfaces: vec!["eth9".to_owned()],
            patterns: vec!["nope".to_owned()],
            can_reach: Some(ip("192.0.2.77")),
            public_ip: Addresses::default(),
        };
        let path = Path { interface: 2, source: ip("192.0.2.2") };

        let found = choose(&external, &host(), Some(path)).unwrap();
        let error = choose(&external, &host(), None).unwrap_err();

        assert_eq!((found.name.as_str(), found.address()), ("eth0", ip("192.0.2.2")));
        assert_eq!(error, ExternalError::NoMatch(NoInterface::Unreachable(ip("192.0.2.77"))));
    }

    #[test]
    fn the_address_is_global_permanent_and_first_if_there_is_a_choice() {
        let order: Vec<_> = preferred(&host().interfaces[1]).collect();

        assert_eq!(order, ["192.0.2.1", "192.0.2.2", "192.0.2.50", "169.254.1.1"].map(ip));
    }

    #[test]
    fn an_interface_without_address_or_mtu_is_not_taken() {
        let mut host = host();
        host.interfaces[2].mtu = 0;
        assert_eq!(
            choose(&External::default(), &host, None),
            Err(ExternalError::NoDefault(NoInterface::NoMtu(ip("198.51.100.1"))))
        );

        host.interfaces[2].addresses.clear();
        assert_eq!(
            choose(&External::default(), &host, None),
            Err(ExternalError::NoDefault(NoInterface::NoAddress {
                family: "IPv4",
                name: "eth1".to_owned()
            }))
        );
    }

    #[test]
    fn what_the_overlay_would_hide_is_named() {
        let mut host = host();
        let (network, subnet) = (subnets("10.5.0.0/16"), subnets("10.5.1.0/24"));
        assert_eq!(collisions(&host, network, subnet).len(), 0);

        host.interfaces[1].addresses.push(address("10.5.1.1/24"));
        host.routes.push(Route { destination: net("10.5.1.0/24"), interface: Some(2) });
        assert_eq!(collisions(&host, network, subnet).len(), 0, "the bridge is at home there");

        host.interfaces[1].addresses.push(address("10.5.9.1/24"));
        host.routes.push(Route { destination: net("10.0.0.0/8"), interface: Some(2) });
        let found = collisions(&host, network, subnet);
        assert!(found.len() == 2 && found[0].contains("10.5.9.1"), "{found:?}");

        let both = subnets("10.5.0.0/16, fd00:5::/48");
        let own = subnets("10.5.1.0/24, fd00:5:0:1::/64");
        host.interfaces[1].addresses.push(address("fd00:5:0:1::1/64"));
        assert_eq!(collisions(&host, both, own).len(), 2, "the bridge is at home there");
        host.interfaces[1].addresses.push(address("fd00:5:0:9::1/64"));
        let found = collisions(&host, both, own);
        assert!(found.len() == 3 && found[2].contains("fd00:5:0:9::1"), "{found:?}");
    }

    #[test]
    fn a_network_of_both_families_has_its_tunnel_at_both() {
        let both = subnets("10.5.0.0/16, fd00:5::/48");
        let found = |external: External| super::choose(&external, both, &dual(), None);
        let by = |word: &str| External { interfaces: vec![word.to_owned()], ..External::default() };
        let like = |word: &str| External { patterns: vec![word.to_owned()], ..External::default() };

        for external in
            [External::default(), by("eth1"), by("198.51.100.1"), like("^2001"), like("eth1")]
        {
            let found = found(external.clone()).unwrap();
            assert_eq!(found.address(), ip("198.51.100.1"), "{external:?}");
            let both = addresses("198.51.100.1, 2001:db8::1");
            assert_eq!((found.addresses, found.public_ip), (both, both), "{external:?}");
        }
        let named = External { public_ip: addresses("203.0.113.9, 2001:db8::99"), ..by("eth1") };
        assert_eq!(found(named).unwrap().public_ip, addresses("203.0.113.9, 2001:db8::99"));

        let v6 = found(by("2001:db8::1")).unwrap();
        let alone = addresses("2001:db8::1");
        assert_eq!((v6.address(), v6.addresses, v6.public_ip), (ip("2001:db8::1"), alone, alone));

        let mut link_local = dual();
        let global: IpNet = net("2001:db8::/32");
        link_local.interfaces[2].addresses.retain(|own| !global.contains(&own.network));
        let found = super::choose(&External::default(), both, &link_local, None).unwrap();
        assert_eq!(found.public_ip, addresses("198.51.100.1, fe80::1"), "enough to say so");
        assert_eq!(found.addresses, addresses("198.51.100.1"), "and not to be reached");
        let nat = External { public_ip: addresses("2001:db8::99"), ..by("eth1") };
        let found = super::choose(&nat, both, &link_local, None).unwrap();
        assert_eq!(found.addresses, addresses("198.51.100.1, ::"), "the kernel chooses");
        let none = super::choose(&External::default(), both, &host(), None).unwrap_err();
        assert!(
            none.to_string().contains("failed to find IPv6 address for interface eth1"),
            "{none}"
        );
    }

    #[test]
    fn a_network_of_ipv6_has_its_tunnel_there() {
        let v6 = subnets("fd00:5::/48");
        let found = |external: External| super::choose(&external, v6, &dual(), None);
        let by = |word: &str| External { interfaces: vec![word.to_owned()], ..External::default() };
        let public = External { public_ip: addresses("2001:db8::1"), ..External::default() };

        for external in [External::default(), by("eth1"), by("2001:db8::1"), public] {
            let found = found(external.clone()).unwrap();
            assert_eq!(found.address(), ip("2001:db8::1"), "{external:?}");
            assert_eq!(found.public_ip, addresses("2001:db8::1"), "{external:?}");
        }

        assert_eq!(
            found(by("198.51.100.1")),
            Err(ExternalError::NoMatch(NoInterface::Family(ip("198.51.100.1"))))
        );
        assert_eq!(
            super::choose(&External::default(), v6, &host(), None),
            Err(ExternalError::NoDefault(NoInterface::NoDefaultRoute { v6: true }))
        );
        let link_local = super::choose(&by("eth0"), v6, &dual(), None).unwrap_err();
        assert!(link_local.to_string().contains("failed to find IPv6 address for interface eth0"));
    }

    /// The host with IPv6, too.
    fn dual() -> Survey {
        let mut host = host();
        host.interfaces[1].addresses.push(address("fe80::2/64"));
        host.interfaces[2].addresses.extend([
            address("fe80::1/64"),
            Address { permanent: false, secondary: true, ..address("2001:db8::abcd/64") },
            address("2001:db8::1/64"),
        ]);
        host.routes.push(Route { destination: net("::/0"), interface: Some(3) });
        host
    }

    /// A loopback, and two interfaces on the network.
    fn host() -> Survey {
        let interface = |index, name: &str, mtu, addresses| Interface {
            index,
            name: name.to_owned(),
            mtu,
            addresses,
        };
        let eth0 = vec![
            address("169.254.1.1/16"),
            Address { permanent: false, ..address("192.0.2.50/24") },
            Address { deprecated: true, ..address("192.0.2.9/24") },
            Address { secondary: true, ..address("192.0.2.2/24") },
            address("192.0.2.1/24"),
        ];
        Survey {
            interfaces: vec![
                interface(1, "lo", 65536, vec![address("127.0.0.1/8")]),
                interface(2, "eth0", 1500, eth0),
                interface(3, "eth1", 9000, vec![address("198.51.100.1/24")]),
            ],
            routes: vec![
                Route { destination: net("192.0.2.0/24"), interface: Some(2) },
                Route { destination: net("0.0.0.0/0"), interface: Some(3) },
                Route { destination: net("0.0.0.0/0"), interface: Some(2) },
            ],
        }
    }

    fn address(text: &str) -> Address {
        let network = net(text);
        Address { network, permanent: true, secondary: false, deprecated: false }
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }
}
