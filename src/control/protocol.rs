//! What is said over the control socket.

use crate::subnet::Peer;
use serde::{Deserialize, Serialize};

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Adds a peer, or changes the one of its name.
    PeerAdd {
        /// The peer.
        peer: Peer,
    },
    /// Takes a peer out, by its name or by a subnet of its.
    PeerDel {
        /// Name or subnet.
        which: String,
    },
    /// Makes the peers exactly these.
    PeerSync {
        /// All peers.
        peers: Vec<Peer>,
    },
    /// Lists the peers.
    PeerList,
    /// Reads the configuration file again.
    Reload,
    /// Tells the numbers inside: a [`Snapshot`](crate::telemetry::snapshot::Snapshot).
    Status,
    /// Tells all histograms since the start:
    /// [`Histograms`](crate::telemetry::snapshot::Histograms).
    Histograms,
}

/// What the gateway answers: a result, whose form depends on the request, or an error for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// It was done.
    Ok(serde_json::Value),
    /// It was not, and nothing changed.
    Error(String),
}
