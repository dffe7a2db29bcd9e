//! CPU time and backlog drops of the whole machine, from /proc.

use std::fs;

/// CPU time of the whole machine.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Machine {
    busy_ticks: u64,
    softirq_ticks: u64,
    stolen_ticks: u64,
    /// Packets that found a CPU's input queue full.
    pub(super) backlog_drops: u64,
}

/// CPU seconds between two readings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent {
    pub(super) busy: f64,
    pub(super) softirq: f64,
    pub(super) stolen: f64,
}

impl Machine {
    pub(super) fn read() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let softnet = fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
        Self { backlog_drops: backlog_drops(&softnet), ..cpu(&stat).unwrap_or_default() }
    }

    pub(super) fn since(&self, before: &Self) -> Spent {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let spent = |after: u64, before: u64| after.saturating_sub(before) as f64 / ticks;
        Spent {
            busy: spent(self.busy_ticks, before.busy_ticks),
            softirq: spent(self.softirq_ticks, before.softirq_ticks),
            stolen: spent(self.stolen_ticks, before.stolen_ticks),
        }
    }
}

/// The first line of /proc/stat: user nice system idle iowait irq softirq steal.
fn cpu(stat: &str) -> Option<Machine> {
    let fields: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).map_while(|n| n.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = fields[..] else {
        return None;
    };
    Some(Machine {
        busy_ticks: user + nice + system + irq + softirq,
        softirq_ticks: softirq,
        stolen_ticks: steal,
        backlog_drops: 0,
    })
}

/// The second column of /proc/net/softnet_stat, one line a CPU, in hexadecimal.
fn backlog_drops(softnet: &str) -> u64 {
    let column = softnet.lines().filter_map(|line| line.split_whitespace().nth(1));
    column.filter_map(|drops| u64::from_str_radix(drops, 16).ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_all_but_waiting_and_stolen_time() {
        let machine = cpu("cpu  1 2 4 100 200 8 16 32 0 0\ncpu0 1").unwrap();

        assert_eq!(machine.busy_ticks, 1 + 2 + 4 + 8 + 16);
        assert_eq!(machine.stolen_ticks, 32);
    }

    #[test]
    fn backlog_drops_are_summed_over_cpus() {
        assert_eq!(backlog_drops("0003df9d 0000000a 0\n00041c4b 00000010 0\n"), 26);
    }
}
