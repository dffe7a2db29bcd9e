//! Networks of both IP families, and of IPv6 alone.

use super::cluster::{Cluster, Node};
use super::etcd::until;
use ipnet::Ipv6Net;
use std::fs;
use std::net::UdpSocket;
use std::time::Duration;
use twill_testbed::{Namespace, has_ipv6};

const BOTH: &str = r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48"}"#;
const ONLY_V6: &str = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:5::/48"}"#;
/// One subnet of each family, with masquerading in view.
const ONE: &str = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.52.0","SubnetMax":"10.5.52.0",
    "EnableIPv6":true,"IPv6Network":"fd00:5::/48","IPv6SubnetMin":"fd00:5:0:52::",
    "IPv6SubnetMax":"fd00:5:0:52::"}"#;

/// A cluster whose kernel has IPv6; nothing if the test is to be skipped.
fn cluster(test: &str, hosts: u8) -> Option<Cluster> {
    assert!(has_ipv6(1500), "{test}: this kernel has no IPv6");
    Cluster::new(test, hosts)
}

#[test]
fn containers_of_three_nodes_reach_each_other_by_both_families() {
    let Some(cluster) = cluster("dual stack", 3) else { return };
    cluster.etcd.configure(BOTH);
    let nodes: Vec<_> = (0..3).map(|host| cluster.running(host, &[])).collect();
    for (node, host) in nodes.iter().zip(1..) {
        let v6 = v6_subnet(node);
        let text = fs::read_to_string(node.subnet_file()).unwrap();
        let expected = format!(
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET={}\nFLANNEL_IPV6_NETWORK=fd00:5::/48\n\
             FLANNEL_IPV6_SUBNET={v6}\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n",
            node.variable("FLANNEL_SUBNET")
        );
        assert_eq!(text, expected);
        let value = cluster.etcd.lease(&format!("{}&{}", node.subnet(), v6.trunc()));
        let public = format!(
            r#"{{"PublicIP":"192.0.2.{host}","PublicIPv6":"{}"}}"#,
            cluster.hosts[host - 1].address_v6()
        );
        assert_eq!(value, Some(public));
    }

    let pods: Vec<_> = nodes.iter().map(|node| pod(node, &cluster)).collect();
    for (from, _) in &pods {
        for to in pods.iter().flat_map(|(_, addresses)| addresses) {
            until("an answer", || from.run("ping", &["-c1", "-W1", to]).is_ok());
        }
    }
    let [a, b] = [&pods[0], &pods[1]];
    for address in &b.1 {
        super::traffic::transfer(&a.0, &b.0, address);
    }

    for node in &nodes {
        let status = node.status();
        assert_eq!(status["imbalance"], 0, "{status}");
        for peer in status["peers"].as_array().unwrap() {
            let endpoint = peer["endpoint"].as_str().unwrap();
            assert!(endpoint.starts_with("192.0.2."), "{peer}");
            assert_eq!(peer["subnets"].as_array().unwrap().len(), 2, "{peer}");
        }
    }
}

#[test]
fn a_stock_nodes_ipv6_subnet_is_unreachable_and_its_ipv4_subnet_is_not() {
    let Some(cluster) = cluster("stock node", 2) else { return };
    cluster.etcd.configure(BOTH);
    // What flanneld's udp backend writes: it takes both subnets and carries one.
    cluster.etcd.put_peer("10.5.200.0/24&fd00:5:0:200::/64", "192.0.2.2");
    let stock = cluster.hosts[1].enter(|| UdpSocket::bind("192.0.2.2:8285").unwrap());
    stock.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let node = cluster.running(0, &[]);
    let (pod, _) = pod(&node, &cluster);

    until("the peer", || node.peers() == ["10.5.200.0/24 192.0.2.2:8285"]);
    assert_eq!(node.status()["peers"][0]["subnets"].as_array().unwrap().len(), 1);

    let v6 = pod.run("ping", &["-c1", "-W5", "fd00:5:0:200::5"]).unwrap_err().to_string();
    assert!(v6.contains("Destination unreachable"), "{v6}");
    let ping = pod.spawn("ping", pod.command("ping").args(["-c3", "10.5.200.5"])).unwrap();
    let mut buffer = [0; 2048];
    let (len, from) = stock.recv_from(&mut buffer).unwrap();
    assert_eq!((buffer[0], from.to_string().as_str()), (0x45, "192.0.2.1:8285"), "{len} bytes");
    drop(ping);
}

