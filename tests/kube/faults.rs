//! What administrators do to a node while it runs: rights, annotations, tokens, compactions.

use super::following::{Following, PATIENCE, has, on_a_cluster, register, until};
use super::nodes::{Cluster, Node, key};
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use twill::subnet::kube::{Options, OwnNode};
use twill_testbed::within;

#[test]
fn a_right_that_is_taken_away_is_named_while_the_other_nodes_are_followed() {
    let Some(cluster) = Cluster::new("rights taken away", 1) else { return };
    let server = &cluster.server;
    server.add_service_account("flannel");
    server.allow("flannel", &rules(&["get", "list", "watch"], &["patch"]));
    let mut node = cluster.node(1, "n1");
    node.kubeconfig = server.kubeconfig_of("flannel");
    node.start(&[]);
    node.wait_for("Running backend.");

    server.allow("flannel", &rules(&["get", "list", "watch"], &["get"]));
    server.annotate("n1", &json!({key("public-ip"): null}));
    node.wait_for("cannot write the annotations of our own node");
    node.wait_for("cannot patch resource \"nodes/status\"");
    within(PATIENCE, "the status", || node.status()["kube"]["own"] == "unregistered");
    within(PATIENCE, "readiness to end", || node.probe("/readyz").starts_with("503"));
    server.add_node("n2", "10.244.2.0/24");
    register(server, "n2", "192.0.2.77");
    within(PATIENCE, "n2", || peers(&node) == ["10.244.2.0/24 192.0.2.77:8285"]);

    server.allow("flannel", &rules(&["list", "watch"], &["get"]));
    server.add_node("n3", "10.244.3.0/24");
    register(server, "n3", "192.0.2.78");
    within(PATIENCE, "n3", || peers(&node).len() == 2);
    node.wait_for("cannot get resource \"nodes\"");

    server.allow("flannel", &rules(&["get", "list", "watch"], &["patch"]));
    within(PATIENCE, "our annotation", || annotation(&cluster, "public-ip") == "192.0.2.1");
    within(PATIENCE, "readiness", || node.probe("/readyz").starts_with("200"));
}

#[test]
fn a_node_that_may_list_but_not_watch_follows_the_others_and_names_the_verb() {
    let Some(cluster) = Cluster::new("no watch", 1) else { return };
    let server = &cluster.server;
    server.add_service_account("flannel");
    server.allow("flannel", &rules(&["get", "list"], &["patch"]));
    let mut node = cluster.node(1, "n1");
    node.kubeconfig = server.kubeconfig_of("flannel");
    node.start(&[]);

    node.wait_for("cannot watch resource \"nodes\"");
    node.wait_for("listing all nodes every");
    server.add_node("n2", "10.244.2.0/24");
    register(server, "n2", "192.0.2.77");
    within(PATIENCE, "n2", || peers(&node) == ["10.244.2.0/24 192.0.2.77:8285"]);
    let kube = &node.status()["kube"];
    assert_eq!((&kube["connected"], &kube["disconnects"]), (&json!(true), &json!(0)));
    assert_eq!(node.log().matches("listing all nodes every").count(), 1, "{}", node.log());

    let before = server.watches_on_nodes();
    server.allow("flannel", &rules(&["get", "list", "watch"], &["patch"]));
    within(PATIENCE, "a watch", || server.watches_on_nodes() > before);
}

#[test]
fn readiness_while_the_api_server_is_away_is_what_the_setting_says() {
    let Some(mut cluster) = Cluster::new("readiness", 2) else { return };
    let usual = cluster.start(1, &[]);
    let mut strict = cluster.node(2, "n2");
    strict.variables.push(("TWILL_UNREADY_AFTER_SECONDS", "1"));
    strict.start(&[]);
    strict.wait_for("Running backend.");
    for node in [&usual, &strict] {
        within(PATIENCE, "readiness", || node.probe("/readyz").starts_with("200"));
    }

    cluster.server.kill();

    within(PATIENCE, "unreadiness", || strict.probe("/readyz").starts_with("503"));
    let reason = "the API server has not answered for 1 s";
    let page = strict.probe("/readyz");
    assert!(page.contains(reason), "{page}");
    assert!(strict.status()["missing"].to_string().contains(reason));
    strict.wait_for("(TWILL_UNREADY_AFTER_SECONDS): reporting not ready, still forwarding");
    within(PATIENCE, "the loss", || usual.probe("/metrics").contains("twill_kube_connected 0"));
    let log = usual.log();
    assert!(log.contains("keeping the known peers"), "{log}");
    assert!(usual.probe("/readyz").starts_with("200"), "packets flow");
    assert_eq!(peers(&strict).len(), 1, "the peers stay");

    cluster.server.run();
    within(PATIENCE, "readiness", || strict.probe("/readyz").starts_with("200"));
    within(PATIENCE, "the return", || usual.probe("/metrics").contains("twill_kube_connected 1"));
}

