//! Containers on three hosts.

use super::cluster::{Cluster, NETWORK, Node};
use super::etcd::until;
use rustix::process::Signal;

#[test]
fn containers_of_three_nodes_reach_each_other_and_a_node_that_joins() {
    let Some(cluster) = Cluster::new("three nodes", 4) else { return };
    cluster.etcd.configure(NETWORK);
    let mut nodes: Vec<_> = (0..3).map(|host| cluster.running(host, &[])).collect();
    let mut pods: Vec<_> = nodes.iter().map(|node| node.container(&cluster.bed)).collect();

    for (from, _) in &pods {
        for (_, to) in &pods {
            until("an answer", || from.run("ping", &["-c1", "-W1", to]).is_ok());
        }
    }
    transfer(&pods[0].0, &pods[1].0, &pods[1].1);

    nodes.push(cluster.running(3, &[]));
    pods.push(nodes[3].container(&cluster.bed));
    for (from, _) in &pods[..3] {
        until("the newcomer's answer", || from.run("ping", &["-c1", "-W1", &pods[3].1]).is_ok());
    }

    cluster.etcd.delete_lease(&nodes[2].subnet());
    assert!(nodes[2].end().success());
    for node in [&nodes[0], &nodes[1], &nodes[3]] {
        until("two peers", || node.peers().len() == 2);
    }
    assert!(pods[0].0.run("ping", &["-c1", "-W1", &pods[2].1]).is_err());
}

#[test]
fn nodes_with_the_fast_path_and_a_node_without_reach_each_other() {
    let Some(cluster) = Cluster::new("fast path", 3) else { return };
    cluster.etcd.configure(NETWORK);
    let nodes = ["auto", "bpf", "off"].into_iter().zip(0..).map(|(fast_path, host)| {
        let mut node = cluster.node(host);
        // Packets leave with their checksums, as by a network card.
        node.namespace.run("ethtool", &["-K", "u0", "tx", "off"]).unwrap();
        node.start_with(&cluster.on_underlay(&["-ip-masq"]), &[("TWILL_FAST_PATH", fast_path)]);
        node.wait_for("Running backend.");
        node
    });
    let nodes = nodes.collect::<Vec<_>>();
    let pods: Vec<_> = nodes.iter().map(|node| node.container(&cluster.bed)).collect();

    for (from, own) in &pods {
        for (to, address) in pods.iter().filter(|(_, address)| address != own) {
            until("an answer", || from.run("ping", &["-c1", "-W1", address]).is_ok());
            transfer(from, to, address);
        }
    }

    for (node, is_fast) in nodes.iter().zip([true, true, false]) {
        let fast = node.status()["fast_path"].clone();
        assert_eq!(fast["on"], is_fast, "{fast}");
        assert_eq!(fast["egress_packets"].as_u64() > Some(1000), is_fast, "{fast}");
        assert_eq!(node.status()["imbalance"], 0);
    }
}

#[test]
fn a_route_that_went_with_the_link_comes_back_with_it() {
    let Some(cluster) = Cluster::new("link down and up", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let node = cluster.running(0, &[]);
    let routed = || {
        let routes = node.namespace.run("ip", &["route", "show", "dev", "flannel0"]).unwrap();
        routes.trim() == "10.5.0.0/16"
    };

    node.namespace.ip("link set flannel0 down").unwrap();
    assert!(!routed());
    node.namespace.ip("link set flannel0 up").unwrap();

    until("the route", routed);
}

#[test]
fn a_device_that_comes_up_among_more_news_than_the_kernel_keeps_has_its_route_again() {
    let Some(cluster) = Cluster::new("missed news", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let mut node = cluster.running(0, &[]);
    let routed = |node: &Node| {
        let routes = node.namespace.run("ip", &["route", "show", "dev", "flannel0"]).unwrap();
        routes.trim() == "10.5.0.0/16"
    };

    // Every change of a link is news; a socket's buffer holds about a hundred.
    node.process().freeze().unwrap();
    node.namespace.ip("link add name other type bridge").unwrap();
    node.namespace.ip(&"link set other up\nlink set other down\n".repeat(300)).unwrap();
    node.namespace.ip("link set flannel0 down\nlink set flannel0 up").unwrap();
    assert!(!routed(&node));
    node.process().signal(Signal::CONT).unwrap();

    until("the route", || routed(&node));
}

#[test]
fn a_network_that_the_host_uses_itself_is_warned_of() {
    let Some(cluster) = Cluster::new("collision", 1) else { return };
    cluster.etcd.configure(NETWORK);
    cluster.hosts[0].ip("route add 10.5.128.0/20 via 192.0.2.2").unwrap();

    let node = cluster.running(0, &[]);

    let warning = "the host's route to 10.5.128.0/20 overlaps the overlay 10.5.0.0/16";
    assert!(node.log().contains(warning), "{}", node.log());
}

/// Moves a few megabytes by TCP.
pub(crate) fn transfer(
    from: &twill_testbed::Namespace,
    to: &twill_testbed::Namespace,
    address: &str,
) {
    let mut server =
        to.spawn("iperf3", to.command("iperf3").args(["-s", "-1", "--forceflush"])).unwrap();
    server.wait_for("listening", std::time::Duration::from_secs(10)).unwrap();
    let report = from.run("iperf3", &["-c", address, "-n", "20M", "-J"]).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let bytes = report["end"]["sum_sent"]["bytes"].as_u64().unwrap();
    assert!(bytes >= 20 << 20, "{bytes} bytes");
}
