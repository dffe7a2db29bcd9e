//! The annotations by which nodes of a flannel network know each other: flannel's, to the letter.

use super::api::Metadata;
use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// What `-kube-annotation-prefix` is by default.
pub const DEFAULT_PREFIX: &str = "flannel.alpha.coreos.com";

/// A prefix that no annotation may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "-kube-annotation-prefix {0:?}: write DOMAIN or DOMAIN/NAME, in lower-case letters, digits, \
     dots, hyphens and underscores"
)]
pub struct InvalidPrefix(pub String);

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
}

impl Record {
    /// Where others reach the node.
    #[must_use]
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.public_ip.parse().ok()
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
        }
    }

    /// The address that an administrator gave the node for others to use, in place of the one that
    /// was found.
    #[must_use]
    pub fn overwrite<'a>(&self, metadata: &'a Metadata) -> Option<&'a str> {
        self.get(metadata, "public-ip-overwrite").filter(|text| !text.is_empty())
    }

    /// The address of the node's interface that an administrator chose; it wins over `-public-ip`.
    #[must_use]
    pub(crate) fn node_public_ip<'a>(&self, metadata: &'a Metadata) -> Option<&'a str> {
        self.get(metadata, "node-public-ip").filter(|text| !text.is_empty())
    }

    /// Whether a node's annotations are those of a node of ours at this address.
    #[must_use]
    pub(crate) fn are_ours(&self, metadata: &Metadata, public_ip: Ipv4Addr) -> bool {
        self.ours(public_ip)
            .iter()
            .all(|(name, value)| self.get(metadata, name) == Some(value.as_str()))
    }

    /// The patch that makes a node one of ours.
    #[must_use]
    pub fn patch(&self, public_ip: Ipv4Addr) -> Value {
        let ours = self.ours(public_ip);
        let annotations: serde_json::Map<_, _> =
            ours.into_iter().map(|(name, value)| (self.key(name), Value::from(value))).collect();
        json!({"metadata": {"annotations": annotations}})
    }

    /// As flannel's udp backend has them: it has neither a name nor data there.
    fn ours(&self, public_ip: Ipv4Addr) -> [(&'static str, String); 4] {
        [
            ("backend-data", "null".to_owned()),
            ("backend-type", String::new()),
            ("kube-subnet-manager", "true".to_owned()),
            ("public-ip", public_ip.to_string()),
        ]
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

        let patch = annotations.patch(Ipv4Addr::new(192, 0, 2, 1));

        let expected = json!({"metadata": {"annotations": {
            "flannel.alpha.coreos.com/backend-data": "null",
            "flannel.alpha.coreos.com/backend-type": "",
            "flannel.alpha.coreos.com/kube-subnet-manager": "true",
            "flannel.alpha.coreos.com/public-ip": "192.0.2.1",
        }}});
        assert_eq!(patch, expected);
        let patched: Metadata = serde_json::from_value(patch["metadata"].clone()).unwrap();
        assert!(annotations.are_ours(&patched, Ipv4Addr::new(192, 0, 2, 1)));
        assert!(!annotations.are_ours(&patched, Ipv4Addr::new(192, 0, 2, 2)));
        assert!(!annotations.are_ours(&Metadata::default(), Ipv4Addr::new(192, 0, 2, 1)));
    }
}
