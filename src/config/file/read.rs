//! From a TOML value to one of ours, with a message of ours when it is none.

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
/// What a value is, or why it is nothing.
pub(super) type Read<T> = Result<T, Mistake>;

/// A key and what becomes of its value.
pub(super) type Key<T> = (&'static str, fn(&mut T, &Value<'_>) -> Read<()>);

/// Reads a table by its keys into `into`; mistakes are collected. Says which keys were there, and
/// where their values are.
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

/// A key that is not known, with the one that was probably meant.
pub(super) fn unknown<'a>(
    what: &str,
    key: &str,
    span: Range<usize>,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Mistake {
    let closest = known.clone().min_by_key(|name| distance(key, name));
    let cure = match closest {
        Some(name) if distance(key, name) <= 1 + name.len() / 4 => format!("did you mean {name}?"),
        _ => format!("there are {}", known.collect::<Vec<_>>().join(", ")),
    };
    Mistake::at(span, format!("{what} has no key {key:?}: {cure}"))
}

/// Single-letter changes between two words (Levenshtein), letters of either case being equal.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<_> = b.chars().map(|c| c.to_ascii_lowercase()).collect();
    let mut row: Vec<_> = (0..=b.len()).collect();
    for (i, from) in a.chars().map(|c| c.to_ascii_lowercase()).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// A text.
pub(super) fn text(value: &Value<'_>) -> Read<String> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        other => Err(mismatch(value, "a text in quotes", other)),
    }
}

/// A text that means something.
pub(super) fn parsed<T: FromStr<Err: Display>>(value: &Value<'_>) -> Read<T> {
    text(value)?.parse().map_err(|error| Mistake::at(value.span(), error))
}

/// A number from 0 on.
pub(super) fn number(value: &Value<'_>) -> Read<u32> {
    match value.get_ref() {
        DeValue::Integer(number) => in_range(number).ok_or_else(|| {
            Mistake::at(value.span(), format!("{number} is out of range: 0 to {} fit", u32::MAX))
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
    let message = format!("{number} is out of range: {first} to {last} {unit} fit");
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
/// What is wrong with the word.
pub fn network(word: &str) -> Result<IpNet, String> {
    word.parse::<IpNet>()
        .or_else(|_| word.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("{word:?} is no network: write it like 10.10.1.0/24"))
}

/// An address with a port.
///
/// # Errors
/// What is wrong with the word.
pub fn address(word: &str) -> Result<SocketAddr, String> {
    match word.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => Ok(address),
        _ => Err(format!("{word:?} is no address with a port: write it like 0.0.0.0:8285")),
    }
}

pub(super) fn mismatch(value: &Value<'_>, wanted: &str, found: &DeValue<'_>) -> Mistake {
    let found = match found {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    Mistake::at(value.span(), format!("this must be {wanted}, not {found}"))
}
