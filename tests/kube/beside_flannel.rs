//! A node of flannel's own code beside one of twill's.

use super::faults::peers;
use super::nodes::{Cluster, PATIENCE, key};
use super::server::{are_built, program};
use serde_json::json;
use std::fs;
use twill_testbed::numbered::Stream;
use twill_testbed::{Namespace, within};

/// flannel checks for a kernel module unless the rules are nftables'.
const NET_CONFIG: &str =
    r#"{"Network":"10.244.0.0/16","EnableNFTables":true,"Backend":{"Type":"udp"}}"#;

#[test]
fn flannels_own_kube_subnet_manager_and_udp_proxy_reach_twill_and_the_other_way_round() {
    if !are_built("flannel's own", &["flanneld"]) {
        return;
    }
    let Some(cluster) = Cluster::new("flannel's own", 2) else { return };
    let twill = cluster.start(1, &[]);
    let mut flannel = cluster.node(2, "n2");
    fs::write(flannel.folder.join("net-conf.json"), NET_CONFIG).unwrap();
    // As a kubelet does: flannel panics if a node has no annotation at all.
    let attaches = "volumes.kubernetes.io/controller-managed-attach-detach";
    cluster.server.annotate("n2", &json!({attaches: "true"}));

    flannel.start_flannel(&program("flanneld"));
    flannel.wait_for("Running backend.");

    let objects = ["n1", "n2"].map(|name| cluster.server.node(name)["metadata"].clone());
    for name in ["backend-data", "backend-type", "kube-subnet-manager"] {
        let [ours, theirs] = objects.each_ref().map(|object| &object["annotations"][key(name)]);
        assert!(ours.is_string() && ours == theirs, "{name}: {ours} and {theirs}");
    }
    assert_eq!(objects[1]["annotations"][key("public-ip")], "192.0.2.2");
    within(PATIENCE, "n2", || peers(&twill) == ["10.244.2.0/24 192.0.2.2:8285"]);
    let env = |folder: &std::path::Path| fs::read_to_string(folder.join("subnet.env")).unwrap();
    let expected = env(&twill.folder).replace("10.244.1.1", "10.244.2.1");
    assert_eq!(env(&flannel.folder), expected);

    let pods = [&twill, &flannel].map(|node| node.pod(&cluster.bed));
    for (from, to) in [(0, 1), (1, 0)] {
        let (from, (to, address)) = (&pods[from].0, &pods[to]);
        within(PATIENCE, "a ping", || from.run("ping", &["-c1", "-W1", address]).is_ok());
        transfer(from, to, address);
        let stream = Stream::start(from, to, address.parse().unwrap()).unwrap();
        stream.wait_for(u64::from(Stream::RATE), PATIENCE);
        stream.stop().assert_complete();
    }
    cluster.server.delete_node("n2");
    within(PATIENCE, "n2 to go", || peers(&twill).is_empty());
}

/// 4 MiB over TCP, compared byte by byte.
fn transfer(from: &Namespace, to: &Namespace, address: &str) {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    let text: Vec<u8> = (0..4u32 << 18).flat_map(u32::to_le_bytes).collect();
    let listener = to.enter(|| TcpListener::bind((address, 7000)).unwrap());
    let stream = from.enter(|| TcpStream::connect((address, 7000)).unwrap());
    let (accepted, _) = listener.accept().unwrap();
    let arrived = std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut all = Vec::new();
            accepted.take(1 << 24).read_to_end(&mut all).map(|_| all)
        });
        let mut stream = stream;
        stream.write_all(&text).unwrap();
        drop(stream);
        reader.join().unwrap().unwrap()
    });
    assert!(arrived == text, "{} bytes of {}", arrived.len(), text.len());
}
