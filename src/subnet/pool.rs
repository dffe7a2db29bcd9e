//! The subnets of one IP family that nodes may lease, with flannel's defaults and checks.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Networks of an IP family, and what flannel's configuration calls them.
pub trait Family: Copy + Ord + FromStr + Display + Into<IpNet> {
    /// Its addresses.
    type Address: Copy + Ord + FromStr + Display + Serialize + DeserializeOwned + Into<IpAddr>;

    /// Bits of an address.
    const BITS: u8;
    /// What names in the configuration begin with.
    const PREFIX: &str;
    /// The family's name.
    const NAME: &str;
    /// Words for the network in flannel's messages.
    const NETWORK: &str;
    /// The longest subnet that has room for a tunnel and a bridge.
    const LONGEST: u8;
    /// The length of subnets in a network that has room for it.
    const USUAL: u8;

    /// The network of an address.
    fn new(bits: u128, len: u8) -> Self;
    /// The address of a number.
    fn address(bits: u128) -> Self::Address;

    /// The first address, as a number.
    fn first(self) -> u128 {
        number(self.into().network())
    }

    /// The last address, as a number.
    fn last(self) -> u128 {
        number(self.into().broadcast())
    }

    /// The prefix length.
    fn prefix(self) -> u8 {
        self.into().prefix_len()
    }

    /// An address, as a number.
    fn bits(address: Self::Address) -> u128 {
        number(address.into())
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl Family for Ipv4Net {
    type Address = Ipv4Addr;

    const BITS: u8 = 32;
    const PREFIX: &str = "";
    const NAME: &str = "IPv4";
    const NETWORK: &str = "network";
    const LONGEST: u8 = 30;
    const USUAL: u8 = 24;

    fn new(bits: u128, len: u8) -> Self {
        Self::new_assert(Self::address(bits), len)
    }

    fn address(bits: u128) -> Ipv4Addr {
        Ipv4Addr::from_bits(bits as u32)
    }
}

impl Family for Ipv6Net {
    type Address = Ipv6Addr;

    const BITS: u8 = 128;
    const PREFIX: &str = "IPv6";
    const NAME: &str = "IPv6";
    const NETWORK: &str = "IPv6Network";
    const LONGEST: u8 = 126;
    const USUAL: u8 = 64;

    fn new(bits: u128, len: u8) -> Self {
        Self::new_assert(Self::address(bits), len)
    }

    fn address(bits: u128) -> Ipv6Addr {
        Ipv6Addr::from_bits(bits)
    }
}

/// A network and the subnets of it that may be leased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(serialize = "N: Serialize", deserialize = "N: DeserializeOwned"))]
pub struct Pool<N: Family> {
    /// The whole overlay, host bits cleared.
    pub network: N,
    /// Prefix length of each node's subnet.
    pub subnet_len: u8,
    /// First subnet that may be leased.
    pub subnet_min: N::Address,
    /// Last subnet that may be leased; below the first, nothing may.
    pub subnet_max: N::Address,
}

impl<N: Family> Pool<N> {
    /// Whether a subnet may be leased.
    #[must_use]
    pub fn fits(&self, subnet: N) -> bool {
        subnet.prefix() == self.subnet_len
            && (N::bits(self.subnet_min)..=N::bits(self.subnet_max)).contains(&subnet.first())
    }

    /// All subnets that may be leased, in order.
    pub fn subnets(&self) -> impl Iterator<Item = N> + '_ {
        self.free(|_| None)
    }

    /// The subnets that are free, in order. `taken` says up to which address something lies that
    /// overlaps a subnet: what is behind it is looked at next, however large it is.
    pub(super) fn free<'a>(
        &'a self,
        taken: impl Fn(N) -> Option<u128> + 'a,
    ) -> impl Iterator<Item = N> + 'a {
        let size = 1u128 << (N::BITS - self.subnet_len);
        let max = N::bits(self.subnet_max);
        let mut next = Some(N::bits(self.subnet_min));
        std::iter::from_fn(move || {
            loop {
                let subnet = N::new(next.filter(|at| *at <= max)?, self.subnet_len);
                let reach = taken(subnet);
                let last = reach.map_or(subnet.last(), |reach| reach.max(subnet.last()));
                next = (last | (size - 1)).checked_add(1);
                if reach.is_none() {
                    return Some(subnet);
                }
            }
        })
    }
}

/// The pool of these values, 0 or `None` where the configuration has none; flannel's words if they do not
/// fit each other.
pub(super) fn checked<N: Family>(
    network: Option<N>,
    len: u64,
    [min, max]: [Option<N::Address>; 2],
) -> Result<Pool<N>, String> {
    let network = network.filter(|network| network.prefix() > 0 || network.first() > 0);
    let Some(network) = network.map(|network| N::new(network.first(), network.prefix())) else {
        let name = format!("{}Network", N::PREFIX);
        return Err(format!("please define a correct {name} parameter in the flannel config"));
    };
    let subnet_len = subnet_len(network, len)?;
    let size = 1u128 << (N::BITS - subnet_len);
    let end = |which: &str, given: Option<N::Address>, default: u128| {
        let name = format!("{}{which}", N::PREFIX);
        let Some(at) = given.map(N::bits).filter(|at| *at != 0) else { return Ok(default) };
        if !(network.first()..=network.last()).contains(&at) {
            return Err(format!("{name} is not in the range of the {}Network", N::PREFIX));
        }
        Ok(at)
    };
    // The very first subnet has the network's own address, which confuses hosts.
    let min = end("SubnetMin", min, network.first() + size)?;
    let max = end("SubnetMax", max, network.last() - (size - 1))?;
    for (which, at) in [("SubnetMin", min), ("SubnetMax", max)] {
        if at & (size - 1) != 0 {
            let (prefix, address) = (N::PREFIX, N::address(at));
            return Err(format!("{prefix}{which} is not on a SubnetLen boundary: {address}"));
        }
    }
    let [subnet_min, subnet_max] = [min, max].map(N::address);
    Ok(Pool { network, subnet_len, subnet_min, subnet_max })
}

fn subnet_len<N: Family>(network: N, len: u64) -> Result<u8, String> {
    let (whole, longest) = (network.prefix(), N::LONGEST);
    match len {
        0 if whole > longest - 2 => Err(format!(
            "{} is too small. Minimum useful network prefix is /{}",
            N::NETWORK,
            longest - 2
        )),
        0 if whole <= N::USUAL - 2 => Ok(N::USUAL),
        0 => Ok(whole + 2),
        len if len > longest.into() => Err(format!("SubnetLen must be less than /{}", longest + 1)),
        len if len < u64::from(whole) + 2 => {
            Err("network must be able to accommodate at least four subnets".to_owned())
        }
        len => Ok(len as u8),
    }
}
