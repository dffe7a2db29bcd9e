//! Two hosts with a running twill each, and ways to look into them.

use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use twill_testbed::{Background, Host, Pod, Testbed, Underlay, within};

pub(crate) const TWILL: &str = env!("CARGO_BIN_EXE_twill");
/// Where a gateway serves metrics, within its host's namespace.
pub(crate) const METRICS: &str = "127.0.0.1:9285";
/// Long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Setting: the gateway sends packets of its own.
pub(crate) const PROBED: &str = "probe_seconds = 1";
/// Setting: every packet is the test's.
const UNPROBED: &str = "probe_seconds = 0";
const PORT: u16 = 8285;

/// A pair of hosts, pods and gateways.
pub(crate) struct Pair {
    pub gateways: [Background; 2],
    pub pods: [Pod; 2],
    pub hosts: Vec<Host>,
    pub testbed: Testbed,
}

/// What a test wants different.
pub(crate) struct Wish<'a> {
    /// More lines of `[interface]`.
    pub settings: &'a str,
    /// Where each gateway sends what is for the other one.
    pub endpoints: [SocketAddr; 2],
    /// Hosts on the underlay, at least two.
    pub hosts: u8,
    /// The last byte of each device's address; flannel's is the network's first.
    pub device: u8,
}

impl Default for Wish<'_> {
    fn default() -> Self {
        let endpoint = |index| SocketAddr::from(([192, 0, 2, index], PORT));
        let endpoints = [endpoint(2), endpoint(1)];
        Self { settings: "", endpoints, hosts: 2, device: 0 }
    }
}

impl Wish<'_> {
    fn settings(&self) -> String {
        let probes = if self.settings == PROBED { "" } else { UNPROBED };
        format!("{}\n{probes}", self.settings)
    }
}

impl Pair {
    /// Starts all; nothing, where tests may be skipped.
    pub(crate) fn start(test: &str, wish: &Wish<'_>) -> Option<Self> {
        let testbed = Testbed::for_test(test)?;
        let hosts = testbed.hosts(wish.hosts, &Underlay::default()).unwrap();
        let pods = [0, 1].map(|index| hosts[index].add_pod(1472).unwrap());
        let gateways = [0, 1].map(|own| {
            let (file, socket) = (path(&testbed, own, "toml"), path(&testbed, own, "sock"));
            fs::write(&file, configuration(&hosts, own, wish)).unwrap();
            let mut command = hosts[own].command(TWILL);
            command.arg("run").arg("--config").arg(file).arg("--socket").arg(socket);
            let mut gateway = hosts[own].spawn("twill", &mut command).unwrap();
            gateway.wait_for("running", PATIENCE).unwrap();
            gateway
        });
        Some(Self { gateways, pods, hosts, testbed })
    }

    pub(crate) fn socket(&self, own: usize) -> PathBuf {
        path(&self.testbed, own, "sock")
    }

    /// Runs twill and returns what it printed.
    pub(crate) fn twill(&self, own: usize, words: &[&str]) -> String {
        let output =
            Command::new(TWILL).args(words).arg("--socket").arg(self.socket(own)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        said
    }

    pub(crate) fn status(&self, own: usize) -> Value {
        serde_json::from_str(&self.twill(own, &["status", "--json"])).unwrap()
    }

    /// Looks at a gateway's status until it is as wanted.
    pub(crate) fn status_when(
        &self,
        own: usize,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut last = Value::Null;
        eventually(what, || {
            last = self.status(own);
            wanted(&last)
        });
        last
    }

    /// One page of a gateway's HTTP server.
    pub(crate) fn page(&self, own: usize, path: &str) -> String {
        self.hosts[own].enter(|| get(METRICS, path))
    }

    /// Sends so many datagrams of this size from the first pod to the second.
    pub(crate) fn send(&self, datagrams: usize, bytes: usize) {
        let to = SocketAddr::from((self.pods[1].address(), 9));
        self.pods[0].enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..datagrams {
                socket.send_to(&vec![7; bytes], to).unwrap();
            }
        });
    }

    /// The round trip of one datagram from pod to pod, answered there.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        let bind = |index: usize| {
            let address = (self.pods[index].address(), 0);
            let socket = self.pods[index].enter(|| UdpSocket::bind(address).unwrap());
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket
        };
        let (here, there) = (bind(0), bind(1));
        let mut buffer = [0; 16];
        let start = Instant::now();
        here.send_to(b"ping", there.local_addr().unwrap()).unwrap();
        let (len, from) = there.recv_from(&mut buffer).ok()?;
        there.send_to(&buffer[..len], from).unwrap();
        here.recv(&mut buffer).ok()?;
        Some(start.elapsed())
    }
}

fn path(testbed: &Testbed, own: usize, ending: &str) -> PathBuf {
    testbed.folder().join(format!("gateway{own}.{ending}"))
}

fn configuration(hosts: &[Host], own: usize, wish: &Wish<'_>) -> String {
    let (here, there) = (&hosts[own], &hosts[1 - own]);
    let (local, peer): (Ipv4Addr, Ipv4Addr) = (here.pod_network(), there.pod_network());
    let [a, b, c, _] = local.octets();
    let address = Ipv4Addr::new(a, b, c, wish.device);
    format!(
        "[interface]\naddress = \"{address}/32\"\nlocal = \"{local}/24\"\nmtu = 1472\n\
         listen = \"{}:{PORT}\"\nmetrics = \"{METRICS}\"\n{}\n\
         [[peer]]\nname = \"other\"\nendpoint = \"{}\"\nsubnets = [\"{peer}/24\"]\n",
        here.address(),
        wish.settings(),
        wish.endpoints[own],
    )
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, holds: impl FnMut() -> bool) {
    within(PATIENCE, what, holds);
}

/// The body of a page; the status is 200.
pub(crate) fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
    body.to_owned()
}
