//! Packets between hosts that stay, while all around them changes: numbered, and none may be missing.

use super::faults::{peers, rules};
use super::following::register;
use super::nodes::{Cluster, Node, PATIENCE, key};
use super::server::Server;
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use twill_testbed::numbered::Stream;
use twill_testbed::{Namespace, within};

/// Datagrams that must come back before a step counts as survived.
const SOME: u64 = Stream::RATE as u64 / 2;
/// Seconds that the API server is stopped for.
const STOPPED: u64 = 60;

#[test]
fn no_packet_is_lost_while_nodes_come_and_go_and_rights_and_tokens_end() {
    let Some(mut cluster) = Cluster::new("nodes come and go", 3) else { return };
    cluster.server.add_service_account("flannel");
    cluster.server.allow("flannel", &rules(&["get", "list", "watch"], &["patch"]));
    // The server accepts a token for 60 s after its end.
    let ending = cluster.server.signed_token("flannel", -10);
    let token = cluster.bed.folder().join("token");
    fs::write(&token, &ending).unwrap();
    let kubeconfig = cluster.server.kubeconfig_for("token-file", &json!({"tokenFile": token}));
    let stage = Stage::start(&cluster, &kubeconfig);

    token_ends(&stage, &cluster.server, &ending);
    fs::write(&token, cluster.server.signed_token("flannel", 3600)).unwrap();
    stage.until("the new token", |node| node.status()["kube"]["connected"] == true);
    stage.go_on();

    let mut third = cluster.start(3, &[]);
    stage.until("n3", |node| peers(node).len() == 2);
    let (_, address) = third.pod(&cluster.bed);
    within(PATIENCE, "n3's pod", || stage.reaches(&address));
    stage.go_on();
    third.stop();
    stage.go_on();
    cluster.server.delete_node("n3");
    stage.until("n3 to go", |node| peers(node).len() == 1);
    stage.go_on();
    cluster.server.add_node("n3", "10.244.33.0/24");
    third.start(&[]);
    let again = "10.244.33.0/24 192.0.2.3:8285".to_owned();
    stage.until("n3 to return", |node| peers(node).contains(&again));
    stage.go_on();

    cluster.server.allow("flannel", &json!([]));
    cluster.server.kill();
    cluster.server.run();
    stage.until("the refusal", |node| node.log().contains("cannot list resource \"nodes\""));
    stage.until("the refusal", |node| node.status()["kube"]["connected"] == false);
    stage.go_on();
    cluster.server.allow("flannel", &rules(&["get", "list", "watch"], &["patch"]));
    stage.until("the right", |node| node.status()["kube"]["connected"] == true);
    stage.end();
}

