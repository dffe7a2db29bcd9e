//! Counts system calls of the gateways with `perf stat`.

use rustix::process::{Pid, Signal, kill_process};
use std::io::Read;
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
    /// Nothing if there is no process to count, or no `perf`.
    pub(super) fn start(pids: &[u32]) -> Option<Self> {
        if pids.is_empty() {
            return None;
        }
        let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
        let perf = Command::new("perf")
            .args(["stat", "-x,", "-I", "100", "-e", EVENT, "-p", &pids.join(",")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        thread::sleep(ATTACH);
        Some(Self { perf })
    }

    /// Calls per second while it counted.
    pub(super) fn stop(mut self) -> Option<f64> {
        let _ = kill_process(Pid::from_child(&self.perf), Signal::INT);
        let mut said = String::new();
        self.perf.stderr.take()?.read_to_string(&mut said).ok()?;
        per_second(&said)
    }
}

impl Drop for Calls {
    /// It must not stay attached if the traffic fails before it is stopped.
    fn drop(&mut self) {
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}

/// Lines of `seconds since the start,calls since the line before,…`: perf's own event for the time
/// would be added up over threads, as the calls are.
fn per_second(said: &str) -> Option<f64> {
    let lines = said.lines().filter(|line| line.contains(EVENT)).filter_map(|line| {
        let mut fields = line.split(',');
        let seconds: f64 = fields.next()?.trim().parse().ok()?;
        let calls: f64 = match fields.next()? {
            // No thread ran meanwhile.
            "<not counted>" => 0.0,
            calls => calls.parse().ok()?,
        };
        Some((seconds, calls))
    });
    let (end, calls) = lines.fold((0.0, 0.0), |(_, sum), (at, calls)| (at, sum + calls));
    (end > 0.0).then_some(calls / end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_ends_with_its_handle() {
        let perf = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_child(&perf);

        drop(Calls { perf });

        assert!(rustix::process::test_kill_process(pid).is_err());
    }

    #[test]
    fn the_rate_is_all_calls_by_the_time_of_the_last_line() {
        let said = "     0.100,300,,raw_syscalls:sys_enter,1,100.00,,\n\
                    \x20    0.125,150,,raw_syscalls:sys_enter,1,100.00,,\n\
                    \x20    0.150,<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n";

        assert_eq!(per_second(said), Some(3000.0));
        assert_eq!(per_second("perf: not permitted"), None);
        assert_eq!(per_second("0.1,<not supported>,,raw_syscalls:sys_enter"), None);
    }
}
