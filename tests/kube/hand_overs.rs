//! What a successor knows of a cluster that forgot its nodes.

use super::faults::peers;
use super::following::register;
use super::nodes::{Cluster, Node, PATIENCE};
use twill_testbed::within;

#[test]
fn peers_that_a_wiped_api_server_lacks_stay_peers_over_hand_overs_until_they_return_or_go() {
    let Some(mut cluster) = Cluster::new("wiped, then handed over", 1) else { return };
    for number in 2..=4 {
        cluster.server.add_node(&format!("n{number}"), &format!("10.244.{number}.0/24"));
        register(&cluster.server, &format!("n{number}"), &format!("192.0.2.7{number}"));
    }
    let mut node = cluster.start(1, &[]);
    let peer = |number: u8, address: &str| format!("10.244.{number}.0/24 {address}:8285");
    let are = |node: &Node, expected: &[String]| peers(node) == expected;
    let all = [peer(2, "192.0.2.72"), peer(3, "192.0.2.73"), peer(4, "192.0.2.74")];
    within(PATIENCE, "all peers", || are(&node, &all));

    cluster.server.wipe();
    cluster.server.add_node("n1", "10.244.1.0/24");
    node.wait_for("were wiped or restored");
    for _ in 0..2 {
        within(PATIENCE, "registration", || is_registered(&node));
        node.hand_over();
        assert!(are(&node, &all), "{:?}", peers(&node));
    }
    // The successor has listed the nodes.
    cluster.server.add_node("n5", "10.244.5.0/24");
    register(&cluster.server, "n5", "192.0.2.75");
    let more = [&all[..], &[peer(5, "192.0.2.75")]].concat();
    within(PATIENCE, "n5", || are(&node, &more));
    assert!(!node.log().contains("were wiped or restored"), "the store is the same");

    cluster.server.add_node("n2", "10.244.2.0/24");
    register(&cluster.server, "n2", "192.0.2.82");
    let returned = [&[peer(2, "192.0.2.82")], &more[1..]].concat();
    within(PATIENCE, "n2 to return", || are(&node, &returned));
    cluster.server.delete_node("n2");
    within(PATIENCE, "n2 to go", || are(&node, &more[1..]));

    // Nobody sees this wipe: the server is away from before the hand-over until after it.
    cluster.server.kill();
    within(PATIENCE, "the loss", || node.status()["kube"]["connected"] == false);
    node.hand_over();
    cluster.server.wipe();
    cluster.server.add_node("n1", "10.244.1.0/24");
    node.wait_for("were wiped or restored");
    within(PATIENCE, "registration", || is_registered(&node));
    assert!(are(&node, &more[1..]), "{:?}", peers(&node));
}

fn is_registered(node: &Node) -> bool {
    let kube = &node.status()["kube"];
    kube["own"] == "registered" && kube["connected"] == true
}
