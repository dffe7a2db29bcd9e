//! Runs a twill on each host: its configuration, its process, its status.

use super::spec::Engine;
use super::{Setting, TwillSpec};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use twill_testbed::{Background, Host, Namespace, Testbed, TestbedError};

/// The port of flannel's udp backend.
const PORT: u16 = 8285;
/// The device's name on every host.
const DEVICE: &str = "flannel0";

/// One host's twill.
#[derive(Clone, Debug)]
pub(crate) struct Twill {
    host: Namespace,
    program: PathBuf,
    socket: PathBuf,
}

impl Twill {
    pub(super) fn start(
        spec: &TwillSpec,
        setting: &Setting,
        bed: &Testbed,
        host: &Host,
        hosts: &[Host],
    ) -> Result<(Self, Background), TestbedError> {
        let program = spec.program.clone().unwrap_or_else(|| setting.twill.clone());
        if !program.is_file() {
            let tried = program.display();
            return Err(TestbedError::Timeout(format!(
                "no twill at {tried}: build it (cargo build --release) or name it (--twill)"
            )));
        }
        let socket = bed.folder().join(format!("h{}.sock", host.index()));
        let file = bed.folder().join(format!("h{}.toml", host.index()));
        fs::write(&file, configuration(spec, setting, host, hosts))
            .map_err(TestbedError::io(format!("writing {}", file.display())))?;

        let mut command = confined(host, setting, &program);
        command.arg("run").arg("--config").arg(&file).arg("--socket").arg(&socket);
        let gateway = host.spawn("twill", &mut command)?;
        Ok((Self { host: Namespace::clone(host), program, socket }, gateway))
    }

    /// Its status.
    ///
    /// # Errors
    /// When it does not answer, or not in JSON.
    pub(crate) fn status(&self) -> Result<Value, TestbedError> {
        let program = self.program.to_string_lossy();
        let socket = self.socket.to_string_lossy();
        let said = self.host.run(&program, &["status", "--json", "--socket", &socket])?;
        serde_json::from_str(&said).map_err(|error| TestbedError::Command {
            command: "twill status --json".to_owned(),
            output: format!("{error}: {said}"),
        })
    }
}

/// A command inside a host, on the CPUs that gateways may use.
pub(super) fn confined(
    host: &Namespace,
    setting: &Setting,
    program: impl AsRef<std::ffi::OsStr>,
) -> Command {
    match &setting.gateway_cpus {
        Some(cpus) => {
            let mut command = host.command("taskset");
            command.args(["--cpu-list", cpus]).arg(program);
            command
        }
        None => host.command(program),
    }
}

pub(crate) fn configuration(
    spec: &TwillSpec,
    setting: &Setting,
    host: &Host,
    hosts: &[Host],
) -> String {
    let mtu = setting.underlay.mtu - 28;
    let (address, network) = (host.address(), host.pod_network());
    let mut text = format!(
        "[interface]\nname = \"{DEVICE}\"\naddress = [\"{network}/32\"]\nmtu = {mtu}\n\
         listen = \"{address}:{PORT}\"\nlocal = [\"{network}/24\"]\n"
    );
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key} = {value}");
    };
    if let Some(engine) = spec.engine {
        line("engine", format!("\"{engine}\""));
    }
    if spec.engine == Some(Engine::Classic) {
        // flannel's: the kernel's default buffer, which setting it doubles, and device queue.
        line("socket_buffer", "106496".to_owned());
        line("device_queue", "500".to_owned());
    }
    if let Some(queues) = spec.queues {
        line("queues", queues.to_string());
    }
    if let Some(fast) = &spec.fast {
        line("fast_path", format!("{fast:?}"));
    }
    if let Some(scheduling) = &spec.scheduling {
        line("scheduling", format!("{scheduling:?}"));
    }
    if let Some(us) = &spec.busy_poll_us {
        line("busy_poll_us", if us == "auto" { "\"auto\"".to_owned() } else { us.clone() });
    }
    if let Some(packets) = spec.device_queue {
        line("device_queue", packets.to_string());
    }
    if spec.telemetry_off {
        line("telemetry", "false".to_owned());
    }
    if !spec.without.is_empty() {
        let switches: Vec<_> = spec.without.iter().map(|name| format!("{name} = false")).collect();
        line("offload", format!("{{ {} }}", switches.join(", ")));
    }
    for peer in hosts.iter().filter(|peer| peer.index() != host.index()) {
        let (name, endpoint, subnet) = (peer.index(), peer.address(), peer.pod_network());
        let _ = write!(
            text,
            "\n[[peer]]\nname = \"h{name}\"\nendpoint = \"{endpoint}:{PORT}\"\n\
             subnets = [\"{subnet}/24\"]\n"
        );
    }
    text
}

/// The program that `TWILL` names; else the one beside this program, where a build puts both; else
/// the one in the search path.
pub(crate) fn find_twill() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|program| {
        let folder = program.parent()?;
        // A test's program lies one folder deeper.
        [folder.join("twill"), folder.parent()?.join("twill")].into_iter().find(|at| at.is_file())
    });
    let searched = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join("twill")).find(|at| at.is_file())
    };
    let named = std::env::var_os("TWILL").filter(|name| !name.is_empty()).map(PathBuf::from);
    named
        .or(beside)
        .or_else(searched)
        .unwrap_or_else(|| Path::new("target/release/twill").to_owned())
}
