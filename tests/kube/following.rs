//! The node's own annotations are kept and the others are followed, whatever happens to the server.

use super::server::{Server, is_built};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use twill::subnet::HostAddress;
use twill::subnet::kube::annotations::{Annotations, DEFAULT_PREFIX};
use twill::subnet::kube::{
    Access, AddressSource, Cluster, FollowEnd, Follower, Member, Nodes, Options, OwnNode,
};
use twill_testbed::{Namespace, Testbed};

#[test]
fn a_node_joins_follows_the_others_and_keeps_its_annotations() {
    on_a_cluster("join and follow", |server, member| async move {
        server.add_node("n1", "10.244.1.0/24");
        server.add_node("n2", "10.244.2.0/24");

        let mut following = Following::start(&server, member).await;

        let status = server.node("n1");
        assert_eq!(annotation(&status, "public-ip"), "192.0.2.1");
        assert_eq!(annotation(&status, "backend-data"), "null");
        assert_eq!(annotation(&status, "backend-type"), "");
        assert_eq!(annotation(&status, "kube-subnet-manager"), "true");
        let conditions = status["status"]["conditions"].as_array().unwrap();
        assert!(conditions.iter().any(|condition| condition["reason"] == "FlannelIsUp"));

        register(&server, "n2", "192.0.2.2");
        following.until("n2", |cluster| has(cluster, &["n2 192.0.2.2:8285"])).await;
        server.add_node("n3", "");
        register(&server, "n3", "192.0.2.3");
        server.give_pod_cidr("n3", "10.244.3.0/24");
        let both = ["n2 192.0.2.2:8285", "n3 192.0.2.3:8285"];
        following.until("n3", |cluster| has(cluster, &both)).await;
        server.annotate("n2", &json!({format!("{DEFAULT_PREFIX}/kube-subnet-manager"): null}));
        following.until("n2 to go", |cluster| has(cluster, &both[1..])).await;
        server.delete_node("n3");
        following.until("n3 to go", |cluster| has(cluster, &[])).await;

        server.annotate("n1", &json!({format!("{DEFAULT_PREFIX}/public-ip"): null}));
        until("our annotation", || annotation(&server.node("n1"), "public-ip") == "192.0.2.1")
            .await;
        let overwrite = json!({format!("{DEFAULT_PREFIX}/public-ip-overwrite"): "203.0.113.1"});
        server.annotate("n1", &overwrite);
        until("the overwrite", || annotation(&server.node("n1"), "public-ip") == "203.0.113.1")
            .await;
    });
}

#[test]
fn a_node_that_is_made_again_is_joined_again_or_ends_the_following() {
    on_a_cluster("made again", |server, member| async move {
        server.add_node("n1", "10.244.1.0/24");
        let mut following = Following::start(&server, member).await;

        server.delete_node("n1");
        following.until("the loss", |cluster| cluster.own == OwnNode::Gone).await;
        server.add_node("n1", "10.244.1.0/24");
        following.until("the return", |cluster| cluster.own == OwnNode::Registered).await;
        assert_eq!(annotation(&server.node("n1"), "public-ip"), "192.0.2.1");

        server.delete_node("n1");
        server.add_node("n1", "10.244.9.0/24");
        let end = tokio::time::timeout(PATIENCE, following.task).await.unwrap().unwrap();
        let text = end.to_string();
        assert!(text.contains("10.244.9.0/24 instead of 10.244.1.0/24"), "{text}");
    });
}

