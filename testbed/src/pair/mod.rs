//! Two hosts with a pod and a running `twill` each, and ways to drive them and look into them.
//!
//! ```no_run
//! use twill_testbed::pair::{Pair, Setup};
//!
//! let setup = Setup { engine: "epoll", lines: "queues = 2", ..Setup::new("target/debug/twill") };
//! let Some(pair) = Pair::start("two queues", &setup) else { return };
//! pair.assert_connected();
//! pair.assert_tcp_carries(4, 1 << 20);
//! assert_eq!(pair.status(1)["engine"], "epoll");
//! ```

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod traffic;

use crate::wait::{patient, slowness};
use crate::{Background, Host, Pod, Testbed, Underlay, within};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use twill::control::{self, Request};

/// How long anything may take that should happen at once. Only a hang takes longer.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The gateways' TUN device.
pub const DEVICE: &str = "tw0";
/// Where a gateway serves metrics, within its host's namespace.
pub const METRICS: &str = "127.0.0.1:9285";
/// The gateways' UDP port.
const PORT: u16 = 8285;

/// Changes the command that starts a gateway.
pub type Prepare = fn(&mut Command);

/// What to build.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// The program: `env!("CARGO_BIN_EXE_twill")`.
    pub twill: &'a str,
    /// The engine's name, or `auto`.
    pub engine: &'a str,
    /// The network between the hosts.
    pub underlay: Underlay,
    /// Hosts on the underlay. The first two run gateways.
    pub hosts: u8,
    /// Where each gateway sends what is for the other one.
    pub endpoints: [SocketAddr; 2],
    /// The last byte of each device's address. flannel takes 0.
    pub device: u8,
    /// More lines of `[interface]`.
    pub lines: &'a str,
    /// Changes the commands that start the gateways.
    pub prepare: Prepare,
}

impl<'a> Setup<'a> {
    /// Two hosts on Ethernet; gateways that choose their engine.
    #[must_use]
    pub fn new(twill: &'a str) -> Self {
        Self {
            twill,
            engine: "auto",
            underlay: Underlay::default(),
            hosts: 2,
            endpoints: [2, 1].map(|host| SocketAddr::from(([192, 0, 2, host], PORT))),
            device: 0,
            lines: "",
            prepare: |_| {},
        }
    }
}

/// Two hosts, a pod behind each, a gateway between them.
#[derive(Debug)]
pub struct Pair {
    /// The hosts: the gateways', then any more.
    pub hosts: Vec<Host>,
    /// The pod of each gateway's host.
    pub pods: [Pod; 2],
    /// The gateways.
    pub gateways: Vec<Gateway>,
    /// Everything's test bed.
    pub bed: Testbed,
    twill: PathBuf,
    engine: String,
    prepare: Prepare,
}

/// A running `twill run`.
#[derive(Debug)]
pub struct Gateway {
    /// Its process.
    pub process: Background,
    /// Its configuration.
    pub config: PathBuf,
    /// Its control socket.
    pub socket: PathBuf,
}

impl Pair {
    /// Builds everything and waits until both gateways run. Returns `None` where the privilege is
    /// missing and skipping is allowed.
    ///
    /// # Panics
    /// When something fails.
    #[must_use]
    pub fn start(test: &str, setup: &Setup<'_>) -> Option<Self> {
        let bed = Testbed::for_test(test)?;
        let hosts = bed.hosts(setup.hosts, &setup.underlay).unwrap();
        let pods = [0, 1].map(|index: usize| hosts[index].add_pod(mtu(setup)).unwrap());
        let mut pair = Self {
            hosts,
            pods,
            gateways: Vec::new(),
            bed,
            twill: setup.twill.into(),
            engine: setup.engine.to_owned(),
            prepare: setup.prepare,
        };
        for index in 0..2 {
            if setup.lines.contains("keep_forwarding") {
                pair.bed.bpf_file_system(&format!("h{index}")).unwrap();
            }
            let config = pair.bed.folder().join(format!("h{index}.toml"));
            let socket = pair.bed.folder().join(format!("h{index}.sock"));
            fs::write(&config, pair.configuration(index, setup)).unwrap();
            let process = pair.launch(index, &config, &socket);
            pair.gateways.push(Gateway { process, config, socket });
        }
        Some(pair)
    }

    fn configuration(&self, index: usize, setup: &Setup<'_>) -> String {
        let (host, peer) = (&self.hosts[index], &self.hosts[1 - index]);
        let [a, b, c, _] = host.pod_network().octets();
        format!(
            "[interface]\n{lines}\nname = {DEVICE:?}\naddress = \"{a}.{b}.{c}.{device}/32\"\n\
             local = \"{network}/24\"\nlisten = \"{address}:{PORT}\"\nmtu = {mtu}\n\n\
             [[peer]]\nname = \"other\"\nendpoint = \"{endpoint}\"\nsubnets = \"{subnet}/24\"\n",
            lines = setup.lines,
            device = setup.device,
            network = host.pod_network(),
            address = host.address(),
            mtu = mtu(setup),
            endpoint = setup.endpoints[index],
            subnet = peer.pod_network(),
        )
    }

    fn launch(&self, index: usize, config: &Path, socket: &Path) -> Background {
        let mut process = self.spawn(index, &self.engine, config, socket, &[]);
        process.wait_for("running", PATIENCE).unwrap();
        process
    }

