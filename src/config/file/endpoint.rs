//! The UDP address of a peer, as people write it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// `host`, `host:port`, `[v6]:port`: a literal address, or a name that is resolved when loading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address or name.
    pub host: String,
    /// The port; the default is the port that this gateway listens on.
    pub port: Option<u16>,
}

/// An invalid endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid endpoint {0:?}: write an address or a name, and a port: 192.0.2.2:8285")]
pub struct InvalidEndpoint(String);

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(word: &str) -> Result<Self, InvalidEndpoint> {
        let wrong = || InvalidEndpoint(word.to_owned());
        if let Ok(address) = word.parse::<IpAddr>() {
            return Ok(Self { host: address.to_string(), port: None });
        }
        let (host, port) = match word.parse::<SocketAddr>() {
            Ok(address) => (address.ip().to_string(), Some(address.port())),
            Err(_) => match word.rsplit_once(':') {
                Some((host, port)) => {
                    (host_name(host).ok_or_else(wrong)?, Some(port.parse().map_err(|_| wrong())?))
                }
                None => (host_name(word).ok_or_else(wrong)?, None),
            },
        };
        if port == Some(0) {
            return Err(wrong());
        }
        Ok(Self { host, port })
    }
}

/// A name by RFC 1123; what looks like an address and is none, 192.0.2.300, is no name either.
fn host_name(word: &str) -> Option<String> {
    let is_label = |label: &str| {
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(inside) && !label.starts_with('-')
    };
    let labels = word.strip_suffix('.').unwrap_or(word).split('.');
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    let last_is_number = labels.clone().next_back().is_some_and(is_number);
    let is_name = word.len() <= 253 && labels.clone().all(is_label) && !last_is_number;
    is_name.then(|| word.to_owned())
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let brackets = self.host.contains(':') && self.port.is_some();
        match (brackets, self.port) {
            (true, Some(port)) => write!(f, "[{}]:{port}", self.host),
            (_, Some(port)) => write!(f, "{}:{port}", self.host),
            (_, None) => f.write_str(&self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_addresses_or_names_with_or_without_a_port() {
        for (word, host, port) in [
            ("192.0.2.2", "192.0.2.2", None),
            ("192.0.2.2:8285", "192.0.2.2", Some(8285)),
            ("2001:db8::2", "2001:db8::2", None),
            ("[2001:db8::2]:8285", "2001:db8::2", Some(8285)),
            ("node-2.example.", "node-2.example.", None),
            ("node_2:1", "node_2", Some(1)),
        ] {
            let endpoint: Endpoint = word.parse().unwrap();

            assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port), "{word}");
            assert_eq!(endpoint.to_string(), word);
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        for word in [
            "",
            ":",
            ":8285",
            "host:",
            "host:0",
            "host:65536",
            "host:x",
            "ho st",
            "a..b",
            "-a",
            "192.0.2.300",
            "192.0.2",
            "1",
            "[2001:db8::2]",
            "[node]:1",
            "2001:db8::2:x",
        ] {
            assert!(word.parse::<Endpoint>().is_err(), "{word:?}");
        }
    }
}
