//! The calls that a flannel network needs: nodes listed, watched, read and patched.

use super::access::Access;
use super::api::{List, ListMetadata, Node, PartialObject, Status, WatchLine};
use super::client::{Ask, CallError, Client};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::{Bytes, Incoming};
use rand::RngExt;
use serde::de::DeserializeOwned;

const JSON: &str = "application/json";
/// Metadata alone: a node of 13 kB becomes one of 1 kB.
const PARTIAL: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const PARTIAL_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const STRATEGIC_MERGE: &str = "application/strategic-merge-patch+json";
/// Nodes in one page of a list.
const PAGE: usize = 500;
/// A watch lasts five to ten minutes, at random, so that not all nodes come back at once.
const WATCH_SECONDS: std::ops::Range<u32> = 300..600;
/// The longest line of a watch, bytes: etcd takes objects of up to 1.5 MiB.
const MAX_LINE: usize = 4 << 20;

/// All nodes at one revision.
#[derive(Clone, Debug, Default)]
pub struct NodeList {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The revision, to watch from.
    pub revision: String,
}

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
pub enum WatchEnd {
    /// The server does not have the revision any more: list again.
    #[error("the server does not have that revision any more")]
    Expired,
    /// The right to watch is missing. The nodes can still be listed.
    #[error("{0}")]
    Forbidden(CallError),
    /// It ended in its time: watch again from the last revision.
    #[error("the watch ended")]
    Ended,
    /// The server refuses it.
    #[error("watching nodes: {} ({})", .0.message, .0.code)]
    Refused(Status),
    /// The connection is gone.
    #[error("{0}")]
    Lost(String),
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// The nodes of a cluster.
pub struct Nodes {
    client: Client,
}

impl Nodes {
    /// Nothing is sent yet.
    #[must_use]
    pub fn new(access: Access) -> Self {
        Self { client: Client::new(access) }
    }

    /// The next call gets a connection of its own: this host's address has changed.
    pub(super) fn disconnect(&self) {
        self.client.disconnect();
    }

    /// All nodes, page by page.
    ///
    /// # Errors
    /// [`CallError`]; code 410 if the list took longer than the server keeps revisions.
    pub async fn list(&self) -> Result<NodeList, CallError> {
        let mut all = NodeList::default();
        let mut next_page = String::new();
        loop {
            let mut path = format!("/api/v1/nodes?limit={PAGE}");
            if !next_page.is_empty() {
                path = format!("{path}&continue={}", escaped(&next_page));
            }
            let page: List<Node> = self.read(&Ask::get(path, JSON)).await?;
            all.nodes.extend(page.items);
            all.revision = page.metadata.resource_version;
            next_page = page.metadata.next_page;
            if next_page.is_empty() {
                return Ok(all);
            }
        }
    }

    /// One node; `None` when there is no node of that name.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn get(&self, name: &str) -> Result<Option<Node>, CallError> {
        match self.read(&Ask::get(node_path(name), JSON)).await {
            Ok(node) => Ok(Some(node)),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The node on which a pod runs; `None` when there is no such pod, or none yet.
    ///
    /// # Errors
    /// [`CallError`].
    pub(crate) async fn of_pod(
        &self,
        namespace: &str,
        pod: &str,
    ) -> Result<Option<String>, CallError> {
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct Pod {
            spec: Spec,
        }
        #[derive(Default, serde::Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Spec {
            node_name: String,
        }
        let path = format!("/api/v1/namespaces/{}/pods/{}", escaped(namespace), escaped(pod));
        let pod: Pod = self.read(&Ask::get(path, JSON)).await?;
        Ok(Some(pod.spec.node_name).filter(|name| !name.is_empty()))
    }

    /// The server's revision now. One that is behind ours is another store's: wiped, or restored.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn revision(&self) -> Result<String, CallError> {
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct Head {
            metadata: ListMetadata,
        }
        let head: Head =
            self.read(&Ask::get("/api/v1/nodes?limit=1".to_owned(), PARTIAL_LIST)).await?;
        Ok(head.metadata.resource_version)
    }

    /// Changes a node's annotations and conditions.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn patch(&self, name: &str, patch: &serde_json::Value) -> Result<Node, CallError> {
        self.read(&Ask {
            method: Method::PATCH,
            path: format!("{}/status", node_path(name)),
            accept: JSON,
            content_type: STRATEGIC_MERGE,
            body: Bytes::from(patch.to_string()),
        })
        .await
    }

    /// Watches all nodes from a revision on.
    ///
    /// # Errors
    /// [`WatchEnd`].
    pub async fn watch(&self, revision: &str) -> Result<NodeWatch, WatchEnd> {
        let seconds = rand::rng().random_range(WATCH_SECONDS);
        let path = format!(
            "/api/v1/nodes?watch=1&allowWatchBookmarks=true&timeoutSeconds={seconds}\
             &resourceVersion={}",
            escaped(revision)
        );
        match self.client.open(&Ask::get(path, PARTIAL)).await {
            Ok(answer) => Ok(NodeWatch { body: answer.into_body(), lines: Lines::default() }),
            Err(error) if error.code() == Some(410) => Err(WatchEnd::Expired),
            Err(error) if error.code() == Some(403) => Err(WatchEnd::Forbidden(error)),
            Err(error) => Err(error.into()),
        }
    }

    async fn read<T: DeserializeOwned>(&self, ask: &Ask) -> Result<T, CallError> {
        let body = self.client.call(ask).await?;
        serde_json::from_slice(&body).map_err(|error| CallError::Garbled {
            what: format!("{} {}", ask.method, ask.path),
            cause: error.to_string(),
        })
    }
}

