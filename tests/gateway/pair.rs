//! Two hosts, a pod behind each, a gateway between them.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use twill::control::{self, Request};
use twill_testbed::{Background, Host, Pod, Testbed, Underlay, Wire};

/// How long anything may take that should happen at once; only a hang exceeds it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The gateways' device.
pub(crate) const DEVICE: &str = "tw0";
const PORT: u16 = 8285;
/// Where gateways serve metrics, each on its own host.
const METRICS: &str = "127.0.0.1:9285";

/// What is done to the command that starts a gateway.
pub(crate) type Prepare = fn(&mut Command);

pub(crate) struct Pair {
    pub(crate) hosts: Vec<Host>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) bed: Testbed,
    prepare: Prepare,
}

pub(crate) struct Gateway {
    pub(crate) process: Background,
    pub(crate) config: PathBuf,
    pub(crate) socket: PathBuf,
    engine: String,
}

impl Pair {
    /// Hosts and pods with gateways running; nothing where the privilege is missing and skipping is
    /// allowed.
    pub(crate) fn start(test: &str, engine: &str) -> Option<Self> {
        Self::start_on(test, engine, &Underlay::default())
    }

    pub(crate) fn start_on(test: &str, engine: &str, underlay: &Underlay) -> Option<Self> {
        Self::start_prepared(test, engine, underlay, "", |_| {})
    }

    /// As [`Pair::start_on`], with more lines below `[interface]`.
    pub(crate) fn start_with(
        test: &str,
        engine: &str,
        underlay: &Underlay,
        lines: &str,
    ) -> Option<Self> {
        Self::start_prepared(test, engine, underlay, lines, |_| {})
    }

    /// As [`Pair::start_with`], with gateways whose commands were prepared.
    pub(crate) fn start_prepared(
        test: &str,
        engine: &str,
        underlay: &Underlay,
        lines: &str,
        prepare: Prepare,
    ) -> Option<Self> {
        let bed = Testbed::for_test(test)?;
        let hosts = bed.hosts(2, underlay).unwrap();
        let mtu = underlay.mtu - 28;
        let pods = hosts.iter().map(|host| host.add_pod(mtu).unwrap()).collect();
        let mut pair = Self { hosts, pods, gateways: Vec::new(), bed, prepare };
        for index in 0..2 {
            let gateway = pair.gateway(index, engine, mtu, lines);
            pair.gateways.push(gateway);
        }
        Some(pair)
    }

    fn gateway(&self, index: usize, engine: &str, mtu: u16, lines: &str) -> Gateway {
        let (host, peer) = (&self.hosts[index], &self.hosts[1 - index]);
        let config = self.bed.folder().join(format!("h{index}.toml"));
        let socket = self.bed.folder().join(format!("h{index}.sock"));
        let text = format!(
            "[interface]\n{lines}\nname = {DEVICE:?}\naddress = \"{network}/32\"\n\
             local = \"{network}/24\"\nlisten = \"{address}:{PORT}\"\nmtu = {mtu}\n\n[[peer]]\nname = \"other\"\n\
             endpoint = \"{endpoint}\"\nsubnets = \"{subnet}/24\"\n",
            network = host.pod_network(),
            address = host.address(),
            endpoint = peer.address(),
            subnet = peer.pod_network(),
        );
        std::fs::write(&config, text).unwrap();
        let process = self.launch(index, engine, &config, &socket);
        let mut gateway = Gateway { process, config, socket, engine: engine.to_owned() };
        gateway.process.wait_for("running", PATIENCE).unwrap();
        gateway
    }

    fn launch(&self, index: usize, engine: &str, config: &PathBuf, socket: &PathBuf) -> Background {
        let host = &self.hosts[index];
        let mut command = host.command(env!("CARGO_BIN_EXE_twill"));
        command.args(["run", "--engine", engine, "--config"]).arg(config);
        command.arg("--socket").arg(socket).args(["--metrics", METRICS]);
        (self.prepare)(&mut command);
        host.spawn("twill", &mut command).unwrap()
    }

    /// Starts a gateway again whose process has ended.
    pub(crate) fn restart(&mut self, index: usize) {
        let Gateway { engine, config, socket, .. } = &self.gateways[index];
        let mut process = self.launch(index, engine, config, socket);
        process.wait_for("running", PATIENCE).unwrap();
        self.gateways[index].process = process;
    }

    /// Starts both gateways again with one more line below `[interface]`.
    pub(crate) fn restart_with(&mut self, line: &str) {
        for index in 0..2 {
            let config = &self.gateways[index].config;
            let text = std::fs::read_to_string(config).unwrap();
            let text = text.replace("[interface]", &format!("[interface]\n{line}"));
            std::fs::write(config, text).unwrap();
            self.gateways[index].process.stop(PATIENCE).unwrap();
            self.restart(index);
        }
    }

    /// Runs `twill` with a gateway's control socket; what it prints.
    pub(crate) fn twill(&self, index: usize, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_twill"));
        command.args(args).arg("--socket").arg(&self.gateways[index].socket);
        output(&mut command)
    }

