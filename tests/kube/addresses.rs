//! Nodes that publish an address of their node object's status, and follow it while they run.

use super::faults::peers;
use super::following::{Following, on_a_cluster, until};
use super::nodes::{Cluster, PATIENCE, key};
use super::server::Server;
use serde_json::{Value, json};
use std::time::Instant;
use twill::subnet::HostAddress;
use twill::subnet::kube::{AddressSource, Member};
use twill_testbed::within;

#[test]
fn a_node_publishes_the_address_of_its_status_and_the_others_follow_it_without_a_restart() {
    let Some(cluster) = Cluster::new("status address", 2) else { return };
    let server = &cluster.server;
    let second = cluster.start(2, &[]);
    server.set_addresses("n1", &[("Hostname", "n1"), ("ExternalIP", "203.0.113.1")]);
    let mut first = cluster.node(1, "n1");
    first.variables.push(("TWILL_NODE_ADDRESS", "internal-ip"));
    first.start(&[]);

    first.wait_for(
        "has no InternalIP of IPv4, which TWILL_NODE_ADDRESS=internal-ip asks for; it has: \
         Hostname n1, ExternalIP 203.0.113.1",
    );
    within(PATIENCE, "the page", || first.probe("/readyz").starts_with("503"));
    assert!(published(server, "n1", "public-ip").is_null(), "nothing is written yet");
    server.set_addresses("n1", &[("InternalIP", "198.51.100.1")]);
    first.wait_for("Running backend.");
    let is_peer = |address: &str| peers(&second) == [format!("10.244.1.0/24 {address}:8285")];
    within(PATIENCE, "the address", || is_peer("198.51.100.1"));

    let process = first.process().pid();
    server.set_addresses("n1", &[("ExternalIP", "203.0.113.1"), ("InternalIP", "198.51.100.2")]);
    within(PATIENCE, "the change", || is_peer("198.51.100.2"));
    server.set_addresses("n1", &[("ExternalIP", "203.0.113.1")]);
    first.wait_for("keeping the address 198.51.100.2");
    assert!(is_peer("198.51.100.2") && first.probe("/readyz").starts_with("200"));
    server.set_addresses("n1", &[("InternalIP", "198.51.100.3")]);
    within(PATIENCE, "the return", || is_peer("198.51.100.3"));
    assert_eq!((first.process().pid(), first.process().ended()), (process, None));

    // The successor goes on with the same choice.
    first.hand_over();
    server.set_addresses("n1", &[("InternalIP", "198.51.100.4")]);
    within(PATIENCE, "the successor's", || is_peer("198.51.100.4"));
    // Nor has the setting another meaning for what sends to others.
    assert_eq!(first.status()["listen"], "192.0.2.1:8285");
}

#[test]
fn addresses_that_an_administrator_gave_precede_those_of_the_status_also_after_a_hand_over() {
    let Some(cluster) = Cluster::new("precedence", 1) else { return };
    let server = &cluster.server;
    server.set_addresses("n1", &[("ExternalIP", "203.0.113.1")]);
    server.annotate("n1", &json!({key("node-public-ip"): "198.51.100.7"}));
    let mut node = cluster.node(1, "n1");
    node.variables.push(("TWILL_NODE_ADDRESS", "external-ip"));
    node.start(&[]);
    node.wait_for("Running backend.");
    let is = |address: &str| published(server, "n1", "public-ip") == address;
    assert!(is("198.51.100.7"), "{}", server.node("n1")["metadata"]);

    node.hand_over();
    server.set_addresses("n1", &[("ExternalIP", "203.0.113.2")]);
    server.annotate("n1", &json!({key("public-ip-overwrite"): "198.51.100.8"}));
    within(PATIENCE, "the overwrite", || is("198.51.100.8"));
    server.annotate("n1", &json!({key("public-ip-overwrite"): null}));
    within(PATIENCE, "what was given", || is("198.51.100.7"));

    node.stop();
    server.annotate("n1", &json!({key("node-public-ip"): null}));
    node.start(&["-public-ip", "198.51.100.9"]);
    within(PATIENCE, "the flag's", || is("198.51.100.9"));
    node.stop();
    node.start(&[]);
    within(PATIENCE, "the status's", || is("203.0.113.2"));
}

