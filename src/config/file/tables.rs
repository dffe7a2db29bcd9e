//! `[interface]` and `[[peer]]`: every key, with the setting that its value becomes.

use super::read::{
    self, Key, Read, Value, flag, mismatch, networks, number, parsed, text, unknown, within,
};
use super::{Endpoint, FeatureName, File, FilePeer, Interface, Mistake, Queues};
use crate::config::{BusyPoll, Mtu};
use ipnet::IpNet;
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(super) const INTERFACE: &[Key<Interface>] = &[
    ("name", |it, value| device_name(value).map(|name| it.name = name)),
    ("address", |it, value| networks(value).map(|all| it.address = plain(all))),
    ("local", |it, value| networks(value).map(|all| it.local = plain(all))),
    ("mtu", |it, value| mtu(value).map(|mtu| it.mtu = Some(mtu))),
    ("underlay_mtu", |it, value| mtu(value).map(|mtu| it.underlay_mtu = Some(mtu.bytes()))),
    ("listen", |it, value| address(value).map(|listen| it.listen = listen)),
    ("queues", |it, value| queues(value).map(|queues| it.queues = queues)),
    ("engine", |it, value| parsed(value).map(|engine| it.engine = engine)),
    ("offload", |it, value| offloads(value).map(|offloads| it.offloads = offloads)),
    ("ingress_check", |it, value| parsed(value).map(|check| it.ingress_check = check)),
    ("peer_sources", |it, value| networks(value).map(|all| it.peer_sources = plain(all))),
    ("source_ports", |it, value| parsed(value).map(|ports| it.source_ports = Some(ports))),
    ("steering", |it, value| parsed(value).map(|steering| it.steering = steering)),
    ("fast_path", |it, value| parsed(value).map(|fast_path| it.fast_path = fast_path)),
    ("keep_forwarding", |it, value| flag(value).map(|on| it.keep_forwarding = on)),
    ("pinning", |it, value| parsed(value).map(|pinning| it.pinning = pinning)),
    ("scheduling", |it, value| parsed(value).map(|scheduling| it.scheduling = scheduling)),
    ("busy_poll_us", |it, value| busy_poll(value).map(|poll| it.busy_poll = poll)),
    ("socket_buffer", |it, value| {
        within(value, 4096..=(i32::MAX / 2) as u32, "bytes").map(|bytes| it.socket_buffer = bytes)
    }),
    ("device_queue", |it, value| {
        within(value, 1..=1_000_000, "packets").map(|packets| it.device_queue = packets)
    }),
    ("socket", |it, value| text(value).map(|path| it.socket = Some(path.into()))),
    ("socket_group", |it, value| group(value).map(|group| it.socket_group = Some(group))),
    ("metrics", |it, value| address(value).map(|listen| it.metrics = Some(listen))),
    ("telemetry", |it, value| flag(value).map(|on| it.telemetry = on)),
    ("probe_seconds", |it, value| number(value).map(|seconds| it.probe_seconds = seconds)),
];

/// The keys of a peer read so far.
#[derive(Default)]
pub(super) struct PeerWords {
    name: Option<String>,
    endpoint: Option<Spanned<Endpoint>>,
    subnets: Vec<Spanned<IpNet>>,
}

pub(super) const PEER: &[Key<PeerWords>] = &[
    ("name", |it, value| peer_name(value).map(|name| it.name = Some(name))),
    ("endpoint", |it, value| {
        parsed(value).map(|endpoint| it.endpoint = Some(Spanned::new(value.span(), endpoint)))
    }),
    ("subnets", |it, value| {
        it.subnets = networks(value)?;
        match it.subnets.as_slice() {
            [] => Err(Mistake::at(
                value.span(),
                "empty subnets: a peer without subnets receives no packets",
            )),
            _ => Ok(()),
        }
    }),
];