#[test]
fn annotations_that_make_no_sense_end_no_node() {
    let Some(cluster) = Cluster::new("annotations", 1) else { return };
    let server = &cluster.server;
    server.annotate("n1", &json!({key("public-ip-overwrite"): "nonsense"}));
    let mut node = cluster.node(1, "n1");
    node.start(&[]);

    node.wait_for("annotation public-ip-overwrite of node \"n1\" is \"nonsense\"");
    assert!(node.probe("/readyz").starts_with("503"));
    server.annotate("n1", &json!({key("public-ip-overwrite"): null}));
    node.wait_for("Running backend.");

    server.annotate("n1", &json!({key("public-ip-overwrite"): "127.0.0.1"}));
    node.wait_for("keeping the address 192.0.2.1");
    server.add_node("n2", "10.244.2.0/24");
    register(server, "n2", "192.0.2.77");
    within(PATIENCE, "n2", || peers(&node) == ["10.244.2.0/24 192.0.2.77:8285"]);
    assert_eq!(annotation(&cluster, "public-ip"), "192.0.2.1");
    server.annotate("n1", &json!({key("public-ip-overwrite"): "203.0.113.1"}));
    within(PATIENCE, "the overwrite", || annotation(&cluster, "public-ip") == "203.0.113.1");

    server.annotate("n2", &json!({key("backend-type"): "vxlan"}));
    within(PATIENCE, "n2 to go", || peers(&node).is_empty());
    node.wait_for("its backend is \"vxlan\", not \"udp\"");
    server.annotate("n2", &json!({key("backend-type"): ""}));
    within(PATIENCE, "n2 to return", || peers(&node).len() == 1);
    server.annotate("n2", &json!({key("public-ip"): null}));
    within(PATIENCE, "n2 to go", || peers(&node).is_empty());
}

#[test]
fn a_node_object_that_is_missing_at_the_start_is_waited_for() {
    let Some(cluster) = Cluster::new("no node object", 1) else { return };
    let mut node = cluster.node(1, "later");
    node.start(&[]);

    node.wait_for("there is no node \"later\" yet");
    assert!(node.probe("/healthz").starts_with("200"));
    assert!(node.probe("/readyz").starts_with("503"));
    cluster.server.add_node("later", "10.244.7.0/24");

    node.wait_for("Running backend.");
}

#[test]
fn changes_that_a_compaction_hid_are_found_by_a_new_list() {
    let Some(mut cluster) = Cluster::new("compaction", 1) else { return };
    for (number, name) in [(2, "n2"), (3, "n3")] {
        cluster.server.add_node(name, &format!("10.244.{number}.0/24"));
        register(&cluster.server, name, &format!("192.0.2.7{number}"));
    }
    let mut node = cluster.start(1, &[]);
    within(PATIENCE, "both", || peers(&node).len() == 2);

    node.process().freeze().unwrap();
    cluster.server.delete_node("n2");
    register(&cluster.server, "n3", "192.0.2.83");
    cluster.server.compact();
    cluster.server.kill();
    cluster.server.run();
    node.process().signal(rustix::process::Signal::CONT).unwrap();

    within(PATIENCE, "n3 alone", || peers(&node) == ["10.244.3.0/24 192.0.2.83:8285"]);
}

#[test]
fn a_token_that_expired_is_read_again_and_without_a_new_one_the_peers_stay() {
    on_a_cluster("tokens", |server, member| async move {
        server.add_node("n1", "10.244.1.0/24");
        server.add_node("n2", "10.244.2.0/24");
        register(&server, "n2", "192.0.2.2");
        server.add_service_account("flannel");
        server.allow("flannel", &rules(&["get", "list", "watch"], &["patch"]));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        // The server accepts a token for 60 s after its end, and remembers for 10 s that it did.
        fs::write(&file, server.signed_token("flannel", -55)).unwrap();
        let user = json!({"tokenFile": file});
        let kubeconfig = server.kubeconfig_for("file", &user);
        let options = Options { kubeconfig: Some(kubeconfig), servers: Vec::new() };
        let mut following = Following::start_with(&options, member).await;
        following.until("n2", |cluster| has(cluster, &["n2 192.0.2.2:8285"])).await;

        tokio::time::sleep(std::time::Duration::from_secs(16)).await;
        server.annotate("n1", &json!({key("public-ip"): null}));
        let is_refused = |cluster: &twill::subnet::kube::Cluster| !cluster.connected;
        following.until("the refusal", is_refused).await;
        assert!(has(&following.clusters.borrow(), &["n2 192.0.2.2:8285"]), "peers stay");
        fs::write(&file, server.signed_token("flannel", 600)).unwrap();

        following.until("the new token", |cluster| cluster.connected).await;
        until("our annotation", || {
            server.node("n1")["metadata"]["annotations"][key("public-ip")] == "192.0.2.1"
        })
        .await;
        following.until("its state", |cluster| cluster.own == OwnNode::Registered).await;
    });
}

