use rustix::process::{Pid, Signal, kill_process};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// The tracepoint that every system call passes.
const EVENT: &str = "raw_syscalls:sys_enter";
/// How long `perf` needs to attach.
const ATTACH: Duration = Duration::from_millis(300);

/// `perf stat` counting the system calls of some processes.
#[derive(Debug)]
pub(super) struct Calls {
    perf: Child,
}

impl Calls {
    /// Nothing where there is no process to count, or no `perf`.
    pub(super) fn start(pids: &[u32]) -> Option<Self> {
        if pids.is_empty() {
            return None;
        }
        let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
        let perf = Command::new("perf")
            .args(["stat", "-x,", "-e", EVENT, "-e", "duration_time", "-p", &pids.join(",")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        thread::sleep(ATTACH);
        Some(Self { perf })
    }

    /// Calls per second while it counted.
    pub(super) fn stop(self) -> Option<f64> {
        let _ = kill_process(Pid::from_child(&self.perf), Signal::INT);
        let output = self.perf.wait_with_output().ok()?;
        per_second(&String::from_utf8_lossy(&output.stderr))
    }
}

fn per_second(said: &str) -> Option<f64> {
    let value = |event: &str| -> Option<f64> {
        let line = said.lines().find(|line| line.contains(event))?;
        line.split(',').next()?.parse().ok()
    };
    Some(value(EVENT)? / (value("duration_time")? * 1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_calls_by_time() {
        let said =
            "3000,,raw_syscalls:sys_enter,1,100.00,,\n1500000000,ns,duration_time,1,100.00,,\n";

        assert_eq!(per_second(said), Some(2000.0));
        assert_eq!(per_second("perf: not permitted"), None);
    }
}
