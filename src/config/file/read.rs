//! Turns TOML values into settings, or into mistakes with a position, a cause and a cure.

use super::Mistake;
use ipnet::IpNet;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

/// A value and its place.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;
/// A setting, or the mistake in its value.
pub(super) type Read<T> = Result<T, Mistake>;

/// A key, and the function that reads its value.
pub(super) type Key<T> = (&'static str, fn(&mut T, &Value<'_>) -> Read<()>);

/// Reads a table into `into` and collects mistakes. Returns the keys that were present, with the
/// positions of their values.
pub(super) fn table<T>(
    what: &str,
    keys: &[Key<T>],
    table: &DeTable<'_>,
    into: &mut T,
    mistakes: &mut Vec<Mistake>,
) -> Vec<(&'static str, Range<usize>)> {
    let mut there = Vec::new();
    for (key, value) in table {
        let Some((name, read)) = keys.iter().find(|(name, _)| *name == key.get_ref()) else {
            let known = keys.iter().map(|(name, _)| *name);
            mistakes.push(unknown(what, key.get_ref(), key.span(), known));
            continue;
        };
        there.push((*name, value.span()));
        if let Err(mistake) = read(into, value) {
            mistakes.push(mistake);
        }
    }
    there
}

/// Names of WireGuard and of wg-quick, and what twill has in their place. Letters of either case are equal, and `_`
/// may stand between words.
const WIREGUARD: &[(&str, &str)] = &[
    ("allowedips", "in twill this is called subnets"),
    ("listenport", "in twill this is called listen, such as listen = \"0.0.0.0:8285\""),
    ("persistentkeepalive", "in twill this is called probe_seconds, in [interface]"),
    ("privatekey", "twill does not encrypt and has no keys: remove this line"),
    ("publickey", "twill does not encrypt and has no keys: give the peer a name instead"),
    ("presharedkey", "twill does not encrypt and has no keys: remove this line"),
    ("fwmark", "twill marks no datagrams: remove this line"),
    ("dns", "twill does not change name servers: remove this line"),
    ("table", "twill adds routes to the main table: remove this line"),
    ("saveconfig", "use `twill peer list --toml` instead, and remove this line"),
    ("preup", COMMANDS),
    ("postup", COMMANDS),
    ("predown", COMMANDS),
    ("postdown", COMMANDS),
];
const COMMANDS: &str = "twill runs no commands: use ExecStartPre, ExecStartPost or ExecStopPost in a \
                        drop-in of the unit, and remove this line";

/// A key that is not known, with the one that was probably meant.
pub(super) fn unknown<'a>(
    what: &str,
    key: &str,
    span: Range<usize>,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Mistake {
    let written = key.to_ascii_lowercase();
    let distance = |name: &str| strsim::levenshtein(&written, name);
    let plain = written.replace('_', "");
    let wireguard = WIREGUARD.iter().find(|(name, _)| *name == plain);
    let closest = known.clone().min_by_key(|name| distance(name));
    let cure = match (wireguard, closest) {
        (Some((_, cure)), _) => (*cure).to_owned(),
        (None, Some(name)) if distance(name) <= 1 + name.len() / 4 => {
            format!("did you mean {name}?")
        }
        _ => format!("known keys: {}", known.collect::<Vec<_>>().join(", ")),
    };
    Mistake::at(span, format!("unknown key {key:?} in {what}: {cure}"))
}

/// A string.
pub(super) fn text(value: &Value<'_>) -> Read<String> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        other => Err(mismatch(value, "a string in quotes", other)),
    }
}

/// A string that parses.
pub(super) fn parsed<T: FromStr<Err: Display>>(value: &Value<'_>) -> Read<T> {
    text(value)?.parse().map_err(|error| Mistake::at(value.span(), error))
}

/// A number, 0 or more.
pub(super) fn number(value: &Value<'_>) -> Read<u32> {
    match value.get_ref() {
        DeValue::Integer(number) => in_range(number).ok_or_else(|| {
            Mistake::at(
                value.span(),
                format!("{number} is out of range: allowed: 0 to {}", u32::MAX),
            )
        }),
        other => Err(mismatch(value, "a whole number", other)),
    }
}

/// A number between two others.
pub(super) fn within(value: &Value<'_>, range: RangeInclusive<u32>, unit: &str) -> Read<u32> {
    let number = number(value)?;
    if range.contains(&number) {
        return Ok(number);
    }
    let (first, last) = range.into_inner();
    let message = format!("{number} is out of range: allowed: {first} to {last} {unit}");
    Err(Mistake::at(value.span(), message))
}

fn in_range(number: &DeInteger<'_>) -> Option<u32> {
    u32::from_str_radix(number.as_str(), number.radix()).ok()
}

/// true or false.
pub(super) fn flag(value: &Value<'_>) -> Read<bool> {
    match value.get_ref() {
        DeValue::Boolean(flag) => Ok(*flag),
        other => Err(mismatch(value, "true or false", other)),
    }
}

/// One network as text, or a list of them. A bare address is a network of its own.
pub(super) fn networks(value: &Value<'_>) -> Read<Vec<Spanned<IpNet>>> {
    let one = |value: &Value<'_>| {
        let net = network(&text(value)?).map_err(|error| Mistake::at(value.span(), error))?;
        Ok(Spanned::new(value.span(), net))
    };
    match value.get_ref() {
        DeValue::String(_) => Ok(vec![one(value)?]),
        DeValue::Array(values) => values.iter().map(one).collect(),
        other => {
            Err(mismatch(value, "a network such as \"10.10.1.0/24\", or a list of them", other))
        }
    }
}

/// A network, or an address as a network of its own.
///
/// # Errors
/// Why it is invalid.
pub fn network(word: &str) -> Result<IpNet, String> {
    word.parse::<IpNet>()
        .or_else(|_| word.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("invalid network {word:?}: write it like 10.10.1.0/24"))
}

/// An address with a port.
///
/// # Errors
/// Why it is invalid.
pub fn address(word: &str) -> Result<SocketAddr, String> {
    match word.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => Ok(address),
        _ => Err(format!("invalid address {word:?}: write it with a port, like 0.0.0.0:8285")),
    }
}

pub(super) fn mismatch(value: &Value<'_>, wanted: &str, found: &DeValue<'_>) -> Mistake {
    let found = match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fractional number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    Mistake::at(value.span(), format!("expected {wanted}, found {found}"))
}
