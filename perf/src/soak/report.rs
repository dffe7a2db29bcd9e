//! What a soak did and saw: JSON for programs, a few lines for people.

use super::judge::{GatewaySample, TrafficSample, Violation};
use super::plan::{Fault, Kind};
use crate::environment::Environment;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A whole soak.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Gives the same plan again.
    pub(crate) seed: u64,
    /// How long it was to run, seconds.
    pub(crate) asked_seconds: u64,
    /// How long it ran, seconds.
    pub(crate) seconds: u64,
    /// What could not be tried here, and why.
    pub(crate) left_out: Vec<String>,
    /// The invariant that did not hold.
    pub(crate) violation: Option<Found>,
    /// Why the soak could not go on.
    pub(crate) failure: Option<String>,
    /// Each pair of gateways.
    pub(crate) pairs: Vec<PairReport>,
    /// The machine and the programs.
    pub(crate) environment: Environment,
}

/// A violation, and where in the plan it was found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Found {
    /// The pair's kind.
    pub(crate) pair: Kind,
    /// Milliseconds after the start.
    pub(crate) at_ms: u64,
    /// The number of the last fault, the first being 1.
    pub(crate) number: usize,
    /// The last fault.
    pub(crate) fault: Option<Fault>,
    /// What does not hold.
    pub(crate) violation: Violation,
}

/// One pair of gateways.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PairReport {
    /// How they learn of each other.
    pub(crate) kind: Kind,
    /// The faults that were carried out.
    pub(crate) faults: Vec<Done>,
    /// What the load's sinks saw.
    pub(crate) traffic: TrafficSample,
    /// The two gateways.
    pub(crate) gateways: [GatewayReport; 2],
}

/// One fault that was carried out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Done {
    /// Milliseconds after the start.
    pub(crate) at_ms: u64,
    /// What went wrong.
    #[serde(flatten)]
    pub(crate) fault: Fault,
    /// From the end of the fault until every flow and stream was seen again, milliseconds.
    pub(crate) recovered_ms: u64,
    /// Datagrams lost.
    pub(crate) lost: u64,
    /// What else happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<&'static str>,
}

/// One gateway.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct GatewayReport {
    /// How often it was looked at.
    pub(crate) samples: u64,
    /// The first look and the last.
    pub(crate) first: Option<GatewaySample>,
    pub(crate) last: Option<GatewaySample>,
    /// The most memory, KiB, and descriptors that it had.
    pub(crate) most_memory_kib: u64,
    pub(crate) most_descriptors: u64,
}

impl GatewayReport {
    /// Takes the next sample.
    pub(crate) fn take(&mut self, sample: GatewaySample) {
        self.samples += 1;
        self.most_memory_kib = self.most_memory_kib.max(sample.memory_kib);
        self.most_descriptors = self.most_descriptors.max(sample.descriptors);
        self.first.get_or_insert_with(|| sample.clone());
        self.last = Some(sample);
    }
}

impl Report {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let (minutes, seconds) = (self.seconds / 60, self.seconds % 60);
        let asked = self.asked_seconds / 60;
        let asked = if self.seconds < self.asked_seconds {
            format!(" of {asked} min")
        } else {
            String::new()
        };
        let _ = writeln!(text, "soak: seed {}, {minutes} min {seconds} s{asked}", self.seed);
        for pair in &self.pairs {
            pair.describe(&mut text);
        }
        for left_out in &self.left_out {
            let _ = writeln!(text, "left out: {left_out}");
        }
        match &self.violation {
            Some(found) => text.push_str(&found.describe(self.seed)),
            None => text.push_str("all invariants held\n"),
        }
        if let Some(failure) = &self.failure {
            let _ = writeln!(text, "the soak could not go on: {failure}");
        }
        text
    }
}

impl Found {
    /// Seed, time, fault and invariant.
    pub(crate) fn describe(&self, seed: u64) -> String {
        let (at, number, minutes) = (clock(self.at_ms), self.number, self.at_ms / 60_000 + 1);
        let fault = self.fault.map_or_else(|| "no fault yet".to_owned(), |fault| fault.to_string());
        format!(
            "VIOLATED: {}\n  pair {}, {at} after the start, fault {number}: {fault}\n  again: \
             twill-perf soak --minutes {minutes} --seed {seed}\n",
            self.violation,
            self.pair.name()
        )
    }
}

