//! What a run costs and where it loses packets: kernel counters, read before and after.

mod calls;
mod machine;
mod network;
mod processes;

use crate::sample::Sample;
use crate::sys::now_ns;
use calls::Calls;
use machine::Machine;
use network::Network;
use processes::Processes;
use twill_testbed::Namespace;

/// Bytes per GiB.
const GIB: f64 = (1u64 << 30) as f64;

/// Whether a number is measured in the discarded round only, because measuring it costs time (see
/// [`Meter::count_calls`]).
pub(crate) fn is_counted_apart(key: &str) -> bool {
    key == "calls_per_packet"
}

/// Reads the kernel's counters before and after the measured time.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    hosts: Vec<Namespace>,
    pods: Vec<Namespace>,
    tuns: Vec<Vec<String>>,
    counts_calls: bool,
    calls: Option<Calls>,
    calls_per_second: Option<f64>,
    before: Option<Snapshot>,
    after: Option<Snapshot>,
    traffic: Option<[Snapshot; 2]>,
}

#[derive(Clone, Debug, Default)]
struct Snapshot {
    at_ns: u64,
    machine: Machine,
    gateway: Processes,
    hosts: Network,
    pods: Network,
}

/// Packets that full queues have dropped so far: of sockets and devices in these namespaces, and of the
/// machine's CPUs.
pub(crate) fn overflows<'a>(namespaces: impl Iterator<Item = &'a Namespace>) -> u64 {
    let network: Network = namespaces.map(|namespace| Network::read(namespace, &[])).sum();
    network.socket_drops + network.device_drops + Machine::read().backlog_drops
}

impl Meter {
    /// One that reads nothing.
    pub(crate) fn idle() -> Self {
        Self::default()
    }

    /// One for a path: every process inside `hosts` counts as gateway.
    pub(crate) fn new(hosts: Vec<Namespace>, pods: Vec<Namespace>) -> Self {
        let tuns = hosts.iter().map(network::tun_devices).collect();
        Self { hosts, pods, tuns, ..Self::default() }
    }

    /// Also counts the gateway's system calls, by a kernel tracepoint that slows each of them a
    /// little. Not for runs whose times matter.
    pub(crate) fn count_calls(&mut self, wanted: bool) {
        self.counts_calls = wanted;
    }

    /// Runs traffic whose lost packets are counted from its start to its end: drops are counted
    /// over the same time, and not over the measured time alone.
    pub(crate) fn account<T>(&mut self, traffic: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.snapshot();
        let result = traffic(self);
        self.traffic = Some([before, self.snapshot()]);
        result
    }

    /// The measured time begins.
    pub(crate) fn begin(&mut self) {
        if self.hosts.is_empty() && self.pods.is_empty() {
            return;
        }
        self.calls_per_second = None;
        if self.counts_calls {
            self.calls = Calls::start(&self.gateway_processes());
        }
        self.before = Some(self.snapshot());
    }

    /// The measured time ends.
    pub(crate) fn end(&mut self) {
        if self.before.is_some() {
            self.after = Some(self.snapshot());
        }
        self.calls_per_second = self.calls.take().and_then(Calls::stop);
    }

    /// Adds what was measured to the run's numbers.
    pub(crate) fn describe(&self, sample: &mut Sample) {
        let (Some(before), Some(after)) = (&self.before, &self.after) else { return };
        let seconds = after.at_ns.saturating_sub(before.at_ns).max(1) as f64 * 1e-9;
        let segments = after.pods.tcp_sent.saturating_sub(before.pods.tcp_sent);
        // Beside packets that the generators counted themselves.
        sample.packets += segments;
        if segments > 1000 {
            let again = after.pods.tcp_again.saturating_sub(before.pods.tcp_again);
            sample.set("retransmitted", again as f64 / segments as f64);
        }

        let machine = after.machine.since(&before.machine);
        cost(sample, "machine_cpu", machine.busy, seconds);
        sample.set("softirq_cpu", machine.softirq / seconds);
        sample.set("stolen_cpu", machine.stolen / seconds);
        if after.gateway.count > 0 {
            let cpu = after.gateway.cpu_ns.saturating_sub(before.gateway.cpu_ns) as f64 * 1e-9;
            cost(sample, "gateway_cpu", cpu, seconds);
            let switches = after.gateway.switches.saturating_sub(before.gateway.switches);
            if sample.packets > 0 {
                sample.set("switches_per_packet", switches as f64 / sample.packets as f64);
            }
        }
        if let Some(calls) = self.calls_per_second.filter(|_| sample.packets > 0) {
            sample.set("calls_per_packet", calls * seconds / sample.packets as f64);
        }

        match &self.traffic {
            Some([before, after]) => self.drops(before, after, sample),
            None => self.drops(before, after, sample),
        }
        if sample.get("drops_sink").is_some_and(|drops| drops > 0.0) {
            sample.note("the generator is the bottleneck: its receiving socket overflowed".into());
        }
    }

    /// Where packets were dropped between two readings.
    fn drops(&self, before: &Snapshot, after: &Snapshot, sample: &mut Sample) {
        let mut drops = |key, after: u64, before: u64| {
            sample.set(key, after.saturating_sub(before) as f64);
        };
        drops("drops_sink", after.pods.socket_drops, before.pods.socket_drops);
        drops("drops_backlog", after.machine.backlog_drops, before.machine.backlog_drops);
        if !self.hosts.is_empty() {
            let (after, before) = (&after.hosts, &before.hosts);
            drops("drops_socket", after.socket_drops, before.socket_drops);
            drops("drops_device", after.device_drops, before.device_drops);
            drops("drops_tun", after.tun_drops, before.tun_drops);
        }
    }

    fn gateway_processes(&self) -> Vec<u32> {
        self.hosts.iter().flat_map(Namespace::processes).collect()
    }

    fn snapshot(&self) -> Snapshot {
        let hosts = self.hosts.iter().zip(&self.tuns);
        Snapshot {
            gateway: Processes::read(&self.gateway_processes()),
            hosts: hosts.map(|(host, tuns)| Network::read(host, tuns)).sum(),
            pods: self.pods.iter().map(|pod| Network::read(pod, &[])).sum(),
            machine: Machine::read(),
            at_ns: now_ns(),
        }
    }
}

/// CPU seconds as cores, and per unit of work.
fn cost(sample: &mut Sample, key: &str, cpu_seconds: f64, seconds: f64) {
    sample.set(key, cpu_seconds / seconds);
    // Probes alone are no work to divide by.
    if sample.bytes > 10 << 20 {
        sample.set(&format!("{key}_per_gib"), cpu_seconds / (sample.bytes as f64 / GIB));
    }
    if sample.packets > 10_000 {
        sample.set(&format!("{key}_per_mpkt"), cpu_seconds / (sample.packets as f64 * 1e-6));
    }
}
