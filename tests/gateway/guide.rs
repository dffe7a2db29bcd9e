//! The guide of docs/STANDALONE.md, as its reader follows it.

use std::fs;
use std::process::Command;
use twill_testbed::pair::PATIENCE;
use twill_testbed::{Host, Testbed, Underlay, within};

const TWILL: &str = env!("CARGO_BIN_EXE_twill");
const GUIDE: &str = include_str!("../../docs/STANDALONE.md");

#[test]
fn the_files_and_commands_of_the_guide_connect_three_hosts() {
    let Some(bed) = Testbed::for_test("three_hosts") else { return };
    let hosts = bed.hosts(3, &Underlay::default()).unwrap();
    let files = blocks("toml");
    assert_eq!(files.len(), 3);

    let mut gateways = Vec::new();
    for (host, file) in hosts.iter().zip(&files) {
        let path = bed.folder().join(format!("{}.toml", host.index()));
        fs::write(&path, file).unwrap();
        let (path, socket) = (path.to_str().unwrap(), socket(&bed, host));
        let checked = host.run(TWILL, &["check", path]).unwrap();
        assert!(checked.contains("encryption    none"), "{checked}");
        assert!(!checked.contains("warning"), "{checked}");
        let mut command = host.command(TWILL);
        command.args(["run", "--config", path, "--socket", &socket]);
        let mut gateway = host.spawn(&format!("twill{}", host.index()), &mut command).unwrap();
        gateway.wait_for("running", PATIENCE).unwrap();
        gateways.push(gateway);
    }

    let commands = blocks("sh");
    let lines: Vec<_> = commands[0].lines().collect();
    assert_eq!(lines.len(), 4);
    for line in lines {
        let output = on(&bed, &hosts[0], line).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{line}: {output:?}");
        let shows_peers = said.contains("192.0.2.2:8285") && said.contains("192.0.2.3:8285");
        assert!(line.starts_with("ping") || shows_peers, "{line}: {said}");
    }
    within(PATIENCE, "probes in both directions", || {
        let status = output(on(&bed, &hosts[1], "twill status"));
        status.matches("round trip: ").count() == 2 && !status.contains("no answer yet")
    });
    drop(gateways);
}

#[test]
fn a_peer_is_added_saved_and_removed_as_the_guide_says_and_a_reload_names_what_it_left() {
    let Some(bed) = Testbed::for_test("guide_peers") else { return };
    let hosts = bed.hosts(1, &Underlay::default()).unwrap();
    let host = &hosts[0];
    let path = bed.folder().join("1.toml");
    fs::write(&path, &blocks("toml")[0]).unwrap();
    let socket = socket(&bed, host);
    let mut command = host.command(TWILL);
    command.args(["run", "--config", path.to_str().unwrap(), "--socket", &socket]);
    let mut gateway = host.spawn("twill", &mut command).unwrap();
    gateway.wait_for("running", PATIENCE).unwrap();

    let twill = |line: &str| output(on(&bed, host, line));
    assert_eq!(twill("twill peer add 10.10.4.0/24 192.0.2.4 --name d"), "");
    let saved = twill("twill peer list --toml");
    let table =
        "[[peer]]\nname = \"d\"\nendpoint = \"192.0.2.4:8285\"\nsubnets = [\"10.10.4.0/24\"]\n";
    assert!(saved.contains(table) && saved.matches("[[peer]]").count() == 3, "{saved}");
    let file = path.display();
    assert_eq!(twill("twill peer save"), format!("{file}: added d\n"));
    let with_d = fs::read_to_string(&path).unwrap();
    assert!(with_d.starts_with(&blocks("toml")[0]) && with_d.contains("name = \"d\""), "{with_d}");
    for alias in ["rm", "remove", "del"] {
        assert_eq!(twill(&format!("twill peer {alias} d")), "");
    }
    assert_eq!(twill("twill peer list").lines().count(), 2);
    assert_eq!(twill("twill peer save"), format!("{file}: removed d\n"));
    assert_eq!(fs::read_to_string(&path).unwrap(), blocks("toml")[0]);
    assert_eq!(twill("twill peer save"), format!("{file}: has these peers already\n"));

    // The file with the saved peers, and a key that a reload cannot put in force.
    let (interface, _) = blocks("toml")[0].split_once("[[peer]]").map(own).unwrap();
    fs::write(&path, format!("{interface}queues = 2\n\n{saved}")).unwrap();
    assert_eq!(
        twill("twill reload"),
        "reloaded; peers new or changed: 1, removed: 0\nnot in force until `twill upgrade` or a \
         restart: queues\n"
    );
    assert_eq!(twill("twill peer list").lines().count(), 3);

    // The client sees the line, the log has one line.
    fs::write(&path, format!("{interface}queus = 2\n")).unwrap();
    let refused = on(&bed, host, "twill reload").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("did you mean queues?"), "{said}");
    assert!(said.contains("| queus = 2\n") && said.contains("| ^^^^^\n"), "{said}");
    gateway.wait_for("did you mean queues?", PATIENCE).unwrap();
    assert!(!gateway.log().contains("^^^^^"), "{}", gateway.log());
}

fn own((one, other): (&str, &str)) -> (String, String) {
    (one.to_owned(), other.to_owned())
}

/// A line of the guide on a host, where `twill` is the program under test.
fn on(bed: &Testbed, host: &Host, line: &str) -> Command {
    let mut words = line.split(' ');
    let program = words.next().unwrap();
    let mut command = host.command(if program == "twill" { TWILL } else { program });
    command.args(words).env("TWILL_SOCKET", socket(bed, host));
    command
}

fn output(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn socket(bed: &Testbed, host: &Host) -> String {
    bed.folder().join(format!("{}.sock", host.index())).to_str().unwrap().to_owned()
}

/// The guide's blocks in this language, in their order.
fn blocks(language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let blocks = GUIDE.split(&fence).skip(1);
    let text = |block: &str| {
        let lines = block.lines().take_while(|line| line.trim() != "```");
        lines.map(|line| format!("{}\n", line.trim())).collect()
    };
    blocks.map(text).collect()
}
