//! Leases as etcd holds them, byte for byte.
//!
//! ```text
//!  /coreos.com/network/subnets/10.5.52.0-24   {"PublicIP":"192.0.2.1","PublicIPv6":null}
//!  └── prefix ────────┘        └─ subnet ┘
//! ```

use crate::subnet::go_json::Object;
use ipnet::Ipv4Net;
use regex::bytes::Regex;
use std::net::Ipv4Addr;
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

    /// The key of a subnet's lease.
    #[must_use]
    pub fn lease(&self, subnet: Ipv4Net) -> String {
        self.below(&format!("subnets/{}-{}", subnet.addr(), subnet.prefix_len()))
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
    /// Where its tunnel ends.
    pub public_ip: Ipv4Addr,
}

impl LeaseAttrs {
    /// The value that flannel's `udp` backend writes.
    #[must_use]
    pub fn value(&self) -> String {
        format!(r#"{{"PublicIP":"{}","PublicIPv6":null}}"#, self.public_ip)
    }
}

/// A key and its value, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The subnet that the key names.
    pub subnet: Ipv4Net,
    /// Who has it.
    pub attrs: LeaseAttrs,
    /// The backend that the attrs named, unless it is this one: flannel's `udp` names none.
    pub foreign_backend: Option<String>,
}

/// Why a key or its value is no lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The key names no subnet.
    #[error("the key does not name an IPv4 subnet of 1 to 31 bits")]
    Key,
    /// The value is not what flannel writes.
    #[error("cannot parse the lease: {0}")]
    Value(String),
    /// Nobody can be reached there.
    #[error("PublicIP {0} cannot be a host's address")]
    Address(Ipv4Addr),
}

/// The subnet that a key names.
///
/// # Errors
/// [`Malformed::Key`].
pub(super) fn subnet(key: &[u8]) -> Result<Ipv4Net, Malformed> {
    let found = KEY.captures(key).ok_or(Malformed::Key)?;
    let text = |group| found.get(group).and_then(|part| std::str::from_utf8(part.as_bytes()).ok());
    let address = text(1).and_then(|text| text.parse::<Ipv4Addr>().ok());
    let len = text(2).and_then(|text| text.parse::<u8>().ok());
    match (address, len) {
        (Some(address), Some(len @ 1..=31)) => {
            let subnet = Ipv4Net::new_assert(address, len);
            // flannel's proxy compares masked addresses with this one: host bits never match.
            if subnet == subnet.trunc() { Ok(subnet) } else { Err(Malformed::Key) }
        }
        _ => Err(Malformed::Key),
    }
}

/// Reads one key and its value.
///
/// # Errors
/// [`Malformed`].
pub fn parse(key: &[u8], value: &[u8]) -> Result<Lease, Malformed> {
    let subnet = subnet(key)?;
    let wrong = |reason: &str| Malformed::Value(reason.to_owned());
    if value.len() > MAX_VALUE_BYTES {
        return Err(wrong("it is longer than 64 KiB"));
    }
    let object: Object =
        serde_json::from_slice(value).map_err(|error| Malformed::Value(error.to_string()))?;
    let foreign_backend = match object.field("BackendType").map(serde_json::Value::as_str) {
        None | Some(Some("" | "udp")) => None,
        Some(Some(backend)) => Some(backend.to_owned()),
        Some(None) => return Err(wrong("BackendType is no string")),
    };
    let public_ip = object
        .field("PublicIP")
        .and_then(|address| address.as_str()?.parse().ok())
        .ok_or_else(|| wrong("PublicIP is not an IPv4 address"))?;
    if is_host(public_ip) {
        Ok(Lease { subnet, attrs: LeaseAttrs { public_ip }, foreign_backend })
    } else {
        Err(Malformed::Address(public_ip))
    }
}

fn is_host(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && !address.is_loopback() && first < 224
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn keys_and_values_are_flannels_to_the_byte() {
        let prefix = Prefix::new("/coreos.com/network");
        let attrs = LeaseAttrs { public_ip: Ipv4Addr::new(1, 2, 3, 4) };

        assert_eq!(prefix.config(), "/coreos.com/network/config");
        assert_eq!(prefix.leases(), "/coreos.com/network/subnets/");
        assert_eq!(prefix.lease(net("10.5.52.0/24")), "/coreos.com/network/subnets/10.5.52.0-24");
        assert_eq!(attrs.value(), r#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#);
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
            ("/x/subnets/10.12.13.0-24&fd00:12:13::-56", "10.12.13.0/24"),
            ("/x/subnets/anything10.5.52.0-24", "10.5.52.0/24"),
        ] {
            assert_eq!(subnet(key.as_bytes()), Ok(net(expected)), "{key}");
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
        ] {
            assert_eq!(subnet(key.as_bytes()), Err(Malformed::Key), "{key}");
        }
        assert_eq!(subnet(b"\xff\xfe10.5.52.0-24\xff"), Err(Malformed::Key));
    }

    #[test]
    fn values_of_all_versions_of_flannel_are_read() {
        let key = b"/coreos.com/network/subnets/10.5.52.0-24";
        let lease = |backend: Option<&str>| Lease {
            subnet: net("10.5.52.0/24"),
            attrs: LeaseAttrs { public_ip: Ipv4Addr::new(192, 168, 64, 3) },
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
    }
}
