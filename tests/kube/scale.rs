//! A cluster of a thousand nodes: whether all arrive, and what following them costs.

use super::nodes::{Cluster, Node, PATIENCE};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};
use twill::subnet::kube::annotations::DEFAULT_PREFIX;
use twill_testbed::process::{cpu_seconds, resident_kib};
use twill_testbed::within;

const NODES: u32 = 1000;
/// Nodes that are deleted in the end.
const LEAVING: u32 = 100;

#[test]
fn a_thousand_nodes_are_followed_and_what_that_costs_is_printed() {
    let Some(cluster) = Cluster::new("thousand nodes", 1) else { return };
    let mut calls = Calls::new(&cluster);
    (1..NODES).for_each(|number| calls.add("POST", "", JSON, &node(number)));
    calls.run("create");
    let bytes = cluster.server.node("m0001").to_string().len();
    assert!(bytes > 10_000, "a node of {bytes} bytes is not realistic");

    let started = Instant::now();
    let mut own = cluster.node(1, "n1");
    fs::write(own.folder.join("net-conf.json"), NET_CONFIG).unwrap();
    own.start(&[]);
    within(PATIENCE, "all peers", || {
        // Each look costs the node CPU time.
        std::thread::sleep(Duration::from_millis(200));
        own.folder.join("control.sock").exists() && peers_of(&own).len() == NODES as usize - 1
    });
    let pid = own.process().pid();
    let joined = (started.elapsed(), cpu_seconds(pid), resident_kib(pid));
    assert_eq!(peers_of(&own), (1..NODES).map(|number| peer(number, 0)).collect());

    // All nodes' heartbeats: events that change nothing. The last, to be seen, is a change.
    (1..NODES).for_each(|number| calls.patch(number, &heartbeat()));
    calls.patch(1, &address(1, 7));
    let heartbeats = following(&mut own, || calls.run("heartbeats"), |peers| has(peers, 1, 7));
    // All nodes get another address.
    (1..NODES).for_each(|number| calls.patch(number, &address(number, 1)));
    let changes = following(
        &mut own,
        || calls.run("changes"),
        |peers| (1..NODES).all(|number| has(peers, number, 1)),
    );
    (1..=LEAVING).for_each(|number| calls.add("DELETE", &path(number), JSON, &Value::Null));
    calls.run("delete");
    within(PATIENCE, "the end of some", || peers_of(&own).len() == (NODES - 1 - LEAVING) as usize);

    let left: BTreeMap<_, _> = (LEAVING + 1..NODES).map(|number| peer(number, 1)).collect();
    assert_eq!(peers_of(&own), left);
    let mut report = format!(
        "{NODES} nodes of {bytes} bytes: all peers after {:.1} s, {:.2} s CPU, {} MiB resident\n",
        joined.0.as_secs_f64(),
        joined.1,
        joined.2 / 1024
    );
    for (name, (events, elapsed, cpu)) in [("heartbeats", heartbeats), ("new addresses", changes)] {
        let per_second = f64::from(events) / elapsed;
        let per_event = cpu / f64::from(events) * 1e6;
        writeln!(
            report,
            "{name}: {events} events in {elapsed:.1} s ({per_second:.0} a second), \
             {per_event:.0} us CPU each"
        )
        .unwrap();
    }
    writeln!(report, "in the end {} MiB resident", resident_kib(pid) / 1024).unwrap();
    // Past the test harness, which keeps what is printed by a test that passes.
    std::io::stderr().write_all(report.as_bytes()).unwrap();
}

/// Follows events until the peers are as they must be: how many, seconds, and seconds of CPU.
fn following(
    node: &mut Node,
    calls: impl FnOnce() -> u32,
    done: impl Fn(&BTreeMap<String, String>) -> bool,
) -> (u32, f64, f64) {
    let pid = node.process().pid();
    let (started, cpu) = (Instant::now(), cpu_seconds(pid));
    let events = calls();
    within(PATIENCE, "all events", || done(&peers_of(node)));
    (events, started.elapsed().as_secs_f64(), cpu_seconds(pid) - cpu)
}