/// Reads a file's text: the valid settings, and all mistakes.
///
/// # Errors
/// The mistakes of a text that is not TOML; its settings are not read then.
pub fn parse(text: &str) -> Result<(File, Vec<Mistake>), Vec<Mistake>> {
    let (root, broken) = DeTable::parse_recoverable(text);
    if !broken.is_empty() {
        return Err(foreign(text).map_or_else(|| syntax(text, &broken), |mistake| vec![mistake]));
    }
    let mut file = File::default();
    let mut mistakes = Vec::new();
    for (key, value) in root.get_ref() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("interface", DeValue::Table(table)) => {
                file.places.table = key.span();
                interface(table, &mut file, &mut mistakes);
            }
            ("peer", DeValue::Array(tables)) => peers(tables, &mut file.peers, &mut mistakes),
            ("interface", other) => mistakes.push(mismatch(value, "a table, [interface]", other)),
            ("peer", other) => mistakes.push(mismatch(value, "[[peer]] tables", other)),
            (other, _) if other.eq_ignore_ascii_case("interface") => {
                let message =
                    format!("unknown table [{other}]: in twill this is called [interface]");
                mistakes.push(Mistake::at(key.span(), message));
            }
            (other, _) if other.eq_ignore_ascii_case("peer") => {
                let message = format!("unknown table [{other}]: in twill this is called [[peer]]");
                mistakes.push(Mistake::at(key.span(), message));
            }
            (other, _) => {
                let known = ["interface", "peer"].into_iter();
                mistakes.push(unknown("the file", other, key.span(), known));
            }
        }
    }
    Ok((file, mistakes))
}

/// What is no TOML, and the cure where it is known.
fn syntax(text: &str, broken: &[toml::de::Error]) -> Vec<Mistake> {
    let mistake = |error: &toml::de::Error| {
        let span = error.span().unwrap_or_default();
        match error.message() {
            "duplicate key" => {
                let key = text.get(span.clone()).unwrap_or_default();
                Mistake::at(span, duplicate(key))
            }
            other => Mistake::at(span, other),
        }
    };
    broken.iter().map(mistake).collect()
}

/// A file for WireGuard or wg-quick: it has values without quotes, so the errors of TOML are many and
/// say nothing.
fn foreign(text: &str) -> Option<Mistake> {
    const HEADER: &str = "[Interface]";
    let start = text.find(HEADER)?;
    let bare = text[start..].lines().any(|line| {
        let (key, value) = line.split_once('=').unwrap_or_default();
        let known =
            ["address", "privatekey", "dns", "table", "preup", "postup", "predown", "postdown"];
        let is_known = known.iter().any(|known| key.trim().eq_ignore_ascii_case(known));
        is_known && !value.trim_start().starts_with(['"', '\'', '['])
    });
    let message = "this is a file for WireGuard: twill reads TOML: write [interface] and [[peer]], put \
                   values into quotes, and call AllowedIPs subnets and ListenPort listen; see \
                   twill.example.toml";
    bare.then(|| Mistake::at(start..start + HEADER.len(), message))
}

/// What to do about a key that a file has twice. WireGuard's files repeat `[Peer]`.
fn duplicate(key: &str) -> String {
    match key.eq_ignore_ascii_case("peer") {
        true => format!("duplicate table [{key}]: in twill each peer is called [[peer]]"),
        false => format!("duplicate key {key}: keep one of them"),
    }
}

fn interface(table: &DeTable<'_>, file: &mut File, mistakes: &mut Vec<Mistake>) {
    let there = read::table("[interface]", INTERFACE, table, &mut file.interface, mistakes);
    file.places.keys = there.into_iter().collect();
    if file.interface.mtu.is_some() && file.interface.underlay_mtu.is_some() {
        let span = file.places.of("underlay_mtu");
        mistakes
            .push(Mistake::at(span, "mtu and underlay_mtu exclude each other: keep one of them"));
    }
}

