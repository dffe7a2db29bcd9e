//! A peer that falls silent is named, in the log and by the commands.

use crate::with;
use std::fs;
use twill_testbed::engines;
use twill_testbed::pair::{PATIENCE, Pair, Setup};

#[test]
fn a_peer_that_falls_silent_is_named_once_and_once_more_when_it_answers_again() {
    let Some(pair) = started("silence") else { return };
    pair.assert_connected();

    assert_silence_is_named(pair);
}

#[test]
fn a_peer_of_ipv6_alone_that_falls_silent_is_named_too() {
    let Some(mut pair) = started("silence_v6") else { return };
    for index in 0..2 {
        use_ipv6_alone(&pair, index);
        pair.gateways[index].process.stop(PATIENCE).unwrap();
        pair.restart(index);
    }

    assert_silence_is_named(pair);
}

fn started(test: &str) -> Option<Pair> {
    Pair::start(test, &Setup { lines: "probe_seconds = 1", ..with(engines()[0]) })
}

/// Gives a gateway's file IPv6 inside the tunnel, and outside.
fn use_ipv6_alone(pair: &Pair, index: usize) {
    let config = &pair.gateways[index].config;
    let mut text = fs::read_to_string(config).unwrap();
    for host in &pair.hosts {
        let v4 = host.pod_network();
        for (before, after) in [(format!("{v4}/32"), 128), (format!("{v4}/24"), 64)] {
            text = text.replace(&before, &format!("{}/{after}", host.pod_network_v6()));
        }
        text = text.replace(&format!("{}:", host.address()), &format!("[{}]:", host.address_v6()));
    }
    assert!(!text.contains("10.244."), "{text}");
    fs::write(config, text).unwrap();
}

fn assert_silence_is_named(mut pair: Pair) {
    pair.eventually("a round trip", |pair| {
        pair.status(0)["peers"][0]["probe"]["rtt"]["count"].as_u64() > Some(0)
    });
    assert!(!pair.twill(0, &["status"]).unwrap().contains("silent:"));

    pair.gateways[1].process.stop(PATIENCE).unwrap();
    pair.gateways[0].process.wait_for("the peer is silent: no traffic for", PATIENCE).unwrap();

    for args in [&["status"][..], &["peer", "list"]] {
        let shown = pair.twill(0, args).unwrap();
        assert!(shown.contains("silent: no traffic for "), "{shown}");
        assert!(shown.contains(" s, last probe lost"), "{shown}");
    }

    pair.restart(1);
    pair.gateways[0].process.wait_for("the peer answers again", PATIENCE).unwrap();
    let log = pair.gateways[0].process.log();
    assert_eq!(log.matches("the peer is silent").count(), 1, "{log}");
    assert!(!pair.twill(0, &["peer", "list"]).unwrap().contains("silent:"));
}
