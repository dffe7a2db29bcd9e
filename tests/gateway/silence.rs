//! A peer that falls silent is named, in the log and by the commands.

use crate::with;
use twill_testbed::engines;
use twill_testbed::pair::{PATIENCE, Pair, Setup};

#[test]
fn a_peer_that_falls_silent_is_named_once_and_once_more_when_it_answers_again() {
    let setup = Setup { lines: "probe_seconds = 1", ..with(engines()[0]) };
    let Some(mut pair) = Pair::start("silence", &setup) else { return };
    pair.assert_connected();
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
