//! Completion of flanneld's flags, which Go reads and clap does not know.

use super::super::completion::{interfaces, words};
use super::flags;
use super::go_flags::Kind;
use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};
use std::ffi::OsStr;

/// Flags or, after a flag that takes a value, values.
pub(in crate::cli) fn complete(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut words = words();
    // The cursor is at the end. zsh leaves an empty word out.
    words.pop_if(|last| last.as_str() == current);
    let current = current.to_string_lossy();
    match words.last().and_then(|word| taking(word)) {
        Some(name) => values(name, &current),
        None => names(&current),
    }
}

/// The name of the flag, if the next word is its value.
fn taking(word: &str) -> Option<&'static str> {
    let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    let flag = flags::ALL.iter().find(|flag| flag.name == name)?;
    (flag.kind != Kind::Bool).then_some(flag.name)
}

/// All flags that begin like this, with as many dashes.
fn names(current: &str) -> Vec<CompletionCandidate> {
    let dashes = if current.starts_with("--") { "--" } else { "-" };
    let flags = flags::ALL.iter().map(|flag| (format!("{dashes}{}", flag.name), flag.help));
    let fitting = flags.filter(|(word, _)| word.starts_with(current));
    fitting.map(|(word, help)| CompletionCandidate::new(word).help(Some(help.into()))).collect()
}

fn values(name: &str, current: &str) -> Vec<CompletionCandidate> {
    if name == flags::IFACE.name {
        let mut found = interfaces();
        found.retain(|it| it.get_value().to_string_lossy().starts_with(current));
        return found;
    }
    let files = [
        flags::ETCD_KEYFILE,
        flags::ETCD_CERTFILE,
        flags::ETCD_CAFILE,
        flags::SUBNET_FILE,
        flags::KUBECONFIG,
        flags::NET_CONFIG_PATH,
    ];
    match files.iter().any(|flag| flag.name == name) {
        true => PathCompleter::file().complete(OsStr::new(current)),
        false => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(candidates: &[CompletionCandidate]) -> Vec<String> {
        candidates.iter().map(|it| it.get_value().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn flags_are_completed_with_one_dash_or_two() {
        assert_eq!(texts(&names("-ip-m")), ["-ip-masq", "-ip-masq-fully-random-disable"]);
        assert_eq!(texts(&names("--ip-b")), ["--ip-blackhole-route"]);
        assert_eq!(names("").len(), flags::ALL.len());
        assert!(names("-nope").is_empty());
    }

    #[test]
    fn a_flag_that_takes_a_value_is_followed_by_values() {
        assert_eq!(taking("-iface"), Some("iface"));
        assert_eq!(taking("--iface"), Some("iface"));
        assert_eq!(taking("-iface=eth0"), None);
        assert_eq!(taking("-ip-masq"), None, "a switch takes a value after = only");

        assert!(texts(&values("iface", "lo")).contains(&"lo".to_owned()));
        assert!(texts(&values("subnet-file", "/etc/host")).contains(&"/etc/hosts".to_owned()));
        assert!(values("etcd-prefix", "").is_empty());
    }
}
