//! Leases: getting one, keeping it, following the others'.

use super::cluster::{Cluster, NETWORK};
use super::etcd::{lease_key, lease_value, until};
use std::fs;

#[test]
fn a_node_writes_flannels_lease_and_subnet_file_to_the_byte() {
    let Some(cluster) = Cluster::new("exact bytes", 1) else { return };
    cluster
        .etcd
        .configure(r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.52.0","SubnetMax":"10.5.52.0"}"#);

    let node = cluster.running(0, &[]);

    assert_eq!(cluster.etcd.subnets(), ["10.5.52.0/24"]);
    assert_eq!(
        cluster.etcd.lease("10.5.52.0/24").unwrap(),
        r#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#
    );
    assert_eq!(
        fs::read_to_string(node.subnet_file()).unwrap(),
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.52.1/24\nFLANNEL_MTU=1472\n\
         FLANNEL_IPMASQ=false\n"
    );
    let lease = format!("{:x}", cluster.etcd.lease_field("10.5.52.0/24", "Lease"));
    let ttl = cluster.etcd.ctl(&["lease", "timetolive", &lease]);
    assert!(ttl.contains("granted with TTL(86400s)"), "{ttl}");
    let link = node.namespace.run("ip", &["-o", "addr", "show", "flannel0"]).unwrap();
    assert!(link.contains("inet 10.5.52.0/32 scope global flannel0"), "{link}");
    let link = node.namespace.run("ip", &["-o", "link", "show", "flannel0"]).unwrap();
    assert!(link.contains("mtu 1472") && link.contains("UP"), "{link}");
    let routes = node.namespace.run("ip", &["route", "show", "dev", "flannel0"]).unwrap();
    assert_eq!(routes.trim(), "10.5.0.0/16");
    let sockets = node.namespace.run("ss", &["-Hlun"]).unwrap();
    assert!(sockets.contains("192.0.2.1:8285"), "{sockets}");
}

#[test]
fn the_backend_says_port_and_underlay_mtu() {
    let Some(cluster) = Cluster::new("port and MTU", 1) else { return };
    cluster
        .etcd
        .configure(r#"{"network":"10.5.0.0/16","backend":{"TYPE":"UDP","port":7890,"MTU":1400}}"#);

    let node = cluster.running(0, &["-ip-masq"]);
    cluster.etcd.put_peer("10.5.177.0/24", "192.0.2.77");

    assert_eq!(node.variable("FLANNEL_MTU"), "1372");
    assert_eq!(node.variable("FLANNEL_IPMASQ"), "true");
    node.until_peers(&["10.5.177.0/24 192.0.2.77:7890"]);
}

#[test]
fn a_restart_leaves_lease_and_file_and_takes_them_up_again() {
    let Some(cluster) = Cluster::new("restart", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let mut node = cluster.running(0, &[]);
    let subnet = node.subnet();

    assert!(node.stop().success());
    assert!(node.log().contains("Exiting cleanly..."));
    assert_eq!(cluster.etcd.subnets(), [subnet.as_str()]);
    assert!(node.subnet_file().exists());
    assert!(node.namespace.run("ip", &["link", "show", "flannel0"]).is_err());

    node.start(&cluster.on_underlay(&[]));
    node.wait_for("Running backend.");
    assert!(node.log().contains(&format!("Found lease ({subnet}) for current IP (192.0.2.1)")));
    assert_eq!(node.subnet(), subnet);
}

#[test]
fn a_killed_node_takes_up_its_lease_and_device_again() {
    let Some(cluster) = Cluster::new("kill", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let mut node = cluster.running(0, &[]);
    let subnet = node.subnet();

    node.process().signal(rustix::process::Signal::KILL).unwrap();
    assert!(!node.end().success());
    node.start(&cluster.on_underlay(&[]));
    node.wait_for("Running backend.");

    assert_eq!(node.subnet(), subnet);
    let links = node.namespace.run("ip", &["-o", "link"]).unwrap();
    assert!(links.contains("flannel0") && !links.contains("flannel1"), "{links}");
}

#[test]
fn a_second_node_on_one_host_ends_and_harms_nobody() {
    let Some(cluster) = Cluster::new("second node", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let mut first = cluster.running(0, &[]);
    let mut second = cluster.node(0);

    second.start(&cluster.on_underlay(&["-subnet-file", "/proc/nowhere"]));

    assert_eq!(second.end().code(), Some(1));
    assert!(second.log().contains("another process has this port"), "{}", second.log());
    assert!(first.process().ended().is_none());
    let links = first.namespace.run("ip", &["-o", "link"]).unwrap();
    assert!(links.contains("flannel0") && !links.contains("flannel1"), "{links}");
}

#[test]
fn the_previous_subnet_is_taken_again_when_the_lease_is_gone() {
    let Some(cluster) = Cluster::new("previous subnet", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let mut node = cluster.node(0);
    fs::create_dir_all(node.subnet_file().parent().unwrap()).unwrap();
    fs::write(node.subnet_file(), "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.99.1/24\n")
        .unwrap();

    node.start(&cluster.on_underlay(&[]));
    node.wait_for("Running backend.");

    assert_eq!(node.subnet(), "10.5.99.0/24");
    assert!(node.log().contains("Found previously leased subnet (10.5.99.0/24), reusing"));
}

#[test]
fn a_previous_subnet_that_is_foreign_or_nonsense_is_passed_over() {
    let Some(cluster) = Cluster::new("foreign previous subnet", 2) else { return };
    cluster.etcd.configure(NETWORK);
    cluster.etcd.put_peer("10.5.99.0/24", "192.0.2.99");
    let previous = [
        ("FLANNEL_SUBNET=10.9.9.1/24\n", "not compatible"),
        ("FLANNEL_SUBNET=10.5.99.1/24\n", "Picking subnet in range 10.5.1.0 ... 10.5.255.0"),
        ("\u{0}\u{ff}FLANNEL_SUBNET=x\n", "Previous Subnet: None"),
    ];
    for (text, said) in previous {
        let mut node = cluster.node(0);
        fs::create_dir_all(node.subnet_file().parent().unwrap()).unwrap();
        fs::write(node.subnet_file(), text).unwrap();

        node.start(&cluster.on_underlay(&[]));
        node.wait_for("Running backend.");

        assert!(node.log().contains(said), "{text:?}: {}", node.log());
        let subnet: ipnet::Ipv4Net = node.subnet().parse().unwrap();
        assert!("10.5.0.0/16".parse::<ipnet::Ipv4Net>().unwrap().contains(&subnet));
        assert_ne!(node.subnet(), "10.5.99.0/24");
        node.stop();
        cluster.etcd.delete_lease(&node.subnet());
    }
}

#[test]
fn a_reservation_is_used_and_stays_one() {
    let Some(cluster) = Cluster::new("reservation", 1) else { return };
    cluster.etcd.configure(NETWORK);
    // As an administrator writes it, by hand.
    cluster.etcd.put_lease("10.5.42.0/24", r#"{"PublicIP":"192.0.2.1"}"#);

    let node = cluster.running(0, &[]);

    assert_eq!(node.subnet(), "10.5.42.0/24");
    assert_eq!(cluster.etcd.lease_field("10.5.42.0/24", "Lease"), 0);
    assert_eq!(cluster.etcd.lease("10.5.42.0/24").unwrap(), lease_value("192.0.2.1"));
}

#[test]
fn a_lease_becomes_a_reservation_while_the_node_runs() {
    let Some(cluster) = Cluster::new("new reservation", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let mut node = cluster.running(0, &[]);

    cluster.etcd.put_peer(&node.subnet(), "192.0.2.1");
    node.wait_for("our lease is a reservation and needs no renewal");

    assert_eq!(cluster.etcd.lease_field(&node.subnet(), "Lease"), 0);
    assert_eq!(node.status()["etcd"]["own"], "held");
}

#[test]
fn a_deleted_lease_ends_its_node_and_the_others_withdraw_it() {
    let Some(cluster) = Cluster::new("deleted lease", 2) else { return };
    cluster.etcd.configure(NETWORK);
    let mut first = cluster.running(0, &[]);
    let second = cluster.running(1, &[]);
    second.until_peers(&[&format!("{} 192.0.2.1:8285", first.subnet())]);

    cluster.etcd.delete_lease(&first.subnet());

    assert!(first.end().success());
    assert!(first.log().contains("Lease has been revoked. Shutting down daemon."));
    second.until_peers(&[]);
}

#[test]
fn a_stolen_lease_is_reported_and_not_taken_back() {
    let Some(cluster) = Cluster::new("stolen lease", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let mut node = cluster.running(0, &["-healthz-port", "8081"]);
    until("readiness", || node.probe("/readyz") == "flanneld is ready200 ");

    cluster.etcd.put_peer(&node.subnet(), "192.0.2.66");
    node.wait_for("another node took our lease");

    until("unreadiness", || node.probe("/readyz") == "flanneld is not ready yet503 ");
    assert_eq!(node.status()["etcd"]["own"], "stolen");
    let revision = cluster.etcd.lease_field(&node.subnet(), "ModRevision");
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(cluster.etcd.lease_field(&node.subnet(), "ModRevision"), revision);

    cluster.etcd.put_peer(&node.subnet(), "192.0.2.1");
    until("readiness again", || node.probe("/readyz") == "flanneld is ready200 ");
}

#[test]
fn a_changed_public_ip_moves_the_peer() {
    let Some(cluster) = Cluster::new("changed PublicIP", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let node = cluster.running(0, &[]);

    cluster.etcd.put_peer("10.5.177.0/24", "192.0.2.77");
    node.until_peers(&["10.5.177.0/24 192.0.2.77:8285"]);

    cluster.etcd.put_peer("10.5.177.0/24", "192.0.2.78");
    node.until_peers(&["10.5.177.0/24 192.0.2.78:8285"]);
}

#[test]
fn one_public_ip_at_two_leases_is_told_and_counted() {
    let Some(cluster) = Cluster::new("duplicate PublicIP", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let mut node = cluster.running(0, &[]);

    cluster.etcd.put_peer("10.5.177.0/24", "192.0.2.77");
    cluster.etcd.put_peer("10.5.178.0/24", "192.0.2.77");

    node.wait_for(&format!("lease {} has PublicIP 192.0.2.77", lease_key("10.5.178.0/24")));
    until("the count", || node.status()["etcd"]["counts"]["duplicate_public_ip"] == 1);
    assert_eq!(node.peers().len(), 2);
}

#[test]
fn a_second_node_with_our_public_ip_is_told_and_counted() {
    let Some(cluster) = Cluster::new("node with our PublicIP", 2) else { return };
    cluster.etcd.configure(NETWORK);
    let mut first = cluster.running(0, &[]);

    let second = cluster.running(1, &["-public-ip", "192.0.2.1"]);

    assert_eq!(second.subnet(), first.subnet(), "as flannel has it");
    first.wait_for("was written by somebody else with our PublicIP 192.0.2.1");
    until("the count", || first.status()["etcd"]["counts"]["duplicate_public_ip"] == 1);
}

#[test]
fn malformed_leases_are_counted_and_the_others_followed() {
    let Some(cluster) = Cluster::new("malformed leases", 1) else { return };
    cluster.etcd.configure(NETWORK);
    for (subnet, value) in [
        ("nonsense", "x"),
        ("10.5.170.0/0", &*lease_value("192.0.2.70")),
        ("10.5.170.0/32", &lease_value("192.0.2.70")),
        ("10.5.171.0/24", "{}"),
        ("10.5.172.0/24", r#"{"PublicIP":""}"#),
        ("10.5.173.0/24", r#"{"PublicIP":"fd00::1"}"#),
        ("10.5.174.0/24", r#"{"PublicIP":"0.0.0.0"}"#),
        ("10.5.175.0/24", &" ".repeat(100_000)),
    ] {
        cluster.etcd.put_lease(subnet, value);
    }

    let node = cluster.running(0, &[]);
    cluster.etcd.put_lease("10.5.176.0/24", r#"{"PublicIP":"192.0.2.76","BackendType":"vxlan"}"#);
    cluster.etcd.put_lease("10.5.179.0/24", "[]");
    cluster.etcd.put_peer("10.5.177.0/24", "192.0.2.77");

    node.until_peers(&["10.5.177.0/24 192.0.2.77:8285"]);
    let counts = &node.status()["etcd"]["counts"];
    assert_eq!((&counts["malformed"], &counts["foreign_backend"]), (&9.into(), &1.into()));
}

#[test]
fn a_backend_that_is_not_udp_ends_the_node_with_its_name() {
    let Some(cluster) = Cluster::new("another backend", 1) else { return };
    cluster.etcd.configure(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#);
    let mut node = cluster.node(0);

    node.start(&cluster.on_underlay(&[]));

    assert_eq!(node.end().code(), Some(1));
    assert!(node.log().contains("Error fetching backend: unknown backend type: \"vxlan\""));
}

#[test]
fn a_full_network_ends_the_node_with_the_reason() {
    let Some(cluster) = Cluster::new("full network", 1) else { return };
    cluster.etcd.configure(NETWORK);
    cluster.etcd.put_peer("10.5.0.0/16", "192.0.2.77");
    let mut node = cluster.node(0);

    node.start(&cluster.on_underlay(&[]));

    assert_eq!(node.end().code(), Some(1));
    assert!(node.log().contains("failed to acquire lease: out of subnets"), "{}", node.log());
}
