//! The file of `twill run`: TOML, one `[interface]` and any number of `[[peer]]`.
//!
//! Parsing is pure. What only the host knows, the MTU of its uplink and what names resolve to, is
//! left open here and filled in by [`super::load`].

use super::{IngressCheck, Mtu, Pinning, QueueCount, SourcePorts};
use crate::engine::EngineChoice;
use crate::offload::feature::{Feature, FeatureSet};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use toml::Spanned;

/// UDP port of flannel's `udp` backend.
pub const DEFAULT_PORT: u16 = 8285;

/// A file that is no configuration: where, what, and the cure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct FileError {
    /// The file's name.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong and what would be right.
    pub message: String,
}

/// A file's words, checked one by one.
#[derive(Clone, Debug)]
pub struct File {
    /// The gateway itself.
    pub interface: Interface,
    /// Its peers.
    pub peers: Vec<FilePeer>,
}

/// `[interface]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Interface {
    /// Name of the TUN device.
    pub name: String,
    /// Addresses of the TUN device.
    #[serde(deserialize_with = "one_or_many")]
    pub address: Vec<IpNet>,
    /// Inner networks behind this gateway; the networks of `address` unless given.
    #[serde(deserialize_with = "one_or_many")]
    pub local: Vec<IpNet>,
    /// MTU of the TUN device.
    #[serde(deserialize_with = "maybe_number")]
    pub mtu: Option<Mtu>,
    /// MTU of the network between the gateways, from which the tunnel's overhead is taken.
    pub underlay_mtu: Option<u16>,
    /// Where to receive.
    pub listen: SocketAddr,
    /// Workers; `None` for as many as there are CPUs, at most.
    pub queues: Queues,
    /// Which engine.
    #[serde(deserialize_with = "word")]
    pub engine: EngineChoice,
    /// Offloads to switch.
    #[serde(rename = "offload", deserialize_with = "offloads")]
    pub offloads: BTreeMap<FeatureName, bool>,
    /// What ingress demands of a datagram.
    #[serde(deserialize_with = "word")]
    pub ingress_check: IngressCheck,
    /// Outer networks from which any peer's datagrams may come.
    #[serde(deserialize_with = "one_or_many")]
    pub peer_sources: Vec<IpNet>,
    /// Whether flows are spread over source ports; with more than one queue they are.
    #[serde(deserialize_with = "maybe_word")]
    pub source_ports: Option<SourcePorts>,
    /// Whether workers are bound to CPUs.
    #[serde(deserialize_with = "word")]
    pub pinning: Pinning,
    /// Receive and send buffer of each socket, bytes.
    pub socket_buffer: u32,
    /// Queue length of the TUN device, packets.
    pub device_queue: u32,
    /// The control socket; `/run/twill/NAME.sock` unless given.
    pub socket: Option<PathBuf>,
    /// Where to serve `/metrics`, `/healthz` and `/readyz`.
    pub metrics: Option<SocketAddr>,
    /// Keep histograms and numbers by peer.
    pub telemetry: bool,
    /// Seconds between two probes of a peer, 0 for none.
    pub probe_seconds: u32,
}

impl Default for Interface {
    fn default() -> Self {
        Self {
            name: "twill0".to_owned(),
            address: Vec::new(),
            local: Vec::new(),
            mtu: None,
            underlay_mtu: None,
            listen: ([0, 0, 0, 0], DEFAULT_PORT).into(),
            queues: Queues::Count(QueueCount::ONE),
            engine: EngineChoice::Auto,
            offloads: BTreeMap::new(),
            ingress_check: IngressCheck::Strict,
            peer_sources: Vec::new(),
            source_ports: None,
            pinning: Pinning::None,
            socket_buffer: 4 << 20,
            device_queue: 1000,
            socket: None,
            metrics: None,
            telemetry: true,
            probe_seconds: 10,
        }
    }
}

impl Interface {
    /// Time between two probes of a peer, if there are any.
    #[must_use]
    pub fn probe(&self) -> Option<Duration> {
        (self.probe_seconds > 0).then(|| Duration::from_secs(self.probe_seconds.into()))
    }

    /// The offloads that are wanted.
    #[must_use]
    pub fn features(&self) -> FeatureSet {
        self.offloads.iter().fold(FeatureSet::ALL, |set, (name, on)| set.with(name.0, *on))
    }

    /// Whether the user insists on an offload.
    #[must_use]
    pub fn forces(&self, feature: Feature) -> bool {
        self.offloads.get(&FeatureName(feature)) == Some(&true)
    }
}

/// `[[peer]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilePeer {
    /// Its name; its endpoint's text unless given.
    pub name: Option<String>,
    /// Its UDP address.
    pub endpoint: Spanned<Endpoint>,
    /// The inner networks behind it.
    #[serde(deserialize_with = "one_or_many")]
    pub subnets: Vec<IpNet>,
}

impl FilePeer {
    /// What it is called.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.endpoint.get_ref().to_string())
    }
}

/// `queues`: a number, or "auto".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queues {
    /// As many as the CPUs that the process may use.
    Auto,
    /// This many.
    Count(QueueCount),
}

