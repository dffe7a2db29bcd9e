//! Nodes whose hosts get other addresses.

use super::faults::peers;
use super::nodes::{Cluster, Node, PATIENCE, key};
use std::fs;
use twill_testbed::numbered::{Disorder, Stream};
use twill_testbed::within;

#[test]
fn a_node_whose_host_gets_another_address_goes_on_there_and_the_others_follow() {
    let Some(cluster) = Cluster::new("other address", 2) else { return };
    let mut first = cluster.node(1, "n1");
    first.variables.push(("TWILL_QUEUES", "2"));
    first.start(&[]);
    first.wait_for("Running backend.");
    let second = cluster.start(2, &[]);
    let pods = [first.pod(&cluster.bed), second.pod(&cluster.bed)];
    within(PATIENCE, "a ping", || pods[0].0.run("ping", &["-c1", "-W1", &pods[1].1]).is_ok());
    let subnet_file = fs::read_to_string(first.subnet_file()).unwrap();
    let stream = Stream::start(&pods[0].0, &pods[1].0, pods[1].1.parse().unwrap()).unwrap();
    let process = first.process().pid();

    for (from, to) in [("192.0.2.1", "192.0.2.71"), ("192.0.2.71", "192.0.2.72")] {
        stream.wait_for(u64::from(Stream::RATE), PATIENCE);
        change_address(&first, from, to);

        first.wait_for(&format!(
            "this host's address has changed from {from} to {to}: the gateway goes on there"
        ));
        let expected = [format!("10.244.1.0/24 {to}:8285")];
        within(PATIENCE, "the new address", || peers(&second) == expected);
        stream.wait_for(u64::from(Stream::RATE), PATIENCE);
        assert_eq!(published(&cluster), to);
        assert_eq!(first.status()["listen"], format!("{to}:8285"));
        within(PATIENCE, "readiness", || first.probe("/readyz").starts_with("200"));
    }

    assert_eq!((first.process().pid(), first.process().ended()), (process, None));
    assert_eq!(fs::read_to_string(first.subnet_file()).unwrap(), subnet_file);
    // The successor has the address, and follows the next one.
    first.hand_over();
    stream.wait_for(u64::from(Stream::RATE), PATIENCE);
    change_address(&first, "192.0.2.72", "192.0.2.73");
    within(PATIENCE, "the next address", || peers(&second) == ["10.244.1.0/24 192.0.2.73:8285"]);
    stream.wait_for(u64::from(Stream::RATE), PATIENCE);
    let passed = stream.stop();
    assert_eq!(passed.wrong, Disorder::default(), "{passed:?}");
}

#[test]
fn a_node_whose_new_address_allows_another_mtu_ends_and_starts_again_with_it() {
    let Some(cluster) = Cluster::new("other MTU", 2) else { return };
    let (mut first, second) = (cluster.start(1, &[]), cluster.start(2, &[]));

    first.namespace.ip("link set u0 mtu 1400").unwrap();
    change_address(&first, "192.0.2.1", "192.0.2.71");
    within(PATIENCE, "the end", || first.process().ended().is_some());

    let log = first.log();
    for words in [
        "this host's address has changed from 192.0.2.1 to 192.0.2.71, and u0 allows the device an \
         MTU of 1372 instead of 1472",
        ": ending, so that the service starts again",
    ] {
        assert!(log.contains(words), "{words} is not in {log}");
    }
    // As a kubelet does with a container that ended.
    first.start(&[]);
    first.wait_for("Running backend.");
    assert_eq!(published(&cluster), "192.0.2.71");
    within(PATIENCE, "the new address", || peers(&second) == ["10.244.1.0/24 192.0.2.71:8285"]);
    let text = fs::read_to_string(first.subnet_file()).unwrap();
    assert!(text.contains("FLANNEL_MTU=1372"), "{text}");
}

#[test]
fn an_address_that_changes_while_the_api_server_is_away_is_published_when_it_returns() {
    let Some(mut cluster) = Cluster::new("moved alone", 2) else { return };
    let (mut first, second) = (cluster.start(1, &[]), cluster.start(2, &[]));
    within(PATIENCE, "the peer", || peers(&first).len() == 1 && peers(&second).len() == 1);
    cluster.server.kill();

    change_address(&first, "192.0.2.1", "192.0.2.71");
    first.wait_for("the gateway goes on there");
    // Nor does a hand-over forget it.
    first.hand_over();
    cluster.server.run();

    within(PATIENCE, "the new address", || peers(&second) == ["10.244.1.0/24 192.0.2.71:8285"]);
    assert_eq!(published(&cluster), "192.0.2.71");
    assert_eq!(peers(&first).len(), 1);
}

fn change_address(node: &Node, from: &str, to: &str) {
    let change = format!("address del {from}/24 dev u0\naddress add {to}/24 dev u0");
    node.namespace.ip(&change).unwrap();
}

fn published(cluster: &Cluster) -> String {
    let node = cluster.server.node("n1");
    node["metadata"]["annotations"][key("public-ip")].as_str().unwrap().to_owned()
}