fn peers(tables: &[Value<'_>], peers: &mut Vec<FilePeer>, mistakes: &mut Vec<Mistake>) {
    let mut names = HashSet::new();
    for table in tables {
        let DeValue::Table(keys) = table.get_ref() else {
            mistakes.push(mismatch(table, "a table, [[peer]]", table.get_ref()));
            continue;
        };
        let mut words = PeerWords::default();
        let there = read::table("[[peer]]", PEER, keys, &mut words, mistakes);
        for (key, example) in [("endpoint", "\"192.0.2.2\""), ("subnets", "\"10.10.2.0/24\"")] {
            if !there.iter().any(|(name, _)| *name == key) {
                let message = format!("this peer needs {key}, such as {key} = {example}");
                mistakes.push(Mistake::at(table.span(), message));
            }
        }
        let PeerWords { name, endpoint: Some(endpoint), subnets } = words else { continue };
        let name = name.unwrap_or_else(|| endpoint.get_ref().to_string());
        if !names.insert(name.clone()) {
            let place = there.iter().find(|(key, _)| *key == "name");
            let span = place.map_or_else(|| endpoint.span(), |(_, span)| span.clone());
            let message = format!("duplicate peer name {name:?}: give each peer its own name");
            mistakes.push(Mistake::at(span, message));
        }
        peers.push(FilePeer { name, endpoint, subnets });
    }
}

fn plain(networks: Vec<Spanned<IpNet>>) -> Vec<IpNet> {
    networks.into_iter().map(Spanned::into_inner).collect()
}

/// A name that the kernel accepts for a device (`dev_valid_name`).
fn device_name(value: &Value<'_>) -> Read<String> {
    let name = text(value)?;
    let bad = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
    let fits = (1..=15).contains(&name.len()) && name != "." && name != "..";
    if fits && !name.contains(bad) {
        return Ok(name);
    }
    let message =
        "invalid device name: allowed: 1 to 15 characters, no whitespace and none of / : %";
    Err(Mistake::at(value.span(), message))
}

/// A name that is one word, on a command line and in a log.
fn peer_name(value: &Value<'_>) -> Read<String> {
    let name = text(value)?;
    match name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        true => {
            let message =
                format!("invalid peer name {name:?}: it must not be empty or contain whitespace");
            Err(Mistake::at(value.span(), message))
        }
        false => Ok(name),
    }
}

fn mtu(value: &Value<'_>) -> Read<Mtu> {
    number(value)?.try_into().map_err(|error| Mistake::at(value.span(), error))
}

fn address(value: &Value<'_>) -> Read<SocketAddr> {
    read::address(&text(value)?).map_err(|error| Mistake::at(value.span(), error))
}

fn queues(value: &Value<'_>) -> Read<Queues> {
    match value.get_ref() {
        DeValue::Integer(_) => {
            let count = number(value)?.try_into();
            count.map(Queues::Count).map_err(|error| Mistake::at(value.span(), error))
        }
        DeValue::String(_) => parsed(value),
        other => Err(mismatch(value, "a number from 1 to 256, or \"auto\"", other)),
    }
}

fn busy_poll(value: &Value<'_>) -> Read<BusyPoll> {
    match value.get_ref() {
        DeValue::Integer(_) => {
            within(value, 0..=BusyPoll::MAX_US, "microseconds").map(BusyPoll::for_us)
        }
        DeValue::String(_) => parsed(value),
        other => Err(mismatch(value, "a number from 0 to 1000000, or \"auto\"", other)),
    }
}

fn group(value: &Value<'_>) -> Read<String> {
    match value.get_ref() {
        DeValue::Integer(_) => number(value).map(|gid| gid.to_string()),
        _ => text(value),
    }
}

fn offloads(value: &Value<'_>) -> Read<BTreeMap<FeatureName, bool>> {
    let DeValue::Table(table) = value.get_ref() else {
        return Err(mismatch(value, "a table such as { gso = false }", value.get_ref()));
    };
    let one = |(key, value): (&Spanned<std::borrow::Cow<'_, str>>, &Value<'_>)| {
        let feature = key.get_ref().parse();
        let feature = feature.map_err(|error| Mistake::at(key.span(), error))?;
        Ok((FeatureName(feature), flag(value)?))
    };
    table.iter().map(one).collect()
}
