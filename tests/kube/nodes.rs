//! Hosts whose nodes are in a Kubernetes cluster, with pods behind them.

use super::server::{Server, is_built};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use twill::subnet::kube::annotations::DEFAULT_PREFIX;
use twill_testbed::numbered::Stream;
use twill_testbed::{Background, Host, Namespace, Testbed, Underlay, within};

/// How long anything here may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
const NET_CONFIG: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"udp"}}"#;

#[test]
fn pods_of_three_nodes_reach_each_other() {
    let Some(cluster) = Cluster::new("three nodes", 3) else { return };
    let nodes: Vec<_> = (1..=3).map(|number| cluster.start(number, &[])).collect();
    let pods: Vec<_> = nodes.iter().map(|node| node.pod(&cluster.bed)).collect();
    for (pod, _) in &pods {
        for (_, address) in &pods {
            within(PATIENCE, "a ping", || pod.run("ping", &["-c1", "-W1", address]).is_ok());
        }
    }
}

#[test]
fn a_node_is_what_flannel_makes_of_it_and_says_so() {
    let Some(cluster) = Cluster::new("one node", 1) else { return };

    let node = cluster.start(1, &[]);

    let text = fs::read_to_string(node.folder.join("subnet.env")).unwrap();
    assert_eq!(
        text,
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1472\n\
         FLANNEL_IPMASQ=false\n"
    );
    assert_eq!(node.status()["kube"]["own"], "registered");
    within(PATIENCE, "readiness", || node.probe("/readyz").starts_with("200"));
    // What dist/alerts.yml asks for.
    let page = node.probe("/metrics");
    for sample in ["twill_kube_connected 1", "twill_kube_registered 1"] {
        assert!(page.contains(sample), "{sample} is not on\n{page}");
    }
    let object = cluster.server.node("n1");
    assert_eq!(object["metadata"]["annotations"][key("public-ip")], "192.0.2.1");
}

#[test]
fn a_node_without_a_pod_network_waits_and_says_so() {
    let Some(cluster) = Cluster::new("no pod network", 1) else { return };
    cluster.server.add_node("late", "");
    let mut node = cluster.node(1, "late");
    node.start(&[]);

    node.wait_for("node \"late\" has no pod network yet");
    assert!(node.probe("/healthz").starts_with("200"));
    assert!(node.probe("/readyz").starts_with("503"));
    cluster.server.give_pod_cidr("late", "10.244.7.0/24");

    node.wait_for("Running backend.");
    let text = fs::read_to_string(node.folder.join("subnet.env")).unwrap();
    assert!(text.contains("FLANNEL_SUBNET=10.244.7.1/24"), "{text}");
}

#[test]
fn a_pod_network_outside_the_configured_one_ends_the_node_before_anything_is_written() {
    let Some(cluster) = Cluster::new("outside", 1) else { return };
    cluster.server.add_node("stray", "10.99.1.0/24");
    let mut node = cluster.node(1, "stray");
    node.start(&[]);

    within(PATIENCE, "the end", || node.process().ended().is_some());

    let log = node.log();
    assert!(log.contains("10.99.1.0/24") && log.contains("10.244.0.0/16"), "{log}");
    assert!(cluster.server.node("stray")["metadata"]["annotations"].is_null());
}

#[test]
fn a_node_starts_from_subnet_env_while_the_api_server_is_away() {
    let Some(mut cluster) = Cluster::new("API server away", 2) else { return };
    let (mut first, second) = (cluster.start(1, &[]), cluster.start(2, &[]));
    first.stop();
    cluster.server.kill();

    first.start(&[]);
    within(PATIENCE, "the health page", || first.probe("/healthz").starts_with("200"));
    first.wait_for("starting with subnet 10.244.1.0/24 of subnet.env");
    first.wait_for("Running backend.");

    cluster.server.run();
    let pods = [first.pod(&cluster.bed), second.pod(&cluster.bed)];
    within(PATIENCE, "a ping", || pods[0].0.run("ping", &["-c1", "-W1", &pods[1].1]).is_ok());
    within(PATIENCE, "registration", || first.status()["kube"]["own"] == "registered");
}

