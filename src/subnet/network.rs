//! The network's configuration as etcd holds it, with flannel's defaults and checks.

use super::families::Subnets;
use super::go_json::Object;
use super::pool::{self, Family, Pool};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// UDP port of flannel's `udp` backend.
const DEFAULT_PORT: u16 = 8285;

/// The overlay that all nodes share: `<prefix>/config`. A node hands it to its successor, which may be of
/// another version: a field that is added later needs a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// The overlay of IPv4; without it, the network is of IPv6 only.
    #[serde(flatten)]
    pub v4: Option<Pool<Ipv4Net>>,
    /// The overlay of IPv6, if it is enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Pool<Ipv6Net>>,
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
    /// A configuration for something else than IP over UDP: no retry makes it right.
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
    /// A network of neither family.
    #[error("none defined stack: set EnableIPv4 or EnableIPv6 to true")]
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
        let [v4, v6] = [("EnableIPv4", true), ("EnableIPv6", false)]
            .map(|(name, default)| boolean(&object, name, default));
        let nftables = boolean(&object, "EnableNFTables", false)?;
        let v4 = pool_of::<Ipv4Net>(&object, v4?)?;
        let v6 = pool_of::<Ipv6Net>(&object, v6?)?;
        // Last: flannel too asks for a backend only when everything else is right.
        if v4.is_none() && v6.is_none() {
            return Err(BackendError::Family.into());
        }
        let backend = backend(&object)?;
        Ok(Self { v4, v6, nftables, backend })
    }

    /// The overlay of each family.
    #[must_use]
    pub fn networks(&self) -> Subnets {
        Subnets {
            v4: self.v4.as_ref().map(|pool| pool.network),
            v6: self.v6.as_ref().map(|pool| pool.network),
        }
    }

    /// Whether these subnets may be leased in this network: one of each family that it has, and none
    /// of another.
    #[must_use]
    pub fn fits(&self, subnets: Subnets) -> bool {
        fn fits<N: Family>(pool: Option<&Pool<N>>, subnet: Option<N>) -> bool {
            match (pool, subnet) {
                (Some(pool), Some(subnet)) => pool.fits(subnet),
                (pool, subnet) => pool.is_none() && subnet.is_none(),
            }
        }
        fits(self.v4.as_ref(), subnets.v4) && fits(self.v6.as_ref(), subnets.v6)
    }
}

