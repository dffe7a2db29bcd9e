//! bash completes command lines with what it learns of running gateways.

use crate::with;
use std::path::Path;
use std::process::Command;
use twill_testbed::engines;
use twill_testbed::pair::Pair;

#[test]
fn bash_completes_peers_of_a_running_gateway() {
    let Some(pair) = Pair::start("completion", &with(engines()[0])) else { return };
    pair.twill(0, &["peer", "add", "10.99.1.0/24", "198.51.100.7", "--name", "new"]).unwrap();
    let socket = pair.gateways[0].socket.display();

    let peers = bash(&["twill", "peer", "--socket", &socket.to_string(), "del", ""]);
    assert_eq!(peers[..2], ["new", "other"]);
    let one = bash(&["twill", "peer", "del", "--socket", &socket.to_string(), "o"]);
    assert_eq!(one, ["other"]);
    let histograms = bash(&["twill", "hist", "--socket", &socket.to_string(), "r"]);
    assert_eq!(histograms, ["rtt:new", "rtt:other"]);
}

#[test]
fn bash_completes_commands_values_and_flags_of_flanneld() {
    assert!(bash(&["twill", "nothing-begins-so"]).is_empty());
    assert_eq!(bash(&["twill", "pe"]), ["peer"]);
    assert_eq!(bash(&["twill", "run", "--pinning", ""]), ["none", "cpus", "nic"]);
    assert_eq!(bash(&["twill", "run", "--config", "Cargo.t"]), ["Cargo.toml"]);
    assert!(bash(&["twill", "flanneld", "-ip-masq", "-iface", ""]).contains(&"lo".to_owned()));
    assert_eq!(bash(&["twill", "flanneld", "-v", "2", "-subnet-f"]), ["-subnet-file"]);
}

/// What bash offers at the end of these words.
fn bash(words: &[&str]) -> Vec<String> {
    let folder = Path::new(env!("CARGO_BIN_EXE_twill")).parent().unwrap();
    let script = r#"
        PATH=$1:$PATH
        shift
        source <(twill completions bash)
        COMP_WORDS=("$@")
        COMP_CWORD=$(($# - 1))
        COMP_TYPE=9
        _clap_complete_twill twill "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let output = Command::new("bash")
        .args(["--norc", "-c", script, "bash", folder.to_str().unwrap()])
        .args(words)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}
