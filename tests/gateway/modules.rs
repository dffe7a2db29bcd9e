//! Devices of the kernel's modules as a fast path: bareudp and fou.
//!
//! They run where the kernel has the modules. `TWILL_TEST_MODULES` names, separated by commas, those that
//! this kernel must have: then a test without them fails. `tests/kernels/all` sets it.

use crate::fast::{carried, finish_packets};
use crate::with;
use rustix::process::Signal;
use std::fs;
use std::net::UdpSocket;
use std::process::Command;
use twill_testbed::pair::{DEVICE, PATIENCE, Pair, Setup, output};
use twill_testbed::{Underlay, Wire, missing};

const OFF: &str = "fast_path = \"off\"";

/// The lines of the modules that this kernel has; says which others are left out.
fn there(test: &str) -> Vec<(&'static str, &'static str)> {
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_twill"));
    let said = output(doctor.args(["doctor", "--json"])).unwrap_or_else(|said| said);
    let required = std::env::var("TWILL_TEST_MODULES").unwrap_or_default();
    let kinds = [("fou", "fast_path = \"fou\""), ("bareudp", "fast_path = \"bareudp\"")];
    let is_there = |(kind, _): &(&str, &str)| {
        let possible = format!("fast path possible with fast_path = \\\"{kind}\\\"");
        if said.contains(&possible) {
            return true;
        }
        assert!(!required.split(',').any(|name| name == *kind), "{kind} is required: {said}");
        missing::leave_out(&format!("{test} with {kind}"), &"this kernel has no such module");
        false
    };
    kinds.into_iter().filter(is_there).collect()
}

fn start(test: &str, lines: &str) -> Option<Pair> {
    Pair::start(test, &Setup { lines, ..with("auto") })
}

/// The links, routes, ports and rules of a gateway's host that belong to a fast path.
fn traces(pair: &Pair, index: usize) -> String {
    let run = |program: &str, args: &[&str]| pair.hosts[index].run(program, args).unwrap();
    let links = run("ip", &["-br", "link"]);
    let links: Vec<_> = links.lines().filter(|it| it.contains(&format!("{DEVICE}-"))).collect();
    let routes = run("ip", &["route", "show", "proto", "116"]);
    let ports = run("ss", &["-ulnH", "sport", "=", ":8285"]);
    let rules = run("nft", &["list", "tables"]);
    let lines = routes.lines().chain(ports.lines()).chain(rules.lines());
    links.into_iter().chain(lines).map(|line| format!("{line}\n")).collect()
}

/// Writes another line into a configuration, in place of one.
fn rewrite(pair: &Pair, index: usize, from: &str, to: &str) {
    let config = &pair.gateways[index].config;
    let text = fs::read_to_string(config).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(config, text.replace(from, to)).unwrap();
}

#[test]
fn all_kinds_of_traffic_cross_by_the_devices() {
    for (kind, line) in there("all kinds of traffic") {
        for (wire, mtu) in [(Wire::Offloaded, 1500), (Wire::Mtu, 1280)] {
            let underlay = Underlay { wire, mtu, ..Underlay::default() };
            let setup = Setup { lines: line, underlay, ..with("auto") };
            let Some(pair) = Pair::start("modules", &setup) else { return };

            pair.assert_carries();
            pair.assert_tcp_carries(4, 1 << 20);

            for index in 0..2 {
                let [sent, received] = carried(&pair, index);
                assert!(sent > 100 && received > 100, "{kind} {wire:?}: {:?}", pair.status(index));
                let status = &pair.status(index)["fast_path"];
                assert_eq!(status["reason"], line, "{status}");
            }
            assert_eq!(pair.metric(0, "twill_fast_path").as_deref(), Some("1.0"));
            pair.assert_books_balance();
        }
    }
}

