//! The fast path: programs in the kernel carry packets, and user space does what they leave.

use crate::numbered::{Load, beside, echo_numbered};
use crate::{narrow, with};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use twill::sys::kernel::{Version, release};
use twill_testbed::pair::{DEVICE, PATIENCE, Pair, Setup, output};
use twill_testbed::{Underlay, Wire};

const FAST: &str = "fast_path = \"bpf\"";
const LOAD: Load<'_> = Load { flows: 8, rounds: 100, sizes: &[64, 1400, 300], window: 96 };

fn fast() -> Setup<'static> {
    Setup { lines: FAST, ..with("auto") }
}

/// Packets that the programs of a gateway have forwarded: to peers, from peers.
pub(crate) fn carried(pair: &Pair, index: usize) -> [u64; 2] {
    let fast = &pair.status(index)["fast_path"];
    ["egress_packets", "ingress_packets"].map(|key| fast[key].as_u64().unwrap())
}

/// Packets to peers that a gateway has forwarded in user space.
pub(crate) fn by_workers(pair: &Pair, index: usize) -> u64 {
    let out = pair.status(index)["egress"]["packets_out"].as_u64().unwrap();
    out - carried(pair, index)[0]
}

fn left(pair: &Pair, index: usize) -> [u64; 2] {
    let fast = &pair.status(index)["fast_path"];
    ["egress_left", "ingress_left"].map(|key| fast[key].as_u64().unwrap())
}

/// Gives a gateway another value of `fast_path` and starts it again.
fn restart_as(pair: &mut Pair, index: usize, fast_path: &str) {
    let config = &pair.gateways[index].config;
    let text = fs::read_to_string(config).unwrap();
    let text = text.replace(FAST, &format!("fast_path = {fast_path:?}"));
    fs::write(config, text).unwrap();
    pair.gateways[index].process.stop(PATIENCE).unwrap();
    pair.restart(index);
}

/// Has the stack finish packets before they leave a host, as a network card would.
pub(crate) fn finish_packets(pair: &Pair) {
    for host in &pair.hosts {
        host.run("ethtool", &["-K", "u0", "tx", "off"]).unwrap();
    }
}

fn has_links(pair: &Pair, index: usize) -> bool {
    pair.hosts[index].run("ip", &["-br", "link"]).unwrap().contains(&format!("{DEVICE}-"))
}

#[test]
fn all_kinds_of_traffic_cross_on_each_wire_and_the_usual_ones_stay_in_the_kernel() {
    for (wire, mtu) in
        [(Wire::Offloaded, 1500), (Wire::Mtu, 1500), (Wire::Mtu, 1280), (Wire::Mtu, 9000)]
    {
        let underlay = Underlay { wire, mtu, ..Underlay::default() };
        let setup = Setup { underlay, ..fast() };
        let Some(pair) = Pair::start("fast_path", &setup) else { return };

        pair.assert_carries();
        pair.assert_tcp_carries(50, 1 << 20);

        for index in 0..2 {
            let [sent, received] = carried(&pair, index);
            assert!(sent > 1000 && received > 1000, "{wire:?} {mtu}: {:?}", pair.status(index));
        }
        // Datagrams that are longer than a packet cross in fragments, which user space carries.
        let [fragments, _] = left(&pair, 0);
        assert!(fragments > 0 || mtu > 4000, "{wire:?} {mtu}: {:?}", pair.status(0)["fast_path"]);
        pair.assert_books_balance();
    }
}

#[test]
fn super_packets_go_straight_to_the_device_where_the_kernel_makes_ordinary_ones_of_them() {
    let underlay = Underlay { wire: Wire::Offloaded, ..Underlay::default() };
    let Some(pair) = Pair::start("fast_path_straight", &Setup { underlay, ..fast() }) else {
        return;
    };
    let bytes = |of: &str| {
        let path = format!("/sys/class/net/{DEVICE}-in/statistics/{of}");
        pair.hosts[1].run("cat", &[&path]).unwrap().trim().parse::<u64>().unwrap()
    };

    pair.assert_tcp_carries(4, 4 << 20);

    let joined = bytes("tx_bytes");
    if Version::parse(&release()) >= Version::parse("7.3") {
        assert!(joined < 1 << 20, "{joined} bytes went through the pair of links");
    } else {
        assert!(joined > 16 << 20, "{joined} bytes went through the pair of links");
    }
    pair.assert_books_balance();
}

#[test]
fn ipv6_inside_crosses_in_user_space_beside_the_programs() {
    let Some(mut pair) = Pair::start("fast_path_v6", &fast()) else { return };
    narrow::carry_both_families(&mut pair, false);

    narrow::assert_carries(&pair, 0, 1);
    narrow::assert_carries(&pair, 1, 0);

    let [sent, received] = left(&pair, 0);
    assert!(sent > 20 && received > 20, "{:?}", pair.status(0)["fast_path"]);
    pair.assert_books_balance();
}

#[test]
fn icmp_errors_are_those_of_user_space() {
    let Some(pair) = Pair::start("fast_path_icmp", &fast()) else { return };
    pair.assert_connected();
    let to = pair.pods[1].address().to_string();
    let ping = |args: &[&str]| {
        let mut command = pair.pods[0].command("ping");
        command.args(["-c1", "-W2"]).args(args).arg(&to);
        output(&mut command).unwrap_or_else(|said| said)
    };

    // The pod's host takes the first hop, the gateway's device the second, the other host the third.
    for hops in ["1", "2", "3"] {
        let said = ping(&["-t", hops]);
        assert!(said.contains("Time to live exceeded"), "{hops} hops: {said}");
    }
    let path = pair.pods[0].run("ip", &["route", "get", &to]).unwrap();
    let long = ping(&["-M", "do", "-s", "1600"]);

    assert!(long.contains("message too long") || long.contains("mtu"), "{long}\n{path}");
    pair.assert_books_balance();
}