#[test]
fn the_next_api_server_is_asked_if_the_first_is_dead_or_silent_and_a_plugin_gives_the_token() {
    on_a_cluster("addresses and plugin", |server, member| async move {
        server.add_node("n1", "10.244.1.0/24");
        server.add_service_account("flannel");
        server.allow("flannel", &rules(&["get", "list", "watch"], &["patch"]));
        let token = server.signed_token("flannel", 600);
        let folder = tempfile::tempdir().unwrap();
        let plugin = folder.path().join("plugin");
        plugin_that_prints(&plugin, &token);
        let user = json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": plugin,
            "interactiveMode": "Never",
        }});
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = format!("https://{}", silent.local_addr().unwrap());
        let servers = vec!["https://127.0.0.1:1".to_owned(), silent, server.url()];
        let kubeconfig = Some(server.kubeconfig_for("plugin", &user));

        let mut following = Following::start_with(&Options { kubeconfig, servers }, member).await;

        server.add_node("n2", "10.244.2.0/24");
        register(&server, "n2", "192.0.2.2");
        following.until("n2", |cluster| has(cluster, &["n2 192.0.2.2:8285"])).await;
    });
}

#[test]
fn a_long_list_arrives_packed() {
    on_a_cluster("gzip", |server, member| async move {
        server.add_node("n1", "10.244.1.0/24");
        // A server packs answers of more than 128 KiB.
        let much = "x".repeat(12_000);
        let mut expected = Vec::new();
        for number in 2..16 {
            let name = format!("n{number:02}");
            server.add_node(&name, &format!("10.244.{number}.0/24"));
            server.annotate(&name, &json!({"example.org/much": much}));
            register(&server, &name, &format!("192.0.2.{number}"));
            expected.push(format!("{name} 192.0.2.{number}:8285"));
        }
        let head = server.head_of("/api/v1/nodes?limit=500", "Accept-Encoding: gzip");
        assert!(head.to_lowercase().contains("content-encoding: gzip"), "{head}");

        let mut following = Following::start(&server, member).await;

        let expected: Vec<_> = expected.iter().map(String::as_str).collect();
        following.until("all", |cluster| has(cluster, &expected)).await;
    });
}

#[test]
fn a_pod_finds_the_api_server_by_its_service_account() {
    let Some(cluster) = Cluster::new("in cluster", 1) else { return };
    let server = &cluster.server;
    server.add_service_account("flannel");
    server.allow("flannel", &rules(&["get", "list", "watch"], &["patch"]));
    let mut node = cluster.node(1, "n1");
    let account = node.folder.join("serviceaccount");
    fs::create_dir(&account).unwrap();
    fs::write(account.join("token"), server.signed_token("flannel", 600)).unwrap();
    fs::copy(server.authority(), account.join("ca.crt")).unwrap();

    node.start_in_pod(&account, &server.url());

    node.wait_for("Running backend.");
    assert_eq!(annotation(&cluster, "public-ip"), "192.0.2.1");
}

pub(super) fn rules(on_nodes: &[&str], on_status: &[&str]) -> Value {
    json!([
        {"apiGroups": [""], "resources": ["nodes"], "verbs": on_nodes},
        {"apiGroups": [""], "resources": ["nodes/status"], "verbs": on_status},
    ])
}

fn annotation(cluster: &Cluster, name: &str) -> String {
    let node = cluster.server.node("n1");
    node["metadata"]["annotations"][key(name)].as_str().unwrap_or("(none)").to_owned()
}

/// `SUBNET ADDRESS:PORT` of each peer.
pub(super) fn peers(node: &Node) -> Vec<String> {
    let status = node.status();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let peers = status["peers"].as_array().unwrap().iter();
    peers.map(|peer| format!("{} {}", text(&peer["subnets"][0]), text(&peer["endpoint"]))).collect()
}

fn plugin_that_prints(path: &Path, token: &str) {
    let answer = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {"token": token},
    });
    fs::write(path, format!("#!/bin/sh\necho '{answer}'\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
