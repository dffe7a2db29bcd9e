//! Command lines as Go's `flag` package reads them.
//!
//! `-x` and `--x` are one; a value follows after `=` or as the next argument, except for switches,
//! which take one only after `=`. The first argument that is no flag, or `--`, ends the flags.

use std::collections::BTreeMap;
use std::fmt::Write;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A switch.
    Bool,
    /// A number, in Go's notations.
    Int,
    /// Any text.
    Text,
    /// Any text, and each occurrence adds one.
    Texts,
}

/// A flag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// As it would be typed; empty, `false` and `0` are not shown in the usage.
    pub(super) default: &'static str,
    pub(super) help: &'static str,
}

impl Flag {
    /// What follows the flag's name, in Go's words.
    pub(super) fn kind_word(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Bool => None,
            Kind::Int => Some("int"),
            Kind::Text => Some("string"),
            Kind::Texts => Some("value"),
        }
    }

    /// The default, as Go prints it.
    pub(super) fn default_words(&self) -> Option<String> {
        match (self.kind, self.default) {
            (_, "" | "false" | "0") => None,
            (Kind::Text, default) => Some(format!("{default:?}")),
            (_, default) => Some(default.to_owned()),
        }
    }
}

/// What was typed, by flag, valid for its kind; several only for [`Kind::Texts`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Typed(BTreeMap<&'static str, Vec<String>>);

/// Why arguments were not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FlagError {
    /// Somebody asked how.
    #[error("flag: help requested")]
    Help,
    /// A mistake, in Go's words.
    #[error("{0}")]
    Mistake(String),
}

/// Reads arguments, without the program's name; gives back what follows the flags, too.
pub(super) fn parse(
    flags: &'static [Flag],
    mut args: impl Iterator<Item = String>,
) -> Result<(Typed, Vec<String>), FlagError> {
    let mut typed = Typed::default();
    while let Some(arg) = args.next() {
        let Some(word) = arg.strip_prefix('-').filter(|word| !word.is_empty()) else {
            return Ok((typed, std::iter::once(arg).chain(args).collect()));
        };
        let word = match word.strip_prefix('-') {
            Some("") => break,
            Some(word) => word,
            None => word,
        };
        if word.is_empty() || word.starts_with(['-', '=']) {
            return Err(FlagError::Mistake(format!("bad flag syntax: {arg}")));
        }
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word, None),
        };
        let Some(flag) = flags.iter().find(|flag| flag.name == name) else {
            return Err(match name {
                "h" | "help" => FlagError::Help,
                _ => FlagError::Mistake(format!("flag provided but not defined: -{name}")),
            });
        };
        let value = match (value, flag.kind) {
            (Some(value), _) => value,
            (None, Kind::Bool) => "true".to_owned(),
            (None, _) => args
                .next()
                .ok_or_else(|| FlagError::Mistake(format!("flag needs an argument: -{name}")))?,
        };
        typed.set(flag, &value).map_err(|reason| {
            let what = if flag.kind == Kind::Bool { "boolean value" } else { "value" };
            let of = if flag.kind == Kind::Bool { "for" } else { "for flag" };
            FlagError::Mistake(format!("invalid {what} {value:?} {of} -{name}: {reason}"))
        })?;
    }
    Ok((typed, args.collect()))
}

impl Typed {
    /// Takes a value for a flag.
    pub(super) fn set(&mut self, flag: &Flag, value: &str) -> Result<(), &'static str> {
        match flag.kind {
            Kind::Bool => drop(parse_bool(value)?),
            Kind::Int => drop(parse_int(value)?),
            Kind::Text | Kind::Texts => {}
        }
        let values = self.0.entry(flag.name).or_default();
        if flag.kind != Kind::Texts {
            values.clear();
        }
        values.push(value.to_owned());
        Ok(())
    }

    /// All values that were typed for a flag.
    pub(super) fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether the flag was typed.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// What counts: what was typed, or the default.
    pub(super) fn text<'a>(&'a self, flag: &'a Flag) -> &'a str {
        self.all(flag.name).last().map_or(flag.default, String::as_str)
    }

    /// A switch's position.
    pub(super) fn bool(&self, flag: &Flag) -> bool {
        parse_bool(self.text(flag)).unwrap_or_default()
    }

    /// A number.
    pub(super) fn int(&self, flag: &Flag) -> i64 {
        parse_int(self.text(flag)).unwrap_or_default()
    }
}

/// `strconv.ParseBool`.
fn parse_bool(word: &str) -> Result<bool, &'static str> {
    match word {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("parse error"),
    }
}

/// `strconv.ParseInt` with base 0: a prefix chooses the base, and single underscores may stand
/// between digits or behind the prefix.
fn parse_int(word: &str) -> Result<i64, &'static str> {
    let (negative, digits) = match word.as_bytes() {
        [b'-', ..] => (true, &word[1..]),
        [b'+', ..] => (false, &word[1..]),
        _ => (false, word),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, rest) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let prefixed = rest.len() < lower.len();
    let underscores_fit = prefixed || !rest.starts_with('_');
    let fits = underscores_fit && !rest.ends_with('_') && !rest.contains("__");
    let plain: String = rest.chars().filter(|c| *c != '_').collect();
    if !fits || plain.is_empty() || !plain.chars().all(|c| c.is_digit(base)) {
        return Err("parse error");
    }
    let magnitude = i128::from_str_radix(&plain, base).map_err(|_| "value out of range")?;
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| "value out of range")
}

