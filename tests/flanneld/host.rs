//! What happens to the host around a node: what is taken away, and another address.

use super::cluster::{Cluster, NETWORK, Node};
use super::etcd::until;

const PROBED: [&str; 2] = ["-healthz-port", "8081"];

#[test]
fn the_devices_address_and_route_are_restored() {
    let Some(cluster) = Cluster::new("flushed node", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let node = cluster.running(0, &PROBED);
    let before = routes(&node);
    assert!(before.contains("10.5.0.0/16 dev flannel0"), "{before}");

    for removal in ["addr flush dev flannel0", "route del 10.5.0.0/16 dev flannel0"] {
        node.namespace.ip(removal).unwrap();
        until("the route", || routes(&node) == before);
        until("readiness", || node.probe("/readyz") == "flanneld is ready200 ");
    }
    assert!(node.log().contains("restored route 10.5.0.0/16 of flannel0"), "{}", node.log());
}

#[test]
fn a_node_whose_host_gets_another_address_ends_and_starts_again_with_it() {
    let Some(cluster) = Cluster::new("other address", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let mut node = cluster.running(0, &PROBED);

    node.namespace.ip("address del 192.0.2.1/24 dev u0").unwrap();
    until("unreadiness", || node.probe("/readyz").ends_with("503 "));
    let page = node.probe("/readyz");
    assert!(page.contains("this host has lost 192.0.2.1"), "{page}");
    node.namespace.ip("address add 192.0.2.77/24 dev u0").unwrap();

    assert_eq!(node.end().code(), Some(1));
    let line = "this host's address has changed from 192.0.2.1 to 192.0.2.77: ending";
    assert!(node.log().contains(line), "{}", node.log());

    node.start(&cluster.on_underlay(&PROBED));
    node.wait_for("Running backend.");
    let lease = cluster.etcd.lease(&node.subnet()).unwrap();
    assert!(lease.contains("192.0.2.77"), "{lease}");
}

#[test]
fn an_address_that_comes_back_makes_the_node_ready_again() {
    let Some(cluster) = Cluster::new("address back", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let node = cluster.running(0, &PROBED);

    node.namespace.ip("address del 192.0.2.1/24 dev u0").unwrap();
    until("unreadiness", || node.probe("/readyz").ends_with("503 "));
    std::thread::sleep(std::time::Duration::from_secs(4));
    node.namespace.ip("address add 192.0.2.1/24 dev u0").unwrap();

    until("readiness", || node.probe("/readyz") == "flanneld is ready200 ");
}

#[test]
fn a_node_that_was_told_its_address_waits_for_it() {
    let Some(cluster) = Cluster::new("told address", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let mut node = cluster.node(0);
    let flags = ["-iface", "192.0.2.1", "-healthz-port", "8081"];
    node.start(&flags);
    node.wait_for("Running backend.");

    node.namespace.ip("address del 192.0.2.1/24 dev u0").unwrap();
    node.namespace.ip("address add 192.0.2.77/24 dev u0").unwrap();
    until("unreadiness", || node.probe("/readyz").ends_with("503 "));
    std::thread::sleep(std::time::Duration::from_secs(4));

    assert!(node.process().ended().is_none(), "{}", node.log());
    assert_eq!(node.log().matches("could not find").count(), 0, "{}", node.log());
    node.namespace.ip("address add 192.0.2.1/24 dev u0").unwrap();
    until("readiness", || node.probe("/readyz") == "flanneld is ready200 ");
}

fn routes(node: &Node) -> String {
    node.namespace.run("ip", &["route"]).unwrap()
}
