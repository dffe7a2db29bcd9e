//! What the API server says and is told, as far as a flannel network needs it.
//!
//! Source: the Kubernetes API reference, core/v1 Node and meta/v1.

use serde::Deserialize;
use std::collections::BTreeMap;

/// An object's name, identity, revision and annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Its name, unique among living objects of its kind.
    pub name: String,
    /// Its identity: another one for an object that is created again under the same name.
    pub uid: String,
    /// The revision of its last change. Opaque, but numbers of one cluster grow.
    pub resource_version: String,
    /// Key and value.
    #[serde(deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An object of which only the metadata were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PartialObject {
    /// The metadata.
    pub metadata: Metadata,
}

/// A node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Name, identity and annotations.
    pub metadata: Metadata,
    /// What the cluster gave it.
    pub spec: NodeSpec,
    /// What its kubelet and the cloud say of it.
    pub status: NodeStatus,
}

/// What a node's kubelet and the cloud say of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Its addresses and names.
    #[serde(deserialize_with = "null_is_empty")]
    pub addresses: Vec<StatusAddress>,
}

/// An address or a name of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct StatusAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname` and the like.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address or the name.
    pub address: String,
}

/// What the cluster gave a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// The network of its pods; empty until the controller manager has given one.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    /// One network for each address family.
    #[serde(rename = "podCIDRs", deserialize_with = "null_is_empty")]
    pub pod_cidrs: Vec<String>,
}

/// One page of a list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct List<T> {
    /// Where the list stands.
    pub metadata: ListMetadata,
    /// The objects.
    #[serde(deserialize_with = "null_is_empty", bound(deserialize = "T: Deserialize<'de>"))]
    pub items: Vec<T>,
}

/// Where a list stands.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMetadata {
    /// The revision of the list.
    pub resource_version: String,
    /// What to ask for the next page with; empty on the last one.
    #[serde(rename = "continue")]
    pub next_page: String,
}

/// One line of a watch.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
pub enum WatchLine {
    /// The object is new, or the watch began after it was made.
    Added(PartialObject),
    /// The object has changed.
    Modified(PartialObject),
    /// The object is gone; this is what it was.
    Deleted(PartialObject),
    /// Nothing happened up to this revision.
    Bookmark(PartialObject),
    /// The watch ends.
    Error(Status),
}

/// Why the API server did not do what it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Status {
    /// For people. For a missing permission it names the verb, the resource and the user.
    pub message: String,
    /// In a word: `Forbidden`, `Expired`.
    pub reason: String,
    /// The HTTP status code.
    pub code: u16,
}

fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_annotations_or_pod_network_is_read() {
        let node: Node = serde_json::from_str(
            r#"{"kind":"Node","metadata":{"name":"n1","uid":"u","annotations":null},"spec":{"podCIDRs":null},"status":{"addresses":null}}"#,
        )
        .unwrap();

        assert_eq!(node.metadata.name, "n1");
        assert!(node.metadata.annotations.is_empty());
        assert_eq!((node.spec, node.status), Default::default());
    }

    #[test]
    fn lines_of_a_watch_are_told_apart_by_their_type() {
        let line = |text: &str| serde_json::from_str::<WatchLine>(text);

        let bookmark = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"12"}}}"#;
        let error =
            r#"{"type":"ERROR","object":{"code":410,"reason":"Expired","message":"too old"}}"#;

        assert!(matches!(line(bookmark), Ok(WatchLine::Bookmark(it))
            if it.metadata.resource_version == "12"));
        assert!(matches!(line(error), Ok(WatchLine::Error(status)) if status.code == 410));
        assert!(line(r#"{"type":"SURPRISE","object":{}}"#).is_err());
    }
}
