//! Chooses the interface that carries the tunnel, as flannel does. Pure, except for its log lines.

use super::survey::{Interface, Path, Survey};
use crate::config::flanneld::External;
use ipnet::Ipv4Net;
use regex::Regex;
use std::net::Ipv4Addr;
use tracing::info;

/// The interface that carries the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalInterface {
    /// Its name.
    pub name: String,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// The address on which datagrams arrive.
    pub address: Ipv4Addr,
    /// The address to which others send them.
    pub public_ip: Ipv4Addr,
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
    Address(Ipv4Addr),
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
    Unreachable(Ipv4Addr),
    /// There is no default route.
    #[error("failed to get default interface: unable to find default route")]
    NoDefaultRoute,
    /// The interface has no address.
    #[error("failed to find IPv4 address for interface {0}")]
    NoAddress(String),
    /// The interface has no MTU.
    #[error("failed to determine MTU for {0} interface")]
    NoMtu(Ipv4Addr),
}

/// Chooses the interface. `path` is how the host reaches `external.can_reach`, if it does.
///
/// # Errors
/// [`ExternalError`].
pub fn choose(
    external: &External,
    survey: &Survey,
    path: Option<Path>,
) -> Result<ExternalInterface, ExternalError> {
    let External { interfaces, patterns, can_reach, public_ip } = external;
    let finish = |(interface, address)| finish(interface, address, *public_ip);
    if interfaces.is_empty() && patterns.is_empty() && can_reach.is_none() {
        let found = match public_ip {
            Some(address) => owner(survey, *address).map(|owner| (owner, Some(*address))),
            None => default_route(survey).map(|interface| (interface, None)),
        };
        return found.and_then(finish).map_err(ExternalError::NoDefault);
    }
    let by_word = interfaces.iter().map(|word| (word.clone(), by(survey, word, by_word)));
    let by_pattern = patterns.iter().map(|word| (word.clone(), by(survey, word, by_pattern)));
    let by_path = can_reach.iter().map(|address| {
        (address.to_string(), by_path(survey, path).ok_or(NoInterface::Unreachable(*address)))
    });
    let mut last = NoInterface::NoDefaultRoute;
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

type Found<'a> = Result<(&'a Interface, Option<Ipv4Addr>), NoInterface>;

/// As in flannel, nothing stands for the default: `-iface=$VARIABLE` with an empty variable.
fn by<'a>(survey: &'a Survey, word: &str, find: fn(&'a Survey, &str) -> Found<'a>) -> Found<'a> {
    if word.is_empty() {
        return default_route(survey).map(|interface| (interface, None));
    }
    find(survey, word)
}

fn by_word<'a>(survey: &'a Survey, word: &str) -> Found<'a> {
    if let Ok(address) = word.parse() {
        return owner(survey, address).map(|owner| (owner, Some(address)));
    }
    let named = survey.interfaces.iter().find(|interface| interface.name == word);
    named.map(|interface| (interface, None)).ok_or_else(|| NoInterface::Name(word.to_owned()))
}

/// Addresses of all interfaces first, then names.
fn by_pattern<'a>(survey: &'a Survey, pattern: &str) -> Found<'a> {
    let expression = Regex::new(pattern)
        .map_err(|error| NoInterface::Pattern(pattern.to_owned(), error.to_string()))?;
    for interface in &survey.interfaces {
        let mut addresses = preferred(interface).into_iter();
        if let Some(found) = addresses.find(|address| expression.is_match(&address.to_string())) {
            return Ok((interface, Some(found)));
        }
    }
    let mut interfaces = survey.interfaces.iter();
    match interfaces.find(|interface| expression.is_match(&interface.name)) {
        Some(interface) => Ok((interface, None)),
        None => {
            let there = survey.interfaces.iter();
            let there: Vec<_> = there.map(|i| format!("{}:{:?}", i.name, preferred(i))).collect();
            Err(NoInterface::NotLike { pattern: pattern.to_owned(), there: there.join(", ") })
        }
    }
}

fn by_path(survey: &Survey, path: Option<Path>) -> Option<(&Interface, Option<Ipv4Addr>)> {
    let path = path?;
    Some((with_index(survey, path.interface)?, Some(path.source)))
}

fn default_route(survey: &Survey) -> Result<&Interface, NoInterface> {
    let route = survey.routes.iter().find(|route| route.destination.prefix_len() == 0);
    let index = route.and_then(|route| route.interface);
    index.and_then(|index| with_index(survey, index)).ok_or(NoInterface::NoDefaultRoute)
}

fn with_index(survey: &Survey, index: u32) -> Option<&Interface> {
    survey.interfaces.iter().find(|interface| interface.index == index)
}

fn owner(survey: &Survey, address: Ipv4Addr) -> Result<&Interface, NoInterface> {
    let has = |interface: &&Interface| {
        interface.addresses.iter().any(|own| own.network.addr() == address)
    };
    survey.interfaces.iter().find(has).ok_or(NoInterface::Address(address))
}

