//! What happens to the host around a gateway: addresses and routes are taken away, and put back.

use crate::with;
use rustix::process::Signal;
use std::fs;
use twill_testbed::engines;
use twill_testbed::pair::{DEVICE, METRICS, PATIENCE, Pair, Setup};

#[test]
fn addresses_and_routes_that_something_removes_are_restored() {
    let lines = "probe_seconds = 0";
    let Some(pair) = Pair::start("flushed", &Setup { lines, ..with(engines()[0]) }) else { return };
    pair.assert_connected();
    let before = state(&pair);

    for removal in [
        format!("addr flush dev {DEVICE}"),
        format!("route flush dev {DEVICE}"),
        format!("route replace {}/24 dev lo", pair.hosts[1].pod_network()),
    ] {
        pair.hosts[0].ip(&removal).unwrap();
        assert_ne!(state(&pair), before, "{removal}");
        if removal.contains("replace") {
            pair.eventually("word of it", |pair| !ready(pair).0);
            let page = ready(&pair).1;
            assert!(page.contains("has a route already, through lo"), "{page}");
            let missing = pair.status(0)["missing"][0].as_str().unwrap().to_owned();
            assert!(missing.contains("through lo"), "{missing}");
            pair.hosts[0].ip(&removal.replace("replace", "del")).unwrap();
        }

        pair.eventually(&format!("the end of {removal}"), |pair| state(pair) == before);
        pair.eventually("readiness", |pair| ready(pair).0);
        pair.assert_connected();
    }
    let log = pair.gateways[0].process.log();
    assert!(log.contains("restored address") && log.contains("restored route"), "{log}");
}

#[test]
fn an_ipv6_address_that_cannot_be_takes_no_route_along_and_comes_later() {
    let lines = "probe_seconds = 0";
    let Some(mut pair) = Pair::start("no_ipv6", &Setup { lines, ..with(engines()[0]) }) else {
        return;
    };
    add_ipv6(&pair);
    pair.gateways[0].process.stop(PATIENCE).unwrap();
    pair.restart(0);
    let before = state(&pair);

    pair.hosts[0].sysctl(&format!("net.ipv6.conf.{DEVICE}.disable_ipv6"), "1").unwrap();
    pair.hosts[0].ip(&format!("link set {DEVICE} down\nlink set {DEVICE} up")).unwrap();
    pair.eventually("word of it", |pair| !ready(pair).0);

    pair.assert_connected();
    let page = ready(&pair).1;
    assert!(page.contains("cannot add address 2001:db8::1/128"), "{page}");
    let shown = pair.twill(0, &["status"]).unwrap();
    assert!(shown.contains("  missing: cannot add address 2001:db8::1/128"), "{shown}");
    std::thread::sleep(std::time::Duration::from_secs(3));
    let log = pair.gateways[0].process.log();
    assert_eq!(log.matches("missing: cannot add address").count(), 1, "logged once: {log}");

    pair.hosts[0].sysctl(&format!("net.ipv6.conf.{DEVICE}.disable_ipv6"), "0").unwrap();
    pair.eventually("the address", |pair| state(pair) == before && ready(pair).0);
}

#[test]
fn a_hang_up_restores_what_no_event_told() {
    let Some(mut pair) = Pair::start("hangup_restores", &with(engines()[0])) else { return };
    let before = state(&pair);
    // The kernel drops what a process that does not run would have received.
    let process = &mut pair.gateways[0].process;
    process.freeze().unwrap();
    pair.hosts[0].ip(&format!("addr flush dev {DEVICE}")).unwrap();
    let process = &mut pair.gateways[0].process;
    process.signal(Signal::HUP).unwrap();
    process.signal(Signal::CONT).unwrap();

    process.wait_for(" reloaded", PATIENCE).unwrap();

    pair.eventually("the address", |pair| state(pair) == before);
    pair.assert_connected();
}

#[test]
fn a_gateway_that_lost_its_listen_address_says_so_until_it_is_back() {
    let Some(pair) = Pair::start("lost_listen", &with(engines()[0])) else { return };
    let address = pair.hosts[0].address();
    pair.hosts[0].ip(&format!("address del {address}/24 dev u0")).unwrap();

    pair.eventually("word of it", |pair| !ready(pair).0);
    let page = ready(&pair).1;
    assert!(page.contains(&format!("this host has lost {address}")), "{page}");

    pair.hosts[0].ip(&format!("address add {address}/24 dev u0")).unwrap();
    pair.eventually("readiness", |pair| ready(pair).0);
    pair.assert_connected();
}

