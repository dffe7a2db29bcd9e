//! What a node or a network has of each IP family.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Debug, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// One thing of each IP family, as far as there is one. As text, and for a successor of another
/// version: `10.5.7.0/24`, `fd00:5:7::/64`, or both with a comma between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[serde(bound(
    serialize = "A: Clone + Display, B: Clone + Display",
    deserialize = "A: FromStr, B: FromStr"
))]
pub struct Both<A, B> {
    /// The one of IPv4.
    pub v4: Option<A>,
    /// The one of IPv6.
    pub v6: Option<B>,
}

/// A node's subnets, or the networks that all nodes share.
pub type Subnets = Both<Ipv4Net, Ipv6Net>;

/// A node's addresses.
pub type Addresses = Both<Ipv4Addr, Ipv6Addr>;

/// Text that names nothing of either family.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of IPv4, of IPv6, or of both with a comma between them")]
pub struct NotOfAFamily(String);

impl<A, B> Both<A, B> {
    /// Whether there is nothing of either family.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// What there is of the families that `other` has.
    #[must_use]
    pub fn of_families_of<C, D>(self, other: &Both<C, D>) -> Self {
        Self {
            v4: self.v4.filter(|_| other.v4.is_some()),
            v6: self.v6.filter(|_| other.v6.is_some()),
        }
    }
}

impl<A, B> Default for Both<A, B> {
    fn default() -> Self {
        Self { v4: None, v6: None }
    }
}

impl<A: Display, B: Display> Display for Both<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.v4, &self.v6) {
            (Some(v4), Some(v6)) => write!(f, "{v4}, {v6}"),
            (Some(v4), None) => v4.fmt(f),
            (None, Some(v6)) => v6.fmt(f),
            (None, None) => f.write_str("none"),
        }
    }
}

impl<A: FromStr, B: FromStr> FromStr for Both<A, B> {
    type Err = NotOfAFamily;

    fn from_str(text: &str) -> Result<Self, NotOfAFamily> {
        let both = match text.split_once(", ") {
            Some((v4, v6)) => match (v4.parse(), v6.parse()) {
                (Ok(v4), Ok(v6)) => Some(Self { v4: Some(v4), v6: Some(v6) }),
                _ => None,
            },
            None => match (text.parse(), text.parse()) {
                (Ok(v4), _) => Some(Self { v4: Some(v4), v6: None }),
                (Err(_), Ok(v6)) => Some(Self { v4: None, v6: Some(v6) }),
                (Err(_), Err(_)) => None,
            },
        };
        both.ok_or_else(|| NotOfAFamily(text.to_owned()))
    }
}

impl<A: FromStr, B: FromStr> TryFrom<String> for Both<A, B> {
    type Error = NotOfAFamily;

    fn try_from(text: String) -> Result<Self, NotOfAFamily> {
        text.parse()
    }
}

impl<A: Display, B: Display> From<Both<A, B>> for String {
    fn from(both: Both<A, B>) -> Self {
        both.to_string()
    }
}

impl Subnets {
    /// The networks, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + use<> {
        self.v4.map(IpNet::V4).into_iter().chain(self.v6.map(IpNet::V6))
    }

    /// Whether an address is in one of the networks.
    #[must_use]
    pub fn have(&self, address: IpAddr) -> bool {
        self.iter().any(|network| network.contains(&address))
    }

    /// Whether every network of `other` is in one of these.
    #[must_use]
    pub fn contain(&self, other: &Self) -> bool {
        other.iter().all(|other| self.iter().any(|network| network.contains(&other)))
    }

    /// Whether any network of one is in one of the other.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> bool {
        let clash = |a: IpNet, b: IpNet| a.contains(&b) || b.contains(&a);
        self.iter().any(|network| other.iter().any(|other| clash(network, other)))
    }
}

impl Addresses {
    /// The addresses, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// The address by which a node that has both families sends to this one: of IPv4 where there is one.
    #[must_use]
    pub fn outer(&self) -> Option<IpAddr> {
        self.iter().next()
    }

    /// The address at which a node with the addresses `ours` reaches this one: of IPv4 where both have
    /// one, else of IPv6.
    #[must_use]
    pub fn reached_from(&self, ours: &Self) -> Option<IpAddr> {
        let (ours, theirs) = (ours.reachable(), self.reachable());
        Self { v4: ours.v4.and(theirs.v4), v6: ours.v6.and(theirs.v6) }.outer()
    }

    /// Those that others can reach: on which of their links it is, a link-local address does not say.
    #[must_use]
    pub fn reachable(self) -> Self {
        Self { v6: self.v6.filter(|v6| !v6.is_unicast_link_local()), ..self }
    }

    /// Whether an address is one of these.
    #[must_use]
    pub fn are(&self, address: IpAddr) -> bool {
        self.iter().any(|own| own == address)
    }

