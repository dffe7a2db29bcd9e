//! Leases as etcd holds them, byte for byte.
//!
//! ```text
//!  /coreos.com/network/subnets/10.5.52.0-24   {"PublicIP":"192.0.2.1","PublicIPv6":null}
//!  └── prefix ────────┘        └─ subnet ┘
//!  …/subnets/10.5.52.0-24&fd00:5:52::-64      {"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1"}
//!  …/subnets/0.0.0.0-0&fd00:5:52::-64         {"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::1"}
//! ```
//! A network of IPv6 only has keys with an IPv4 subnet of zeros, as flannel writes them.

use crate::subnet::families::is_host;
use crate::subnet::go_json::Object;
use crate::subnet::{Addresses, Subnets};
use ipnet::{Ipv4Net, Ipv6Net};
use regex::bytes::Regex;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

/// A lease's value is about fifty bytes; what is longer than this is none.
const MAX_VALUE_BYTES: usize = 64 << 10;

/// As flannel's, dots and missing start included: what a stock node reads, we read.
static KEY: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?-u)(\d+\.\d+.\d+.\d+)-(\d+)(?:&([a-f\d:]+)-(\d+))?$")
        .expect("a valid expression")
});

/// Where the keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// The prefix as typed, cleaned like a path as flannel does with Go's `path.Join`.
    #[must_use]
    pub fn new(typed: &str) -> Self {
        let mut parts: Vec<&str> = Vec::new();
        for part in typed.split('/') {
            match part {
                "" | "." => {}
                ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
                ".." if typed.starts_with('/') => {}
                part => parts.push(part),
            }
        }
        let root = if typed.starts_with('/') { "/" } else { "" };
        Self(format!("{root}{}", parts.join("/")))
    }

    /// The key of the network's configuration.
    #[must_use]
    pub fn config(&self) -> String {
        self.below("config")
    }

    /// What all keys of leases begin with.
    #[must_use]
    pub fn leases(&self) -> String {
        self.below("subnets/")
    }

    /// The key of a lease of these subnets.
    #[must_use]
    pub fn lease(&self, subnets: Subnets) -> String {
        let v4 = subnets.v4.unwrap_or_default();
        let v6 = subnets.v6.map(|v6| format!("&{}-{}", v6.addr(), v6.prefix_len()));
        let v6 = v6.unwrap_or_default();
        self.below(&format!("subnets/{}-{}{v6}", v4.addr(), v4.prefix_len()))
    }

    fn below(&self, name: &str) -> String {
        match self.0.as_str() {
            "" | "/" => format!("{}{name}", self.0),
            prefix => format!("{prefix}/{name}"),
        }
    }
}

/// What a node says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LeaseAttrs {
    /// Where its tunnel ends. One with IPv6 subnets has an IPv6 address, too, although others may reach it by
    /// IPv4: that tells it from a stock node, which takes such a subnet and cannot carry IPv6.
    pub public_ip: Addresses,
}

impl LeaseAttrs {
    /// The value, as flannel writes it.
    #[must_use]
    pub fn value(&self) -> String {
        let v4 = self.public_ip.v4.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let v6 = self.public_ip.v6.map_or("null".to_owned(), |v6| format!(r#""{v6}""#));
        format!(r#"{{"PublicIP":"{v4}","PublicIPv6":{v6}}}"#)
    }
}

/// A key and its value, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The subnets that the key names.
    pub subnets: Subnets,
    /// Who has them.
    pub attrs: LeaseAttrs,
    /// The backend that the attrs named, unless it is this one: flannel's `udp` names none.
    pub foreign_backend: Option<String>,
}

/// Why a key or its value is no lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The key names no subnet.
    #[error(
        "the key does not name an IPv4 subnet of 1 to 31 bits, an IPv6 subnet of 1 to 127 bits, or both"
    )]
    Key,
    /// The value is not what flannel writes.
    #[error("cannot parse the lease: {0}")]
    Value(String),
    /// Nobody can be reached there.
    #[error("{name} {0} cannot be a host's address", name = public_name(*.0))]
    Address(IpAddr),
}

/// The field of an address's family.
fn public_name(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "PublicIP" } else { "PublicIPv6" }
}

