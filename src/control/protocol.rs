//! What is said over the control socket.

use crate::subnet::Peer;
use serde::{Deserialize, Serialize};

/// The version of what is said here; a change that an older side would misunderstand raises it.
pub const VERSION: u32 = 1;

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// [`VERSION`].
    pub version: u32,
    /// What it wants.
    pub request: Request,
}

impl Message {
    /// In today's version.
    #[must_use]
    pub fn new(request: Request) -> Self {
        Self { version: VERSION, request }
    }

    /// Reads a message.
    ///
    /// # Errors
    /// What the client should know: its version is another, or the message is none.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        /// All that messages of all versions have in common.
        #[derive(Deserialize)]
        struct AnyVersion {
            version: u32,
        }
        match serde_json::from_slice::<AnyVersion>(line) {
            Ok(AnyVersion { version: VERSION }) => {}
            Ok(AnyVersion { version }) => {
                return Err(format!(
                    "this gateway speaks version {VERSION}, not {version}: use its own twill"
                ));
            }
            Err(error) => return Err(format!("no message: {error}")),
        }
        serde_json::from_slice(line).map_err(|error| format!("no request: {error}"))
    }
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
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

impl Request {
    /// Whether it may be asked by those who may only look.
    #[must_use]
    pub fn only_looks(&self) -> bool {
        match self {
            Self::PeerList | Self::Status | Self::Histograms => true,
            Self::PeerAdd { .. } | Self::PeerDel { .. } | Self::PeerSync { .. } | Self::Reload => {
                false
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_as_it_is_documented() {
        let line = br#"{"version":1,"request":{"peer-add":{"peer":{"name":"b","endpoint":
            "192.0.2.2:8285","subnets":["10.10.2.0/24"]}}}}"#;
        let peer = Peer {
            name: "b".to_owned(),
            endpoint: ([192, 0, 2, 2], 8285).into(),
            subnets: vec!["10.10.2.0/24".parse().unwrap()],
        };

        assert_eq!(Message::parse(line).unwrap().request, Request::PeerAdd { peer });
        let status = Message::parse(br#"{"version":1,"request":"status"}"#).unwrap();
        assert_eq!(status.request, Request::Status);
    }

    #[test]
    fn messages_come_back_as_they_were_sent() {
        for request in [
            Request::PeerDel { which: "b".to_owned() },
            Request::PeerSync { peers: Vec::new() },
            Request::PeerList,
            Request::Reload,
        ] {
            let message = Message::new(request);
            let line = serde_json::to_vec(&message).unwrap();

            assert_eq!(Message::parse(&line), Ok(message));
        }
    }

    #[test]
    fn what_is_no_message_is_told_why() {
        for (line, why) in [
            ("", "no message"),
            ("hello", "no message"),
            ("[]", "no message"),
            ("{\"request\":\"status\"}", "missing field `version`"),
            ("{\"version\":2,\"request\":{\"peer-mend\":{}}}", "speaks version 1, not 2"),
            ("{\"version\":1,\"request\":\"peer-mend\"}", "unknown variant `peer-mend`"),
            ("{\"version\":1,\"request\":\"status\",\"more\":1}", "unknown field `more`"),
            ("{\"version\":1,\"request\":{\"peer-del\":{}}}", "missing field `which`"),
        ] {
            let error = Message::parse(line.as_bytes()).unwrap_err();

            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