fn finish(
    interface: &Interface,
    address: Option<Ipv4Addr>,
    public_ip: Option<Ipv4Addr>,
) -> Result<ExternalInterface, NoInterface> {
    let address = match address.or_else(|| preferred(interface).first().copied()) {
        Some(address) => address,
        None => return Err(NoInterface::NoAddress(interface.name.clone())),
    };
    if interface.mtu == 0 {
        return Err(NoInterface::NoMtu(address));
    }
    info!("Using interface with name {} and address {address}", interface.name);
    match public_ip {
        Some(public_ip) => info!("Using {public_ip} as external address"),
        None => info!("Defaulting external address to interface address ({address})"),
    }
    Ok(ExternalInterface {
        name: interface.name.clone(),
        mtu: interface.mtu,
        address,
        public_ip: public_ip.unwrap_or(address),
    })
}

/// An interface's addresses that may be used: global before link-local, permanent before those that
/// run out, first of their network before others.
fn preferred(interface: &Interface) -> Vec<Ipv4Addr> {
    let usable = |address: &&super::survey::Address| {
        let ip = address.network.addr();
        !address.deprecated && !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified()
    };
    let mut addresses: Vec<_> = interface.addresses.iter().filter(usable).collect();
    addresses.sort_by_key(|address| {
        (address.network.addr().is_link_local(), !address.permanent, address.secondary)
    });
    addresses.into_iter().map(|address| address.network.addr()).collect()
}

/// What of the host the overlay would hide: addresses and routes inside it that are not in our own
/// subnet, where the containers' bridge belongs. One sentence for each.
#[must_use]
pub(crate) fn collisions(survey: &Survey, network: Ipv4Net, subnet: Ipv4Net) -> Vec<String> {
    let mut found = Vec::new();
    for interface in &survey.interfaces {
        for address in interface.addresses.iter().map(|address| address.network.addr()) {
            if network.contains(&address) && !subnet.contains(&address) {
                let name = &interface.name;
                found.push(format!("address {address} of {name} is inside the overlay {network}"));
            }
        }
    }
    for route in &survey.routes {
        let to = route.destination;
        let overlaps = network.contains(&to) || to.contains(&network);
        if overlaps && to.prefix_len() != 0 && !subnet.contains(&to) {
            found.push(format!("the host's route to {to} overlaps the overlay {network}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::survey::{Address, Route};
    use super::*;

    #[test]
    fn without_a_word_it_is_the_default_routes() {
        let found = choose(&External::default(), &host(), None).unwrap();

        assert_eq!((found.name.as_str(), found.mtu), ("eth1", 9000));
        assert_eq!(found.address, ip("198.51.100.1"));
        assert_eq!(found.public_ip, found.address);
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

        assert_eq!(error, ExternalError::NoDefault(NoInterface::NoDefaultRoute));
    }

    #[test]
    fn a_public_address_alone_names_the_interface_that_owns_it() {
        let own = External { public_ip: Some(ip("192.0.2.2")), ..External::default() };
        let foreign = External { public_ip: Some(ip("203.0.113.9")), ..External::default() };

        let found = choose(&own, &host(), None).unwrap();
        let error = choose(&foreign, &host(), None).unwrap_err();

        assert_eq!((found.name.as_str(), found.address), ("eth0", ip("192.0.2.2")));
        assert!(error.to_string().contains("-iface"), "{error}");
    }

    #[test]
    fn behind_nat_the_public_address_goes_with_a_named_interface() {
        let external = External {
            interfaces: vec!["eth0".to_owned()],
            public_ip: Some(ip("203.0.113.9")),
            ..External::default()
        };

        let found = choose(&external, &host(), None).unwrap();

        assert_eq!((found.address, found.public_ip), (ip("192.0.2.1"), ip("203.0.113.9")));
    }

    #[test]
    fn the_first_interface_that_is_there_counts() {
        let found = |words: &[&str]| {
            let interfaces = words.iter().map(|word| (*word).to_owned()).collect();
            let external = External { interfaces, ..External::default() };
            choose(&external, &host(), None).map(|found| (found.name, found.address))
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
            choose(&external, &host(), None).map(|found| (found.name, found.address))
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
            public_ip: None,
        };
        let path = Path { interface: 2, source: ip("192.0.2.2") };

        let found = choose(&external, &host(), Some(path)).unwrap();
        let error = choose(&external, &host(), None).unwrap_err();

        assert_eq!((found.name.as_str(), found.address), ("eth0", ip("192.0.2.2")));
        assert_eq!(error, ExternalError::NoMatch(NoInterface::Unreachable(ip("192.0.2.77"))));
    }

    #[test]
    fn the_address_is_global_permanent_and_first_if_there_is_a_choice() {
        let order = preferred(&host().interfaces[1]);

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
            Err(ExternalError::NoDefault(NoInterface::NoAddress("eth1".to_owned())))
        );
    }

    #[test]
    fn what_the_overlay_would_hide_is_named() {
        let mut host = host();
        let (network, subnet) = (net("10.5.0.0/16"), net("10.5.1.0/24"));
        assert_eq!(collisions(&host, network, subnet).len(), 0);

        host.interfaces[1].addresses.push(address("10.5.1.1/24"));
        host.routes.push(Route { destination: subnet, interface: Some(2) });
        assert_eq!(collisions(&host, network, subnet).len(), 0, "the bridge is at home there");

        host.interfaces[1].addresses.push(address("10.5.9.1/24"));
        host.routes.push(Route { destination: net("10.0.0.0/8"), interface: Some(2) });
        let found = collisions(&host, network, subnet);
        assert!(found.len() == 2 && found[0].contains("10.5.9.1"), "{found:?}");
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

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }
}
