//! CPU time and context switches of the gateway processes, from /proc.

use std::fs;

/// What the processes of a gateway used so far, all threads together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Processes {
    pub(super) count: usize,
    pub(super) cpu_ns: u64,
    pub(super) switches: u64,
}

impl Processes {
    pub(super) fn read(pids: &[u32]) -> Self {
        let mut all = Self { count: pids.len(), ..Self::default() };
        for pid in pids {
            let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for thread in threads.flatten() {
                let file = |name| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
                all.cpu_ns += cpu_ns(&file("schedstat"));
                all.switches += switches(&file("status"));
            }
        }
        all
    }
}

/// The first field of schedstat: nanoseconds on a CPU, not ticks.
fn cpu_ns(schedstat: &str) -> u64 {
    schedstat.split_whitespace().next().and_then(|time| time.parse().ok()).unwrap_or(0)
}

fn switches(status: &str) -> u64 {
    status
        .lines()
        .filter_map(|line| line.split_once("ctxt_switches:")?.1.trim().parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_those_wanted_and_those_forced() {
        let status =
            "Threads:\t1\nvoluntary_ctxt_switches:\t130\nnonvoluntary_ctxt_switches:\t22\n";

        assert_eq!(switches(status), 152);
    }
}
