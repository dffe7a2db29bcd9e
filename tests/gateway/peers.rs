//! Peers come and go while traffic flows.

use crate::pair::{PATIENCE, Pair, engines};
use rustix::process::Signal;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn peers_are_added_changed_and_removed_by_arguments_alone() {
    let Some(pair) = Pair::start("peers", engines()[0]) else { return };
    let list = |pair: &Pair| pair.twill(0, &["peer", "list"]).unwrap();

    pair.twill(0, &["peer", "add", "10.99.1.0/24", "198.51.100.7"]).unwrap();
    pair.twill(0, &["peer", "add", "10.99.1.0/24", "198.51.100.7"]).unwrap();
    assert!(
        list(&pair).contains("10.99.1.0/24  198.51.100.7:8285  10.99.1.0/24"),
        "{}",
        list(&pair)
    );
    assert!(routes(&pair).contains("10.99.1.0/24 dev tw0"));

    pair.twill(0, &["peer", "add", "10.99.1.0/24", "198.51.100.8:9000"]).unwrap();
    assert!(list(&pair).contains("198.51.100.8:9000"));

    pair.twill(0, &["peer", "del", "10.99.1.0/24"]).unwrap();
    pair.twill(0, &["peer", "del", "10.99.1.0/24"]).unwrap();
    assert!(!list(&pair).contains("10.99.1.0/24"));
    assert!(!routes(&pair).contains("10.99.1.0/24"));
    assert!(list(&pair).contains("other"));
}

#[test]
fn a_peer_that_cannot_be_is_refused_and_nothing_changes() {
    let Some(pair) = Pair::start("refused_peers", engines()[0]) else { return };
    let before = pair.twill(0, &["peer", "list"]).unwrap();
    let own = format!("{}/25", pair.hosts[0].pod_network());
    let taken = format!("{}/24", pair.hosts[1].pod_network());
    for (subnet, endpoint, complaint) in [
        (own.as_str(), "198.51.100.7", "behind this gateway"),
        (taken.as_str(), "198.51.100.7", "is behind"),
        ("10.99.1.0/24", "0.0.0.0", "no address of a host"),
        ("10.99.1.0/24", "224.0.0.1", "no address of a host"),
        ("10.99.1.0/99", "198.51.100.7", "no network"),
    ] {
        let error = pair.twill(0, &["peer", "add", subnet, endpoint]).unwrap_err();

        assert!(error.contains(complaint), "{subnet} {endpoint}: {error}");
        assert_eq!(pair.twill(0, &["peer", "list"]).unwrap(), before);
    }
    pair.assert_connected();
}

#[test]
fn traffic_to_one_peer_does_not_notice_a_thousand_changes_of_others() {
    for engine in engines() {
        let Some(pair) = Pair::start("peers_under_traffic", engine) else { return };
        pair.assert_connected();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut round = 0;
                while !done.load(Ordering::Relaxed) {
                    let subnet = format!("10.99.{}.0/24", round % 8);
                    pair.twill(0, &["peer", "add", &subnet, "198.51.100.7"]).unwrap();
                    pair.twill(0, &["peer", "del", &subnet]).unwrap();
                    round += 1;
                }
                assert!(round > 3, "only {round} changes happened");
            });

            pair.assert_udp_carries(&[64; 2000]);
            pair.assert_tcp_carries(4, 4 << 20);

            done.store(true, Ordering::Relaxed);
        });
        pair.assert_books_balance();
    }
}

#[test]
fn a_reload_makes_the_files_peers_and_keeps_those_of_the_socket() {
    let Some(mut pair) = Pair::start("reload", engines()[0]) else { return };
    pair.twill(0, &["peer", "add", "10.98.0.0/24", "198.51.100.9", "--name", "guest"]).unwrap();
    let config = pair.gateways[0].config.clone();
    let text = std::fs::read_to_string(&config).unwrap();
    let more =
        "\n[[peer]]\nname = \"third\"\nendpoint = \"198.51.100.7\"\nsubnets = \"10.97.0.0/24\"\n";

    std::fs::write(&config, format!("{text}{more}")).unwrap();
    pair.gateways[0].process.signal(Signal::HUP).unwrap();
    pair.gateways[0].process.wait_for("reloaded", PATIENCE).unwrap();
    let names = |pair: &Pair| pair.twill(0, &["peer", "list"]).unwrap();
    assert!(["guest", "other", "third"].iter().all(|name| names(&pair).contains(name)));

    std::fs::write(&config, &text).unwrap();
    pair.gateways[0].process.signal(Signal::HUP).unwrap();
    pair.eventually("the third peer gone", |pair| !names(pair).contains("third"));
    assert!(names(&pair).contains("guest"));

    std::fs::write(&config, text.replace("endpoint", "endpiont")).unwrap();
    pair.gateways[0].process.signal(Signal::HUP).unwrap();
    pair.gateways[0].process.wait_for("not reloaded", PATIENCE).unwrap();
    assert!(names(&pair).contains("other"));
    pair.assert_connected();

    std::fs::write(&config, &text).unwrap();
    pair.twill(0, &["peer", "sync", config.to_str().unwrap()]).unwrap();
    assert!(!names(&pair).contains("guest"));
    pair.assert_connected();
}

fn routes(pair: &Pair) -> String {
    pair.hosts[0].run("ip", &["route"]).unwrap()
}
