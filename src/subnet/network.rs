//! The network's configuration as etcd holds it, with flannel's defaults and checks.

use super::go_json::Object;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::Ipv4Addr;

/// UDP port of flannel's `udp` backend.
const DEFAULT_PORT: u16 = 8285;

/// The overlay that all nodes share: `<prefix>/config`. A node hands it to its successor, which may be of
/// another version: a field that is added later needs a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// The whole overlay, host bits cleared.
    pub network: Ipv4Net,
    /// Prefix length of each node's subnet.
    pub subnet_len: u8,
    /// First subnet that may be leased.
    pub subnet_min: Ipv4Addr,
    /// Last subnet that may be leased; below the first, nothing may.
    pub subnet_max: Ipv4Addr,
    /// Firewall rules by nftables instead of iptables.
    #[serde(default)]
    pub nftables: bool,
    /// How packets travel.
    pub backend: Backend,
}

/// The `Backend` object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// UDP port, here and at every peer.
    pub port: u16,
    /// MTU of the network between the nodes, instead of the external interface's.
    pub mtu: Option<u16>,
}

/// Why a configuration cannot be used; flannel asks again until somebody corrects it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// No JSON object, or a value of the wrong kind.
    #[error("the network config is not valid: {0}")]
    Json(String),
    /// A value that is missing or does not fit the others; flannel's words.
    #[error("{0}")]
    Check(String),
    /// A configuration for something else than IPv4 over UDP: no retry makes it right.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Why this program cannot serve the network, although flannel could.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// Another backend.
    #[error("unknown backend type: {0:?}: twill serves \"udp\"; leave Backend out or set its Type")]
    Type(String),
    /// A value of the backend.
    #[error("error decoding UDP backend config: {0}")]
    Value(String),
    /// A network without IPv4, or with IPv6.
    #[error("the udp backend carries IPv4 only: set EnableIPv4 to true and EnableIPv6 to false")]
    Family,
}

impl NetworkConfig {
    /// Reads and checks the JSON text, as flannel's `ParseConfig` and `CheckNetworkConfig` do.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        let json = |error: serde_json::Error| NetworkError::Json(error.to_string());
        let object: Object = serde_json::from_str(text).map_err(json)?;
        let word = |name| string(&object, name);
        let address = |name| -> Result<Ipv4Addr, NetworkError> {
            let text = word(name)?.unwrap_or("0.0.0.0");
            text.parse().map_err(|_| wrong(name, "an IPv4 address"))
        };
        let len = match object.field("SubnetLen") {
            None => 0,
            Some(value) => value.as_u64().ok_or_else(|| wrong("SubnetLen", "a number"))?,
        };
        let network = match word("Network")? {
            None => Ipv4Net::default(),
            Some(text) => text.parse().map_err(|_| wrong("Network", "an IPv4 network"))?,
        };
        let [min, max] = [address("SubnetMin")?, address("SubnetMax")?];
        let enabled = |name, default| boolean(&object, name, default);
        let is_v4_only = enabled("EnableIPv4", true)? && !enabled("EnableIPv6", false)?;
        let nftables = enabled("EnableNFTables", false)?;

        let network = network.trunc();
        let subnet_len = subnet_len(network, len)?;
        let (subnet_min, subnet_max) = range(network, subnet_len, min, max)?;
        // Last: flannel too asks for a backend only when everything else is right.
        if !is_v4_only {
            return Err(BackendError::Family.into());
        }
        let backend = backend(&object)?;
        Ok(Self { network, subnet_len, subnet_min, subnet_max, nftables, backend })
    }

    /// Whether a subnet may be leased in this network.
    #[must_use]
    pub fn fits(&self, subnet: Ipv4Net) -> bool {
        subnet.prefix_len() == self.subnet_len
            && (self.subnet_min..=self.subnet_max).contains(&subnet.addr())
    }

    /// All subnets that may be leased, in order.
    pub fn subnets(&self) -> impl Iterator<Item = Ipv4Net> + '_ {
        let step = 1u64 << (32 - self.subnet_len);
        let [min, max] = [self.subnet_min, self.subnet_max].map(|end| u64::from(u32::from(end)));
        (min..=max)
            .step_by(step as usize)
            .map(|address| Ipv4Net::new_assert(Ipv4Addr::from(address as u32), self.subnet_len))
    }
}

