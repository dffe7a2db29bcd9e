//! What the underlay refuses, and what comes of it.

use crate::with;
use twill_testbed::engines;
use twill_testbed::pair::{PATIENCE, Pair};

#[test]
fn a_narrow_path_is_told_to_senders_and_fragments_still_cross() {
    for engine in engines() {
        let Some(pair) = Pair::start("narrow_path", &with(engine)) else { return };
        pair.assert_connected();
        let there = pair.hosts[1].address();

        pair.hosts[0].ip(&format!("route add {there}/32 dev u0 mtu 1400")).unwrap();

        // TCP sets DF: it is told and adapts. UDP without DF leaves in outer fragments.
        pair.assert_tcp_carries(2, 2 << 20);
        pair.assert_udp_carries(&[1444, 1400, 1300, 4000]);
        assert!(pair.drops(0, "egress", "send_msgsize") > 0, "{}", pair.status(0));
        pair.assert_books_balance();
    }
}

#[test]
fn a_firewall_that_refuses_datagrams_is_counted_and_survived() {
    for engine in engines() {
        let Some(pair) = Pair::start("firewall", &with(engine)) else { return };
        pair.assert_connected();
        let rule = ["OUTPUT", "-p", "udp", "--dport", "8285", "-j", "DROP"];
        let iptables = |verb: &str| {
            // With iptables-legacy all tests share one lock: it is waited for.
            let mut args = vec!["-w", verb];
            args.extend(rule);
            pair.hosts[0].run("iptables", &args).unwrap();
        };

        iptables("-A");
        assert!(pair.ping().is_err());
        iptables("-D");

        assert!(pair.drops(0, "egress", "send_perm") > 0, "{}", pair.status(0));
        pair.assert_connected();
        pair.assert_books_balance();
    }
}

#[test]
fn a_host_without_a_route_to_its_peer_counts_and_recovers() {
    for engine in engines() {
        let Some(pair) = Pair::start("no_route", &with(engine)) else { return };
        pair.assert_connected();
        let there = pair.hosts[1].address();

        pair.hosts[0].ip(&format!("route add unreachable {there}/32")).unwrap();
        assert!(pair.ping().is_err());
        pair.hosts[0].ip(&format!("route del unreachable {there}/32")).unwrap();

        assert!(pair.drops(0, "egress", "send_unreach") > 0, "{}", pair.status(0));
        pair.assert_connected();
        pair.assert_books_balance();
    }
}

#[test]
fn port_unreachable_from_a_dead_peer_does_not_end_the_loop() {
    for engine in engines() {
        let Some(mut pair) = Pair::start("port_unreachable", &with(engine)) else { return };
        pair.assert_connected();

        pair.gateways[1].process.stop(PATIENCE).unwrap();
        for _ in 0..3 {
            let to = pair.pods[1].address().to_string();
            let _ = pair.pods[0].run("ping", &["-c200", "-i0.002", "-w1", &to]);
        }
        assert!(pair.gateways[0].process.ended().is_none());
        pair.restart(1);

        pair.assert_connected();
        pair.assert_books_balance();
    }
}