/// What a watch says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// A node is new or has changed.
    Seen(PartialObject),
    /// A node is gone.
    Gone(PartialObject),
    /// Nothing else up to this revision.
    Bookmark(String),
}

impl NodeEvent {
    /// The revision that the watch has come to.
    #[must_use]
    pub fn revision(&self) -> &str {
        match self {
            Self::Seen(object) | Self::Gone(object) => &object.metadata.resource_version,
            Self::Bookmark(revision) => revision,
        }
    }
}

/// A watch on nodes.
pub struct NodeWatch {
    body: Incoming,
    lines: Lines,
}

impl NodeWatch {
    /// The next event. Safe to be cancelled.
    ///
    /// # Errors
    /// [`WatchEnd`].
    pub async fn next(&mut self) -> Result<NodeEvent, WatchEnd> {
        loop {
            if let Some(line) = self.lines.next()? {
                return event(&line);
            }
            match self.body.frame().await {
                None => return Err(WatchEnd::Ended),
                Some(Err(error)) => return Err(WatchEnd::Lost(error.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.lines.push(&bytes);
                    }
                }
            }
        }
    }
}

fn event(line: &[u8]) -> Result<NodeEvent, WatchEnd> {
    match serde_json::from_slice(line) {
        Ok(WatchLine::Added(object) | WatchLine::Modified(object)) => Ok(NodeEvent::Seen(object)),
        Ok(WatchLine::Deleted(object)) => Ok(NodeEvent::Gone(object)),
        Ok(WatchLine::Bookmark(object)) => {
            Ok(NodeEvent::Bookmark(object.metadata.resource_version))
        }
        Ok(WatchLine::Error(status)) if status.code == 410 => Err(WatchEnd::Expired),
        Ok(WatchLine::Error(status)) => Err(WatchEnd::Refused(status)),
        Err(error) => Err(WatchEnd::Lost(format!("a line of the watch cannot be read: {error}"))),
    }
}

/// Bytes that arrive in any portions, line by line.
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    /// No newline is before this.
    searched: usize,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, WatchEnd> {
        let found = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(found) = found else {
            self.searched = self.bytes.len();
            if self.searched > MAX_LINE {
                let text = format!("a line of the watch is longer than {MAX_LINE} bytes");
                return Err(WatchEnd::Lost(text));
            }
            return Ok(None);
        };
        let rest = self.bytes.split_off(self.searched + found + 1);
        let mut line = std::mem::replace(&mut self.bytes, rest);
        line.pop();
        self.searched = 0;
        Ok(Some(line))
    }
}

fn node_path(name: &str) -> String {
    format!("/api/v1/nodes/{}", escaped(name))
}

/// Percent-encodes all that has a meaning in a URL.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_whatever_the_portions_they_arrive_in() {
        let text = b"one\ntwo\n\nthree\nrest";
        for portion in 1..=text.len() {
            let (mut lines, mut seen) = (Lines::default(), Vec::new());

            for bytes in text.chunks(portion) {
                lines.push(bytes);
                while let Some(line) = lines.next().unwrap() {
                    seen.push(line);
                }
            }

            assert_eq!(seen, [&b"one"[..], b"two", b"", b"three"], "portions of {portion}");
        }
    }

    #[test]
    fn a_line_without_end_ends_the_watch() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; MAX_LINE + 1]);

        assert!(matches!(lines.next(), Err(WatchEnd::Lost(_))));
    }

    #[test]
    fn a_revision_that_is_gone_asks_for_a_new_list() {
        let line = br#"{"type":"ERROR","object":{"code":410,"reason":"Expired"}}"#;
        let other = br#"{"type":"ERROR","object":{"code":403,"message":"no"}}"#;

        assert!(matches!(event(line), Err(WatchEnd::Expired)));
        assert!(matches!(event(other), Err(WatchEnd::Refused(status)) if status.code == 403));
        assert!(matches!(event(b"{"), Err(WatchEnd::Lost(_))));
    }

    #[test]
    fn names_cannot_leave_their_place_in_a_path() {
        assert_eq!(node_path("a/b?c"), "/api/v1/nodes/a%2Fb%3Fc");
    }
}
