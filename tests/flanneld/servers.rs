//! etcd servers of other kinds: a learner, a proxy.

use super::cluster::{Cluster, NETWORK};
use super::etcd::until;

#[test]
fn a_learner_among_the_endpoints_is_passed_over() {
    let Some(cluster) = Cluster::new("learner", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let (_process, learner) = cluster.etcd.with_learner();
    let endpoints = format!("{learner},{}", cluster.etcd.endpoint());

    let node = cluster.running(0, &["-etcd-endpoints", &endpoints]);
    cluster.etcd.put_peer("10.5.177.0/24", "192.0.2.77");

    node.until_peers(&["10.5.177.0/24 192.0.2.77:8285"]);
    assert_eq!(node.status()["etcd"]["connected"], true, "{}", node.log());
}

#[test]
fn a_proxy_that_refuses_frequent_pings_is_pinged_less() {
    let Some(cluster) = Cluster::new("proxy", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let (_process, proxy) = cluster.etcd.with_proxy();
    let mut node = cluster.running(0, &["-etcd-endpoints", &proxy]);

    node.process().wait_for("pinging etcd every 12 s", PATIENCE).unwrap();

    until("etcd's answer", || node.status()["etcd"]["connected"] == true);
    cluster.etcd.put_peer("10.5.177.0/24", "192.0.2.77");
    node.until_peers(&["10.5.177.0/24 192.0.2.77:8285"]);
}

/// grpc forgives two pings, and more while there are answers.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(90);