fn backend(object: &Object) -> Result<Backend, NetworkError> {
    // Not there at all means udp; there without a type means none.
    if !object.names("Backend") {
        return Ok(Backend { port: DEFAULT_PORT, mtu: None });
    }
    let value = object.field("Backend").cloned().unwrap_or(Value::Null);
    let backend: Object = serde_json::from_value(value).map_err(|error| {
        NetworkError::Json(format!("error decoding Backend property of config: {error}"))
    })?;
    let kind = string(&backend, "Type")?.unwrap_or_default().to_lowercase();
    if kind != "udp" {
        return Err(BackendError::Type(kind).into());
    }
    let number = |name: &str, range: std::ops::RangeInclusive<u64>| match backend.field(name) {
        None => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number) if range.contains(&number) => Ok(Some(number as u16)),
            _ => Err(BackendError::Value(format!(
                "{name} {value} is not within {} to {}",
                range.start(),
                range.end()
            ))),
        },
    };
    let port = number("Port", 1..=65535)?.unwrap_or(DEFAULT_PORT);
    // 68 bytes of packet (RFC 791) and what the tunnel adds to it.
    let mtu = number("MTU", 96..=65535)?;
    Ok(Backend { port, mtu })
}

fn subnet_len(network: Ipv4Net, len: u64) -> Result<u8, NetworkError> {
    let whole = network.prefix_len();
    if network == Ipv4Net::default() {
        return check("please define a correct Network parameter in the flannel config");
    }
    match len {
        0 if whole > 28 => check("network is too small. Minimum useful network prefix is /28"),
        0 if whole <= 22 => Ok(24),
        0 => Ok(whole + 2),
        31.. => check("SubnetLen must be less than /31"),
        len if len < u64::from(whole) + 2 => {
            check("network must be able to accommodate at least four subnets")
        }
        len => Ok(len as u8),
    }
}

/// The first and the last subnet. As in flannel, the first need not be below the last.
fn range(
    network: Ipv4Net,
    subnet_len: u8,
    min: Ipv4Addr,
    max: Ipv4Addr,
) -> Result<(Ipv4Addr, Ipv4Addr), NetworkError> {
    let size = 1u32 << (32 - subnet_len);
    // The very first subnet has the network's own address, which confuses hosts.
    let min = match min {
        Ipv4Addr::UNSPECIFIED => Ipv4Addr::from(u32::from(network.network()) + size),
        min if network.contains(&min) => min,
        _ => return check("SubnetMin is not in the range of the Network"),
    };
    let max = match max {
        Ipv4Addr::UNSPECIFIED => Ipv4Addr::from(u32::from(network.broadcast()) - (size - 1)),
        max if network.contains(&max) => max,
        _ => return check("SubnetMax is not in the range of the Network"),
    };
    for (name, address) in [("SubnetMin", min), ("SubnetMax", max)] {
        if u32::from(address) & (size - 1) != 0 {
            return check(&format!("{name} is not on a SubnetLen boundary: {address}"));
        }
    }
    Ok((min, max))
}

fn check<T>(message: &str) -> Result<T, NetworkError> {
    Err(NetworkError::Check(message.to_owned()))
}

fn wrong(name: &str, kind: &str) -> NetworkError {
    NetworkError::Json(format!("{name} is not {kind}"))
}

fn string<'a>(object: &'a Object, name: &str) -> Result<Option<&'a str>, NetworkError> {
    object
        .field(name)
        .map(|value| value.as_str().ok_or_else(|| wrong(name, "a string")))
        .transpose()
}