/// The subnets that a key names.
///
/// # Errors
/// [`Malformed::Key`].
pub(super) fn subnets(key: &[u8]) -> Result<Subnets, Malformed> {
    let found = KEY.captures(key).ok_or(Malformed::Key)?;
    let text = |group| found.get(group).and_then(|part| std::str::from_utf8(part.as_bytes()).ok());
    let len = |group, longest| {
        let len = text(group).and_then(|text| text.parse::<u8>().ok());
        len.filter(|len| *len <= longest).ok_or(Malformed::Key)
    };
    let v4: Ipv4Addr = text(1).and_then(|text| text.parse().ok()).ok_or(Malformed::Key)?;
    let v4 = Ipv4Net::new_assert(v4, len(2, 31)?);
    let v6 = match text(3) {
        None => None,
        Some(text) => {
            let address: Ipv6Addr = text.parse().map_err(|_| Malformed::Key)?;
            Some(Ipv6Net::new_assert(address, len(4, 127)?))
        }
    };
    let v4 = Some(v4).filter(|v4| v6.is_none() || *v4 != Ipv4Net::default());
    // flannel's proxy compares masked addresses with this one: host bits never match.
    let is_whole = v4.is_none_or(|v4| v4.prefix_len() > 0 && v4 == v4.trunc())
        && v6.is_none_or(|v6| v6.prefix_len() > 0 && v6 == v6.trunc());
    if is_whole { Ok(Subnets { v4, v6 }) } else { Err(Malformed::Key) }
}

