//! Two gateways that join two pods, and ways to start, replace, end and look into them.

use super::etcd::Etcd;
use super::judge::GatewaySample;
use super::plan::Kind;
use crate::path::{Setting, TwillSpec, configuration};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use twill_testbed::{Background, Host, Pod, Testbed, TestbedError};

/// The network that nodes of flannel's share.
const NETWORK: &str = r#"{"Network":"10.244.0.0/16"}"#;
/// How long a gateway may take for what it should do at once.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// What the gateways' processes print once packets flow.
const READY: [(&str, Kind); 2] = [("running", Kind::Run), ("Running backend.", Kind::Flanneld)];
/// Looks at a status until books balance: packets may be on their way.
const LOOKS: u32 = 5;

/// The gateways of two hosts, and what they need.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) kind: Kind,
    pub(super) hosts: [Host; 2],
    pub(super) pods: [Pod; 2],
    pub(super) gateways: [Gateway; 2],
    pub(super) etcd: Option<Etcd>,
    program: PathBuf,
}

/// One gateway.
#[derive(Debug)]
pub(super) struct Gateway {
    /// The process that carries packets now.
    pub(super) pid: u32,
    /// More after each start.
    pub(super) life: u32,
    /// Whether it carries packets now, as far as the plan goes.
    pub(super) up: bool,
    folder: PathBuf,
    /// The process that was started here; after an upgrade it has ended.
    child: Option<Background>,
}

impl Pair {
    /// Two gateways of `twill run`.
    pub(super) fn standalone(
        bed: &Testbed,
        hosts: [Host; 2],
        setting: &Setting,
    ) -> Result<Self, TestbedError> {
        let mut pair = Self::new(Kind::Run, bed, hosts, setting, None)?;
        for (host, gateway) in pair.hosts.iter().zip(&pair.gateways) {
            let text = configuration(&TwillSpec::default(), setting, host, &pair.hosts);
            let file = gateway.folder.join("twill.toml");
            fs::write(&file, text)
                .map_err(TestbedError::io(format!("writing {}", file.display())))?;
        }
        pair.start_both()?;
        Ok(pair)
    }

    /// Two gateways of `twill flanneld` and their etcd.
    pub(super) fn flanneld(
        bed: &Testbed,
        hosts: [Host; 2],
        store: Host,
        setting: &Setting,
    ) -> Result<Self, TestbedError> {
        let etcd = Etcd::start(bed, store)?;
        etcd.configure(NETWORK)?;
        for host in &hosts {
            // A node takes the lease that has its address.
            etcd.put_lease(&format!("{}-24", host.pod_network()), &host.address().to_string())?;
        }
        let mut pair = Self::new(Kind::Flanneld, bed, hosts, setting, Some(etcd))?;
        pair.start_both()?;
        Ok(pair)
    }

    fn new(
        kind: Kind,
        bed: &Testbed,
        hosts: [Host; 2],
        setting: &Setting,
        etcd: Option<Etcd>,
    ) -> Result<Self, TestbedError> {
        let mtu = setting.underlay.mtu - 28;
        let pods = [hosts[0].add_pod(mtu)?, hosts[1].add_pod(mtu)?];
        let gateway = |host: &Host| {
            let folder = bed.folder().join(format!("gateway{}", host.index()));
            fs::create_dir_all(&folder)
                .map_err(TestbedError::io(format!("creating {}", folder.display())))?;
            Ok(Gateway { pid: 0, life: 0, up: false, folder, child: None })
        };
        let gateways = [gateway(&hosts[0])?, gateway(&hosts[1])?];
        let program = fs::canonicalize(&setting.twill).map_err(TestbedError::io(format!(
            "no twill at {}: build it (cargo build --release) or name it (--twill)",
            setting.twill.display()
        )))?;
        Ok(Self { kind, hosts, pods, gateways, etcd, program })
    }

