//! The messages of the control socket.

use crate::subnet::PeerSpec;
use serde::{Deserialize, Serialize};

/// Protocol version; a change that an older side would misunderstand raises it.
const VERSION: u32 = 1;

/// A client's message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// The protocol version.
    pub version: u32,
    /// What the client wants.
    pub request: Request,
}

impl Message {
    /// A message of this version.
    #[must_use]
    pub fn new(request: Request) -> Self {
        Self { version: VERSION, request }
    }

    /// Reads a message.
    ///
    /// # Errors
    /// Why it is none: another version, or not a message.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        /// The field that messages of every version have.
        #[derive(Deserialize)]
        struct AnyVersion {
            version: u32,
        }
        match serde_json::from_slice::<AnyVersion>(line) {
            Ok(AnyVersion { version: VERSION }) => {}
            Ok(AnyVersion { version }) => {
                return Err(format!(
                    "protocol mismatch: gateway {VERSION}, client {version}: use the same version of \
                     twill"
                ));
            }
            Err(error) => return Err(format!("not a message: {error}")),
        }
        serde_json::from_slice(line).map_err(|error| format!("not a request: {error}"))
    }
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Adds a peer, or replaces the one of its name.
    PeerAdd {
        /// The peer.
        peer: PeerSpec,
    },
    /// Removes a peer, by its name or by one of its subnets.
    PeerDel {
        /// Name or subnet.
        which: String,
    },
    /// Replaces all peers with these.
    PeerSync {
        /// All peers.
        peers: Vec<PeerSpec>,
    },
    /// Lists the peers.
    PeerList,
    /// Asks from which file the peers come, and which of them have no address.
    PeerOrigin,
    /// Reads the configuration file again.
    Reload,
    /// Reads all numbers, as docs/status.schema.json describes them.
    Status,
    /// Reads all histograms since the start.
    Histograms,
    /// Hands device, sockets and counters over to the client, which becomes the gateway.
    HandOver,
}

impl Request {
    /// Whether read-only clients may send it.
    #[must_use]
    pub(super) fn is_read_only(&self) -> bool {
        match self {
            Self::PeerList | Self::PeerOrigin | Self::Status | Self::Histograms => true,
            Self::PeerAdd { .. }
            | Self::PeerDel { .. }
            | Self::PeerSync { .. }
            | Self::Reload
            | Self::HandOver => false,
        }
    }
}

/// The gateway's answer: a result, whose form depends on the request, or an error for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// Done.
    Ok(serde_json::Value),
    /// Not done; nothing changed.
    Error(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_as_it_is_documented() {
        let line = br#"{"version":1,"request":{"peer-add":{"peer":{"name":"b","endpoint":
            "192.0.2.2:8285","subnets":["10.10.2.0/24"]}}}}"#;
        let peer = PeerSpec {
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
            Request::PeerOrigin,
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
            ("", "not a message"),
            ("hello", "not a message"),
            ("[]", "not a message"),
            ("{\"request\":\"status\"}", "missing field `version`"),
            ("{\"version\":2,\"request\":{\"peer-mend\":{}}}", "gateway 1, client 2"),
            ("{\"version\":1,\"request\":\"peer-mend\"}", "unknown variant `peer-mend`"),
            ("{\"version\":1,\"request\":\"status\",\"more\":1}", "unknown field `more`"),
            ("{\"version\":1,\"request\":{\"peer-del\":{}}}", "missing field `which`"),
        ] {
            let error = Message::parse(line.as_bytes()).unwrap_err();

            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