    /// Those that can be a host's; the others are left out.
    #[must_use]
    pub fn usable(self) -> Self {
        Self {
            v4: self.v4.filter(|v4| is_host((*v4).into())),
            v6: self.v6.filter(|v6| is_host((*v6).into())),
        }
    }

    /// These, and those of `other` where there is none of a family.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { v4: self.v4.or(other.v4), v6: self.v6.or(other.v6) }
    }

    /// Whether these are of the node that `other` are of: by IPv4 where both have it.
    #[must_use]
    pub fn are_of_one_node(&self, other: &Self) -> bool {
        match (self.v4, other.v4) {
            (None, None) => self.v6.is_some() && self.v6 == other.v6,
            (ours, theirs) => ours == theirs,
        }
    }
}

/// Whether this can be the address of a host that others reach.
#[must_use]
pub(super) fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            first != 0 && !v4.is_loopback() && first < 224
        }
        IpAddr::V6(v6) => {
            let is_mapped = v6.to_ipv4_mapped().is_some();
            !v6.is_unspecified() && !v6.is_loopback() && !v6.is_multicast() && !is_mapped
        }
    }
}

impl From<Ipv4Net> for Subnets {
    fn from(v4: Ipv4Net) -> Self {
        Self { v4: Some(v4), v6: None }
    }
}

impl From<Ipv6Net> for Subnets {
    fn from(v6: Ipv6Net) -> Self {
        Self { v4: None, v6: Some(v6) }
    }
}

impl From<Ipv4Addr> for Addresses {
    fn from(v4: Ipv4Addr) -> Self {
        Self { v4: Some(v4), v6: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnets(text: &str) -> Subnets {
        text.parse().unwrap()
    }

    #[test]
    fn text_names_one_family_or_both_and_is_read_back() {
        for text in ["10.5.7.0/24", "fd00:5:7::/64", "10.5.7.0/24, fd00:5:7::/64"] {
            assert_eq!(subnets(text).to_string(), text);
            let json = serde_json::to_string(&subnets(text)).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<Subnets>(&json).unwrap(), subnets(text));
        }
        for text in ["", "10.5.7.0", "fd00::/64, 10.5.7.0/24", "10.5.7.0/24,fd00::/64", "none"] {
            assert!(text.parse::<Subnets>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_is_compared_with_those_of_its_own_family() {
        let network = subnets("10.5.0.0/16, fd00:5::/48");
        let own = subnets("10.5.7.0/24, fd00:5:0:7::/64");

        assert!(network.contain(&own) && network.contain(&subnets("10.5.7.0/24")));
        assert!(!network.contain(&subnets("10.5.7.0/24, fd00:6::/64")));
        assert!(own.overlap(&subnets("10.5.8.0/24, fd00:5::/56")));
        assert!(!own.overlap(&subnets("10.5.8.0/24, fd00:5:0:8::/64")));
        assert!(!Subnets::default().overlap(&own));
        assert!(
            own.have("fd00:5:0:7::9".parse().unwrap()) && !own.have("10.5.8.1".parse().unwrap())
        );
        assert_eq!(own.of_families_of(&subnets("10.0.0.0/8")), subnets("10.5.7.0/24"));
    }

    #[test]
    fn the_outer_family_is_ipv4_where_both_have_it() {
        let v4: Addresses = "192.0.2.1".parse().unwrap();
        let v6: Addresses = "2001:db8::1".parse().unwrap();
        let both: Addresses = "192.0.2.2, 2001:db8::2".parse().unwrap();

        assert_eq!(both.outer(), Some("192.0.2.2".parse().unwrap()));
        assert_eq!(both.reached_from(&both), Some("192.0.2.2".parse().unwrap()));
        assert_eq!(both.reached_from(&v6), Some("2001:db8::2".parse().unwrap()));
        assert_eq!(v6.reached_from(&v6), Some("2001:db8::1".parse().unwrap()));
        assert_eq!((v4.reached_from(&v6), v6.reached_from(&v4)), (None, None));
        assert_eq!(v6.reached_from(&both), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(v4.reached_from(&both), Some("192.0.2.1".parse().unwrap()));
        let link_local: Addresses = "192.0.2.3, fe80::3".parse().unwrap();
        assert_eq!((v6.reached_from(&link_local), link_local.reached_from(&v6)), (None, None));
        assert_eq!(v4.reached_from(&link_local), Some("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn a_node_is_known_by_its_ipv4_address_where_it_has_one() {
        let of =
            |a: &str, b: &str| a.parse::<Addresses>().unwrap().are_of_one_node(&b.parse().unwrap());

        assert!(of("192.0.2.1", "192.0.2.1, fd00::1") && of("fd00::1", "fd00::1"));
        assert!(!of("192.0.2.1, fd00::1", "192.0.2.2, fd00::1") && !of("fd00::1", "fd00::2"));
        assert!(!of("fd00::1", "192.0.2.1, fd00::1"), "a former lease without IPv4 is another's");
        assert!(!Addresses::default().are_of_one_node(&Addresses::default()));
    }
}