#[test]
fn a_peer_in_user_space_gets_what_a_peer_in_the_kernel_sends_and_the_reverse() {
    for engine in ["auto", "classic"] {
        let setup = Setup { engine, ..fast() };
        let Some(mut pair) = Pair::start("fast_path_mixed", &setup) else { return };
        finish_packets(&pair);
        restart_as(&mut pair, 1, "off");

        pair.assert_carries();
        let counted = echo_numbered(&pair, &LOAD);
        counted.assert_in_order();

        assert_eq!(counted.missing(), 0, "{engine}: {counted:?}");
        let [sent, _] = carried(&pair, 0);
        assert!(sent > 1000, "{engine}: {:?}", pair.status(0)["fast_path"]);
        assert_eq!(carried(&pair, 1), [0, 0]);
    }
}

#[test]
fn auto_takes_it_only_where_peers_of_any_kind_get_whole_packets() {
    let Some(mut pair) = Pair::start("fast_path_auto", &fast()) else { return };

    restart_as(&mut pair, 0, "auto");
    let there = pair.status(0)["fast_path"].clone();
    finish_packets(&pair);
    pair.gateways[0].process.stop(PATIENCE).unwrap();
    pair.restart(0);
    let then = pair.status(0)["fast_path"].clone();

    assert_eq!(there["on"], false);
    let reason = there["reason"].as_str().unwrap();
    assert!(reason.contains("u0 is a virtual link (veth)"), "{reason}");
    assert_eq!(then["on"], true, "{then}");
    pair.assert_carries();
}

#[test]
fn peers_come_and_go_and_the_others_lose_nothing() {
    let Some(pair) = Pair::start("fast_path_peers", &fast()) else { return };
    pair.assert_connected();
    let before = carried(&pair, 0);

    beside(
        |over| {
            let mut number = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                number += 1;
                let subnet = format!("10.99.{}.0/24", number % 200);
                let add = ["peer", "add", &subnet, "192.0.2.77:8285", "--name", "guest"];
                pair.twill(0, &add).unwrap();
                pair.twill(0, &["peer", "del", "guest"]).unwrap();
            }
            assert!(number > 3, "{number} changes");
        },
        || {
            for _ in 0..5 {
                let counted = echo_numbered(&pair, &LOAD);
                counted.assert_in_order();
                assert_eq!(counted.missing(), 0, "{counted:?}");
            }
        },
    );

    let sent = carried(&pair, 0)[0] - before[0];
    assert!(sent > 10_000, "{sent} packets in the kernel");
    pair.assert_books_balance();
}

#[test]
fn a_packet_to_a_peer_that_has_gone_is_answered_by_user_space() {
    let Some(pair) = Pair::start("fast_path_gone", &fast()) else { return };
    pair.assert_connected();

    pair.twill(0, &["peer", "del", "other"]).unwrap();
    let said = pair.ping().unwrap_err();
    assert!(said.contains("Unreachable"), "{said}");
}

#[test]
fn nothing_is_left_when_a_gateway_ends_and_its_successor_clears_up_after_a_kill() {
    let Some(mut pair) = Pair::start("fast_path_end", &fast()) else { return };
    pair.assert_connected();
    assert!(has_links(&pair, 0));

    pair.gateways[0].process.signal(Signal::KILL).unwrap();
    pair.gateways[0].process.finish(PATIENCE).unwrap();
    pair.restart(0);
    pair.assert_connected();
    pair.gateways[0].process.stop(PATIENCE).unwrap();

    assert!(!has_links(&pair, 0));
    let programs = pair.hosts[0].run("tc", &["filter", "show", "dev", "u0", "ingress"]).unwrap();
    assert_eq!(programs.trim(), "");
}

#[test]
fn a_path_that_becomes_narrow_is_noticed() {
    let Some(pair) = Pair::start("fast_path_narrow", &fast()) else { return };
    pair.assert_connected();
    let to = pair.hosts[1].address().to_string();
    let own = format!("{to}/32");

    pair.hosts[0].ip(&format!("route add {own} dev u0 mtu 1300")).unwrap();
    let pod = pair.pods[1].address().to_string();
    pair.eventually("an answer about the MTU", |pair| {
        let mut ping = pair.pods[0].command("ping");
        let said = output(ping.args(["-c1", "-W1", "-M", "do", "-s", "1400", &pod]));
        said.unwrap_or_else(|said| said).contains("mtu = 1272")
    });
    pair.assert_tcp_carries(2, 1 << 20);
}

#[test]
fn a_gateway_that_cannot_have_it_says_why() {
    let Some(pair) = Pair::start("fast_path_refused", &with("auto")) else { return };
    let config = pair.bed.folder().join("v6.toml");
    let text = "[interface]\nname = \"tw9\"\naddress = \"10.9.9.0/32\"\nlisten = \"[::]:8299\"\n";
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();

    let said = pair.twill_there(0, &["run", "--config", config, "--fast-path", "bpf"]).unwrap_err();

    assert!(said.contains("no fast path: datagrams over IPv6 go through user space"), "{said}");
    let findings: Value =
        serde_json::from_str(&pair.twill_there(0, &["doctor", "--json"]).unwrap()).unwrap();
    let about = findings.as_array().unwrap().iter().filter_map(|it| it["what"].as_str());
    // One for programs, one for those in drivers, and one for each kind of device.
    assert_eq!(about.filter(|what| what.starts_with("fast path")).count(), 4);
}
