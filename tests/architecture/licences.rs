//! What docs/PACKAGING.md says about the licences of the crates in the programs.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

const PAGE: &str = "docs/PACKAGING.md";

/// Whether Apache-2.0 or MIT alone is enough for a crate.
fn is_usual(licence: &str) -> bool {
    let offered = |name: &str| licence.split([' ', '/', '(', ')']).any(|word| word == name);
    !licence.contains(" AND ") && (offered("Apache-2.0") || offered("MIT"))
}

/// Name and licence of each crate in the programs, as `tun|WTFPL`.
fn crates() -> BTreeSet<String> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--package", "twill", "--package", "twill-perf"])
        .args(["--edges", "normal", "--prefix", "none", "--format", "{p}|{l}"])
        .args(["--target", "x86_64-unknown-linux-gnu"])
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).unwrap();
    let lines = text.lines().map(|line| line.trim_end_matches(" (*)")).filter_map(|line| {
        let (package, licence) = line.split_once('|')?;
        Some(format!("{}|{licence}", package.split(' ').next()?))
    });
    lines.collect()
}

#[test]
fn the_page_lists_each_crate_for_which_neither_apache_nor_mit_is_enough() {
    let page = fs::read_to_string(PAGE).unwrap();
    let crates = crates();
    let unusual: BTreeSet<_> = crates
        .iter()
        .filter_map(|line| line.split_once('|'))
        .filter(|(_, licence)| !is_usual(licence))
        .map(|(name, licence)| format!("| `{name}` | {licence} |"))
        .collect();

    let listed: BTreeSet<_> = page
        .lines()
        .skip_while(|line| *line != "| crate | licence |")
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(ToOwned::to_owned)
        .collect();

    assert!(crates.len() > 100, "{crates:?}");
    assert_eq!(listed, unusual, "{PAGE} (left) and `cargo tree` (right)");
}

#[test]
fn a_licence_is_usual_if_one_of_two_suffices() {
    for usual in ["MIT", "Apache-2.0 / MIT", "(MIT OR Zlib)", "Unlicense OR MIT"] {
        assert!(is_usual(usual), "{usual}");
    }
    for unusual in ["WTFPL", "Apache-2.0 AND ISC", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
        assert!(!is_usual(unusual), "{unusual}");
    }
}
