//! Which of a node's addresses the others send to: what its status offers. Pure.

use super::api::NodeStatus;
use crate::subnet::Addresses;
use crate::subnet::families::is_host;
use std::net::IpAddr;

/// Where the address that a node publishes comes from, unless somebody gave it one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum AddressSource {
    /// The node's external interface, as in flannel.
    #[default]
    Interface,
    /// The `InternalIP` of the node's status.
    InternalIp,
    /// The `ExternalIP` of the node's status.
    ExternalIp,
}

impl AddressSource {
    /// The value of `TWILL_NODE_ADDRESS`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interface => "interface",
            Self::InternalIp => "internal-ip",
            Self::ExternalIp => "external-ip",
        }
    }

    /// The type of address in a node's status; none for the interface's.
    pub(super) const fn kind(self) -> Option<&'static str> {
        match self {
            Self::Interface => None,
            Self::InternalIp => Some("InternalIP"),
            Self::ExternalIp => Some("ExternalIP"),
        }
    }
}

/// The first address of each family that has this type and that other hosts could use.
pub(super) fn of_kind(status: &NodeStatus, kind: &str) -> Addresses {
    let of_kind = status.addresses.iter().filter(|address| address.kind == kind);
    let mut first = Addresses::default();
    for address in of_kind.filter_map(|address| address.address.parse::<IpAddr>().ok()) {
        match address {
            _ if !is_host(address) => {}
            IpAddr::V4(v4) => _ = first.v4.get_or_insert(v4),
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {}
            IpAddr::V6(v6) => _ = first.v6.get_or_insert(v6),
        }
    }
    first
}

/// All addresses of a status, for people.
pub(super) fn listed(status: &NodeStatus) -> String {
    if status.addresses.is_empty() {
        return "none".to_owned();
    }
    let each = status.addresses.iter().map(|it| format!("{} {}", it.kind, it.address));
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_family_the_first_usable_address_of_the_type_is_taken() {
        let status: NodeStatus = serde_json::from_str(
            r#"{"addresses": [
                {"type": "Hostname", "address": "n1"},
                {"type": "ExternalIP", "address": "203.0.113.1"},
                {"type": "InternalIP", "address": "127.0.0.1"},
                {"type": "InternalIP", "address": "fe80::1"},
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "InternalIP", "address": "192.0.2.2"},
                {"type": "InternalIP", "address": "2001:db8::1"}]}"#,
        )
        .unwrap();

        assert_eq!(of_kind(&status, "InternalIP"), "192.0.2.1, 2001:db8::1".parse().unwrap());
        assert_eq!(of_kind(&status, "ExternalIP"), "203.0.113.1".parse().unwrap());
        assert_eq!(of_kind(&status, "ExternalDNS"), Addresses::default());
        assert!(listed(&status).starts_with("Hostname n1, ExternalIP 203.0.113.1, "));
        assert_eq!(listed(&NodeStatus::default()), "none");
    }
}