#[test]
fn a_network_that_gets_ipv6_keeps_its_nodes_ipv4_subnets() {
    let Some(cluster) = cluster("gets ipv6", 1) else { return };
    cluster.etcd.configure(r#"{"Network":"10.5.0.0/16"}"#);
    let mut node = cluster.running(0, &["-ip-blackhole-route"]);
    let before = node.subnet();
    node.stop();

    cluster.etcd.configure(BOTH);
    node.start(&cluster.on_underlay(&["-ip-blackhole-route"]));
    node.wait_for("Running backend.");

    let v6 = v6_subnet(&node).trunc();
    assert_eq!(node.subnet(), before);
    assert_eq!(cluster.etcd.subnets(), [format!("{before}&{v6}")], "the former lease is gone");
    let routes = || node.namespace.run("ip", &["-6", "route"]).unwrap();
    until("the route", || routes().contains(&format!("blackhole {v6}")));
    assert!(routes().contains("fd00:5::/48 dev flannel0"), "{}", routes());
}

#[test]
fn a_network_of_ipv6_alone_works_over_ipv6() {
    let Some(cluster) = cluster("ipv6 only", 2) else { return };
    cluster.etcd.configure(ONLY_V6);
    let nodes: Vec<_> = (0..2)
        .map(|host| {
            let mut node = cluster.node(host);
            node.start_with(&cluster.on_underlay(&[]), &[("TWILL_PROBE_SECONDS", "1")]);
            node.wait_for("Running backend.");
            node
        })
        .collect();
    let own = v6_subnet(&nodes[0]);
    let text = fs::read_to_string(nodes[0].subnet_file()).unwrap();
    assert_eq!(
        text,
        format!(
            "FLANNEL_IPV6_NETWORK=fd00:5::/48\nFLANNEL_IPV6_SUBNET={own}\nFLANNEL_MTU=1452\n\
             FLANNEL_IPMASQ=false\n"
        )
    );
    let value = cluster.etcd.lease(&format!("0.0.0.0/0&{}", own.trunc()));
    let address = cluster.hosts[0].address_v6();
    assert_eq!(value, Some(format!(r#"{{"PublicIP":"0.0.0.0","PublicIPv6":"{address}"}}"#)));
    assert!(!nodes[0].namespace.run("ip", &["-4", "address"]).unwrap().contains("flannel0"));

    let pods: Vec<_> = nodes.iter().map(|node| pod(node, &cluster)).collect();
    let to = &pods[1].1[0];
    until("an answer", || pods[0].0.run("ping", &["-c1", "-W1", to]).is_ok());
    super::traffic::transfer(&pods[0].0, &pods[1].0, to);

    let endpoint = format!("[{}]:8285", cluster.hosts[1].address_v6());
    assert_eq!(nodes[0].status()["peers"][0]["endpoint"], endpoint);
    assert_eq!(nodes[0].status()["imbalance"], 0);
    until("a round trip", || {
        nodes[0].status()["peers"][0]["probe"]["rtt"]["count"].as_u64() > Some(0)
    });
}

#[test]
fn a_node_of_both_families_hands_over_without_losing_either() {
    let Some(cluster) = cluster("dual hand-over", 2) else { return };
    cluster.etcd.configure(BOTH);
    let mut nodes: Vec<_> = (0..2).map(|host| cluster.running(host, &[])).collect();
    let pods: Vec<_> = nodes.iter().map(|node| pod(node, &cluster)).collect();
    let reach = || pods[1].1.iter().all(|to| pods[0].0.run("ping", &["-c1", "-W1", to]).is_ok());
    until("answers", reach);
    let before = (nodes[0].subnet(), v6_subnet(&nodes[0]));

    let mut old = nodes[0].succeed(&cluster.on_underlay(&[]));
    nodes[0].wait_for("Running backend.");

    assert!(old.finish(super::cluster::END).unwrap().success());
    assert_eq!((nodes[0].subnet(), v6_subnet(&nodes[0])), before);
    assert!(reach());
    assert_eq!(nodes[0].status()["peers"][0]["subnets"].as_array().unwrap().len(), 2);
}

#[test]
fn the_interfaces_ipv6_address_makes_the_tunnel_use_ipv6() {
    let Some(cluster) = cluster("outer ipv6", 2) else { return };
    cluster.etcd.configure(BOTH);
    let nodes: Vec<_> = (0..2)
        .map(|host| {
            let mut node = cluster.node(host);
            node.start(&["-iface", &cluster.hosts[host].address_v6().to_string()]);
            node.wait_for("Running backend.");
            node
        })
        .collect();
    let pods: Vec<_> = nodes.iter().map(|node| pod(node, &cluster)).collect();

    for to in &pods[1].1 {
        until("an answer", || pods[0].0.run("ping", &["-c1", "-W1", to]).is_ok());
    }

    let endpoint = format!("[{}]:8285", cluster.hosts[1].address_v6());
    assert_eq!(nodes[0].status()["peers"][0]["endpoint"], endpoint);
    assert_eq!(nodes[0].variable("FLANNEL_MTU"), "1452");
}

#[test]
fn one_node_reaches_nodes_of_either_family_and_sends_from_its_own_addresses() {
    let Some(cluster) = cluster("either family", 3) else { return };
    cluster.etcd.configure(BOTH);
    let [first, second, third] = &cluster.hosts[..] else { unreachable!() };
    // The second node has no IPv4 for the others, and the third no IPv6.
    let mut over_v6 = cluster.node(1);
    over_v6.start(&["-iface", &second.address_v6().to_string()]);
    over_v6.wait_for("Running backend.");
    third.ip(&format!("address del {}/64 dev u0", third.address_v6())).unwrap();
    third.ip("address add fe80::3/64 dev u0 nodad").unwrap();
    let over_v4 = cluster.running(2, &[]);
    // By itself the kernel would send from these.
    first
        .ip("address add 192.0.2.101/24 dev u0\naddress add fd00:c000:2::101/64 dev u0 nodad preferred_lft 0
         route replace 192.0.2.0/24 dev u0 src 192.0.2.101
         route add fd00:c000:2::/64 dev u0 metric 1 src fd00:c000:2::101")
        .unwrap();
    let mut node = cluster.running(0, &[]);

    let at_v6 = format!("[{}]:8285", second.address_v6());
    let mut expected = [
        format!("{} {at_v6}", over_v6.subnet()),
        format!("{} {}:8285", over_v4.subnet(), third.address()),
    ];
    expected.sort();
    node.until_peers(&expected.each_ref().map(String::as_str));
    let mtu = |node: &Node| node.variable("FLANNEL_MTU");
    assert_eq!([mtu(&node), mtu(&over_v6), mtu(&over_v4)], ["1472", "1452", "1472"]);

    let (ours, _) = pod(&node, &cluster);
    let pods = [&over_v6, &over_v4].map(|node| pod(node, &cluster));
    let reach = || {
        for to in pods.iter().flat_map(|(_, addresses)| addresses) {
            until("an answer", || ours.run("ping", &["-c1", "-W1", to]).is_ok());
        }
    };
    reach();
    for (theirs, addresses) in &pods {
        addresses.iter().for_each(|to| super::traffic::transfer(&ours, theirs, to));
    }
    // What fits the paths over IPv4 is 20 bytes too long for one over IPv6.
    let full = |to: &str| ours.run("ping", &["-c1", "-W1", "-Mdo", "-s1444", to]);
    let [(_, over_v6_pod), (_, over_v4_pod)] = &pods;
    full(&over_v4_pod[0]).unwrap();
    until("the path MTU", || {
        full(&over_v6_pod[0]).is_err_and(|said| said.to_string().contains("mtu = 1452"))
    });
    let mut old = node.succeed(&cluster.on_underlay(&[]));
    node.wait_for("Running backend.");
    assert!(old.finish(super::cluster::END).unwrap().success());
    reach();
    for node in [&node, &over_v6, &over_v4] {
        assert_eq!(node.status()["imbalance"], 0, "{}", node.status());
        let strangers = &node.status()["ingress"]["drops"]["unknown_peer"];
        assert!(strangers.is_null(), "{}", node.status());
    }

    // Its address of IPv6 is one that it cannot do without.
    first.ip(&format!("address del {}/64 dev u0", first.address_v6())).unwrap();
    until("the loss is told", || {
        node.log().contains(&format!("this host has lost {}", first.address_v6()))
    });
}

#[test]
fn nodes_go_on_at_new_addresses_of_both_families_and_of_ipv6_alone() {
    for (config, over_v6, with_v4) in
        [(BOTH, false, true), (BOTH, true, false), (ONLY_V6, false, false)]
    {
        let Some(cluster) = cluster("dual moves", 2) else { return };
        cluster.etcd.configure(config);
        let mut first = cluster.running(0, &[]);
        let mut second = cluster.node(1);
        let address = cluster.hosts[1].address_v6().to_string();
        second.start(&["-iface", if over_v6 { &address } else { "u0" }]);
        second.wait_for("Running backend.");
        let pods = [&first, &second].map(|node| pod(node, &cluster));
        let reach =
            || pods[1].1.iter().all(|to| pods[0].0.run("ping", &["-c1", "-W1", to]).is_ok());
        until("answers", reach);
        let (lease, process) = (cluster.etcd.subnets(), first.process().pid());

        let before = cluster.hosts[0].address_v6();
        let mut change = format!(
            "address del {before}/64 dev u0\naddress add fd00:c000:2::71/64 dev u0 nodad\n"
        );
        if with_v4 {
            change += "address del 192.0.2.1/24 dev u0\naddress add 192.0.2.71/24 dev u0\n";
        }
        first.namespace.ip(&change).unwrap();

        first.wait_for("the gateway goes on there");
        let endpoint = if with_v4 { "192.0.2.71:8285" } else { "[fd00:c000:2::71]:8285" };
        until("the new address", || second.status()["peers"][0]["endpoint"] == endpoint);
        until("answers", reach);
        assert_eq!((first.process().pid(), first.process().ended()), (process, None));
        assert_eq!(cluster.etcd.subnets(), lease);
        let values = cluster.etcd.ctl(&["get", "--prefix", "--print-value-only", "/coreos.com/"]);
        assert!(values.contains(r#""PublicIPv6":"fd00:c000:2::71""#), "{values}");
        assert_eq!(first.status()["imbalance"], 0);
    }
}

#[test]
fn iptables_rules_of_both_families_are_flannels_and_come_back() {
    let Some(cluster) = cluster("ip6tables", 1) else { return };
    cluster.etcd.configure(ONE);
    let node = cluster.running(0, &["-ip-masq", "-iptables-resync", "1"]);
    let rules = |program: &str, table: &str| {
        let text = node.namespace.run(program, &["-t", table]).unwrap();
        let rules = text.lines().filter(|line| line.starts_with("-A") && line.contains("FLANNEL-"));
        rules.map(|line| format!("{line}\n")).collect::<String>()
    };
    let of_v6 = |text: &str| {
        let text = text.replace("10.5.52.0/24", "fd00:5:0:52::/64");
        text.replace("10.5.0.0/16", "fd00:5::/48").replace("224.0.0.0/4", "ff00::/8")
    };
    let nat = rules("iptables-save", "nat");
    let filter = rules("iptables-save", "filter");
    assert_eq!((nat.as_str(), filter.as_str()), (super::rules::NAT, super::rules::FILTER));
    assert_eq!(rules("ip6tables-save", "nat"), of_v6(&nat));
    assert_eq!(rules("ip6tables-save", "filter"), of_v6(&filter));

    for chain in [["nat", "FLANNEL-POSTRTG"], ["filter", "FLANNEL-FWD"]] {
        node.namespace.run("ip6tables", &["-w", "-t", chain[0], "-F", chain[1]]).unwrap();
    }
    until("the rules again", || rules("ip6tables-save", "nat") == of_v6(&nat));
    until("the rules again", || rules("ip6tables-save", "filter") == of_v6(&filter));
}

#[test]
fn nftables_has_a_table_of_each_family_and_what_is_no_longer_wanted_goes() {
    let Some(cluster) = cluster("nft of both", 1) else { return };
    let nft = |config: &str| config.replacen('{', r#"{"EnableNFTables":true,"#, 1);
    cluster.etcd.configure(&nft(ONE));
    let mut node = cluster.running(0, &["-ip-masq"]);
    let table = |node: &Node, family: &str, name: &str| {
        node.namespace.run("nft", &["list", "table", family, name]).unwrap()
    };

    let v4 = table(&node, "ip", "flannel-ipv4");
    let expected = v4
        .replace("flannel-ipv4", "flannel-ipv6")
        .replace("table ip ", "table ip6 ")
        .replace("ip saddr", "ip6 saddr")
        .replace("ip daddr", "ip6 daddr")
        .replace("10.5.52.0/24", "fd00:5:0:52::/64")
        .replace("10.5.0.0/16", "fd00:5::/48")
        .replace("224.0.0.0/4", "ff00::/8");
    assert_eq!(table(&node, "ip6", "flannel-ipv6"), expected);
    node.stop();

    cluster.etcd.configure(&nft(r#"{"Network":"10.5.0.0/16"}"#));
    node.start(&cluster.on_underlay(&["-ip-masq"]));
    node.wait_for("Running backend.");
    let left = table(&node, "ip6", "flannel-ipv6");
    assert!(!left.contains("fd00:5"), "{left}");
}

/// The bridge's address in the IPv6 subnet.
fn v6_subnet(node: &Node) -> Ipv6Net {
    node.variable("FLANNEL_IPV6_SUBNET").parse().unwrap()
}

/// A container behind a bridge that is built from `subnet.env`, with its addresses.
fn pod(node: &Node, cluster: &Cluster) -> (Namespace, Vec<String>) {
    let has_v4 = fs::read_to_string(node.subnet_file()).unwrap().contains("FLANNEL_SUBNET=");
    let (pod, mut addresses) = if has_v4 {
        let (pod, address) = node.container(&cluster.bed);
        (pod, vec![address])
    } else {
        let pod = cluster.bed.namespace(&format!("{}pod", node.namespace.label())).unwrap();
        let mtu = node.variable("FLANNEL_MTU").parse().unwrap();
        node.namespace.ip("link add cni0 type bridge forward_delay 0\nlink set cni0 up").unwrap();
        node.namespace.link("veth1", &pod, "eth0", mtu).unwrap();
        node.namespace.ip("link set veth1 master cni0").unwrap();
        (pod, Vec::new())
    };
    let gateway = v6_subnet(node);
    let address = std::net::Ipv6Addr::from_bits(gateway.addr().to_bits() + 1);
    // The namespaces' devices have no link-local addresses, from which a router asks for neighbours.
    node.namespace
        .ip(&format!("address add {gateway} dev cni0 nodad\naddress add fe80::1/64 dev cni0 nodad"))
        .unwrap();
    pod.ip(&format!(
        "address add {address}/{} dev eth0 nodad
         route add default via {}",
        gateway.prefix_len(),
        gateway.addr()
    ))
    .unwrap();
    addresses.push(address.to_string());
    (pod, addresses)
}
