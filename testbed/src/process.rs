//! How much memory and CPU time a process uses.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::fs;

/// The resident memory of a process, KiB.
///
/// # Panics
/// When the process does not exist.
#[must_use]
pub fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The CPU time that a process has used, seconds: fields 14 and 15 of `/proc/PID/stat`, in ticks of
/// 10 ms.
///
/// # Panics
/// When the process does not exist.
#[must_use]
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<_> = after_name.split_whitespace().collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / 100.0
}
