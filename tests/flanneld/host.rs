//! What happens to the host around a node: what is taken away, and another address.

use super::cluster::{Cluster, NETWORK, Node};
use super::etcd::{lease_value, until};
use std::time::Duration;
use twill_testbed::numbered::{Disorder, Stream};

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
fn a_node_whose_host_gets_another_address_goes_on_there_and_keeps_its_lease() {
    for fast_path in ["off", "bpf"] {
        let Some(cluster) = Cluster::new("other address", 2) else { return };
        cluster.etcd.configure(NETWORK);
        let mut nodes = [0, 1].map(|host| cluster.node(host));
        for (host, node) in nodes.iter_mut().enumerate() {
            let folder = cluster.bed.bpf_file_system(&format!("n{host}")).unwrap();
            let folder = folder.display().to_string();
            let variables = [("TWILL_FAST_PATH", fast_path), ("TWILL_BPF_FS", &folder)];
            node.start_with(&cluster.on_underlay(&PROBED), &variables);
            node.wait_for("Running backend.");
        }
        let [node, other] = &mut nodes;
        let pods = [&*node, &*other].map(|node| node.container(&cluster.bed));
        until("an answer", || pods[0].0.run("ping", &["-c1", "-W1", &pods[1].1]).is_ok());
        let stream = Stream::start(&pods[0].0, &pods[1].0, pods[1].1.parse().unwrap()).unwrap();
        let (subnet, process) = (node.subnet(), node.process().pid());

        node.namespace.ip("address del 192.0.2.1/24 dev u0").unwrap();
        until("unreadiness", || node.probe("/readyz").ends_with("503 "));
        let page = node.probe("/readyz");
        assert!(page.contains("this host has lost 192.0.2.1"), "{page}");
        node.namespace.ip("address add 192.0.2.77/24 dev u0").unwrap();

        node.wait_for(
            "this host's address has changed from 192.0.2.1 to 192.0.2.77: the gateway goes on",
        );
        other.until_peers(&[&format!("{subnet} 192.0.2.77:8285")]);
        stream.wait_for(u64::from(Stream::RATE), Duration::from_secs(60));
        let passed = stream.stop();
        assert_eq!(passed.wrong, Disorder::default(), "{fast_path}: {passed:?}");
        until("readiness", || node.probe("/readyz") == "flanneld is ready200 ");
        assert_eq!((node.process().pid(), node.process().ended()), (process, None));
        let lease = cluster.etcd.lease(&subnet).unwrap();
        assert!(lease.contains("192.0.2.77"), "{lease}");
        assert_eq!(cluster.etcd.subnets().len(), 2, "{:?}", cluster.etcd.subnets());
        assert_eq!(node.status()["etcd"]["own"], "held");
        assert_eq!(node.status()["fast_path"]["on"], fast_path == "bpf", "{}", node.log());
    }
}

#[test]
fn a_reservation_stays_one_when_the_address_changes_while_etcd_is_away() {
    let Some(mut cluster) = Cluster::new("moved reservation", 1) else { return };
    cluster.etcd.configure(NETWORK);
    cluster.etcd.put_lease("10.5.7.0/24", &lease_value("192.0.2.1"));
    let mut node = cluster.running(0, &PROBED);
    assert_eq!(node.subnet(), "10.5.7.0/24");

    cluster.etcd.kill();
    node.namespace.ip("address del 192.0.2.1/24 dev u0").unwrap();
    node.namespace.ip("address add 192.0.2.77/24 dev u0").unwrap();
    node.wait_for("the gateway goes on there");
    cluster.etcd.run();

    let lease = || cluster.etcd.lease("10.5.7.0/24").unwrap_or_default();
    until("the new address", || lease().contains("192.0.2.77"));
    assert_eq!(cluster.etcd.lease_field("10.5.7.0/24", "Lease"), 0, "for ever");
    until("readiness", || node.probe("/readyz") == "flanneld is ready200 ");
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
