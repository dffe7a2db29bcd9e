//! The annotations by which nodes of a flannel network know each other: flannel's, to the letter.

use super::api::Metadata;
use crate::subnet::Addresses;
use crate::subnet::families::is_host;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::str::FromStr;

/// What `-kube-annotation-prefix` is by default.
pub const DEFAULT_PREFIX: &str = "flannel.alpha.coreos.com";

/// A prefix that no annotation may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "-kube-annotation-prefix {0:?}: write DOMAIN or DOMAIN/NAME, in lower-case letters, digits, \
     dots, hyphens and underscores"
)]
pub struct InvalidPrefix(pub String);

/// An annotation that is no address which other nodes could use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongAddress {
    /// The annotation, without its prefix.
    pub name: &'static str,
    /// What it should be: `IPv4` or `IPv6`.
    pub family: &'static str,
    /// What is there.
    pub given: String,
}

/// The keys of the annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotations {
    prefix: String,
}

/// What a node's annotations say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Whether a flannel looks after the node.
    pub is_managed: bool,
    /// Its backend; empty for `udp`, which has no name here.
    pub backend: String,
    /// Where others reach it, as it is written.
    pub public_ip: String,
    /// Where others reach it by IPv6, as it is written.
    pub public_ipv6: String,
}

impl Record {
    /// Where others reach the node.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        Addresses { v4: self.public_ip.parse().ok(), v6: self.public_ipv6.parse().ok() }.usable()
    }

    /// Whether the node's backend is `udp`.
    #[must_use]
    pub fn is_udp(&self) -> bool {
        matches!(self.backend.as_str(), "" | "udp")
    }
}

impl Annotations {
    /// The keys with this prefix.
    ///
    /// # Errors
    /// [`InvalidPrefix`].
    pub fn new(prefix: &str) -> Result<Self, InvalidPrefix> {
        let (domain, name) = prefix.split_once('/').unwrap_or((prefix, ""));
        let is_word = |word: &str| {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
            !word.is_empty() && word.chars().all(fits)
        };
        let is_domain = domain.contains('.') && domain.split('.').all(is_word);
        if !is_domain || !(name.is_empty() || is_word(name)) {
            return Err(InvalidPrefix(prefix.to_owned()));
        }
        let joint = if name.is_empty() || name.ends_with('-') { "" } else { "-" };
        Ok(Self { prefix: format!("{domain}/{name}{joint}") })
    }

    /// What a node's annotations say.
    #[must_use]
    pub fn read(&self, metadata: &Metadata) -> Record {
        let text = |name| self.get(metadata, name).unwrap_or_default().to_owned();
        Record {
            is_managed: self.get(metadata, "kube-subnet-manager") == Some("true"),
            backend: text("backend-type"),
            public_ip: text("public-ip"),
            public_ipv6: text("public-ipv6"),
        }
    }

    /// The addresses that an administrator gave the node for others to use, in place of those that
    /// were found.
    ///
    /// # Errors
    /// [`WrongAddress`].
    pub fn overwrite(&self, metadata: &Metadata) -> Result<Addresses, WrongAddress> {
        Ok(Addresses {
            v4: self.address(metadata, "public-ip-overwrite", "IPv4")?,
            v6: self.address(metadata, "public-ipv6-overwrite", "IPv6")?,
        })
    }

    /// The addresses of the node's interface that an administrator chose; they win over `-public-ip` and
    /// `-public-ipv6`.
    pub(crate) fn node_public_ip(&self, metadata: &Metadata) -> Result<Addresses, WrongAddress> {
        Ok(Addresses {
            v4: self.address(metadata, "node-public-ip", "IPv4")?,
            v6: self.address(metadata, "node-public-ipv6", "IPv6")?,
        })
    }

    fn address<A: FromStr + Copy + Into<IpAddr>>(
        &self,
        metadata: &Metadata,
        name: &'static str,
        family: &'static str,
    ) -> Result<Option<A>, WrongAddress> {
        match self.get(metadata, name) {
            None | Some("") => Ok(None),
            Some(given) => match given.parse::<A>() {
                Ok(address) if is_host(address.into()) => Ok(Some(address)),
                _ => Err(WrongAddress { name, family, given: given.to_owned() }),
            },
        }
    }

    /// Whether a node's annotations are those of a node of ours at these addresses.
    #[must_use]
    pub(crate) fn are_ours(&self, metadata: &Metadata, public_ip: Addresses) -> bool {
        self.ours(public_ip)
            .iter()
            .all(|(name, value)| self.get(metadata, name) == Some(value.as_str()))
    }