#[test]
fn hand_overs_lose_nothing_and_need_no_api_server() {
    let Some(mut cluster) = Cluster::new("hand-over", 2) else { return };
    let mut nodes = [cluster.start(1, &[]), cluster.start(2, &[])];
    let pods = nodes.each_ref().map(|node| node.pod(&cluster.bed));
    within(PATIENCE, "a ping", || pods[0].0.run("ping", &["-c1", "-W1", &pods[1].1]).is_ok());
    let stream = Stream::start(&pods[0].0, &pods[1].0, pods[1].1.parse().unwrap()).unwrap();

    for number in 0..4 {
        // The last two have only what their predecessors knew.
        if number == 2 {
            cluster.server.kill();
        }
        let node = &mut nodes[number % 2];
        node.hand_over();
        let peers = node.status()["peers"].as_array().unwrap().len();
        assert_eq!(peers, 1, "{}", node.log());
    }

    stream.wait_for(u64::from(Stream::RATE), PATIENCE);
    stream.stop().assert_complete();
    cluster.server.run();
    cluster.server.add_node("n3", "10.244.3.0/24");
    cluster.server.annotate(
        "n3",
        &json!({
            key("public-ip"): "192.0.2.77", key("backend-type"): "udp", key("backend-data"): "",
            key("kube-subnet-manager"): "true",
        }),
    );
    for node in &nodes {
        within(PATIENCE, "the new peer", || node.status()["peers"].as_array().unwrap().len() == 2);
        assert_eq!(node.status()["kube"]["own"], "registered");
        assert!(node.status()["kube"]["disconnects"].as_u64().unwrap() >= 1);
    }
}

#[test]
fn a_permission_that_is_missing_is_named() {
    let Some(cluster) = Cluster::new("RBAC", 1) else { return };
    cluster.server.add_node("n9", "10.244.9.0/24");
    cluster.server.add_service_account("flannel");
    cluster.server.allow(
        "flannel",
        &json!([
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
        ]),
    );
    let mut node = cluster.node(1, "n9");
    node.kubeconfig = cluster.server.kubeconfig_of("flannel");
    node.start(&[]);

    node.wait_for("cannot patch resource");
    assert!(node.log().contains("nodes/status"), "{}", node.log());
    cluster.server.allow(
        "flannel",
        &json!([
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
        ]),
    );
    node.wait_for("Running backend.");
}

/// Hosts, and an API server on one of their own.
pub(super) struct Cluster {
    pub(super) bed: Testbed,
    hosts: Vec<Host>,
    pub(super) server: Server,
}

impl Cluster {
    /// So many hosts, with the nodes n1, n2, …; nothing if the test is to be skipped.
    pub(super) fn new(test: &str, hosts: u8) -> Option<Self> {
        if !is_built(test) {
            return None;
        }
        let bed = Testbed::for_test(test)?;
        let mut hosts = bed.hosts(hosts + 1, &Underlay::default()).unwrap();
        let last = hosts.pop().unwrap();
        let server = Server::start(&bed, &last, &last.address().to_string());
        for number in hosts.iter().map(Host::index) {
            server.add_node(&format!("n{number}"), &format!("10.244.{number}.0/24"));
        }
        Some(Self { bed, hosts, server })
    }