#[test]
fn a_gateway_in_user_space_understands_a_device_and_the_reverse() {
    for (kind, line) in there("a device and user space") {
        let Some(mut pair) = start("modules_mixed", line) else { return };
        finish_packets(&pair);
        rewrite(&pair, 1, line, OFF);
        pair.gateways[1].process.stop(PATIENCE).unwrap();
        pair.restart(1);

        pair.assert_carries();
        pair.assert_tcp_carries(2, 1 << 20);

        let [sent, received] = carried(&pair, 0);
        assert!(sent > 100 && received > 100, "{kind}: {:?}", pair.status(0)["fast_path"]);
        assert_eq!(carried(&pair, 1), [0, 0]);
    }
}

#[test]
fn peers_are_added_moved_and_removed_while_others_are_connected() {
    for (kind, line) in there("peers come and go") {
        let Some(pair) = start("modules_peers", line) else { return };
        pair.assert_connected();
        let route = |network: &str| {
            let args = ["route", "show", network];
            pair.hosts[0].run("ip", &args).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let of_peer = format!("{}/24", pair.hosts[1].pod_network());

        // Where the first of them leads: the route or its device names the peer's host.
        let host = |routes: &[String]| {
            let mut words = routes[0].split_whitespace().skip_while(|word| *word != "dev");
            let device = words.nth(1).unwrap();
            let link = pair.hosts[0].run("ip", &["-d", "link", "show", device]).unwrap();
            format!("{} {link}", routes[0])
        };

        // The peer's own network goes by its device first, a new one, too, and a removed one by none.
        pair.twill(0, &["peer", "add", "10.99.1.0/24", "192.0.2.77"]).unwrap();
        let both = [route(&of_peer), route("10.99.1.0/24")];
        let before = host(&both[1]);
        pair.twill(0, &["peer", "add", "10.99.1.0/24", "192.0.2.78"]).unwrap();
        let moved = route("10.99.1.0/24");
        let after = host(&moved);
        pair.twill(0, &["peer", "del", "10.99.1.0/24"]).unwrap();

        for routes in [&both[0], &both[1], &moved] {
            assert_eq!(routes.len(), 2, "{kind}: {both:?} {moved:?}");
            let [first, last] = [&routes[0], &routes[1]];
            assert!(first.contains(&format!("dev {DEVICE}-")), "{kind}: {routes:?}");
            assert!(last.contains(&format!("dev {DEVICE} ")), "{kind}: {routes:?}");
        }
        for (way, address) in [(before, "192.0.2.77"), (after, "192.0.2.78")] {
            assert!(way.contains(address), "{kind}: not to {address}: {way}");
        }
        assert_eq!(route("10.99.1.0/24"), Vec::<String>::new(), "{kind}");
        pair.assert_connected();

        pair.twill(0, &["peer", "del", "other"]).unwrap();
        assert!(pair.ping().is_err(), "{kind}: a peer that has gone is reached");
        pair.twill(0, &["peer", "add", &of_peer, "192.0.2.2", "--name", "other"]).unwrap();
        pair.assert_connected();
        pair.assert_tcp_carries(1, 1 << 18);
    }
}

#[test]
fn strangers_foreign_sources_and_foreign_destinations_are_refused_and_counted() {
    for (kind, line) in there("source checks") {
        let setup = Setup { lines: line, hosts: 3, ..with("auto") };
        let Some(pair) = Pair::start("modules_checks", &setup) else { return };
        pair.assert_connected();
        let pods = [0, 1].map(|index: usize| pair.pods[index].address().octets());
        let victim = (pair.hosts[1].address(), 8285);
        // From the peer's port for replies, which is not the one that its device has.
        let send = |from: usize, source: [u8; 4], destination: [u8; 4]| {
            let mut packet = vec![0x45, 0, 0, 20, 0, 1, 0, 0, 9, 253, 0, 0];
            packet.extend(source);
            packet.extend(destination);
            pair.hosts[from].enter(|| {
                let socket = UdpSocket::bind((pair.hosts[from].address(), 0)).unwrap();
                socket.send_to(&packet, victim).unwrap();
            });
        };

        send(2, pods[0], pods[1]);
        send(0, [10, 66, 6, 6], pods[1]);
        send(0, pods[1], pods[1]);
        send(0, pods[0], [10, 66, 6, 6]);

        let expected = [("unknown_peer", 1), ("src_mismatch", 2), ("dst_scope", 1)];
        pair.eventually("the refused datagrams", |pair| {
            expected.iter().all(|(reason, count)| pair.drops(1, "ingress", reason) == *count)
        });
        pair.assert_connected();
        pair.assert_books_balance();
        assert!(!pair.logs().contains("does not follow"), "{kind}: {}", pair.logs());
    }
}

#[test]
fn nothing_is_left_when_a_gateway_ends_and_its_successor_clears_up_after_a_kill() {
    for (kind, line) in there("the end") {
        let Some(mut pair) = start("modules_end", line) else { return };
        pair.assert_connected();
        assert_ne!(traces(&pair, 0), "", "{kind}");

        // The kernel goes on with the device, and a gateway in user space takes the port from it.
        pair.gateways[0].process.signal(Signal::KILL).unwrap();
        pair.gateways[0].process.finish(PATIENCE).unwrap();
        rewrite(&pair, 0, line, OFF);
        pair.restart(0);
        pair.assert_connected();
        assert!(!traces(&pair, 0).contains(&format!("{DEVICE}-")), "{kind}: {}", traces(&pair, 0));
        rewrite(&pair, 0, OFF, line);
        pair.gateways[0].process.stop(PATIENCE).unwrap();
        pair.restart(0);
        pair.assert_connected();
        pair.gateways[0].process.stop(PATIENCE).unwrap();

        assert_eq!(traces(&pair, 0), "", "{kind}");
    }
}

#[test]
fn a_successor_takes_over_and_carries_by_the_device() {
    for (kind, line) in there("a hand-over") {
        let Some(mut pair) = start("modules_upgrade", line) else { return };
        pair.assert_connected();

        let mut successor = pair.successor(0, "auto", &[]);
        successor.wait_for("running", PATIENCE).unwrap();
        pair.gateways[0].process.finish(PATIENCE).unwrap();
        pair.gateways[0].process = successor;

        pair.assert_carries();
        assert_eq!(pair.status(0)["fast_path"]["on"], true, "{kind}");
    }
}

#[test]
fn a_gateway_that_cannot_have_devices_says_why() {
    let Some(pair) = start("modules_refused", OFF) else { return };
    let config = pair.bed.folder().join("refused.toml");
    let device = "[interface]\nname = \"tw9\"\naddress = \"10.9.9.0/32\"\n";
    let v4 = "listen = \"192.0.2.1:8299\"\n";
    let cases = [
        ("bareudp", "listen = \"[::]:8299\"\n".to_owned(), "datagrams over IPv6"),
        ("fou", format!("{v4}peer_sources = [\"192.0.2.0/24\"]\n"), "cannot keep peer_sources"),
        ("fou", format!("{v4}ingress_check = \"off\"\n"), "fou receives from peers only"),
        ("fou", format!("{v4}local = [\"fd00:9::/64\"]\n"), "fou carries no IPv6"),
    ];
    let there: Vec<_> = there("refusals").into_iter().map(|(kind, _)| kind).collect();
    for (kind, lines, complaint) in cases {
        fs::write(&config, format!("{device}{lines}")).unwrap();

        let args = ["run", "--config", config.to_str().unwrap(), "--fast-path", kind];
        let said = pair.twill_there(0, &args).unwrap_err();

        assert!(said.contains("no fast path: "), "{kind}: {said}");
        // Without the module that is the first thing to say.
        let absent = format!("this kernel has no {kind}");
        let is_told = said.contains(complaint) || !there.contains(&kind) && said.contains(&absent);
        assert!(is_told, "{kind}: {said}");
    }
    assert_eq!(traces(&pair, 0).lines().filter(|line| !line.contains(":8285")).count(), 0);
}
