//! What is known of the cluster, for those who do not follow it themselves.

use super::join::Registration;
use crate::subnet::{Addresses, PeerSet};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How our own node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OwnNode {
    /// It is one of ours.
    #[default]
    Registered,
    /// It is gone from the API server.
    Gone,
    /// Its annotations are not ours, and could not be written.
    Unregistered,
}

impl OwnNode {
    /// The state in a word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Gone => "gone",
            Self::Unregistered => "unregistered",
        }
    }
}

/// What is known of the cluster now.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// The peers.
    pub peers: Arc<PeerSet>,
    /// How our own node is.
    pub own: OwnNode,
    /// Whether the API server answers.
    pub connected: bool,
    /// How often it stopped answering.
    pub disconnects: u64,
    /// Attempts to write our annotations that failed.
    pub failed_writes: u64,
    /// Nodes that are not followed now.
    pub ignored: u64,
    /// What a follower in another process goes on from.
    pub kept: Option<Arc<Kept>>,
}

/// What a follower in another process goes on from, besides the peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Our node's name.
    pub node: String,
    /// Our addresses, unless the node object says otherwise.
    pub public_ip: Addresses,
    /// What the node has.
    pub joined: Registration,
    /// How our own node is.
    #[serde(default)]
    pub own: OwnNode,
    /// The revision up to which changes are known.
    #[serde(default)]
    pub revision: String,
    /// The names of peers that a wiped store lacks.
    #[serde(default)]
    pub lost: Vec<String>,
    /// When they are forgotten, in nanoseconds since boot.
    #[serde(default)]
    pub forget_at_ns: Option<u64>,
    /// How often the API server stopped answering.
    #[serde(default)]
    pub disconnects: u64,
    /// Attempts to write our annotations that failed.
    #[serde(default)]
    pub failed_writes: u64,
}