/// The pool of one family. Values of a family that is not enabled must still be of the right kind.
fn pool_of<N: Family>(object: &Object, is_enabled: bool) -> Result<Option<Pool<N>>, NetworkError> {
    let name = |name: &str| format!("{}{name}", N::PREFIX);
    let address = |which: &str| match string(object, &name(which))? {
        None => Ok(None),
        Some(text) => match text.parse() {
            Ok(address) => Ok(Some(address)),
            Err(_) => Err(wrong(&name(which), &format!("an {} address", N::NAME))),
        },
    };
    let len = match object.field(&name("SubnetLen")) {
        None => 0,
        Some(value) => value.as_u64().ok_or_else(|| wrong(&name("SubnetLen"), "a number"))?,
    };
    let network = match string(object, &name("Network"))? {
        None => None,
        Some(text) => match text.parse() {
            Ok(network) => Some(network),
            Err(_) => return Err(wrong(&name("Network"), &format!("an {} network", N::NAME))),
        },
    };
    let ends = [address("SubnetMin")?, address("SubnetMax")?];
    if !is_enabled {
        return Ok(None);
    }
    pool::checked(network, len, ends).map(Some).map_err(NetworkError::Check)
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
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn parse(text: &str) -> Result<NetworkConfig, String> {
        NetworkConfig::parse(text).map_err(|error| error.to_string())
    }

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn v4(text: &str) -> Pool<Ipv4Net> {
        parse(text).unwrap().v4.unwrap()
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
        assert_eq!(earlier.networks(), config.networks());
    }

    #[test]
    fn a_network_of_ipv4_is_handed_over_as_earlier_versions_wrote_it() {
        let config = NetworkConfig::parse(r#"{"Network":"10.5.0.0/16"}"#).unwrap();

        assert_eq!(
            serde_json::to_string(&config).unwrap(),
            r#"{"network":"10.5.0.0/16","subnet_len":24,"subnet_min":"10.5.1.0","subnet_max":"10.5.255.0","nftables":false,"backend":{"port":8285,"mtu":null}}"#
        );
        for text in [BOTH, ONLY_V6] {
            let config = NetworkConfig::parse(text).unwrap();
            let words = serde_json::json!(config);
            assert_eq!(serde_json::from_value::<NetworkConfig>(words).unwrap(), config, "{text}");
        }
    }

    const BOTH: &str =
        r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::7/48"}"#;
    const ONLY_V6: &str =
        r#"{"EnableIPv4":false,"EnableIPv6":true,"ipv6network":"fd00:5::/48","IPv6SubnetLen":80}"#;

    #[test]
    fn a_network_of_both_families_has_a_pool_of_each() {
        let config = parse(BOTH).unwrap();

        assert_eq!(config.networks(), "10.5.0.0/16, fd00:5::/48".parse().unwrap());
        let v6 = config.v6.as_ref().unwrap();
        assert_eq!(v6.subnet_len, 64);
        assert_eq!(v6.subnet_min, "fd00:5:0:1::".parse::<Ipv6Addr>().unwrap(), "not the first");
        assert_eq!(v6.subnet_max, "fd00:5:0:ffff::".parse::<Ipv6Addr>().unwrap());
        assert_eq!(v6.subnets().count(), 65535);
        let fits = |subnets: &str| config.fits(subnets.parse().unwrap());
        assert!(fits("10.5.7.0/24, fd00:5:0:7::/64"));
        for other in ["10.5.7.0/24", "fd00:5:0:7::/64", "10.5.7.0/24, fd00:5::/64"] {
            assert!(!fits(other), "{other}");
        }
    }

    #[test]
    fn a_network_may_be_of_ipv6_only() {
        let config = parse(ONLY_V6).unwrap();

        assert_eq!(config.networks(), "fd00:5::/48".parse().unwrap());
        assert_eq!(config.v6.as_ref().unwrap().subnets().next(), "fd00:5:0:0:1::/80".parse().ok());
        assert!(config.fits("fd00:5:0:0:7::/80".parse().unwrap()));
        assert!(!config.fits("10.5.7.0/24, fd00:5:0:0:7::/80".parse().unwrap()));
    }

    #[test]
    fn without_enable_ipv6_its_values_are_only_looked_at() {
        let config = parse(r#"{"Network":"10.5.0.0/16","IPv6Network":"fd00::/126"}"#).unwrap();
        assert_eq!(config.v6, None);

        let wrong = parse(r#"{"Network":"10.5.0.0/16","IPv6SubnetMin":"10.0.0.0"}"#).unwrap_err();
        assert!(wrong.contains("IPv6SubnetMin is not an IPv6 address"), "{wrong}");
    }

    #[test]
    fn a_network_alone_has_flannels_defaults() {
        let config = parse(r#"{"Network": "10.3.5.7/16"}"#).unwrap();
        let pool = config.v4.as_ref().unwrap();

        assert_eq!((pool.network, &config.v6), (net("10.3.0.0/16"), &None));
        assert_eq!(pool.subnet_len, 24);
        assert_eq!(pool.subnet_min, Ipv4Addr::new(10, 3, 1, 0), "the first is left out");
        assert_eq!(pool.subnet_max, Ipv4Addr::new(10, 3, 255, 0));
        assert_eq!(config.backend, Backend { port: 8285, mtu: None }, "udp, not vxlan");
        assert!(!config.nftables);
    }

    #[test]
    fn keys_are_read_in_any_case() {
        let text = r#"{"network":"10.3.0.0/16","SUBNETLEN":28,"subnetMin":"10.3.1.0",
            "enablenftables":true,"backend":{"type":"UDP","port":7890,"mtu":1400}}"#;

        let config = parse(text).unwrap();

        let pool = config.v4.as_ref().unwrap();
        assert_eq!((pool.subnet_len, config.nftables), (28, true));
        assert_eq!(pool.subnet_min, Ipv4Addr::new(10, 3, 1, 0));
        assert_eq!(config.backend, Backend { port: 7890, mtu: Some(1400) });
    }

    #[test]
    fn a_small_network_is_split_in_four() {
        for (network, len) in [("10.0.0.0/22", 24), ("10.0.0.0/23", 25), ("10.0.0.0/28", 30)] {
            let pool = v4(&format!(r#"{{"Network": "{network}"}}"#));

            assert_eq!(pool.subnet_len, len, "{network}");
            assert_eq!(pool.subnets().count(), 3, "{network}");
        }
    }

    #[test]
    fn a_network_at_the_end_of_the_address_space_has_a_last_subnet() {
        let pool = v4(r#"{"Network": "255.255.0.0/16"}"#);

        assert_eq!(pool.subnet_max, Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(pool.subnets().count(), 255);

        let text = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"ffff:ffff::/32","IPv6SubnetLen":40}"#;
        let pool = parse(text).unwrap().v6.unwrap();
        assert_eq!(pool.subnet_max, "ffff:ffff:ff00::".parse::<Ipv6Addr>().unwrap());
        assert_eq!(pool.subnets().count(), 255);
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
        let v6 = r#""IPv6Network":"fd00:5::/48""#;
        let cases = [
            ("", "please define a correct IPv6Network parameter in the flannel config"),
            (
                r#""IPv6Network":"fd00::/125""#,
                "IPv6Network is too small. Minimum useful network prefix is /124",
            ),
            (&*format!(r#"{v6},"IPv6SubnetLen":127"#), "SubnetLen must be less than /127"),
            (
                &format!(r#"{v6},"IPv6SubnetLen":49"#),
                "network must be able to accommodate at least four subnets",
            ),
            (
                &format!(r#"{v6},"IPv6SubnetMin":"fd00:6::""#),
                "IPv6SubnetMin is not in the range of the IPv6Network",
            ),
            (
                &format!(r#"{v6},"IPv6SubnetMax":"fd00:6::""#),
                "IPv6SubnetMax is not in the range of the IPv6Network",
            ),
            (
                &format!(r#"{v6},"IPv6SubnetMin":"fd00:5::1""#),
                "IPv6SubnetMin is not on a SubnetLen boundary: fd00:5::1",
            ),
            (
                &format!(r#"{v6},"IPv6SubnetMax":"fd00:5::1""#),
                "IPv6SubnetMax is not on a SubnetLen boundary: fd00:5::1",
            ),
        ];
        for (values, message) in cases {
            let comma = if values.is_empty() { "" } else { "," };
            let text = format!(r#"{{"EnableIPv4":false,"EnableIPv6":true{comma}{values}}}"#);
            assert_eq!(parse(&text), Err(message.to_owned()), "{text}");
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
        let none = NetworkConfig::parse(r#"{"Network":"10.0.0.0/16","EnableIPv4":false}"#);
        assert_eq!(none, Err(BackendError::Family.into()));
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

        assert_eq!(v4(text).subnets().count(), 0);
    }

    #[test]
    fn a_subnet_fits_by_length_and_range() {
        let text = r#"{"Network":"10.0.0.0/16","SubnetMin":"10.0.5.0","SubnetMax":"10.0.7.0"}"#;
        let config = parse(text).unwrap();

        assert!(config.fits(net("10.0.5.0/24").into()) && config.fits(net("10.0.7.0/24").into()));
        for other in ["10.0.4.0/24", "10.0.8.0/24", "10.0.6.0/25", "10.9.6.0/24"] {
            assert!(!config.fits(net(other).into()), "{other}");
        }
    }
}
