//! The machine and the programs, so that somebody else can judge the numbers and repeat them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// Kernel parameters that decide how far a path can get.
const SYSCTLS: [&str; 9] = [
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.core.rmem_default",
    "net.core.netdev_budget",
    "net.core.netdev_max_backlog",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "kernel.io_uring_disabled",
];

/// The machine and the programs that made the results.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Environment {
    /// Start, seconds after 1970.
    pub(crate) started: u64,
    /// The command line.
    pub(crate) command: Vec<String>,
    /// Version of the harness.
    pub(crate) harness: String,
    /// The output of `twill --version`.
    pub(crate) twill: Option<String>,
    /// The commit of the working directory, with `-dirty` if files differ from it.
    pub(crate) commit: Option<String>,
    /// Kernel release and build.
    pub(crate) kernel: String,
    /// CPU model.
    pub(crate) cpu: String,
    /// CPUs that may run.
    pub(crate) cpus: usize,
    /// Memory, MiB.
    pub(crate) memory_mib: u64,
    /// Whether the CPU reports a hypervisor.
    pub(crate) virtual_machine: bool,
    /// The scaling governor of the first CPU, if it has one.
    pub(crate) governor: Option<String>,
    /// Load average over the minute before the run.
    pub(crate) load: f64,
    /// CPU vulnerabilities and their mitigations.
    pub(crate) mitigations: BTreeMap<String, String>,
    /// Kernel parameters.
    pub(crate) sysctls: BTreeMap<String, String>,
    /// Offloads of the underlay device, by wire.
    pub(crate) offloads: BTreeMap<String, Vec<String>>,
    /// Versions of the tools that were used.
    pub(crate) tools: BTreeMap<String, String>,
}

impl Environment {
    /// Reads it from /proc, /sys and the programs.
    pub(crate) fn read(twill: &Path) -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let meminfo = read("/proc/meminfo");
        let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        Self {
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            command: std::env::args().collect(),
            harness: env!("CARGO_PKG_VERSION").to_owned(),
            twill: version(twill),
            commit: first_line(Command::new("git").args(["describe", "--always", "--dirty"])),
            kernel: format!(
                "{} {}",
                read("/proc/sys/kernel/osrelease"),
                read("/proc/sys/kernel/version")
            ),
            cpu: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: field(&meminfo, "MemTotal")
                .and_then(|size| size.split(' ').next()?.parse::<u64>().ok())
                .unwrap_or(0)
                / 1024,
            virtual_machine: field(&cpuinfo, "flags").is_some_and(|f| f.contains(" hypervisor")),
            governor: (!governor.is_empty()).then_some(governor),
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|n| n.parse().ok())
                .unwrap_or(0.0),
            mitigations: mitigations(),
            sysctls: sysctls(),
            offloads: BTreeMap::new(),
            tools: tools(),
        }
    }

    /// When the run began, in words.
    pub(crate) fn date(&self) -> String {
        const FORMAT: &[BorrowedFormatItem<'_>] =
            format_description!("[day padding:none] [month repr:long] [year], [hour]:[minute] UTC");
        let started = OffsetDateTime::from_unix_timestamp(self.started as i64);
        started.ok().and_then(|at| at.format(FORMAT).ok()).unwrap_or_default()
    }

    /// One line for people.
    pub(crate) fn describe(&self) -> String {
        let kind = if self.virtual_machine { ", virtual" } else { "" };
        format!(
            "{} CPUs ({}{kind}), Linux {}, {} MiB",
            self.cpus,
            self.cpu,
            self.kernel.split(' ').next().unwrap_or_default(),
            self.memory_mib
        )
    }
}

/// What a program says of its version.
pub(crate) fn version(program: &Path) -> Option<String> {
    first_line(Command::new(program).arg("--version"))
}

fn mitigations() -> BTreeMap<String, String> {
    let folder = fs::read_dir("/sys/devices/system/cpu/vulnerabilities");
    folder
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, read(&entry.path().to_string_lossy()))
        })
        .collect()
}

fn sysctls() -> BTreeMap<String, String> {
    SYSCTLS
        .iter()
        .map(|key| (*key, read(&format!("/proc/sys/{}", key.replace('.', "/")))))
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), value.replace('\t', " ")))
        .collect()
}

fn tools() -> BTreeMap<String, String> {
    [("ip", "-V"), ("ethtool", "--version"), ("iperf3", "--version"), ("perf", "--version")]
        .into_iter()
        .filter_map(|(tool, flag)| {
            Some((tool.to_owned(), first_line(Command::new(tool).arg(flag))?))
        })
        .collect()
}

/// The offloads of a device that are on, by the names that `ethtool -k` gives them.
pub(crate) fn offloads_on(listed: &str) -> Vec<String> {
    listed
        .lines()
        .filter_map(|line| line.trim().split_once(": on"))
        .map(|(name, _)| name.to_owned())
        .collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout);
    Some(text.lines().next()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_offloads_that_are_on_are_listed() {
        let listed = "Features for u0:\nrx-checksumming: on\ntx-checksumming: on [fixed]\n\
                      \ttx-udp-segmentation: off\ngeneric-receive-offload: on\n";

        assert_eq!(
            offloads_on(listed),
            ["rx-checksumming", "tx-checksumming", "generic-receive-offload"]
        );
    }
}
