//! What a reload does with each key of the file.

use crate::with;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use std::fs;
use twill::config::file::{ON_RELOAD, OnReload};
use twill::control::{self, Request};
use twill_testbed::engines;
use twill_testbed::pair::{DEVICE, PATIENCE, Pair, Setup};
use twill_testbed::{Testbed, Underlay};

const TWILL: &str = env!("CARGO_BIN_EXE_twill");

#[test]
fn a_reload_that_changes_the_port_is_refused_whole_and_the_tunnel_goes_on() {
    let Some(mut pair) = Pair::start("reload_listen", &with(engines()[0])) else { return };
    let text = fs::read_to_string(&pair.gateways[0].config).unwrap();
    // The peer has no port: the default is that of `listen`.
    let there = format!("{}:8285", pair.hosts[1].address());
    let changed =
        text.replace(&format!("\"{there}\""), &format!("\"{}\"", pair.hosts[1].address()));
    let here = format!("{}:8285", pair.hosts[0].address());
    let changed = changed.replace(&here, &here.replace(":8285", ":9285"));
    assert!(changed.contains(":9285") && !changed.contains(&there), "{changed}");

    fs::write(&pair.gateways[0].config, changed).unwrap();
    pair.gateways[0].process.signal(Signal::HUP).unwrap();
    pair.gateways[0].process.wait_for("not reloaded", PATIENCE).unwrap();

    let log = pair.gateways[0].process.log();
    assert!(log.contains("changed in listen") && log.contains("restart the gateway"), "{log}");
    assert_eq!(pair.status(0)["peers"][0]["endpoint"], there);
    pair.assert_connected();
}

#[test]
fn a_reload_does_with_each_key_what_the_table_says() {
    let lines = "source_ports = \"fixed\"";
    let Some(pair) = Pair::start("reload_keys", &Setup { lines, ..with(engines()[0]) }) else {
        return;
    };
    let config = pair.gateways[0].config.clone();
    let original = fs::read_to_string(&config).unwrap();
    for (table, key, effect) in ON_RELOAD.iter().filter(|(table, ..)| *table == "interface") {
        let value = value(key).unwrap_or_else(|| panic!("a value for {key}"));
        fs::write(&config, with_key(&original, key, value)).unwrap();
        let seen = pair.gateways[0].process.log().len();

        pair.gateways[0].process.signal(Signal::HUP).unwrap();
        pair.eventually(&format!("a reload of {key}"), |pair| {
            pair.gateways[0].process.log()[seen..].contains("reloaded")
        });

        let log = pair.gateways[0].process.log()[seen..].to_owned();
        let refusal = format!("[interface] has changed in {key}: ");
        let warning = format!("[interface] {key} has changed: restart");
        let (refused, warned) = (log.contains(&refusal), log.contains(&warning));
        let expected = match effect {
            OnReload::Apply => (false, false),
            OnReload::Restart => (false, true),
            OnReload::Refuse => (true, false),
        };
        // The command line overrides these keys of the file.
        let expected = if given(key) { (false, false) } else { expected };
        assert_eq!((refused, warned), expected, "{table}.{key}: {log}");
        assert_eq!(log.contains("not reloaded"), refused, "{log}");
        if *effect == OnReload::Apply {
            let link = pair.hosts[0].run("ip", &["link", "show", DEVICE]).unwrap();
            assert!(link.contains(&format!("qlen {value}")), "{link}");
        }
    }
    pair.assert_connected();
}

#[test]
fn a_reload_applies_each_key_of_a_peer() {
    let Some(pair) = Pair::start("reload_peer", &with(engines()[0])) else { return };
    let config = &pair.gateways[0].config;
    let original = fs::read_to_string(config).unwrap();
    let (interface, peer) = original.split_once("[[peer]]").unwrap();
    for (table, key, effect) in ON_RELOAD.iter().filter(|(table, ..)| *table == "peer") {
        assert_eq!(*effect, OnReload::Apply, "{table}.{key}");
        let value = match *key {
            "name" => "third",
            "endpoint" => "192.0.2.77:8285",
            "subnets" => "10.97.0.0/24",
            other => panic!("a value for {other}"),
        };
        let is_key = |line: &&str| !line.starts_with(&format!("{key} ="));
        let kept: Vec<_> = peer.lines().filter(is_key).collect();
        let changed = format!("{interface}[[peer]]{}\n{key} = {value:?}\n", kept.join("\n"));
        fs::write(config, changed).unwrap();

        pair.gateways[0].process.signal(Signal::HUP).unwrap();

        pair.eventually(&format!("the new {key}"), |pair| {
            let status = pair.status(0);
            let peers = status["peers"].as_array().unwrap();
            let field = &peers[0][*key];
            peers.len() == 1 && (*field == value || field[0] == value)
        });
    }
    fs::write(config, &original).unwrap();
    pair.gateways[0].process.signal(Signal::HUP).unwrap();
    pair.eventually("the peer as it was", |pair| pair.ping().is_ok());
}