    /// Runs `twill` on a host, prepared as the gateways are; what it prints.
    pub(crate) fn twill_there(&self, index: usize, args: &[&str]) -> Result<String, String> {
        let mut command = self.hosts[index].command(env!("CARGO_BIN_EXE_twill"));
        (self.prepare)(command.args(args));
        output(&mut command)
    }

    pub(crate) fn status(&self, index: usize) -> Value {
        control::call(&self.gateways[index].socket, Request::Status).unwrap()
    }

    /// The value of a metric without labels.
    pub(crate) fn metric(&self, index: usize, name: &str) -> Option<String> {
        let page = self.hosts[index].enter(|| {
            let mut stream = TcpStream::connect(METRICS).unwrap();
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
            let mut page = String::new();
            stream.read_to_string(&mut page).unwrap();
            page
        });
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map(str::to_owned)
    }

    /// Drops of one reason.
    pub(crate) fn drops(&self, index: usize, direction: &str, reason: &str) -> u64 {
        self.status(index)[direction]["drops"][reason].as_u64().unwrap_or(0)
    }

    /// Waits until a condition holds; panics with `what` when it never does.
    pub(crate) fn eventually(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "never: {what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn logs(&self) -> String {
        self.gateways.iter().map(|gateway| gateway.process.log()).collect::<Vec<_>>().join("\n--\n")
    }

    /// Every packet that came in has left or is booked as dropped, on both sides and ways.
    pub(crate) fn assert_books_balance(&self) {
        for index in 0..self.gateways.len() {
            for direction in ["egress", "ingress"] {
                self.eventually(&format!("balanced books of {direction} {index}"), |pair| {
                    pair.status(index)[direction]["imbalance"] == 0
                });
            }
        }
    }

    pub(crate) fn ping(&self) -> Result<String, String> {
        let to = self.pods[1].address().to_string();
        output(self.pods[0].command("ping").args(["-c1", "-W1", &to]))
    }

    /// Waits until a ping crosses.
    pub(crate) fn assert_connected(&self) {
        self.eventually("a ping across", |pair| pair.ping().is_ok());
    }

    /// Sends `bytes` through TCP from pod 0 to pod 1 and back over each of `streams` connections;
    /// every byte is compared.
    pub(crate) fn assert_tcp_carries(&self, streams: usize, bytes: usize) {
        let any = SocketAddr::from((self.pods[1].address(), 0));
        let listener = self.pods[1].enter(|| TcpListener::bind(any).unwrap());
        let to = listener.local_addr().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..streams {
                    let (stream, _) = listener.accept().unwrap();
                    std::thread::spawn(move || echo(stream));
                }
            });
            for seed in 0..streams {
                scope.spawn(move || {
                    let stream = self.pods[0].enter(|| TcpStream::connect_timeout(&to, PATIENCE));
                    send_and_compare(stream.unwrap(), bytes, seed as u8);
                });
            }
        });
    }

    /// Sends numbered datagrams of these sizes from pod 0 to pod 1; all arrive, once, in order and
    /// unchanged.
    pub(crate) fn assert_udp_carries(&self, sizes: &[usize]) {
        let any = SocketAddr::from((self.pods[1].address(), 0));
        let receiver = self.pods[1].enter(|| UdpSocket::bind(any).unwrap());
        let to = receiver.local_addr().unwrap();
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let sender = self.pods[0].enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
        // DF off: what exceeds the MTU is fragmented inside.
        for (number, size) in sizes.iter().enumerate() {
            let datagram: Vec<_> = (0..*size).map(|at| (at * 7 + number) as u8).collect();
            sender.send_to(&datagram, to).unwrap();
            let mut room = vec![0; 65_536];
            let len = receiver.recv(&mut room).unwrap_or_else(|error| {
                panic!("datagram {number} of {size} bytes: {error}\n{}", self.logs())
            });
            assert!(room[..len] == datagram, "datagram {number} of {size} bytes arrived changed");
        }
    }
}

pub(crate) fn wires_and_mtus() -> Vec<Underlay> {
    let mut all = Vec::new();
    for wire in [Wire::Offloaded, Wire::Mtu] {
        for mtu in [1280, 1500, 9000] {
            all.push(Underlay { mtu, wire, ..Underlay::default() });
        }
    }
    all
}

pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stdout) + &text(&output.stderr))
    }
}

fn echo(mut stream: TcpStream) {
    let mut room = vec![0; 1 << 16];
    loop {
        match stream.read(&mut room) {
            Ok(0) | Err(_) => return,
            Ok(len) => stream.write_all(&room[..len]).unwrap(),
        }
    }
}

fn send_and_compare(stream: TcpStream, bytes: usize, seed: u8) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let data: Vec<_> = (0..bytes).map(|at| (at / 251) as u8 ^ at as u8 ^ seed).collect();
    let mut back = vec![0; bytes];
    std::thread::scope(|scope| {
        scope.spawn(|| (&stream).write_all(&data).unwrap());
        (&stream).read_exact(&mut back).unwrap();
    });
    assert!(back == data, "TCP changed the stream");
}