fn boolean(object: &Object, name: &str, default: bool) -> Result<bool, NetworkError> {
    match object.field(name) {
        None => Ok(default),
        Some(value) => value.as_bool().ok_or_else(|| wrong(name, "true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NetworkConfig, String> {
        NetworkConfig::parse(text).map_err(|error| error.to_string())
    }

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn a_node_of_another_version_reads_the_configuration_that_is_handed_to_it() {
        let config = NetworkConfig::parse(
            r#"{"Network":"10.5.0.0/16","EnableNFTables":true,"Backend":{"Type":"udp","MTU":1400}}"#,
        );
        let config = config.unwrap();
        let mut words = serde_json::json!(config);
        words["moon"] = serde_json::json!("full");
        assert_eq!(serde_json::from_value::<NetworkConfig>(words.clone()).unwrap(), config);

        words.as_object_mut().unwrap().remove("nftables");
        words["backend"].as_object_mut().unwrap().remove("mtu");

        let earlier: NetworkConfig = serde_json::from_value(words).unwrap();
        assert_eq!((earlier.nftables, earlier.backend.mtu), (false, None));
        assert_eq!(earlier.network, config.network);
    }

    #[test]
    fn a_network_alone_has_flannels_defaults() {
        let config = parse(r#"{"Network": "10.3.5.7/16"}"#).unwrap();

        assert_eq!(config.network, net("10.3.0.0/16"));
        assert_eq!(config.subnet_len, 24);
        assert_eq!(config.subnet_min, Ipv4Addr::new(10, 3, 1, 0), "the first is left out");
        assert_eq!(config.subnet_max, Ipv4Addr::new(10, 3, 255, 0));
        assert_eq!(config.backend, Backend { port: 8285, mtu: None }, "udp, not vxlan");
        assert!(!config.nftables);
    }

    #[test]
    fn keys_are_read_in_any_case() {
        let text = r#"{"network":"10.3.0.0/16","SUBNETLEN":28,"subnetMin":"10.3.1.0",
            "enablenftables":true,"backend":{"type":"UDP","port":7890,"mtu":1400}}"#;

        let config = parse(text).unwrap();

        assert_eq!((config.subnet_len, config.nftables), (28, true));
        assert_eq!(config.subnet_min, Ipv4Addr::new(10, 3, 1, 0));
        assert_eq!(config.backend, Backend { port: 7890, mtu: Some(1400) });
    }

    #[test]
    fn a_small_network_is_split_in_four() {
        for (network, len) in [("10.0.0.0/22", 24), ("10.0.0.0/23", 25), ("10.0.0.0/28", 30)] {
            let config = parse(&format!(r#"{{"Network": "{network}"}}"#)).unwrap();

            assert_eq!(config.subnet_len, len, "{network}");
            assert_eq!(config.subnets().count(), 3, "{network}");
        }
    }

    #[test]
    fn a_network_at_the_end_of_the_address_space_has_a_last_subnet() {
        let config = parse(r#"{"Network": "255.255.0.0/16"}"#).unwrap();

        assert_eq!(config.subnet_max, Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(config.subnets().count(), 255);
    }

    #[test]
    fn what_flannel_refuses_is_refused_in_its_words() {
        let cases = [
            ("{}", "please define a correct Network parameter in the flannel config"),
            (
                r#"{"Network":"10.0.0.0/29"}"#,
                "network is too small. Minimum useful network prefix is /28",
            ),
            (r#"{"Network":"10.0.0.0/16","SubnetLen":31}"#, "SubnetLen must be less than /31"),
            (
                r#"{"Network":"10.0.0.0/16","SubnetLen":17}"#,
                "network must be able to accommodate at least four subnets",
            ),
            (
                r#"{"Network":"10.0.0.0/16","SubnetMin":"10.1.0.0"}"#,
                "SubnetMin is not in the range of the Network",
            ),
            (
                r#"{"Network":"10.0.0.0/16","SubnetMax":"10.1.0.0"}"#,
                "SubnetMax is not in the range of the Network",
            ),
            (
                r#"{"Network":"10.0.0.0/16","SubnetMin":"10.0.1.16"}"#,
                "SubnetMin is not on a SubnetLen boundary: 10.0.1.16",
            ),
            (
                r#"{"Network":"10.0.0.0/16","SubnetMax":"10.0.9.16"}"#,
                "SubnetMax is not on a SubnetLen boundary: 10.0.9.16",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(parse(text), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for text in [
            "",
            "[]",
            r#"{"Network":"10.0.0.0"}"#,
            r#"{"Network":10}"#,
            r#"{"Network":"fd00::/16"}"#,
            r#"{"Network":"10.0.0.0/16","SubnetLen":-1}"#,
            r#"{"Network":"10.0.0.0/16","SubnetLen":24.5}"#,
            r#"{"Network":"10.0.0.0/16","SubnetMin":"x"}"#,
            r#"{"Network":"10.0.0.0/16","Backend":3}"#,
            r#"{"Network":"10.0.0.0/16"} x"#,
        ] {
            assert!(matches!(NetworkConfig::parse(text), Err(NetworkError::Json(_))), "{text}");
        }
    }

    #[test]
    fn a_backend_that_is_not_udp_is_told_apart_from_a_mistake() {
        let other = |backend: &str| {
            NetworkConfig::parse(&format!(r#"{{"Network":"10.0.0.0/16","Backend":{backend}}}"#))
        };
        let kind = |kind: &str| Err(BackendError::Type(kind.to_owned()).into());

        assert_eq!(other(r#"{"Type":"VXLAN"}"#), kind("vxlan"));
        assert_eq!(other("{}"), kind(""));
        assert_eq!(other("null"), kind(""));
        for wrong in [r#"{"Type":"udp","Port":0}"#, r#"{"Type":"udp","MTU":70000}"#] {
            let refused = other(wrong);
            let is_value = matches!(refused, Err(NetworkError::Backend(BackendError::Value(_))));
            assert!(is_value, "{refused:?}");
        }
        for family in [r#""EnableIPv4":false"#, r#""EnableIPv6":true"#] {
            let refused = NetworkConfig::parse(&format!(r#"{{"Network":"10.0.0.0/16",{family}}}"#));
            assert_eq!(refused, Err(BackendError::Family.into()), "{family}");
        }
    }

    #[test]
    fn another_backend_does_not_end_a_node_while_the_rest_is_not_right_either() {
        for text in [
            r#"{"Backend":{"Type":"vxlan"}}"#,
            r#"{"Network":"10.0.0.0/29","Backend":{"Type":"vxlan"}}"#,
            r#"{"EnableIPv6":true}"#,
        ] {
            assert!(matches!(NetworkConfig::parse(text), Err(NetworkError::Check(_))), "{text}");
        }
    }

    #[test]
    fn a_first_subnet_behind_the_last_leaves_none() {
        let text = r#"{"Network":"10.0.0.0/16","SubnetMin":"10.0.9.0","SubnetMax":"10.0.3.0"}"#;

        assert_eq!(parse(text).unwrap().subnets().count(), 0);
    }

    #[test]
    fn a_subnet_fits_by_length_and_range() {
        let text = r#"{"Network":"10.0.0.0/16","SubnetMin":"10.0.5.0","SubnetMax":"10.0.7.0"}"#;
        let config = parse(text).unwrap();

        assert!(config.fits(net("10.0.5.0/24")) && config.fits(net("10.0.7.0/24")));
        for other in ["10.0.4.0/24", "10.0.8.0/24", "10.0.6.0/25", "10.9.6.0/24"] {
            assert!(!config.fits(net(other)), "{other}");
        }
    }
}
