//! The invariants of a soak, checked on samples. Pure: no clock, no system call.

use serde::Serialize;
use std::collections::HashMap;
use std::fmt;

/// Samples of a process that set its bounds: it has settled after them.
const SETTLING: u32 = 30;
/// Samples in a row that must break a bound: a peak is no leak, and books are read while packets pass.
const IN_A_ROW: u32 = 10;
/// Memory above its own start that a gateway may have: this share, and KiB.
const GROWTH_SHARE: u64 = 4;
const GROWTH_KIB: u64 = 8 << 10;
/// Descriptors above its own start: control connections that are open at that moment.
const GROWTH_DESCRIPTORS: u64 = 8;

/// The most datagrams that one packet of a kernel's queue stands for (UDP_MAX_SEGMENTS).
const SEGMENTS: u64 = 128;

/// What must always hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Invariant {
    /// Packets in = packets out + drops.
    Books,
    /// Counters never go back, except where the process was killed or started anew.
    Counters,
    /// No more memory than at its start, beyond a bound.
    Memory,
    /// No more descriptors than at its start, beyond a bound.
    Descriptors,
    /// Datagrams of a flow arrive in order.
    Order,
    /// Datagrams arrive once.
    Once,
    /// Datagrams arrive as they were sent.
    Content,
    /// Nothing is lost where no fault may lose it and no queue of the kernel overflows.
    Loss,
    /// TCP streams live and carry their bytes.
    Stream,
    /// Traffic flows again after a fault.
    Recovery,
    /// A gateway ends only when it is told to, answers, and does what clients ask.
    Alive,
    /// Peers are those that were added and not removed.
    Peers,
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Serialize, thiserror::Error)]
#[error("{invariant}: {what}")]
pub(crate) struct Violation {
    /// Which one.
    pub(crate) invariant: Invariant,
    /// What was seen.
    pub(crate) what: String,
}

impl Violation {
    pub(crate) fn new(invariant: Invariant, what: impl Into<String>) -> Self {
        Self { invariant, what: what.into() }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Books => "packets in = packets out + drops",
            Self::Counters => "counters never go back",
            Self::Memory => "memory does not grow",
            Self::Descriptors => "descriptors do not grow",
            Self::Order => "datagrams of a flow stay in order",
            Self::Once => "datagrams arrive once",
            Self::Content => "datagrams arrive unchanged",
            Self::Loss => "nothing is lost without a fault that may lose",
            Self::Stream => "TCP streams live",
            Self::Recovery => "traffic flows again after a fault",
            Self::Alive => "gateways run and answer",
            Self::Peers => "peers are those that were added",
        })
    }
}

/// What one look at a gateway shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct GatewaySample {
    /// Which life of the gateway: more after each start that is not a hand-over.
    pub(crate) life: u32,
    /// Its engine.
    pub(crate) engine: String,
    /// Whether in = out + drops, both directions.
    pub(crate) balanced: bool,
    /// Packets in and out, both directions.
    pub(crate) packets: [u64; 4],
    /// Resident memory, KiB.
    pub(crate) memory_kib: u64,
    /// Open descriptors.
    pub(crate) descriptors: u64,
}

/// What the load's sinks have seen so far, all flows of a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct TrafficSample {
    /// Datagrams that arrived.
    pub(crate) datagrams: u64,
    /// Bytes of TCP that arrived.
    pub(crate) stream_bytes: u64,
    /// Datagrams that came a second time.
    pub(crate) duplicates: u64,
    /// Datagrams that came after a later one of their flow while a fault might reorder them.
    pub(crate) reordered_in_faults: u64,
    /// Datagrams that came after a later one of their flow at another time.
    pub(crate) reordered: u64,
    /// Datagrams that came with other bytes.
    pub(crate) changed: u64,
    /// Datagrams that did not come while a fault might lose them.
    pub(crate) lost_in_faults: u64,
    /// Datagrams that did not come at another time.
    pub(crate) lost: u64,
    /// Packets that overflowed queues of the kernel at another time.
    pub(crate) overflowed: u64,
    /// Bytes of TCP that came with other values.
    pub(crate) stream_changed: u64,
}