#[test]
fn no_packet_is_lost_while_the_api_server_dies_stops_and_forgets() {
    let Some(mut cluster) = Cluster::new("server dies", 2) else { return };
    for (name, number) in [("n3", 3), ("n4", 4)] {
        cluster.server.add_node(name, &format!("10.244.{number}.0/24"));
        register(&cluster.server, name, &format!("192.0.2.7{number}"));
    }
    let stage = Stage::start(&cluster, &cluster.server.kubeconfig());
    let connected = |node: &Node| node.status()["kube"]["connected"] == true;
    stage.until("the others", |node| peers(node).len() == 3);

    cluster.server.kill();
    stage.until("the loss", |node| !connected(node));
    stage.go_on();
    cluster.server.run();
    stage.until("the return", connected);

    cluster.server.freeze();
    stage.until("silence", |node| !connected(node));
    let all = STOPPED * u64::from(Stream::RATE);
    stage.stream.wait_for(all, PATIENCE + 3 * Duration::from_secs(STOPPED));
    cluster.server.thaw();
    stage.until("an answer", connected);

    // Nobody sees the changes when they are made, and their revisions are gone afterwards.
    stage.cut_off(&cluster.server, "add");
    stage.until("the cut", |node| !connected(node));
    cluster.server.delete_node("n4");
    register(&cluster.server, "n3", "192.0.2.83");
    cluster.server.compact();
    cluster.server.kill();
    cluster.server.run();
    stage.cut_off(&cluster.server, "del");
    let moved = "10.244.3.0/24 192.0.2.83:8285".to_owned();
    stage.until("n3 alone", |node| peers(node).len() == 2 && peers(node).contains(&moved));
    stage.go_on();

    cluster.server.wipe();
    stage.until("the wipe", |node| node.log().contains("were wiped or restored"));
    stage.until("no own node", |node| node.status()["kube"]["own"] == "gone");
    stage.until("the others", |node| peers(node).len() == 2);
    stage.go_on();
    for number in 1..=3 {
        cluster.server.add_node(&format!("n{number}"), &format!("10.244.{number}.0/24"));
    }
    register(&cluster.server, "n3", "192.0.2.93");
    stage.until("registration", |node| node.status()["kube"]["own"] == "registered");
    let moved = "10.244.3.0/24 192.0.2.93:8285".to_owned();
    stage.until("all nodes", |node| peers(node).len() == 2 && peers(node).contains(&moved));
    stage.end();
}

/// Two nodes with a pod each, and numbered datagrams between these.
struct Stage {
    nodes: [Node; 2],
    pods: [Namespace; 2],
    stream: Stream,
}

impl Stage {
    fn start(cluster: &Cluster, kubeconfig: &PathBuf) -> Self {
        let nodes = [1, 2].map(|number| {
            let mut node = cluster.node(number, &format!("n{number}"));
            node.kubeconfig.clone_from(kubeconfig);
            node.start(&[]);
            node.wait_for("Running backend.");
            node
        });
        let [(first, _), (second, address)] = nodes.each_ref().map(|node| node.pod(&cluster.bed));
        within(PATIENCE, "a ping", || first.run("ping", &["-c1", "-W1", &address]).is_ok());
        let stream = Stream::start(&first, &second, address.parse().unwrap()).unwrap();
        Self { nodes, pods: [first, second], stream }
    }

    /// Waits until both nodes are so.
    fn until(&self, what: &str, is_so: impl Fn(&Node) -> bool) {
        for node in &self.nodes {
            within(PATIENCE, what, || is_so(node));
        }
    }

    fn reaches(&self, address: &str) -> bool {
        self.pods.iter().all(|pod| pod.run("ping", &["-c1", "-W1", address]).is_ok())
    }

    /// Waits until packets pass that were sent after the last step.
    fn go_on(&self) {
        self.stream.wait_for(SOME, PATIENCE);
    }

    /// Takes the API server out of the hosts' reach, or into it again.
    fn cut_off(&self, server: &Server, what: &str) {
        for node in &self.nodes {
            node.namespace.ip(&format!("route {what} prohibit {}/32", server.address())).unwrap();
        }
    }

    fn end(self) {
        self.go_on();
        self.stream.stop().assert_complete();
    }
}

/// Waits until the server refuses a token, and the nodes have heard it.
fn token_ends(stage: &Stage, server: &Server, token: &str) {
    let mark = |value: &str| json!({"example.com/mark": value});
    within(3 * PATIENCE, "the token's end", || {
        // The nodes need the CPU, too.
        std::thread::sleep(Duration::from_millis(500));
        server.annotate_as(token, "n1", &mark("0")).is_err_and(|refused| refused.contains("401"))
    });
    // A change of its own node has a node ask the server.
    for name in ["n1", "n2"] {
        server.annotate(name, &mark("1"));
    }
    stage.until("the token's end", |node| node.status()["kube"]["connected"] == false);
    stage.until("our own address", |node| peers(node).len() == 1);
    stage.go_on();
    assert!(server.node("n1")["metadata"]["annotations"][key("public-ip")].is_string());
}