#[test]
fn both_types_are_followed_in_both_families_and_each_family_may_be_overwritten_alone() {
    on_a_cluster("both types and families", |server, member| async move {
        let subnets = ["10.244.1.0/24", "fd00:244:0:1::/64"];
        let node = json!({
            "metadata": {"name": "n1"}, "spec": {"podCIDR": subnets[0], "podCIDRs": subnets},
        });
        server.call("POST", "/api/v1/nodes", Some(&node));
        let both = [
            ("InternalIP", "198.51.100.1"),
            ("InternalIP", "2001:db8:1::1"),
            ("ExternalIP", "2001:db8:2::1"),
            ("ExternalIP", "203.0.113.1"),
        ];
        server.set_addresses("n1", &both);
        let with = |address| Member {
            networks: "10.244.0.0/16, fd00:244::/48".parse().unwrap(),
            host: HostAddress {
                public_ip: "192.0.2.1, 2001:db8::1".parse().unwrap(),
                ..HostAddress::default()
            },
            address,
            ..member.clone()
        };
        let are = |v4: &str, v6: &str| {
            let now = ["public-ip", "public-ipv6"].map(|name| published(&server, "n1", name));
            now == [json!(v4), json!(v6)]
        };

        for (source, kind, v4, v6) in [
            (AddressSource::InternalIp, "InternalIP", "198.51.100.1", "2001:db8:1::1"),
            (AddressSource::ExternalIp, "ExternalIP", "203.0.113.1", "2001:db8:2::1"),
            (AddressSource::Interface, "", "192.0.2.1", "2001:db8::1"),
        ] {
            let following = Following::start(&server, with(source)).await;
            assert!(are(v4, v6), "{}", server.node("n1"));
            server.annotate("n1", &json!({key("public-ipv6-overwrite"): "2001:db8:9::9"}));
            until("the overwrite of one", || are(v4, "2001:db8:9::9")).await;
            server.annotate("n1", &json!({key("public-ipv6-overwrite"): null}));
            until("the return", || are(v4, v6)).await;
            if source != AddressSource::Interface {
                let moved = [(kind, "2001:db8:5::5"), (kind, "198.51.100.5")];
                server.set_addresses("n1", &moved);
                until("both to move", || are("198.51.100.5", "2001:db8:5::5")).await;
                server.set_addresses("n1", &both);
                until("both to return", || are(v4, v6)).await;
            }
            following.end();
        }
    });
}

#[test]
fn a_node_that_is_written_all_the_time_is_read_once_a_second_at_most() {
    on_a_cluster("chatty node", |server, member| async move {
        server.add_node("n1", "10.244.1.0/24");
        server.set_addresses("n1", &[("InternalIP", "198.51.100.1")]);
        let member = Member { address: AddressSource::InternalIp, ..member };
        let _following = Following::start(&server, member).await;
        until("the address", || published(&server, "n1", "public-ip") == "198.51.100.1").await;
        let (began, before) = (Instant::now(), server.reads_of_nodes());

        for number in 2..60 {
            server.set_addresses("n1", &[("InternalIP", &format!("198.51.100.{number}"))]);
            // The follower is on this thread, too.
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }

        let reads = server.reads_of_nodes() - before;
        let allowed = began.elapsed().as_secs() + 2;
        assert!(reads <= allowed, "{reads} reads in {:?}", began.elapsed());
        until("the last", || published(&server, "n1", "public-ip") == "198.51.100.59").await;
    });
}

fn published(server: &Server, node: &str, name: &str) -> Value {
    server.node(node)["metadata"]["annotations"][key(name)].clone()
}