impl PairReport {
    fn describe(&self, text: &mut String) {
        let TrafficSample { datagrams, stream_bytes, lost_in_faults, lost, overflowed, .. } =
            self.traffic;
        let late = self.traffic.reordered_in_faults;
        let (count, mib) = (self.faults.len(), stream_bytes >> 20);
        let _ = writeln!(
            text,
            "{}: {count} faults, {datagrams} datagrams and {mib} MiB of TCP arrived; lost \
             {lost_in_faults} in faults that may lose, {lost} otherwise, when queues of the kernel \
             dropped {overflowed}; {late} late when an underlay came back",
            self.kind.name()
        );
        let mut kinds = BTreeMap::<_, (u64, u64, u64)>::new();
        for done in &self.faults {
            let name = serde_json::to_value(done.fault).unwrap_or_default();
            let name = name["fault"].as_str().unwrap_or_default().to_owned();
            let kind = kinds.entry(name).or_default();
            *kind = (kind.0 + 1, kind.1.max(done.recovered_ms), kind.2 + done.lost);
        }
        for (name, (count, slowest, lost)) in kinds {
            let _ = writeln!(
                text,
                "  {name:20} {count:5} times, traffic again within {slowest:6} ms, {lost} lost"
            );
        }
        for (side, gateway) in self.gateways.iter().enumerate() {
            let (Some(first), Some(last)) = (&gateway.first, &gateway.last) else { continue };
            let _ = writeln!(
                text,
                "  gateway {side}: {} looks; memory {} KiB at first, {} at last, {} at most; \
                 descriptors {}, {}, {}",
                gateway.samples,
                first.memory_kib,
                last.memory_kib,
                gateway.most_memory_kib,
                first.descriptors,
                last.descriptors,
                gateway.most_descriptors
            );
        }
    }
}

/// Hours, minutes and seconds.
pub(crate) fn clock(ms: u64) -> String {
    let seconds = ms / 1000;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::super::judge::Invariant;
    use super::*;

    #[test]
    fn a_violation_comes_with_seed_time_fault_and_invariant() {
        let found = Found {
            pair: Kind::Flanneld,
            at_ms: 3_725_000,
            number: 12,
            fault: Some(Fault::EtcdFreeze { ms: 400 }),
            violation: Violation::new(Invariant::Loss, "3 datagrams did not come"),
        };
        let report = Report {
            seed: 42,
            asked_seconds: 3600,
            seconds: 3725,
            left_out: vec!["memory: no controller".to_owned()],
            violation: Some(found),
            failure: None,
            pairs: Vec::new(),
            environment: Environment::default(),
        };

        let text = report.text();

        for part in [
            "nothing is lost without a fault that may lose: 3 datagrams did not come",
            "pair flanneld, 1:02:05 after the start, fault 12: etcd frozen for 400 ms",
            "twill-perf soak --minutes 63 --seed 42",
            "left out: memory: no controller",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["violation"]["fault"]["fault"], "etcd-freeze");
        assert_eq!(json["violation"]["violation"]["invariant"], "loss");
    }

    #[test]
    fn faults_are_added_up_by_kind() {
        let done = |ms, lost| Done {
            at_ms: 0,
            fault: Fault::Underlay { side: 0, ms },
            recovered_ms: ms,
            lost,
            note: None,
        };
        let mut gateway = GatewayReport::default();
        for memory_kib in [5, 9, 7] {
            gateway.take(GatewaySample { memory_kib, ..GatewaySample::default() });
        }
        let pair = PairReport {
            kind: Kind::Run,
            faults: vec![done(70, 4), done(50, 3)],
            traffic: TrafficSample::default(),
            gateways: [gateway, GatewayReport::default()],
        };
        let mut text = String::new();

        pair.describe(&mut text);

        assert!(text.contains("2 times, traffic again within     70 ms, 7 lost"), "{text}");
        assert!(text.contains("memory 5 KiB at first, 7 at last, 9 at most"), "{text}");
    }
}