/// An offload's name as a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureName(pub Feature);

impl Ord for FeatureName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0 as u8).cmp(&(other.0 as u8))
    }
}

impl PartialOrd for FeatureName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// `host`, `host:port`, `[v6]:port`: a literal address, or a name that is resolved when loading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address or name.
    pub host: String,
    /// The port; the one that this gateway listens on unless given.
    pub port: Option<u16>,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let wrong = || format!("{word:?} is no endpoint: write host or host:port");
        if let Ok(address) = word.parse::<SocketAddr>() {
            return Ok(Self { host: address.ip().to_string(), port: Some(address.port()) });
        }
        if let Ok(address) = word.parse::<IpAddr>() {
            return Ok(Self { host: address.to_string(), port: None });
        }
        let (host, port) = match word.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().map_err(|_| wrong())?)),
            None => (word, None),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if host.is_empty() || !host.chars().all(is_name) || port == Some(0) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
    }
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

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Queues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a number from 1 to 256, or \"auto\"")]
        enum Word {
            Number(u32),
            Text(String),
        }
        match Word::deserialize(deserializer)? {
            Word::Number(count) => {
                count.try_into().map(Self::Count).map_err(serde::de::Error::custom)
            }
            Word::Text(word) => word.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl FromStr for Queues {
    type Err = super::InvalidValue;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word.parse::<u32>() {
            Ok(count) => count.try_into().map(Self::Count),
            Err(_) if word == "auto" => Ok(Self::Auto),
            Err(_) => Err(super::InvalidValue {
                what: "queues",
                given: word.to_owned(),
                allowed: "1 to 256, or auto",
            }),
        }
    }
}

/// Reads a file's text; `name` is for messages.
///
/// # Errors
/// The first mistake, with its place.
pub fn parse(name: &str, text: &str) -> Result<File, FileError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Words {
        interface: Interface,
        #[serde(default)]
        peer: Vec<FilePeer>,
    }
    let words: Words = toml::from_str(text).map_err(|error| {
        let message = error.message().trim_end().replace('\n', ", ");
        error_at(name, text, error.span().unwrap_or_default(), message)
    })?;
    let file = File { interface: words.interface, peers: words.peer };
    check(&file).map_err(|(span, message)| error_at(name, text, span, message))?;
    Ok(file)
}

/// What single words cannot show.
fn check(file: &File) -> Result<(), (Range<usize>, String)> {
    let interface = &file.interface;
    let whole = |message: &str| Err((0..0, message.to_owned()));
    if interface.address.is_empty() {
        return whole("[interface] needs an address, such as address = \"10.10.1.0/32\"");
    }
    if interface.mtu.is_some() && interface.underlay_mtu.is_some() {
        return whole("mtu and underlay_mtu say the same thing twice: keep one of them");
    }
    if interface.name.is_empty() || interface.name.len() > 15 || interface.name.contains('/') {
        return whole("name must have 1 to 15 characters and no '/'");
    }
    if interface.listen.port() == 0 {
        return whole("listen needs a port that peers know, such as 0.0.0.0:8285");
    }
    let mut names = BTreeMap::new();
    for peer in &file.peers {
        let span = peer.endpoint.span();
        if peer.subnets.is_empty() {
            return Err((
                span,
                format!("peer {:?} has no subnets: nothing goes there", peer.name()),
            ));
        }
        if names.insert(peer.name(), ()).is_some() {
            return Err((span, format!("a second peer is called {:?}: name it", peer.name())));
        }
    }
    Ok(())
}

/// An error at a place in a file's text.
pub(super) fn error_at(name: &str, text: &str, span: Range<usize>, message: String) -> FileError {
    let before = &text[..span.start.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    FileError { file: name.to_owned(), line, column, message }
}

/// A value that is written as its word.
fn word<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(
    deserializer: D,
) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn maybe_word<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    word(deserializer).map(Some)
}

fn maybe_number<'de, D: Deserializer<'de>, T: TryFrom<u32, Error: fmt::Display>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let number = u32::deserialize(deserializer)?;
    number.try_into().map(Some).map_err(serde::de::Error::custom)
}

/// One network as text, or a list of them. A bare address is its own network.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a network such as \"10.10.1.0/24\", or a list of them")]
    enum Words {
        One(String),
        Many(Vec<String>),
    }
    let words = match Words::deserialize(deserializer)? {
        Words::One(word) => vec![word],
        Words::Many(words) => words,
    };
    words.iter().map(|word| network(word).map_err(serde::de::Error::custom)).collect()
}

/// A network, or an address as a network of its own.
///
/// # Errors
/// What is wrong with the word.
pub fn network(word: &str) -> Result<IpNet, String> {
    word.parse::<IpNet>()
        .or_else(|_| word.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("{word:?} is no network: write it like 10.10.1.0/24"))
}

fn offloads<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<FeatureName, bool>, D::Error> {
    let words = BTreeMap::<String, bool>::deserialize(deserializer)?;
    words
        .into_iter()
        .map(|(name, on)| Ok((FeatureName(name.parse().map_err(serde::de::Error::custom)?), on)))
        .collect()
}