/// Addresses and routes of the first host's device, and whatever hides them.
fn state(pair: &Pair) -> Vec<String> {
    let mut all = Vec::new();
    for args in [&["-o", "addr", "show", "dev", DEVICE][..], &["route"], &["-6", "route"]] {
        let text = pair.hosts[0].run("ip", args).unwrap();
        // Link-local addresses are the kernel's own.
        let lines = text.lines().filter(|line| !line.contains("fe80"));
        all.extend(lines.map(|line| line.split(" valid_lft").next().unwrap().trim().to_owned()));
    }
    all.sort();
    all
}

/// Whether the first gateway is ready, and what its page says.
fn ready(pair: &Pair) -> (bool, String) {
    let url = format!("http://{METRICS}/readyz");
    let page = pair.hosts[0].run("curl", &["-s", "-w", "%{http_code}", &url]).unwrap();
    (page.ends_with("200"), page)
}

#[test]
fn an_automatic_mtu_follows_an_uplink_that_changes_or_appears() {
    for engine in engines().into_iter().chain(["classic"]) {
        let Some(mut pair) = Pair::start("mtu_follows", &with(engine)) else { return };
        let text = fs::read_to_string(&pair.gateways[0].config).unwrap();
        let host = pair.hosts[0].clone();
        let lines = text.lines().filter(|line| !line.starts_with("mtu = "));
        let lines: Vec<_> = lines.collect();
        let text = lines.join("\n").replace(&pair.hosts[0].address().to_string(), "0.0.0.0");
        fs::write(&pair.gateways[0].config, text).unwrap();
        pair.gateways[0].process.stop(PATIENCE).unwrap();
        let address = format!("{}/24", pair.hosts[0].address());

        // No uplink at the start.
        host.ip(&format!("link set u0 mtu 9000\naddress del {address} dev u0")).unwrap();
        pair.restart(0);
        assert_eq!(pair.status(0)["mtu"], 1472);
        host.ip(&format!("address add {address} dev u0")).unwrap();
        pair.status_when(0, "jumbo frames", |status| status["mtu"] == 8972);
        pair.assert_connected();

        host.ip("link set u0 mtu 1400").unwrap();
        pair.status_when(0, "a narrow uplink", |status| status["mtu"] == 1372);
        let link = host.run("ip", &["link", "show", DEVICE]).unwrap();
        assert!(link.contains("mtu 1372"), "{engine}: {link}");

        // It was narrow for a moment only.
        for index in [0, 1] {
            pair.hosts[index].ip("link set u0 mtu 9000").unwrap();
        }
        pair.status_when(0, "jumbo frames again", |status| status["mtu"] == 8972);
        pair.assert_connected();
    }
}

#[test]
fn where_ipv6_is_disabled_a_gateway_starts_with_what_it_can_have() {
    let Some(mut pair) = Pair::start("starts_without_ipv6", &with(engines()[0])) else { return };
    pair.hosts[0].sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
    add_ipv6(&pair);
    pair.gateways[0].process.stop(PATIENCE).unwrap();

    pair.restart(0);

    pair.assert_connected();
    let (is_ready, page) = ready(&pair);
    assert!(!is_ready && page.contains("cannot add address 2001:db8::1/128"), "{page}");
    pair.hosts[0].sysctl(&format!("net.ipv6.conf.{DEVICE}.disable_ipv6"), "0").unwrap();
    pair.eventually("the address", |pair| ready(pair).0);
}

/// Gives the first gateway's device an IPv6 address in its file.
fn add_ipv6(pair: &Pair) {
    let text = fs::read_to_string(&pair.gateways[0].config).unwrap();
    let (head, rest) = text.split_once("address = ").unwrap();
    let (address, rest) = rest.split_once('\n').unwrap();
    let text = format!("{head}address = [{address}, \"2001:db8::1/128\"]\n{rest}");
    fs::write(&pair.gateways[0].config, text).unwrap();
}