#[test]
fn a_server_that_is_silent_dies_or_loses_its_data_costs_no_peer_for_good() {
    on_a_cluster("server faults", |mut server, member| async move {
        server.add_node("n1", "10.244.1.0/24");
        server.add_node("n2", "10.244.2.0/24");
        register(&server, "n2", "192.0.2.2");
        let mut following = Following::start(&server, member).await;
        let peer = ["n2 192.0.2.2:8285"];
        following.until("n2", |cluster| has(cluster, &peer)).await;

        server.freeze();
        following.until("silence", |cluster| !cluster.connected && has(cluster, &peer)).await;
        server.thaw();
        following.until("an answer", |cluster| cluster.connected && has(cluster, &peer)).await;

        server.kill();
        following.until("the loss", |cluster| !cluster.connected && has(cluster, &peer)).await;
        server.run();
        following.until("the return", |cluster| cluster.connected && has(cluster, &peer)).await;
        register(&server, "n2", "192.0.2.22");
        following.until("news", |cluster| has(cluster, &["n2 192.0.2.22:8285"])).await;

        server.wipe();
        server.add_node("n1", "10.244.1.0/24");
        server.add_node("n4", "10.244.4.0/24");
        register(&server, "n4", "192.0.2.4");
        let both = ["n2 192.0.2.22:8285", "n4 192.0.2.4:8285"];
        following.until("the new store", |cluster| has(cluster, &both)).await;
        until("our annotation", || annotation(&server.node("n1"), "public-ip") == "192.0.2.1")
            .await;
        server.add_node("n2", "10.244.2.0/24");
        register(&server, "n2", "192.0.2.23");
        let moved = ["n2 192.0.2.23:8285", both[1]];
        following.until("n2 to return", |cluster| has(cluster, &moved)).await;
        server.delete_node("n2");
        following.until("n2 to go for good", |cluster| has(cluster, &both[1..])).await;
    });
}

/// How long anything here may take: a silent server is noticed within 15 s, a start takes 6.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Following {
    pub(super) clusters: watch::Receiver<Cluster>,
    task: JoinHandle<FollowEnd>,
}

impl Following {
    pub(super) async fn start(server: &Server, member: Member) -> Self {
        let options = Options { kubeconfig: Some(server.kubeconfig()), servers: Vec::new() };
        Self::start_with(&options, member).await
    }

    pub(super) async fn start_with(options: &Options, member: Member) -> Self {
        let nodes = Nodes::new(Access::new(options).unwrap());
        let joined = tokio::time::timeout(PATIENCE, member.join(&nodes)).await.unwrap().unwrap();
        let (follower, clusters) = Follower::new(nodes, member, joined, 8285);
        let task = tokio::task::spawn_local(follower.run());
        Self { clusters, task }
    }

    /// Ends the following, as a process that is killed.
    pub(super) fn end(self) {
        self.task.abort();
    }

    pub(super) async fn until(&mut self, what: &str, condition: impl Fn(&Cluster) -> bool) {
        let wait = tokio::time::timeout(PATIENCE, self.clusters.wait_for(&condition));
        let arrived = wait.await.is_ok_and(|seen| seen.is_ok());
        assert!(arrived, "waited for {what} in vain: {:?}", *self.clusters.borrow());
    }
}

/// Runs a test's body in a namespace that has a server.
pub(super) fn on_a_cluster<F: Future<Output = ()>>(
    test: &str,
    body: impl FnOnce(Server, Member) -> F + Send,
) {
    if !is_built(test) {
        return;
    }
    let Some(bed) = Testbed::for_test(test) else { return };
    let namespace: Namespace = bed.namespace("kube").unwrap();
    let server = Server::start(&bed, &namespace, "127.0.0.1");
    let member = Member {
        name: "n1".to_owned(),
        annotations: Annotations::new(DEFAULT_PREFIX).unwrap(),
        networks: "10.244.0.0/16".parse().unwrap(),
        host: HostAddress { public_ip: "192.0.2.1".parse().unwrap(), ..HostAddress::default() },
        address: AddressSource::Interface,
        sets_condition: true,
    };
    namespace.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        runtime.block_on(local.run_until(body(server, member)));
    });
}

pub(super) fn register(server: &Server, node: &str, address: &str) {
    let annotations = json!({
        format!("{DEFAULT_PREFIX}/backend-data"): "null",
        format!("{DEFAULT_PREFIX}/backend-type"): "",
        format!("{DEFAULT_PREFIX}/kube-subnet-manager"): "true",
        format!("{DEFAULT_PREFIX}/public-ip"): address,
    });
    server.annotate(node, &annotations);
}

fn annotation(node: &Value, name: &str) -> String {
    let key = format!("{DEFAULT_PREFIX}/{name}");
    node["metadata"]["annotations"][key].as_str().unwrap_or("(none)").to_owned()
}

pub(super) fn has(cluster: &Cluster, expected: &[&str]) -> bool {
    let peers = cluster.peers.iter();
    peers.map(|peer| format!("{} {}", peer.name, peer.endpoint)).eq(expected.iter().copied())
}

pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "waited for {what} in vain");
}
