//! Clusters whose nodes have pod networks of both IP families, or of IPv6 alone.

use super::nodes::{Cluster, Node, PATIENCE, key};
use super::server::Server;
use serde_json::json;
use std::fs;
use twill_testbed::{Namespace, within};

const BOTH: &str = r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:244::/48",
    "Backend":{"Type":"udp"}}"#;
const ONLY_V6: &str = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:244::/48",
    "Backend":{"Type":"udp"}}"#;

#[test]
fn pods_of_two_nodes_reach_each_other_by_both_families() {
    let Some(cluster) = Cluster::new("dual stack", 2) else { return };
    let nodes = [1, 2].map(|number| {
        let subnets = [format!("10.244.{number}.0/24"), format!("fd00:244:0:{number}::/64")];
        start(&cluster, number, BOTH, &subnets)
    });

    let text = fs::read_to_string(nodes[0].folder.join("subnet.env")).unwrap();
    assert_eq!(
        text,
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n\
         FLANNEL_IPV6_NETWORK=fd00:244::/48\nFLANNEL_IPV6_SUBNET=fd00:244:0:1::1/64\n\
         FLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n"
    );
    let annotations = cluster.server.node("d1")["metadata"]["annotations"].clone();
    assert_eq!(annotations[key("public-ip")], "192.0.2.1");
    assert_eq!(annotations[key("public-ipv6")], "fd00:c000:2::1");
    assert_eq!(annotations[key("backend-v6-data")], "null");

    let pods = [1, 2].map(|number: u8| pod(&cluster, &nodes[usize::from(number) - 1], number));
    for to in ["10.244.2.2", "fd00:244:0:2::2"] {
        within(PATIENCE, "a ping", || pods[0].run("ping", &["-c1", "-W1", to]).is_ok());
    }
    let peer = nodes[0].status()["peers"][0].clone();
    assert_eq!(peer["endpoint"], "192.0.2.2:8285", "{peer}");
    assert_eq!(peer["subnets"].as_array().unwrap().len(), 2, "{peer}");
}

#[test]
fn a_stock_node_is_a_peer_of_ipv4_and_an_administrator_may_overwrite_both_addresses() {
    let Some(cluster) = Cluster::new("stock node", 1) else { return };
    add(&cluster.server, "stock", &["10.244.7.0/24".into(), "fd00:244:0:7::/64".into()]);
    let stock = json!({
        key("public-ip"): "192.0.2.77", key("backend-type"): "", key("backend-data"): "null",
        key("kube-subnet-manager"): "true",
    });
    cluster.server.annotate("stock", &stock);
    let subnets = ["10.244.1.0/24".to_owned(), "fd00:244:0:1::/64".to_owned()];
    let node = start(&cluster, 1, BOTH, &subnets);

    within(PATIENCE, "the peer", || node.status()["peers"][0]["endpoint"] == "192.0.2.77:8285");
    assert_eq!(node.status()["peers"][0]["subnets"], json!(["10.244.7.0/24"]));

    let overwrite = json!({
        key("public-ip-overwrite"): "192.0.2.99", key("public-ipv6-overwrite"): "2001:db8::99",
    });
    cluster.server.annotate("d1", &overwrite);
    within(PATIENCE, "the overwritten addresses", || {
        let annotations = cluster.server.node("d1")["metadata"]["annotations"].clone();
        annotations[key("public-ip")] == "192.0.2.99"
            && annotations[key("public-ipv6")] == "2001:db8::99"
    });
}

#[test]
fn a_cluster_of_ipv6_alone_works_over_ipv6() {
    let Some(cluster) = Cluster::new("ipv6 only", 2) else { return };
    let nodes = [1, 2]
        .map(|number| start(&cluster, number, ONLY_V6, &[format!("fd00:244:0:{number}::/64")]));

    let text = fs::read_to_string(nodes[0].folder.join("subnet.env")).unwrap();
    assert_eq!(
        text,
        "FLANNEL_IPV6_NETWORK=fd00:244::/48\nFLANNEL_IPV6_SUBNET=fd00:244:0:1::1/64\n\
         FLANNEL_MTU=1452\nFLANNEL_IPMASQ=false\n"
    );
    let annotations = cluster.server.node("d1")["metadata"]["annotations"].clone();
    assert!(annotations[key("public-ip")].is_null(), "{annotations}");
    let pods = [1, 2].map(|number: u8| pod(&cluster, &nodes[usize::from(number) - 1], number));
    let to = "fd00:244:0:2::2";
    within(PATIENCE, "a ping", || pods[0].run("ping", &["-c1", "-W1", to]).is_ok());
    assert_eq!(nodes[0].status()["peers"][0]["endpoint"], "[fd00:c000:2::2]:8285");
}

#[test]
fn a_node_without_an_ipv6_pod_network_ends_and_says_what_to_do() {
    let Some(cluster) = Cluster::new("one family", 1) else { return };
    let mut node = cluster.node(1, "n1");
    fs::write(node.folder.join("net-conf.json"), BOTH).unwrap();
    node.start(&[]);

    within(PATIENCE, "the end", || node.process().ended().is_some());

    let log = node.log();
    assert!(log.contains("none of IPv6") && log.contains("--cluster-cidr"), "{log}");
}

/// A node with these pod networks.
fn add(server: &Server, name: &str, subnets: &[String]) {
    let node = json!({
        "metadata": {"name": name}, "spec": {"podCIDR": subnets[0], "podCIDRs": subnets},
    });
    server.call("POST", "/api/v1/nodes", Some(&node));
}

/// Node `d1`, `d2`, … on its host.
fn start(cluster: &Cluster, number: usize, config: &str, subnets: &[String]) -> Node {
    let name = format!("d{number}");
    add(&cluster.server, &name, subnets);
    let mut node = cluster.node(number, &name);
    fs::write(node.folder.join("net-conf.json"), config).unwrap();
    node.start(&[]);
    node.wait_for("Running backend.");
    node
}

/// A container at the second addresses of its node's subnets.
fn pod(cluster: &Cluster, node: &Node, number: u8) -> Namespace {
    let pod = cluster.bed.namespace(&format!("pod{number}")).unwrap();
    let host = node.namespace();
    let text = fs::read_to_string(node.folder.join("subnet.env")).unwrap();
    let mtu = if text.contains("MTU=1452") { 1452 } else { 1472 };
    host.ip("link add cni0 type bridge forward_delay 0\nlink set cni0 up").unwrap();
    host.link("veth1", &pod, "eth0", mtu).unwrap();
    host.ip(&format!(
        "link set veth1 master cni0
         address add fd00:244:0:{number}::1/64 dev cni0 nodad
         address add fe80::1/64 dev cni0 nodad"
    ))
    .unwrap();
    pod.ip(&format!(
        "address add fd00:244:0:{number}::2/64 dev eth0 nodad
         route add default via fd00:244:0:{number}::1"
    ))
    .unwrap();
    if text.contains("FLANNEL_SUBNET=") {
        host.ip(&format!("address add 10.244.{number}.1/24 dev cni0")).unwrap();
        pod.ip(&format!(
            "address add 10.244.{number}.2/24 dev eth0
             route add default via 10.244.{number}.1"
        ))
        .unwrap();
    }
    pod
}
