//! Peers whose names do not resolve, or not yet.

use crate::with;
use rustix::process::Signal;
use std::fs;
use std::path::PathBuf;
use twill_testbed::engines;
use twill_testbed::pair::{PATIENCE, Pair};

/// A name that no other file of this machine knows.
const NAME: &str = "gateway.twill-test.invalid";

#[test]
fn a_peer_is_added_when_its_name_resolves() {
    let Some(mut pair) = Pair::start("late_name", &with(engines()[0])) else { return };
    let hosts = start_with_name(&mut pair);
    assert!(pair.ping().is_err());
    assert_eq!(pair.status(0)["peers"].as_array().unwrap().len(), 0);

    fs::write(&hosts, format!("{} {NAME}\n", pair.hosts[1].address())).unwrap();

    pair.gateways[0].process.wait_for("the name resolves", PATIENCE).unwrap();
    pair.assert_connected();
}

#[test]
fn a_reload_keeps_a_known_peer_whose_name_does_not_resolve_any_more() {
    let Some(mut pair) = Pair::start("lost_name", &with(engines()[0])) else { return };
    let hosts = start_with_name(&mut pair);
    let entry = format!("{} {NAME}\n", pair.hosts[1].address());
    fs::write(&hosts, &entry).unwrap();
    pair.gateways[0].process.wait_for("the name resolves", PATIENCE).unwrap();

    fs::write(&hosts, "").unwrap();
    pair.gateways[0].process.signal(Signal::HUP).unwrap();
    pair.gateways[0].process.wait_for(" reloaded", PATIENCE).unwrap();
    pair.assert_connected();

    // It follows the name as soon as it resolves again.
    fs::write(&hosts, "192.0.2.77 gateway.twill-test.invalid\n").unwrap();
    pair.eventually("the other address", |pair| {
        pair.status(0)["peers"][0]["endpoint"] == "192.0.2.77:8285"
    });
}

#[test]
fn a_peer_that_is_deleted_does_not_come_back_when_its_name_resolves() {
    let Some(mut pair) = Pair::start("deleted_name", &with(engines()[0])) else { return };
    let hosts = start_with_name(&mut pair);
    let config = fs::read_to_string(&pair.gateways[0].config).unwrap();
    let second = format!("[[peer]]\nendpoint = {NAME:?}\nsubnets = \"10.99.0.0/24\"\n");
    fs::write(&pair.gateways[0].config, format!("{config}\n{second}")).unwrap();
    pair.gateways[0].process.signal(Signal::HUP).unwrap();
    pair.gateways[0].process.wait_for(" reloaded", PATIENCE).unwrap();

    pair.twill(0, &["peer", "del", "10.99.0.0/24"]).unwrap();
    fs::write(&hosts, format!("{} {NAME}\n", pair.hosts[1].address())).unwrap();

    pair.gateways[0].process.wait_for("the name resolves", PATIENCE).unwrap();
    assert_eq!(pair.status(0)["peers"].as_array().unwrap().len(), 1);
}

/// Restarts the first gateway with a name for its peer's endpoint and an `/etc/hosts` of its own,
/// which does not have that name yet.
fn start_with_name(pair: &mut Pair) -> PathBuf {
    let hosts = pair.bed.folder().join("hosts");
    fs::write(&hosts, "").unwrap();
    let gateway = &mut pair.gateways[0];
    gateway.process.stop(PATIENCE).unwrap();
    let text = fs::read_to_string(&gateway.config).unwrap();
    let endpoint = format!("\"{}:8285\"\nsubnets", pair.hosts[1].address());
    assert!(text.contains(&endpoint), "{text}");
    let text = text.replace(&endpoint, &format!("\"{NAME}\"\nsubnets"));
    fs::write(&gateway.config, text).unwrap();
    let script = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
    let mut command = pair.hosts[0].command("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(&hosts);
    command.args([env!("CARGO_BIN_EXE_twill"), "run", "--config"]).arg(&gateway.config);
    command.arg("--socket").arg(&gateway.socket);
    gateway.process = pair.hosts[0].spawn("named", &mut command).unwrap();
    gateway.process.wait_for("running", PATIENCE).unwrap();
    hosts
}