    fn start_both(&mut self) -> Result<(), TestbedError> {
        self.start(0, "auto")?;
        self.start(1, "auto")?;
        let deadline = Instant::now() + PATIENCE;
        let other = self.pods[1].address().to_string();
        loop {
            match self.pods[0].run("ping", &["-c1", "-W1", &other]) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// The arguments of a gateway's process.
    fn arguments(&self, side: usize, engine: &str) -> Vec<String> {
        let folder = &self.gateways[side].folder;
        let path = |name: &str| folder.join(name).display().to_string();
        let words: Vec<String> = match &self.etcd {
            None => vec![
                "run".into(),
                "--config".into(),
                path("twill.toml"),
                "--socket".into(),
                path("control.sock"),
                "--engine".into(),
                engine.into(),
            ],
            Some(etcd) => vec![
                "flanneld".into(),
                "-iface".into(),
                self.hosts[side].underlay_device().into(),
                "-etcd-endpoints".into(),
                etcd.endpoint(),
                "-subnet-file".into(),
                path("subnet.env"),
            ],
        };
        words
    }

    /// Starts a gateway whose process has ended, and waits until it runs.
    pub(super) fn start(&mut self, side: usize, engine: &str) -> Result<(), TestbedError> {
        let mut command = self.hosts[side].command(&self.program);
        command.args(self.arguments(side, engine)).env("TWILL_ENGINE", engine);
        command.env("TWILL_SOCKET", self.socket(side));
        let gateway = &mut self.gateways[side];
        gateway.life += 1;
        let name = format!("{}{}", self.kind.name(), gateway.life);
        let mut child = self.hosts[side].spawn(&name, &mut command)?;
        let (ready, _) = READY[usize::from(self.kind == Kind::Flanneld)];
        child.wait_for(ready, PATIENCE)?;
        gateway.pid = child.pid();
        gateway.child = Some(child);
        gateway.up = true;
        Ok(())
    }

    /// Replaces a gateway's process by `twill upgrade`.
    pub(super) fn upgrade(
        &mut self,
        side: usize,
        engine: Option<&str>,
    ) -> Result<(), TestbedError> {
        let socket = self.socket(side).display().to_string();
        let mut words = vec!["upgrade".to_owned(), "--socket".into(), socket];
        if let Some(engine) = engine {
            words.push("--".into());
            words.extend(self.arguments(side, engine));
        }
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let said = self.hosts[side].run(&self.program.to_string_lossy(), &words)?;
        let pid = said.strip_prefix("process ").and_then(|rest| rest.split(' ').next());
        let pid = pid.and_then(|pid| pid.parse().ok());
        self.gateways[side].pid = pid.ok_or_else(|| TestbedError::Command {
            command: "twill upgrade".to_owned(),
            output: format!("no process number in {said:?}"),
        })?;
        // The one that was started here is a zombie until somebody asks.
        self.gateways[side].child.as_mut().map(Background::ended);
        Ok(())
    }

    /// Sends a gateway's process a signal.
    pub(super) fn signal(&self, side: usize, signal: Signal) -> Result<(), TestbedError> {
        let pid = Pid::from_raw(self.gateways[side].pid as i32);
        let sent = pid.map_or(Err(rustix::io::Errno::SRCH), |pid| kill_process(pid, signal));
        sent.map_err(|errno| {
            TestbedError::io(format!("signalling gateway {side} of {}", self.kind.name()))(
                errno.into(),
            )
        })
    }

    /// Ends a gateway's process by a signal and waits for its end.
    pub(super) fn end(&mut self, side: usize, signal: Signal) -> Result<(), TestbedError> {
        self.gateways[side].up = false;
        self.signal(side, signal)?;
        let deadline = Instant::now() + PATIENCE;
        while self.runs(side) {
            if Instant::now() > deadline {
                return Err(TestbedError::Timeout(format!(
                    "gateway {side} of {} has not ended within {PATIENCE:?} after {signal:?}",
                    self.kind.name()
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Whether a gateway's process runs.
    pub(super) fn runs(&mut self, side: usize) -> bool {
        let gateway = &mut self.gateways[side];
        gateway.child.as_mut().map(Background::ended);
        // One that nobody has waited for yet has ended, too.
        fs::read_to_string(format!("/proc/{}/stat", gateway.pid))
            .is_ok_and(|stat| !stat.contains(") Z "))
    }

    /// What a gateway prints for `twill WORDS`.
    pub(super) fn twill(&self, side: usize, words: &[&str]) -> Result<String, TestbedError> {
        let line = format!("twill {}", words.join(" "));
        let output = Command::new(&self.program)
            .args(words)
            .arg("--socket")
            .arg(self.socket(side))
            .output()
            .map_err(TestbedError::io(format!("running {line}")))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let output = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(TestbedError::Command { command: line, output })
    }

    /// A gateway's status.
    pub(super) fn status(&self, side: usize) -> Result<Value, TestbedError> {
        let said = self.twill(side, &["status", "--json"])?;
        serde_json::from_str(&said).map_err(|error| TestbedError::Command {
            command: "twill status --json".to_owned(),
            output: format!("{error}: {said}"),
        })
    }

    /// Looks at a gateway.
    pub(super) fn sample(&self, side: usize) -> Result<GatewaySample, TestbedError> {
        let gateway = &self.gateways[side];
        let balanced =
            |status: &Value| ["egress", "ingress"].iter().all(|it| status[it]["imbalance"] == 0);
        let mut status = self.status(side)?;
        for _ in 1..LOOKS {
            if balanced(&status) {
                break;
            }
            status = self.status(side)?;
        }
        let count = |direction: &str, key: &str| status[direction][key].as_u64().unwrap_or(0);
        Ok(GatewaySample {
            life: gateway.life,
            engine: status["engine"].as_str().unwrap_or_default().to_owned(),
            balanced: balanced(&status),
            packets: [
                count("egress", "packets_in"),
                count("egress", "packets_out"),
                count("ingress", "packets_in"),
                count("ingress", "packets_out"),
            ],
            memory_kib: memory_kib(gateway.pid),
            descriptors: descriptors(gateway.pid),
        })
    }

    /// How many peers a gateway has.
    pub(super) fn peers(&self, side: usize) -> Result<usize, TestbedError> {
        Ok(self.status(side)?["peers"].as_array().map_or(0, Vec::len))
    }

    /// Copies what the processes have printed and were told into a folder.
    pub(super) fn keep(&self, bed: &Testbed, folder: &Path) {
        for entry in fs::read_dir(bed.folder()).into_iter().flatten().flatten() {
            let (name, from) = (entry.file_name(), entry.path());
            if from.extension().is_some_and(|end| end == "log") {
                let _ = fs::copy(&from, folder.join(&name));
            }
        }
    }

    fn socket(&self, side: usize) -> PathBuf {
        self.gateways[side].folder.join("control.sock")
    }
}

/// Resident memory of a process, KiB.
fn memory_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}

/// Open descriptors of a process.
fn descriptors(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64)
}
