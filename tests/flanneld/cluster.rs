//! Hosts with a node each, and one with etcd.

use super::etcd::{Etcd, Transport, until};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;
use twill_testbed::{Background, Host, Namespace, Testbed, Underlay};

/// A network with few enough subnets to see them all, and enough for everybody. A node
/// without a lease picks one of the first hundred that are free, 10.5.1.0 to 10.5.100.0; peers that
/// tests write have theirs above.
pub(crate) const NETWORK: &str = r#"{"Network":"10.5.0.0/16"}"#;

/// How long a program may take to end.
pub(crate) const END: Duration = Duration::from_secs(10);

pub(crate) struct Cluster {
    pub(crate) bed: Testbed,
    /// 192.0.2.1, .2, …
    pub(crate) hosts: Vec<Host>,
    /// On a host of its own, the one after the last.
    pub(crate) etcd: Etcd,
}

impl Cluster {
    /// So many hosts and an etcd without configuration; nothing if the test is to be skipped.
    pub(crate) fn new(test: &str, hosts: u8) -> Option<Self> {
        Self::with(test, hosts, Transport::Plain)
    }

    pub(crate) fn with(test: &str, hosts: u8, transport: Transport) -> Option<Self> {
        let bed = Testbed::for_test(test)?;
        let mut hosts = bed.hosts(hosts + 1, &Underlay::default()).unwrap();
        let store = hosts.pop().unwrap();
        let etcd = Etcd::start(&bed, &store, &store.address().to_string(), transport);
        Some(Self { bed, hosts, etcd })
    }

    /// A node on a host, not started yet.
    pub(crate) fn node(&self, host: usize) -> Node {
        let host = &self.hosts[host];
        let folder = self.bed.folder().join(format!("node-{}", host.index()));
        fs::create_dir_all(&folder).unwrap();
        Node {
            namespace: Namespace::clone(host),
            folder,
            endpoint: self.etcd.endpoint(),
            process: None,
            starts: 0,
        }
    }

    /// A node that has its subnet.
    pub(crate) fn running(&self, host: usize, flags: &[&str]) -> Node {
        let mut node = self.node(host);
        node.start(&self.on_underlay(flags));
        node.wait_for("Running backend.");
        node
    }

    /// Flags, and the interface: these hosts have no default route.
    pub(crate) fn on_underlay<'a>(&self, flags: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["-iface", "u0"];
        all.extend(flags);
        all
    }
}

/// A `twill flanneld`.
pub(crate) struct Node {
    pub(crate) namespace: Namespace,
    pub(crate) folder: PathBuf,
    endpoint: String,
    process: Option<Background>,
    starts: u32,
}

impl Node {
    pub(crate) fn start(&mut self, flags: &[&str]) {
        self.start_with(flags, &[]);
    }

    pub(crate) fn start_with(&mut self, flags: &[&str], variables: &[(&str, &str)]) {
        self.start_as(env!("CARGO_BIN_EXE_twill"), flags, variables);
    }

    /// Starts a program that stands for `twill`.
    pub(crate) fn start_as(&mut self, twill: &str, flags: &[&str], variables: &[(&str, &str)]) {
        self.starts += 1;
        let mut command = self.namespace.command(twill);
        command
            .args(["flanneld", "-etcd-endpoints", &self.endpoint])
            .arg("-subnet-file")
            .arg(self.subnet_file())
            .args(flags)
            .env("TWILL_SOCKET", self.socket())
            .envs(variables.iter().copied());
        let name = format!("flanneld{}", self.starts);
        self.process = Some(self.namespace.spawn(&name, &mut command).unwrap());
    }

    /// Starts a node that takes over from this one; returns the old process.
    pub(crate) fn succeed(&mut self, flags: &[&str]) -> Background {
        let old = self.process.take().unwrap();
        self.start_with(flags, &[("TWILL_TAKE_OVER", "true")]);
        old
    }

    /// This is the node's process, after a successor was refused.
    pub(crate) fn put_back(&mut self, process: Background) {
        self.process = Some(process);
    }

    pub(crate) fn subnet_file(&self) -> PathBuf {
        self.folder.join("run/subnet.env")
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        self.socket()
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    pub(crate) fn process(&mut self) -> &mut Background {
        self.process.as_mut().unwrap()
    }

    pub(crate) fn log(&self) -> String {
        self.process.as_ref().unwrap().log()
    }

    pub(crate) fn wait_for(&mut self, text: &str) {
        self.process().wait_for(text, Duration::from_secs(30)).unwrap();
    }

    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.process().stop(END).unwrap()
    }

    /// Waits for its end and returns its status.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let mut status = None;
        until("the node's end", || {
            status = self.process().ended();
            status.is_some()
        });
        status.unwrap()
    }

    /// A variable of `subnet.env`.
    pub(crate) fn variable(&self, name: &str) -> String {
        let text = fs::read_to_string(self.subnet_file()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.unwrap_or_else(|| panic!("{name} in {text}")).to_owned()
    }

    /// The subnet, as etcd's keys name it.
    pub(crate) fn subnet(&self) -> String {
        let first: ipnet::Ipv4Net = self.variable("FLANNEL_SUBNET").parse().unwrap();
        first.trunc().to_string()
    }

    pub(crate) fn status(&self) -> Value {
        let socket = self.socket().display().to_string();
        let twill = env!("CARGO_BIN_EXE_twill");
        let args = ["status", "--socket", &socket, "--json"];
        serde_json::from_str(&self.namespace.run(twill, &args).unwrap()).unwrap()
    }

    /// `SUBNET ADDRESS:PORT` of each peer, in order.
    pub(crate) fn peers(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let status = self.status();
        let peers = status["peers"].as_array().unwrap().iter();
        let mut peers: Vec<_> = peers
            .map(|peer| format!("{} {}", text(&peer["subnets"][0]), text(&peer["endpoint"])))
            .collect();
        peers.sort();
        peers
    }

    pub(crate) fn until_peers(&self, expected: &[&str]) {
        until(&format!("peers {expected:?}"), || self.peers() == expected);
    }

    /// A container, and its address.
    pub(crate) fn container(&self, bed: &Testbed) -> (Namespace, String) {
        bed.container(&self.namespace, &self.subnet_file()).unwrap()
    }

    /// A probe's status line and body.
    pub(crate) fn probe(&self, path: &str) -> String {
        let url = format!("http://127.0.0.1:8081{path}");
        let format = "%{http_code} ";
        let args = ["-s", "--max-time", "5", "-w", format, &url];
        self.namespace.run("curl", &args).unwrap_or_default()
    }
}
