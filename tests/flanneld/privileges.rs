//! A node without root.

use super::cluster::Cluster;
use super::etcd::until;
use std::fs;
use twill_testbed::privileges::{NOBODY, of_unit, script};

#[test]
fn nobody_is_a_node_with_the_capabilities_of_its_unit() {
    let Some(cluster) = Cluster::new("nobody", 2) else { return };
    cluster.etcd.configure(r#"{"Network":"10.5.0.0/16","EnableNFTables":true}"#);
    let capabilities = of_unit("dist/flanneld.service");
    let owned = ["-subnet-file"];
    let twill = script(cluster.bed.folder(), env!("CARGO_BIN_EXE_twill"), &capabilities, &owned);
    let mut nodes = [0, 1].map(|host| {
        let mut node = cluster.node(host);
        fs::create_dir(node.subnet_file().parent().unwrap()).unwrap();
        let socket = node.folder.join("run/control.sock").display().to_string();
        let variables = [("TWILL_SOCKET", socket.as_str())];
        node.start_as(&twill, &cluster.on_underlay(&["-ip-masq"]), &variables);
        node.wait_for("Running backend.");
        node
    });

    for node in &mut nodes {
        let rules = node.namespace.run("nft", &["list", "ruleset"]).unwrap();
        assert!(rules.contains("masquerade"), "{rules}\n{}", node.log());
        let pid = node.process().pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains(&format!("Uid:\t{NOBODY}\t{NOBODY}")), "{status}");
    }
    let [(pod, _), (_, other)] = [0, 1].map(|index: usize| nodes[index].container(&cluster.bed));
    until("a ping between pods", || pod.run("ping", &["-c1", "-W1", &other]).is_ok());
}