/// Judges one gateway's samples.
#[derive(Clone, Debug, Default)]
pub(crate) struct GatewayJudge {
    last: Option<GatewaySample>,
    unbalanced: u32,
    /// By engine, as each has buffers of its own.
    bounds: HashMap<String, Bounds>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    samples: u32,
    memory_kib: u64,
    descriptors: u64,
    above_memory: u32,
    above_descriptors: u32,
}

impl GatewayJudge {
    /// Takes the next sample.
    ///
    /// # Errors
    /// The invariant that it breaks.
    pub(crate) fn judge(&mut self, sample: &GatewaySample) -> Result<(), Violation> {
        let before = self.last.replace(sample.clone());
        if let Some(before) = before.filter(|before| before.life == sample.life)
            && before.packets.iter().zip(&sample.packets).any(|(before, now)| now < before)
        {
            let what = format!("{:?} packets after {:?}", sample.packets, before.packets);
            return Err(Violation::new(Invariant::Counters, what));
        }
        self.unbalanced = if sample.balanced { 0 } else { self.unbalanced + 1 };
        if self.unbalanced >= IN_A_ROW {
            let what = format!(
                "egress {} in, {} out, ingress {} in, {} out; the difference is not in the drops",
                sample.packets[0], sample.packets[1], sample.packets[2], sample.packets[3]
            );
            return Err(Violation::new(Invariant::Books, what));
        }
        self.bounds.entry(sample.engine.clone()).or_default().judge(sample)
    }
}

impl Bounds {
    fn judge(&mut self, sample: &GatewaySample) -> Result<(), Violation> {
        if self.samples < SETTLING {
            self.samples += 1;
            self.memory_kib = self.memory_kib.max(sample.memory_kib);
            self.descriptors = self.descriptors.max(sample.descriptors);
            return Ok(());
        }
        let most_kib = self.memory_kib + self.memory_kib / GROWTH_SHARE + GROWTH_KIB;
        let most = self.descriptors + GROWTH_DESCRIPTORS;
        let count = |above: bool, so_far: u32| if above { so_far + 1 } else { 0 };
        self.above_memory = count(sample.memory_kib > most_kib, self.above_memory);
        self.above_descriptors = count(sample.descriptors > most, self.above_descriptors);
        let engine = &sample.engine;
        if self.above_memory >= IN_A_ROW {
            let (now, start) = (sample.memory_kib, self.memory_kib);
            let what = format!("{now} KiB with {engine}, {start} at its start, at most {most_kib}");
            return Err(Violation::new(Invariant::Memory, what));
        }
        if self.above_descriptors >= IN_A_ROW {
            let (now, start) = (sample.descriptors, self.descriptors);
            let what = format!("{now} open with {engine}, {start} at its start, at most {most}");
            return Err(Violation::new(Invariant::Descriptors, what));
        }
        Ok(())
    }
}