    /// The patch that makes a node one of ours.
    #[must_use]
    pub fn patch(&self, public_ip: Addresses) -> Value {
        let ours = self.ours(public_ip);
        let annotations: serde_json::Map<_, _> =
            ours.into_iter().map(|(name, value)| (self.key(name), Value::from(value))).collect();
        json!({"metadata": {"annotations": annotations}})
    }

    /// As flannel's udp backend has them: it has neither a name nor data there. Those of IPv6 are as its
    /// other backends have them.
    fn ours(&self, public_ip: Addresses) -> Vec<(&'static str, String)> {
        let mut ours = vec![
            ("backend-data", "null".to_owned()),
            ("backend-type", String::new()),
            ("kube-subnet-manager", "true".to_owned()),
        ];
        ours.extend(public_ip.v4.map(|v4| ("public-ip", v4.to_string())));
        if let Some(v6) = public_ip.v6 {
            ours.push(("backend-v6-data", "null".to_owned()));
            ours.push(("public-ipv6", v6.to_string()));
        }
        ours
    }

    fn get<'a>(&self, metadata: &'a Metadata, name: &str) -> Option<&'a str> {
        metadata.annotations.get(&self.key(name)).map(String::as_str)
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// The patch that tells the cluster that pods of the node have a network.
#[must_use]
pub(crate) fn network_is_available(now: &str) -> Value {
    json!({"status": {"conditions": [{
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": "FlannelIsUp",
        "message": "Flannel is running on this node",
        "lastTransitionTime": now,
        "lastHeartbeatTime": now,
    }]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_become_keys_as_in_flannel() {
        for (prefix, key) in [
            ("flannel.alpha.coreos.com", "flannel.alpha.coreos.com/public-ip"),
            ("flannel.alpha.coreos.com/", "flannel.alpha.coreos.com/public-ip"),
            ("example.org/tunnel", "example.org/tunnel-public-ip"),
            ("example.org/tunnel-", "example.org/tunnel-public-ip"),
        ] {
            assert_eq!(Annotations::new(prefix).unwrap().key("public-ip"), key, "{prefix}");
        }
    }

    #[test]
    fn prefixes_that_no_annotation_may_have_are_refused() {
        for prefix in ["", "nodomain", "a.b/c/d", "Upper.case", "a..b", "a.b/c d"] {
            assert_eq!(Annotations::new(prefix), Err(InvalidPrefix(prefix.to_owned())), "{prefix}");
        }
    }

    #[test]
    fn the_patch_makes_a_node_ours_as_flannel_writes_it() {
        let annotations = Annotations::new(DEFAULT_PREFIX).unwrap();

        let address = |text: &str| text.parse::<Addresses>().unwrap();
        let patch = annotations.patch(address("192.0.2.1"));

        let expected = json!({"metadata": {"annotations": {
            "flannel.alpha.coreos.com/backend-data": "null",
            "flannel.alpha.coreos.com/backend-type": "",
            "flannel.alpha.coreos.com/kube-subnet-manager": "true",
            "flannel.alpha.coreos.com/public-ip": "192.0.2.1",
        }}});
        assert_eq!(patch, expected);
        let patched: Metadata = serde_json::from_value(patch["metadata"].clone()).unwrap();
        assert!(annotations.are_ours(&patched, address("192.0.2.1")));
        assert!(!annotations.are_ours(&patched, address("192.0.2.2")));
        assert!(!annotations.are_ours(&Metadata::default(), address("192.0.2.1")));
    }

    #[test]
    fn a_node_with_an_ipv6_address_says_so_as_flannels_other_backends_do() {
        let annotations = Annotations::new(DEFAULT_PREFIX).unwrap();
        let both: Addresses = "192.0.2.1, 2001:db8::1".parse().unwrap();

        let patch = annotations.patch(both);

        let expected = json!({"metadata": {"annotations": {
            "flannel.alpha.coreos.com/backend-data": "null",
            "flannel.alpha.coreos.com/backend-type": "",
            "flannel.alpha.coreos.com/backend-v6-data": "null",
            "flannel.alpha.coreos.com/kube-subnet-manager": "true",
            "flannel.alpha.coreos.com/public-ip": "192.0.2.1",
            "flannel.alpha.coreos.com/public-ipv6": "2001:db8::1",
        }}});
        assert_eq!(patch, expected);
        let patched: Metadata = serde_json::from_value(patch["metadata"].clone()).unwrap();
        assert_eq!(annotations.read(&patched).addresses(), both);
        assert!(annotations.are_ours(&patched, both));
        assert!(!annotations.are_ours(&patched, "192.0.2.1, 2001:db8::2".parse().unwrap()));
        let only_v6 = annotations.patch("2001:db8::1".parse().unwrap());
        assert_eq!(
            only_v6["metadata"]["annotations"].get("flannel.alpha.coreos.com/public-ip"),
            None
        );
    }
}