    /// A node on a host, not started yet.
    pub(super) fn node(&self, host: usize, name: &str) -> Node {
        let host = &self.hosts[host - 1];
        let folder = self.bed.folder().join(format!("node-{name}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("net-conf.json"), NET_CONFIG).unwrap();
        Node {
            name: name.to_owned(),
            namespace: Namespace::clone(host),
            folder,
            kubeconfig: self.server.kubeconfig(),
            variables: Vec::new(),
            process: None,
            starts: 0,
        }
    }

    /// A node that runs.
    pub(super) fn start(&self, host: usize, flags: &[&str]) -> Node {
        let mut node = self.node(host, &format!("n{host}"));
        node.start(flags);
        node.wait_for("Running backend.");
        node
    }
}

/// A `twill flanneld -kube-subnet-mgr`.
pub(super) struct Node {
    name: String,
    pub(super) namespace: Namespace,
    pub(super) folder: PathBuf,
    pub(super) kubeconfig: PathBuf,
    /// More of its environment.
    pub(super) variables: Vec<(&'static str, &'static str)>,
    process: Option<Background>,
    starts: u32,
}

impl Node {
    pub(super) fn start(&mut self, flags: &[&str]) {
        self.start_with(flags, "false");
    }

    /// Starts a node that takes over from this one, and waits for both.
    pub(super) fn hand_over(&mut self) {
        let mut old = self.process.take().unwrap();
        self.start_with(&[], "true");
        self.wait_for("Running backend.");
        assert!(old.finish(PATIENCE).unwrap().success(), "{}", old.log());
    }

    /// Starts a node as in a pod that has this folder of a service account.
    pub(super) fn start_in_pod(&mut self, account: &Path, url: &str) {
        let (host, port) = url.trim_start_matches("https://").rsplit_once(':').unwrap();
        let script = r#"
            set -e
            mount -t tmpfs tmpfs /var/run/
            mkdir -p /var/run/secrets/kubernetes.io
            cp -r "$1" /var/run/secrets/kubernetes.io/serviceaccount
            shift; exec "$@""#;
        let mut command = self.namespace.command("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(account);
        command.arg(env!("CARGO_BIN_EXE_twill"));
        command.envs([("KUBERNETES_SERVICE_HOST", host), ("KUBERNETES_SERVICE_PORT", port)]);
        self.spawn(command, &[], "false");
    }

    /// Starts a node of flannel's own code.
    pub(super) fn start_flannel(&mut self, program: &Path) {
        self.starts += 1;
        let mut command = self.namespace.command(program);
        let files = [&self.kubeconfig, &self.folder.join("net-conf.json"), &self.subnet_file()];
        command.args(files).arg("u0").env("NODE_NAME", &self.name);
        let name = format!("{}-{}", self.name, self.starts);
        self.process = Some(self.namespace.spawn(&name, &mut command).unwrap());
    }

    fn start_with(&mut self, flags: &[&str], take_over: &str) {
        let command = self.namespace.command(env!("CARGO_BIN_EXE_twill"));
        let kubeconfig = self.kubeconfig.display().to_string();
        let flags: Vec<_> =
            ["-kubeconfig-file", &kubeconfig].iter().chain(flags).copied().collect();
        self.spawn(command, &flags, take_over);
    }

    fn spawn(&mut self, mut command: Command, flags: &[&str], take_over: &str) {
        self.starts += 1;
        command
            .args(["flanneld", "-kube-subnet-mgr", "-iface", "u0", "-healthz-port", "8081"])
            .arg("-net-config-path")
            .arg(self.folder.join("net-conf.json"))
            .arg("-subnet-file")
            .arg(self.subnet_file())
            .args(flags)
            .env("NODE_NAME", &self.name)
            .env("TWILL_SOCKET", self.socket())
            .env("TWILL_TAKE_OVER", take_over)
            .envs(self.variables.iter().copied());
        let name = format!("{}-{}", self.name, self.starts);
        self.process = Some(self.namespace.spawn(&name, &mut command).unwrap());
    }

    pub(super) fn subnet_file(&self) -> PathBuf {
        self.folder.join("subnet.env")
    }

    /// Where it runs.
    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    pub(super) fn process(&mut self) -> &mut Background {
        self.process.as_mut().unwrap()
    }

    pub(super) fn log(&self) -> String {
        self.process.as_ref().unwrap().log()
    }

    pub(super) fn wait_for(&mut self, text: &str) {
        self.process().wait_for(text, PATIENCE).unwrap();
    }

    pub(super) fn stop(&mut self) {
        self.process().stop(Duration::from_secs(10)).unwrap();
    }

    pub(super) fn status(&self) -> Value {
        let socket = self.socket().display().to_string();
        let args = ["status", "--socket", &socket, "--json"];
        let text = self.namespace.run(env!("CARGO_BIN_EXE_twill"), &args).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// A probe's status line and body.
    pub(super) fn probe(&self, path: &str) -> String {
        let url = format!("http://127.0.0.1:8081{path}");
        let args = ["-s", "--max-time", "5", "-w", "%{http_code} ", "-o", "-", &url];
        let answer = self.namespace.run("curl", &args).unwrap_or_default();
        // The code comes last.
        let at = answer.trim_end().rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
        let (body, code) = answer.trim_end().split_at(at);
        format!("{code} {body}")
    }

    /// A container, and its address.
    pub(super) fn pod(&self, bed: &Testbed) -> (Namespace, String) {
        bed.container(&self.namespace, &self.subnet_file()).unwrap()
    }
}

pub(super) fn key(name: &str) -> String {
    format!("{DEFAULT_PREFIX}/{name}")
}