impl TrafficSample {
    /// Checks what holds at any time.
    ///
    /// # Errors
    /// The invariant that does not.
    pub(crate) fn judge(&self) -> Result<(), Violation> {
        for (count, invariant, what) in [
            (self.duplicates, Invariant::Once, "datagrams came twice"),
            (self.reordered, Invariant::Order, "datagrams came after a later one of their flow"),
            (self.changed, Invariant::Content, "datagrams were changed"),
            (self.stream_changed, Invariant::Stream, "bytes of a stream were changed"),
        ] {
            if count > 0 {
                return Err(Violation::new(invariant, format!("{count} {what}")));
            }
        }
        if self.lost > self.overflowed * SEGMENTS {
            let Self { lost, overflowed, .. } = self;
            let what = format!(
                "{lost} datagrams did not come, and queues of the kernel dropped {overflowed} packets"
            );
            return Err(Violation::new(Invariant::Loss, what));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> GatewaySample {
        GatewaySample {
            engine: "epoll".to_owned(),
            balanced: true,
            memory_kib: 10_000,
            descriptors: 40,
            ..GatewaySample::default()
        }
    }

    fn settled() -> GatewayJudge {
        let mut judge = GatewayJudge::default();
        for _ in 0..SETTLING {
            judge.judge(&sample()).unwrap();
        }
        judge
    }

    fn first_violation(
        judge: &mut GatewayJudge,
        sample: &GatewaySample,
        most: u32,
    ) -> Option<(u32, Invariant)> {
        (1..=most).find_map(|number| Some((number, judge.judge(sample).err()?.invariant)))
    }

    #[test]
    fn growth_beyond_the_bound_is_a_leak_and_growth_within_it_or_a_peak_is_none() {
        let mut judge = settled();
        let grown = GatewaySample { memory_kib: 20_692, descriptors: 48, ..sample() };
        assert_eq!(first_violation(&mut judge, &grown, 100), None);

        let leaks = GatewaySample { memory_kib: 20_693, ..sample() };
        assert_eq!(first_violation(&mut judge, &leaks, 9), None);
        judge.judge(&sample()).unwrap();
        assert_eq!(first_violation(&mut judge, &leaks, 100), Some((10, Invariant::Memory)));
        let open = GatewaySample { descriptors: 49, ..sample() };
        assert_eq!(first_violation(&mut settled(), &open, 100), Some((10, Invariant::Descriptors)));
    }

    #[test]
    fn each_engine_has_bounds_of_its_own() {
        let mut judge = settled();
        let other = GatewaySample { engine: "uring".to_owned(), memory_kib: 90_000, ..sample() };

        assert_eq!(first_violation(&mut judge, &other, 100), None);
        assert_eq!(first_violation(&mut judge, &sample(), 100), None);
    }

    #[test]
    fn books_that_do_not_balance_for_long_are_a_violation() {
        let mut judge = settled();
        let unbalanced = GatewaySample { balanced: false, ..sample() };

        assert_eq!(first_violation(&mut judge, &unbalanced, 9), None);
        judge.judge(&sample()).unwrap();
        assert_eq!(first_violation(&mut judge, &unbalanced, 100), Some((10, Invariant::Books)));
    }

    #[test]
    fn counters_go_back_only_in_another_life() {
        let mut judge = settled();
        let many = GatewaySample { packets: [5, 5, 5, 5], ..sample() };
        let fewer = GatewaySample { packets: [5, 4, 5, 5], ..sample() };
        judge.judge(&many).unwrap();
        judge.judge(&GatewaySample { life: 1, ..fewer.clone() }).unwrap();
        judge.judge(&GatewaySample { life: 1, ..many }).unwrap();

        let violation = judge.judge(&GatewaySample { life: 1, ..fewer }).unwrap_err();

        assert_eq!(violation.invariant, Invariant::Counters);
    }

    #[test]
    fn traffic_may_be_lost_or_reordered_in_faults_and_lost_in_full_queues() {
        let excused =
            TrafficSample { lost_in_faults: 7, reordered_in_faults: 3, ..Default::default() };
        let good = TrafficSample { datagrams: 9, ..excused };
        good.judge().unwrap();
        TrafficSample { lost: 256, overflowed: 2, ..good }.judge().unwrap();

        for (bad, invariant) in [
            (TrafficSample { lost: 1, ..good }, Invariant::Loss),
            (TrafficSample { lost: 257, overflowed: 2, ..good }, Invariant::Loss),
            (TrafficSample { duplicates: 1, ..good }, Invariant::Once),
            (TrafficSample { reordered: 1, ..good }, Invariant::Order),
            (TrafficSample { changed: 1, ..good }, Invariant::Content),
            (TrafficSample { stream_changed: 1, ..good }, Invariant::Stream),
        ] {
            assert_eq!(bad.judge().unwrap_err().invariant, invariant);
        }
    }
}