    fn spawn(
        &self,
        index: usize,
        engine: &str,
        config: &Path,
        socket: &Path,
        more: &[&str],
    ) -> Background {
        let host = &self.hosts[index];
        let mut command = host.command(&self.twill);
        // Commands in a network namespace have another /sys.
        command.env("TWILL_BPF_FS", self.bpf_file_system(index));
        command.args(["run", "--engine", engine, "--config"]).arg(config);
        command.arg("--socket").arg(socket).args(["--metrics", METRICS]).args(more);
        (self.prepare)(&mut command);
        host.spawn("twill", &mut command).unwrap()
    }

    /// Where a gateway's bpf file system is, if there is one: see [`Testbed::bpf_file_system`].
    #[must_use]
    pub fn bpf_file_system(&self, index: usize) -> PathBuf {
        self.bed.folder().join(format!("bpf-h{index}"))
    }

    /// Starts a process that takes over from a gateway.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn successor(&self, index: usize, engine: &str, more: &[&str]) -> Background {
        let Gateway { config, socket, .. } = &self.gateways[index];
        let more = [&["--take-over"], more].concat();
        self.spawn(index, engine, config, socket, &more)
    }

    /// Starts one more process for a gateway whose process has ended, and waits until it runs.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_again(&self, index: usize) -> Background {
        let Gateway { config, socket, .. } = &self.gateways[index];
        self.launch(index, config, socket)
    }

    /// Starts a gateway again whose process has ended.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self, index: usize) {
        self.gateways[index].process = self.start_again(index);
    }

    /// Starts both gateways again with one more line below `[interface]`.
    ///
    /// # Panics
    /// When one of them does not stop or start.
    pub fn restart_with(&mut self, line: &str) {
        for index in 0..2 {
            let config = &self.gateways[index].config;
            let text = fs::read_to_string(config).unwrap();
            let text = text.replace("[interface]", &format!("[interface]\n{line}"));
            fs::write(config, text).unwrap();
            self.gateways[index].process.stop(PATIENCE).unwrap();
            self.restart(index);
        }
    }

    /// Runs `twill` with a gateway's control socket and returns what it prints.
    ///
    /// # Errors
    /// What it prints when it fails.
    pub fn twill(&self, index: usize, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.twill);
        command.args(args).arg("--socket").arg(&self.gateways[index].socket);
        output(&mut command)
    }

    /// Runs `twill` on a host, prepared as the gateways are, and returns what it prints.
    ///
    /// # Errors
    /// What it prints when it fails.
    pub fn twill_there(&self, index: usize, args: &[&str]) -> Result<String, String> {
        let mut command = self.hosts[index].command(&self.twill);
        command.env("TWILL_BPF_FS", self.bpf_file_system(index));
        (self.prepare)(command.args(args));
        output(&mut command)
    }

    /// A gateway's status.
    ///
    /// # Panics
    /// When the gateway does not answer.
    #[must_use]
    pub fn status(&self, index: usize) -> Value {
        let ask = || control::call(&self.gateways[index].socket, Request::Status);
        // On an emulated processor, an answer may take longer than a command waits.
        (1..slowness()).find_map(|_| ask().ok()).unwrap_or_else(|| ask().unwrap())
    }

    /// A gateway's status, as soon as it is as `wanted`. `what` names that in the panic message.
    ///
    /// # Panics
    /// When it never is.
    pub fn status_when(&self, index: usize, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        self.eventually(what, |pair| {
            last = pair.status(index);
            wanted(&last)
        });
        last
    }

    /// The packets that a gateway dropped for one reason.
    #[must_use]
    pub fn drops(&self, index: usize, direction: &str, reason: &str) -> u64 {
        self.status(index)[direction]["drops"][reason].as_u64().unwrap_or(0)
    }

    /// One page of a gateway's HTTP server.
    ///
    /// # Panics
    /// When it does not answer with status 200.
    #[must_use]
    pub fn page(&self, index: usize, path: &str) -> String {
        self.hosts[index].enter(|| get(METRICS, path))
    }

    /// The value of a metric without labels.
    #[must_use]
    pub fn metric(&self, index: usize, name: &str) -> Option<String> {
        let page = self.page(index, "/metrics");
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map(str::to_owned)
    }

    /// What both gateways have printed.
    #[must_use]
    pub fn logs(&self) -> String {
        self.gateways.iter().map(|gateway| gateway.process.log()).collect::<Vec<_>>().join("\n--\n")
    }

    /// Waits until a condition holds. `what` names it in the panic message.
    ///
    /// # Panics
    /// When it never does. Each gateway's output follows.
    pub fn eventually(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        within(PATIENCE, what, || holds(self));
    }

    /// Waits until every packet that came in has left or is counted as dropped, at both gateways
    /// and in both directions.
    ///
    /// # Panics
    /// When a packet stays unaccounted for.
    pub fn assert_books_balance(&self) {
        for index in 0..self.gateways.len() {
            for direction in ["egress", "ingress"] {
                self.eventually(&format!("balanced books of {direction} {index}"), |pair| {
                    pair.status(index)[direction]["imbalance"] == 0
                });
            }
        }
    }
}

/// The MTU of the gateways' devices: what the tunnel leaves of the underlay's.
fn mtu(setup: &Setup<'_>) -> u16 {
    setup.underlay.mtu - 28
}

/// Runs a command to its end and returns what it prints.
///
/// # Errors
/// Both its outputs, when it fails.
///
/// # Panics
/// When it cannot be started.
pub fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stdout) + &text(&output.stderr))
    }
}

/// The body of a page at an address of this thread's namespace.
///
/// # Panics
/// When the status is not 200.
#[must_use]
pub fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(patient(PATIENCE))).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
    body.to_owned()
}