/// Reads one key and its value.
///
/// # Errors
/// [`Malformed`].
pub fn parse(key: &[u8], value: &[u8]) -> Result<Lease, Malformed> {
    let subnets = subnets(key)?;
    let wrong = |reason: &str| Malformed::Value(reason.to_owned());
    if value.len() > MAX_VALUE_BYTES {
        return Err(wrong("it is longer than 64 KiB"));
    }
    let object: Object =
        serde_json::from_slice(value).map_err(|error| Malformed::Value(error.to_string()))?;
    let foreign_backend = match object.field("BackendType").map(Value::as_str) {
        None | Some(Some("" | "udp")) => None,
        Some(Some(backend)) => Some(backend.to_owned()),
        Some(None) => return Err(wrong("BackendType is no string")),
    };
    let v6: Option<Ipv6Addr> = match object.field("PublicIPv6").map(|v6| v6.as_str()?.parse().ok())
    {
        None => None,
        Some(Some(address)) => Some(address),
        Some(None) => return Err(wrong("PublicIPv6 is not an IPv6 address")),
    };
    let v4: Ipv4Addr = object
        .field("PublicIP")
        .and_then(|address| address.as_str()?.parse().ok())
        .ok_or_else(|| wrong("PublicIP is not an IPv4 address"))?;
    let v4 = Some(v4).filter(|v4| v6.is_none() || !v4.is_unspecified());
    let public_ip = Addresses { v4, v6 };
    match public_ip.iter().find(|address| !is_host(*address)) {
        None => Ok(Lease { subnets, attrs: LeaseAttrs { public_ip }, foreign_backend }),
        Some(address) => Err(Malformed::Address(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Subnets {
        text.parse().unwrap()
    }

    fn attrs(public_ip: &str) -> LeaseAttrs {
        LeaseAttrs { public_ip: public_ip.parse().unwrap() }
    }

    #[test]
    fn keys_and_values_are_flannels_to_the_byte() {
        let prefix = Prefix::new("/coreos.com/network");

        assert_eq!(prefix.config(), "/coreos.com/network/config");
        assert_eq!(prefix.leases(), "/coreos.com/network/subnets/");
        assert_eq!(prefix.lease(net("10.5.52.0/24")), "/coreos.com/network/subnets/10.5.52.0-24");
        assert_eq!(attrs("1.2.3.4").value(), r#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#);
    }

    #[test]
    fn keys_and_values_of_ipv6_are_flannels_to_the_byte_and_are_read_back() {
        let prefix = Prefix::new("/coreos.com/network");
        for (subnets, name, public_ip, value) in [
            (
                "10.12.13.0/24, fd00:12:13::/56",
                "10.12.13.0-24&fd00:12:13::-56",
                "1.2.3.4, fd00::1",
                r#"{"PublicIP":"1.2.3.4","PublicIPv6":"fd00::1"}"#,
            ),
            (
                "fd00:12:13::/64",
                "0.0.0.0-0&fd00:12:13::-64",
                "fd00::1",
                r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::1"}"#,
            ),
        ] {
            let key = prefix.lease(net(subnets));
            assert_eq!(key, format!("/coreos.com/network/subnets/{name}"));
            assert_eq!(attrs(public_ip).value(), value);

            let lease = parse(key.as_bytes(), value.as_bytes()).unwrap();
            assert_eq!((lease.subnets, lease.attrs), (net(subnets), attrs(public_ip)));
        }
    }

    #[test]
    fn prefixes_are_cleaned_like_paths() {
        for (typed, config) in [
            ("/coreos.com/network/", "/coreos.com/network/config"),
            ("//a//b/./c/../d", "/a/b/d/config"),
            ("a/b", "a/b/config"),
            ("../a", "../a/config"),
            ("/../a", "/a/config"),
            ("/", "/config"),
            ("", "config"),
        ] {
            assert_eq!(Prefix::new(typed).config(), config, "{typed:?}");
        }
    }

    #[test]
    fn keys_that_flannel_reads_are_read() {
        for (key, expected) in [
            ("/coreos.com/network/subnets/10.5.52.0-24", "10.5.52.0/24"),
            ("10.5.52.0-31", "10.5.52.0/31"),
            ("/x/subnets/10.12.13.0-24&fd00:12:13::-56", "10.12.13.0/24, fd00:12:13::/56"),
            ("0.0.0.0-0&fd00:12:13::-127", "fd00:12:13::/127"),
            ("/x/subnets/anything10.5.52.0-24", "10.5.52.0/24"),
        ] {
            assert_eq!(subnets(key.as_bytes()), Ok(net(expected)), "{key}");
        }
    }

    #[test]
    fn keys_that_name_no_subnet_are_malformed() {
        for key in [
            "",
            "/coreos.com/network/subnets/",
            "10.5.52.0",
            "10.5.52.0-0",
            "10.5.52.0-32",
            "10.5.52.0-999999999999",
            "10.5.52.7-24",
            "310.5.52.0-24",
            "10a5b52c0-24",
            "10.5.52.0-24/x",
            "fd00::-56",
            "0.0.0.0-0",
            "10.5.52.0-24&fd00::1-64",
            "10.5.52.0-24&fd00::-128",
            "10.5.52.0-24&fd00::-0",
            "10.5.52.0-24&fd00:-56",
            "10.5.52.0-0&fd00::-56",
        ] {
            assert_eq!(subnets(key.as_bytes()), Err(Malformed::Key), "{key}");
        }
        assert_eq!(subnets(b"\xff\xfe10.5.52.0-24\xff"), Err(Malformed::Key));
    }

    #[test]
    fn values_of_all_versions_of_flannel_are_read() {
        let key = b"/coreos.com/network/subnets/10.5.52.0-24";
        let lease = |backend: Option<&str>| Lease {
            subnets: net("10.5.52.0/24"),
            attrs: attrs("192.168.64.3"),
            foreign_backend: backend.map(str::to_owned),
        };
        let vxlan = r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan",
            "BackendData":{"VNI":1,"VtepMAC":"d2:b5:5d:8a:f6:5d"}}"#;

        for value in [
            r#"{"PublicIP":"192.168.64.3","PublicIPv6":null}"#,
            r#"{"PublicIP":"192.168.64.3"}"#,
            r#"{"publicip":"192.168.64.3","BackendType":"udp"}"#,
            r#"{"PublicIP":"192.168.64.3","BackendType":"","BackendData":null}"#,
        ] {
            assert_eq!(parse(key, value.as_bytes()), Ok(lease(None)), "{value}");
        }
        assert_eq!(parse(key, vxlan.as_bytes()), Ok(lease(Some("vxlan"))));
    }

    #[test]
    fn values_that_are_no_lease_are_malformed() {
        let key = b"/coreos.com/network/subnets/10.5.52.0-24";
        let long = format!(r#"{{"PublicIP":"1.2.3.4","x":"{}"}}"#, "y".repeat(1 << 20));

        for value in [
            "",
            "{}",
            "null",
            "[1]",
            r#"{"PublicIP":""}"#,
            r#"{"PublicIP":"fd00::1"}"#,
            r#"{"PublicIP":7}"#,
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":"1.2.3.4"}"#,
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":""}"#,
            r#"{"PublicIP":"1.2.3.4","BackendType":7}"#,
            r#"{"PublicIP":"1.2.3.4""#,
            long.as_str(),
        ] {
            let short = &value[..value.len().min(60)];
            assert!(matches!(parse(key, value.as_bytes()), Err(Malformed::Value(_))), "{short}");
        }
        for address in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
            let value = format!(r#"{{"PublicIP":"{address}"}}"#);
            let refused = parse(key, value.as_bytes());
            assert_eq!(refused, Err(Malformed::Address(address.parse().unwrap())));
        }
        for address in ["::", "::1", "ff02::1", "::ffff:192.0.2.1"] {
            let value = format!(r#"{{"PublicIP":"192.0.2.1","PublicIPv6":"{address}"}}"#);
            let refused = parse(key, value.as_bytes());
            assert_eq!(refused, Err(Malformed::Address(address.parse().unwrap())));
        }
    }
}
