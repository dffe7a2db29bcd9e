//! Firewall rules and routes, letter by letter.

use super::cluster::{Cluster, Node};
use super::etcd::until;
use twill_testbed::Namespace;

const ONE: &str = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.52.0","SubnetMax":"10.5.52.0"}"#;
const ONE_NFT: &str = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.52.0","SubnetMax":"10.5.52.0","EnableNFTables":true}"#;

/// What `iptables-save` shows of a node with masquerading.
pub(crate) const NAT: &str = r#"-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.5.52.0/24 -d 10.5.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.5.0.0/16 -d 10.5.52.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.5.0.0/16 -d 10.5.52.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.5.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.5.0.0/16 -d 10.5.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
"#;
pub(crate) const FILTER: &str = r#"-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
"#;
const NFT: &str = r#"table ip flannel-ipv4 {
	comment "rules for flannel-ipv4"
	chain postrtg {
		comment "chain to manage traffic masquerading by flannel"
		type nat hook postrouting priority srcnat; policy accept;
		meta mark 0x00004000 return
		ip saddr 10.5.52.0/24 ip daddr 10.5.0.0/16 return
		ip saddr 10.5.0.0/16 ip daddr 10.5.52.0/24 return
		ip saddr != 10.5.52.0/24 ip daddr 10.5.0.0/16 return
		ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
		ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random
	}

	chain forward {
		comment "chain to accept flannel traffic"
		type filter hook forward priority filter; policy accept;
		ip saddr 10.5.0.0/16 accept
		ip daddr 10.5.0.0/16 accept
	}
}
table ip6 flannel-ipv6 {
	comment "rules for flannel-ipv6"
}
"#;

#[test]
fn iptables_rules_are_flannels_come_back_and_stay() {
    let Some(cluster) = Cluster::new("iptables", 1) else { return };
    cluster.etcd.configure(ONE);
    let mut node = cluster.running(0, &["-ip-masq", "-iptables-resync", "1"]);
    assert_eq!(rules(&node, "nat"), NAT);
    assert_eq!(rules(&node, "filter"), FILTER);

    for damage in [
        "-t nat -F FLANNEL-POSTRTG",
        "-t nat -F POSTROUTING",
        "-t nat -D FLANNEL-POSTRTG 3",
        "-t filter -F FLANNEL-FWD",
        "-t filter -F FORWARD",
    ] {
        // With iptables-legacy twill and all tests share one lock: it is waited for.
        let words: Vec<_> = ["-w"].into_iter().chain(damage.split(' ')).collect();
        node.namespace.run("iptables", &words).unwrap();
        until("the rules again", || rules(&node, "nat") == NAT && rules(&node, "filter") == FILTER);
    }
    assert_eq!(
        node.log().matches("Some iptables rules are missing; deleting and recreating").count(),
        5
    );

    node.stop();
    assert_eq!((rules(&node, "nat").as_str(), rules(&node, "filter").as_str()), (NAT, FILTER));

    node.start(&cluster.on_underlay(&["-ip-masq", "-iptables-resync", "1"]));
    node.wait_for("Running backend.");
    assert_eq!((rules(&node, "nat").as_str(), rules(&node, "filter").as_str()), (NAT, FILTER));
}

