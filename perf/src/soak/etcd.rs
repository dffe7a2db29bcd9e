//! One etcd server on a host of its own.

use rustix::process::Signal;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use twill_testbed::{Background, Host, Testbed, TestbedError};

/// Where flannel keeps its network.
const PREFIX: &str = "/coreos.com/network";
/// How long etcd may take to start.
const START: Duration = Duration::from_secs(60);

/// A server whose data outlive it.
#[derive(Debug)]
pub(super) struct Etcd {
    host: Host,
    data: PathBuf,
    process: Option<Background>,
    starts: u32,
}

impl Etcd {
    pub(super) fn start(bed: &Testbed, host: Host) -> Result<Self, TestbedError> {
        let data = bed.folder().join("etcd");
        let mut etcd = Self { host, data, process: None, starts: 0 };
        etcd.run()?;
        Ok(etcd)
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}:2379", self.host.address())
    }

    /// Starts it and waits until it answers.
    pub(super) fn run(&mut self) -> Result<(), TestbedError> {
        self.starts += 1;
        let url = self.endpoint();
        let mut command = self.host.command("etcd");
        command.arg("--data-dir").arg(&self.data).args(["--log-level", "error"]);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", "http://127.0.0.1:2380"]);
        let name = format!("etcd{}", self.starts);
        self.process = Some(self.host.spawn(&name, &mut command)?);
        let deadline = Instant::now() + START;
        loop {
            match self.ctl(&["get", "x"]) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Ends it without warning.
    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    pub(super) fn freeze(&self) -> Result<(), TestbedError> {
        self.signal(Signal::STOP)
    }

    pub(super) fn thaw(&self) -> Result<(), TestbedError> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), TestbedError> {
        self.process.iter().try_for_each(|process| process.signal(signal))
    }

    /// Writes the network's configuration.
    pub(super) fn configure(&self, json: &str) -> Result<(), TestbedError> {
        self.ctl(&["put", &format!("{PREFIX}/config"), json]).map(drop)
    }

    /// Writes a lease, in the manner of flannel's keys: `10.244.1.0-24`.
    pub(super) fn put_lease(&self, subnet: &str, public_ip: &str) -> Result<(), TestbedError> {
        let value = format!(r#"{{"PublicIP":"{public_ip}","PublicIPv6":null}}"#);
        self.ctl(&["put", &format!("{PREFIX}/subnets/{subnet}"), &value]).map(drop)
    }

    pub(super) fn delete_lease(&self, subnet: &str) -> Result<(), TestbedError> {
        self.ctl(&["del", &format!("{PREFIX}/subnets/{subnet}")]).map(drop)
    }

    fn ctl(&self, args: &[&str]) -> Result<String, TestbedError> {
        let endpoint = self.endpoint();
        let before = ["ETCDCTL_API=3", "etcdctl", "--command-timeout=3s", "--endpoints", &endpoint];
        self.host.run("env", &[&before, args].concat())
    }
}