const NET_CONFIG: &str = r#"{"Network":"10.0.0.0/8","Backend":{"Type":"udp"}}"#;
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

/// Calls of the API server, thousands at a time.
struct Calls<'a> {
    cluster: &'a Cluster,
    config: String,
    count: u32,
}

impl<'a> Calls<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, config: String::new(), count: 0 }
    }

    fn patch(&mut self, number: u32, patch: &Value) {
        self.add("PATCH", &format!("{}/status", path(number)), MERGE, patch);
    }

    fn add(&mut self, method: &str, path: &str, kind: &str, body: &Value) {
        self.count += 1;
        let file = self.cluster.bed.folder().join(format!("call-{}.json", self.count));
        let file = file.display();
        fs::write(file.to_string(), body.to_string()).unwrap();
        if self.count > 1 {
            self.config.push_str("next\n");
        }
        write!(
            self.config,
            "url = \"@server/api/v1/nodes{path}\"\nrequest = {method}\n@options\n\
             header = \"Content-Type: {kind}\"\n"
        )
        .unwrap();
        if !body.is_null() {
            writeln!(self.config, "data-binary = \"@{file}\"").unwrap();
        }
    }

    /// Makes all calls, and says how many they were.
    fn run(&mut self, name: &str) -> u32 {
        let file = self.cluster.bed.folder().join(format!("{name}.curl"));
        fs::write(&file, std::mem::take(&mut self.config)).unwrap();
        self.cluster.server.call_all(&file);
        std::mem::take(&mut self.count)
    }
}

fn path(number: u32) -> String {
    format!("/m{number:04}")
}

/// A node as a kubelet and flannel leave it.
fn node(number: u32) -> Value {
    let images: Vec<_> = (0..50_u32)
        .map(|image| {
            let name = format!("registry.example/library/some-program-{image}");
            let digest = format!("{name}@sha256:{:064x}", u64::from(image) * 0x9e37_79b9);
            json!({"names": [digest, format!("{name}:v1.2.{image}")], "sizeBytes": 12_345_678})
        })
        .collect();
    let mut annotations = address(number, 0)["metadata"]["annotations"].clone();
    annotations[key("backend-data")] = json!("null");
    annotations[key("backend-type")] = json!("");
    annotations[key("kube-subnet-manager")] = json!("true");
    json!({
        "metadata": {
            "name": format!("m{number:04}"),
            "annotations": annotations,
            "labels": {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"},
        },
        "spec": {"podCIDR": subnet(number), "podCIDRs": [subnet(number)]},
        "status": {
            "images": images,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    })
}

fn heartbeat() -> Value {
    json!({"status": {"conditions": [{
        "type": "Ready", "status": "True", "reason": "KubeletReady",
        "lastHeartbeatTime": "2026-01-01T00:00:00Z",
    }]}})
}

/// A node's address, which has a generation.
fn address(number: u32, generation: u32) -> Value {
    json!({"metadata": {"annotations": {key("public-ip"): public_ip(number, generation)}}})
}

fn public_ip(number: u32, generation: u32) -> String {
    format!("198.{}.{}.{}", 18 + generation % 2, generation * 8 + number / 250, number % 250 + 1)
}

fn subnet(number: u32) -> String {
    format!("10.{}.{}.0/24", number / 250, number % 250)
}

/// A peer as `twill status` shows it.
fn peer(number: u32, generation: u32) -> (String, String) {
    (subnet(number), format!("{}:8285", public_ip(number, generation)))
}

fn has(peers: &BTreeMap<String, String>, number: u32, generation: u32) -> bool {
    let (subnet, endpoint) = peer(number, generation);
    peers.get(&subnet) == Some(&endpoint)
}

/// Endpoints by subnet.
fn peers_of(node: &Node) -> BTreeMap<String, String> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let status = node.status();
    let peers = status["peers"].as_array().unwrap();
    peers.iter().map(|peer| (word(&peer["subnets"][0]), word(&peer["endpoint"]))).collect()
}

fn key(name: &str) -> String {
    format!("{DEFAULT_PREFIX}/{name}")
}