#[test]
fn rules_of_a_former_subnet_are_gone_after_the_next_start() {
    let Some(cluster) = Cluster::new("former subnet", 1) else { return };
    cluster.etcd.configure(r#"{"Network":"10.6.0.0/16"}"#);
    let mut node = cluster.running(0, &["-ip-masq"]);
    assert!(rules(&node, "nat").contains("10.6."));
    node.stop();

    cluster.etcd.configure(ONE);
    node.start(&cluster.on_underlay(&["-ip-masq"]));
    node.wait_for("Running backend.");

    assert_eq!((rules(&node, "nat").as_str(), rules(&node, "filter").as_str()), (NAT, FILTER));
    assert!(node.log().contains("is not equal to previous one (10.6.0.0/16, 10.6."));
}

#[test]
fn rules_are_as_few_as_the_flags_say() {
    let Some(cluster) = Cluster::new("flags of rules", 1) else { return };
    cluster.etcd.configure(ONE);
    let mut node = cluster.running(0, &["-iptables-forward-rules=false"]);
    assert_eq!((rules(&node, "nat"), rules(&node, "filter")), (String::new(), String::new()));
    node.stop();

    node.start(&cluster.on_underlay(&["-ip-masq", "-ip-masq-fully-random-disable"]));
    node.wait_for("Running backend.");

    assert_eq!(rules(&node, "nat"), NAT.replace(" --random-fully", ""));
}

#[test]
fn nftables_rules_are_flannels_table() {
    let Some(cluster) = Cluster::new("nftables", 1) else { return };
    cluster.etcd.configure(ONE_NFT);
    let mut node = cluster.running(0, &["-ip-masq"]);
    assert_eq!(ruleset(&node.namespace), NFT);

    node.stop();
    assert_eq!(ruleset(&node.namespace), NFT, "they stay");

    node.start(&cluster.on_underlay(&["-ip-masq"]));
    node.wait_for("Running backend.");
    assert_eq!(ruleset(&node.namespace), NFT, "once, not twice");
}

#[test]
fn each_kind_of_rules_takes_the_other_away() {
    let Some(cluster) = Cluster::new("both kinds of rules", 1) else { return };
    cluster.etcd.configure(ONE);
    let mut node = cluster.running(0, &["-ip-masq"]);
    node.stop();

    cluster.etcd.configure(ONE_NFT);
    node.start(&cluster.on_underlay(&["-ip-masq"]));
    node.wait_for("Running backend.");
    assert_eq!((rules(&node, "nat"), rules(&node, "filter")), (String::new(), String::new()));
    assert!(ruleset(&node.namespace).contains("flannel-ipv4"));
    node.stop();

    cluster.etcd.configure(ONE);
    node.start(&cluster.on_underlay(&["-ip-masq"]));
    node.wait_for("Running backend.");
    assert_eq!((rules(&node, "nat").as_str(), rules(&node, "filter").as_str()), (NAT, FILTER));
    assert!(!ruleset(&node.namespace).contains("flannel-ipv"));
}

#[test]
fn the_blackhole_route_comes_back_and_stays() {
    let Some(cluster) = Cluster::new("blackhole", 1) else { return };
    cluster.etcd.configure(ONE);
    let mut node = cluster.running(0, &["-ip-blackhole-route", "-iptables-resync", "1"]);
    let there = |node: &Node| {
        let routes = node.namespace.run("ip", &["route"]).unwrap();
        routes.contains("blackhole 10.5.52.0/24")
    };
    until("the route", || there(&node));

    node.namespace.ip("route del blackhole 10.5.52.0/24").unwrap();
    until("the route again", || there(&node));

    node.stop();
    assert!(there(&node));
}

#[test]
fn masquerading_hides_containers_outside_and_only_there() {
    let Some(cluster) = Cluster::new("masquerading", 2) else { return };
    cluster.etcd.configure(r#"{"Network":"10.5.0.0/16"}"#);
    let node = cluster.running(0, &["-ip-masq"]);
    let (pod, address) = node.container(&cluster.bed);

    // The other host knows no way to containers: an answer proves the source is the node's.
    pod.run("ping", &["-c1", "-W2", "192.0.2.2"]).unwrap();

    let back = cluster.hosts[1].run("ip", &["route", "get", &address]);
    assert!(back.is_err(), "{back:?}");
}

/// The rules of flannel's chains, and those that lead there.
fn rules(node: &Node, table: &str) -> String {
    let text = node.namespace.run("iptables-save", &["-t", table]).unwrap();
    let rules = text.lines().filter(|line| line.starts_with("-A") && line.contains("FLANNEL-"));
    rules.map(|line| format!("{line}\n")).collect()
}

fn ruleset(namespace: &Namespace) -> String {
    let text = namespace.run("nft", &["list", "ruleset"]).unwrap();
    let start = text.find("table ip flannel-ipv4").unwrap_or(text.len());
    text[start..].to_owned()
}