#[test]
fn a_reload_leaves_the_keys_that_other_tests_give_as_flags_to_a_restart() {
    let Some(bed) = Testbed::for_test("reload_rest") else { return };
    let hosts = bed.hosts(1, &Underlay::default()).unwrap();
    let (config, socket) = (bed.folder().join("f.toml"), bed.folder().join("f.sock"));
    let original = format!(
        "[interface]\naddress = \"10.10.1.0/24\"\nsocket = {socket:?}\nengine = \"epoll\"\n\
         metrics = \"127.0.0.1:9285\"\n[[peer]]\nendpoint = \"192.0.2.2\"\nsubnets = \"10.10.2.0/24\"\n"
    );
    fs::write(&config, &original).unwrap();
    let mut command = hosts[0].command(TWILL);
    let mut gateway =
        hosts[0].spawn("twill", command.args(["run", "--config"]).arg(&config)).unwrap();
    gateway.wait_for("running", PATIENCE).unwrap();

    let keys = ON_RELOAD.iter().map(|(_, key, _)| *key).filter(|key| given(key));
    for key in keys {
        let changed = with_key(&original, key, value(key).unwrap());
        fs::write(&config, changed).unwrap();

        let socket = socket.to_str().unwrap();
        let said = hosts[0].run(TWILL, &["reload", "--socket", socket]).unwrap();

        assert_eq!(OnReload::Restart, effect(key), "{key}");
        assert!(said.trim_end().ends_with(&format!("or a restart: {key}")), "{said}");
    }
    assert!(hosts[0].run("ss", &["-ltn"]).unwrap().contains("127.0.0.1:9285"));
}

/// What the table says of a key of `[interface]`.
fn effect(key: &str) -> OnReload {
    ON_RELOAD.iter().find(|(_, name, _)| *name == key).unwrap().2
}

/// Keys that `Pair` sets on the command line.
fn given(key: &str) -> bool {
    ["engine", "socket", "metrics"].contains(&key)
}

/// A value that the gateway does not have at its start.
fn value(key: &str) -> Option<&'static str> {
    Some(match key {
        "name" => "\"tw9\"",
        "address" => "\"10.99.1.0/32\"",
        "local" => "\"10.99.0.0/24\"",
        "mtu" => "1300",
        "underlay_mtu" => "1400",
        "listen" => "\"0.0.0.0:9285\"",
        "queues" => "2",
        "engine" => "\"classic\"",
        "offload" => "{ gso = false }",
        "ingress_check" => "\"off\"",
        "peer_sources" => "\"192.0.2.0/24\"",
        "source_ports" => "\"spread\"",
        "steering" => "\"flows\"",
        "fast_path" => "\"auto\"",
        "keep_forwarding" => "true",
        "pinning" => "\"cpus\"",
        "scheduling" => "\"nice:1\"",
        "busy_poll_us" => "10",
        "socket_buffer" => "65536",
        "device_queue" => "77",
        "socket" => "\"/run/other.sock\"",
        "socket_group" => "0",
        "metrics" => "\"127.0.0.1:9999\"",
        "telemetry" => "false",
        "probe_seconds" => "77",
        _ => return None,
    })
}

/// The file with one key of `[interface]` changed or added; two MTUs exclude each other.
fn with_key(text: &str, key: &str, value: &str) -> String {
    let is_key = |line: &str, key: &str| line.split('=').next().is_some_and(|it| it.trim() == key);
    let (interface, peers) = text.split_once("[[peer]]").unwrap();
    let kept = interface
        .lines()
        .filter(|line| !is_key(line, key))
        .filter(|line| key != "underlay_mtu" || !is_key(line, "mtu"));
    let kept: Vec<_> = kept.collect();
    format!("{}\n{key} = {value}\n[[peer]]{peers}", kept.join("\n"))
}

#[test]
fn spoilt_files_end_no_gateway_and_the_right_one_is_believed_again() {
    let Some(pair) = Pair::start("spoilt_files", &with(engines()[0])) else { return };
    let seed = match std::env::var("TWILL_FUZZ_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::random::<u64>(),
    };
    println!("TWILL_FUZZ_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let config = pair.gateways[0].config.clone();
    let original = fs::read(&config).unwrap();
    let mut refused = 0;
    for _ in 0..200 {
        let mut bytes = original.clone();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        if random.random_ratio(1, 8) {
            bytes.truncate(random.random_range(0..bytes.len()));
        }
        fs::write(&config, bytes).unwrap();
        let answer = control::call(&pair.gateways[0].socket, Request::Reload);
        refused += usize::from(answer.is_err());
    }

    fs::write(&config, original).unwrap();
    let reloaded = control::call(&pair.gateways[0].socket, Request::Reload);

    assert!(refused > 100, "only {refused} of 200 spoilt files were refused");
    assert!(reloaded.is_ok(), "{reloaded:?}");
    assert!(!pair.logs().contains("panicked"), "{}", pair.logs());
    pair.assert_connected();
    pair.assert_books_balance();
}