/// How the flags are used, as Go prints it.
pub(super) fn usage(program: &str, flags: &[Flag]) -> String {
    let mut text = format!("Usage: {program} [OPTION]...\n");
    let mut sorted: Vec<_> = flags.iter().collect();
    sorted.sort_by_key(|flag| flag.name);
    for flag in sorted {
        let (kind, default) = (flag.kind_word(), flag.default_words());
        let kind = kind.map(|kind| format!(" {kind}")).unwrap_or_default();
        let default = default.map(|default| format!(" (default {default})")).unwrap_or_default();
        let _ = writeln!(text, "  -{}{kind}\n    \t{}{default}", flag.name, flag.help);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag { name: "on", kind: Kind::Bool, default: "false", help: "switch" },
        Flag { name: "yes", kind: Kind::Bool, default: "true", help: "another switch" },
        Flag { name: "n", kind: Kind::Int, default: "5", help: "number" },
        Flag { name: "name", kind: Kind::Text, default: "x", help: "text" },
        Flag { name: "iface", kind: Kind::Texts, default: "", help: "texts" },
    ];

    /// What came of the arguments: `on yes n name [iface] | rest`, or the error.
    fn read(line: &str) -> String {
        let args = line.split(' ').filter(|arg| !arg.is_empty()).map(|arg| arg.replace('~', " "));
        match parse(FLAGS, args) {
            Err(error) => error.to_string(),
            Ok((typed, rest)) => format!(
                "{} {} {} {} {:?} | {}",
                typed.bool(&FLAGS[0]),
                typed.bool(&FLAGS[1]),
                typed.int(&FLAGS[2]),
                typed.text(&FLAGS[3]),
                typed.all("iface"),
                rest.join(" ")
            ),
        }
    }

    #[test]
    fn arguments_mean_what_go_takes_them_for() {
        let cases = [
            ("", "false true 5 x [] | "),
            ("-on", "true true 5 x [] | "),
            ("--on", "true true 5 x [] | "),
            ("-on=false", "false true 5 x [] | "),
            ("-on=T -yes=0", "true false 5 x [] | "),
            ("-on false -n 7", "true true 5 x [] | false -n 7"),
            ("-n 7", "false true 7 x [] | "),
            ("--n=7", "false true 7 x [] | "),
            ("-n=7 -n=8", "false true 8 x [] | "),
            ("-n -7", "false true -7 x [] | "),
            ("-n 0x1f", "false true 31 x [] | "),
            ("-n 010", "false true 8 x [] | "),
            ("-n 0b1_1", "false true 3 x [] | "),
            ("-n 0x_f", "false true 15 x [] | "),
            ("-n 1_0", "false true 10 x [] | "),
            ("-name a=b", "false true 5 a=b [] | "),
            ("-name=a=b", "false true 5 a=b [] | "),
            ("-name=", "false true 5  [] | "),
            ("-name -on", "false true 5 -on [] | "),
            ("-name --", "false true 5 -- [] | "),
            ("-iface eth0 --iface=eth1", r#"false true 5 x ["eth0", "eth1"] | "#),
            ("-iface a,b", r#"false true 5 x ["a,b"] | "#),
            ("-on -- -n 7", "true true 5 x [] | -n 7"),
            ("-on - -n 7", "true true 5 x [] | - -n 7"),
            ("-on word -n 7", "true true 5 x [] | word -n 7"),
        ];
        for (line, expected) in cases {
            assert_eq!(read(line), expected, "{line:?}");
        }
    }

    #[test]
    fn mistakes_are_told_in_gos_words() {
        let cases = [
            ("-nope", "flag provided but not defined: -nope"),
            ("--nope=1", "flag provided but not defined: -nope"),
            ("-n", "flag needs an argument: -n"),
            ("-n x", r#"invalid value "x" for flag -n: parse error"#),
            ("-n=", r#"invalid value "" for flag -n: parse error"#),
            ("-n 1__0", r#"invalid value "1__0" for flag -n: parse error"#),
            ("-n _1", r#"invalid value "_1" for flag -n: parse error"#),
            ("-n 08", r#"invalid value "08" for flag -n: parse error"#),
            (
                "-n 9223372036854775808",
                r#"invalid value "9223372036854775808" for flag -n: value out of range"#,
            ),
            ("-on=yes", r#"invalid boolean value "yes" for -on: parse error"#),
            ("---on", "bad flag syntax: ---on"),
            ("-=1", "bad flag syntax: -=1"),
            ("--=1", "bad flag syntax: --=1"),
            ("-h", "flag: help requested"),
            ("--help", "flag: help requested"),
        ];
        for (line, expected) in cases {
            assert_eq!(read(line), expected, "{line:?}");
        }
    }

    #[test]
    fn the_usage_lists_flags_as_go_does() {
        let expected = "Usage: flanneld [OPTION]...\n  -iface value\n    \ttexts\n  -n int\n    \t\
            number (default 5)\n  -name string\n    \ttext (default \"x\")\n  -on\n    \tswitch\n  \
            -yes\n    \tanother switch (default true)\n";

        assert_eq!(usage("flanneld", FLAGS), expected);
    }
}
