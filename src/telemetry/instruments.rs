//! The definition of every histogram, with its unit, its bounds and the reason for them, and the
//! instruments of a worker.
//!
//! Nothing is sampled: a worker records once per send and once per receive, weighted by the number of
//! packets, so every packet is in every histogram.

use super::counter::{TurnBooks, WorkerBooks};
use super::culprit::Culprits;
use super::histogram::{Layout, Recorder};
use super::peers::PeerTable;
use crate::sys::clock;
use std::sync::Arc;
use twill_datapath::TrainReport;
use twill_datapath::batch::{Datagrams, Frames, Inbox, Train};

/// What a histogram's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Recorded in nanoseconds, exported in seconds.
    Time,
    /// Things counted.
    Count,
}

/// The definition of a histogram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instrument {
    /// Its name in metrics, without the prefix and the unit.
    pub(crate) name: &'static str,
    /// Its name on the command line and in reports.
    pub(crate) short: &'static str,
    /// What it measures, for metrics.
    pub(crate) help: &'static str,
    /// Its unit.
    pub(crate) unit: Unit,
    /// Its range and precision.
    pub(crate) layout: Layout,
    /// Upper bounds of the buckets that metrics have, in the recorded unit.
    pub(crate) buckets: &'static [u64],
}

/// Latencies: half of 128 ns is less than one system call takes; a minute is longer than any worker
/// stands still without being dead; 1 % is finer than what people act on.
const LATENCY: Layout = Layout { lowest: 64, highest: 60_000_000_000, digits: 2 };
/// 1, 2, 5 to a decade, from a microsecond to ten seconds.
const LATENCY_BUCKETS: &[u64] = &[
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];
/// Batches: a frame of 64 KiB can stand for two thousand packets; two digits are exact up to 255.
const SIZES: Layout = Layout { lowest: 1, highest: 4096, digits: 2 };
const SIZE_BUCKETS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// From the moment a worker began to read a frame to the moment the kernel had taken their
/// datagrams: all that twill itself adds to a packet on its way out.
pub(crate) const EGRESS_LATENCY: Instrument = Instrument {
    name: "egress_latency",
    short: "egress",
    help: "Time from reading a packet from the TUN device until the kernel has its datagram",
    unit: Unit::Time,
    layout: LATENCY,
    buckets: LATENCY_BUCKETS,
};

/// From the kernel's receive stamp of the datagram to the end of the write to the TUN device: time
/// spent waiting in the socket counts, which is where packets wait when a worker falls behind.
pub(crate) const INGRESS_LATENCY: Instrument = Instrument {
    name: "ingress_latency",
    short: "ingress",
    help: "Time from the kernel receiving a datagram until its packet is written to the TUN device",
    unit: Unit::Time,
    layout: LATENCY,
    buckets: LATENCY_BUCKETS,
};

/// Arrivals from the TUN device per turn: 1 on an idle gateway, the batch's limit on one that can
/// no longer keep up.
pub(crate) const EGRESS_BATCH: Instrument = Instrument {
    name: "egress_batch_frames",
    short: "egress-batch",
    help: "Frames read from the TUN device in one batch",
    unit: Unit::Count,
    layout: SIZES,
    buckets: SIZE_BUCKETS,
};

/// Arrivals from the socket per turn.
pub(crate) const INGRESS_BATCH: Instrument = Instrument {
    name: "ingress_batch_trains",
    short: "ingress-batch",
    help: "Receives from the UDP socket in one batch",
    unit: Unit::Count,
    layout: SIZES,
    buckets: SIZE_BUCKETS,
};

/// Datagrams per run: what `UDP_SEGMENT` saves.
pub(crate) const SEND_DATAGRAMS: Instrument = Instrument {
    name: "send_datagrams",
    short: "send",
    help: "Datagrams in one send",
    unit: Unit::Count,
    layout: SIZES,
    buckets: SIZE_BUCKETS,
};

/// Packets per write: what joining saves.
pub(crate) const WRITE_PACKETS: Instrument = Instrument {
    name: "write_packets",
    short: "write",
    help: "Packets in one frame written to the TUN device",
    unit: Unit::Count,
    layout: SIZES,
    buckets: SIZE_BUCKETS,
};

/// Round trips through the tunnel: a network's times, so a microsecond is fine enough.
pub(crate) const PEER_RTT: Instrument = Instrument {
    name: "peer_rtt",
    short: "rtt",
    help: "Round-trip time of probes through the tunnel to the peer",
    unit: Unit::Time,
    layout: Layout { lowest: 1024, ..LATENCY },
    buckets: LATENCY_BUCKETS,
};

/// The histograms that every worker keeps, in the order of [`WorkerInstruments::recorders`].
pub(crate) const WORKER: [Instrument; 6] =
    [EGRESS_LATENCY, INGRESS_LATENCY, EGRESS_BATCH, INGRESS_BATCH, SEND_DATAGRAMS, WRITE_PACKETS];

/// One worker's instruments: written by the worker, read by anybody.
#[derive(Debug)]
pub(crate) struct WorkerInstruments {
    /// Packets, drops and events.
    pub(crate) books: WorkerBooks,
    /// Traffic by peer.
    pub(crate) peers: PeerTable,
    /// The sources of dropped datagrams.
    pub(crate) culprits: Culprits,
    egress_latency: Recorder,
    ingress_latency: Recorder,
    egress_batch: Recorder,
    ingress_batch: Recorder,
    send_datagrams: Recorder,
    write_packets: Recorder,
}

impl Default for WorkerInstruments {
    fn default() -> Self {
        let recorder = |instrument: Instrument| Recorder::new(instrument.layout);
        Self {
            books: WorkerBooks::default(),
            peers: PeerTable::default(),
            culprits: Culprits::default(),
            egress_latency: recorder(EGRESS_LATENCY),
            ingress_latency: recorder(INGRESS_LATENCY),
            egress_batch: recorder(EGRESS_BATCH),
            ingress_batch: recorder(INGRESS_BATCH),
            send_datagrams: recorder(SEND_DATAGRAMS),
            write_packets: recorder(WRITE_PACKETS),
        }
    }
}

impl WorkerInstruments {
    /// The histograms, in the order of [`WORKER`].
    #[must_use]
    pub(crate) fn recorders(&self) -> [&Recorder; WORKER.len()] {
        [
            &self.egress_latency,
            &self.ingress_latency,
            &self.egress_batch,
            &self.ingress_batch,
            &self.send_datagrams,
            &self.write_packets,
        ]
    }
}

/// The worker's side of its instruments: what it must remember between two calls of a turn.
///
/// ```text
/// begin -> (refused…, sent)… -> (train…, written)… -> publish
/// ```
#[derive(Debug)]
pub(crate) struct Meter {
    instruments: Arc<WorkerInstruments>,
    on: bool,
    /// When the worker last began to read, monotonic.
    began_ns: u64,
    /// Packets that the next [`Meter::sent`] hands over, by when they were read.
    leaving: Vec<Leaving>,
    /// Datagrams of the next [`Meter::sent`] that the kernel refused, by run, in order.
    refused: Vec<Refused>,
    /// Packets that the next [`Meter::written`] brings to the device.
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Refused {
    run: u32,
    packets: u32,
    bytes: u32,
}

#[derive(Debug)]
struct Leaving {
    read_ns: u64,
    packets: u64,
}

#[derive(Debug)]
struct Waiting {
    received_ns: u64,
    packets: u64,
}

impl Meter {
    /// Meters a worker that moves at most `runs` runs in one send, and `arrivals` frames and as many
    /// trains in one turn.
    /// When `on` is false, it keeps only the books and whose datagrams were dropped.
    #[must_use]
    pub(crate) fn new(
        instruments: Arc<WorkerInstruments>,
        on: bool,
        runs: usize,
        arrivals: usize,
    ) -> Self {
        Self {
            instruments,
            on,
            began_ns: 0,
            leaving: Vec::with_capacity(arrivals),
            refused: Vec::with_capacity(runs),
            waiting: Vec::with_capacity(arrivals + 1),
        }
    }

    /// A turn has received its arrivals.
    #[inline]
    pub(crate) fn begin(&mut self, inbox: &Inbox) {
        self.began_ns = inbox.began_ns;
        if !self.on {
            return;
        }
        if !inbox.frames.is_empty() {
            self.instruments.egress_batch.record(inbox.frames.len() as u64, 1);
        }
        if !inbox.trains.is_empty() {
            self.instruments.ingress_batch.record(inbox.trains.len() as u64, 1);
        }
    }

    /// The kernel refused datagrams of a run for good; called before [`Meter::sent`], in the order
    /// of the runs.
    pub(crate) fn refused(&mut self, run: u32, packets: u32, bytes: u32) {
        let room = self.refused.len() < self.refused.capacity();
        match self.refused.last_mut() {
            Some(last) if last.run == run => {
                last.packets += packets;
                last.bytes += bytes;
            }
            // One entry for each run at most, for which there is room.
            _ if room => self.refused.push(Refused { run, packets, bytes }),
            _ => {}
        }
    }

    /// A batch of runs was handed over.
    pub(crate) fn sent(&mut self, datagrams: &Datagrams) {
        if !self.on {
            self.refused.clear();
            return;
        }
        let mut refused = self.refused.iter().peekable();
        let mut lost_packets = 0;
        for (number, run) in datagrams.runs().iter().enumerate() {
            self.instruments.send_datagrams.record(run.datagrams.into(), 1);
            let lost = refused.next_if(|refused| refused.run as usize == number);
            let (drops, lost_bytes) = lost.map_or((0, 0), |lost| (lost.packets, lost.bytes));
            let packets = u64::from(run.datagrams).saturating_sub(drops.into());
            lost_packets += u64::from(drops);
            if let Some(peer) = self.instruments.peers.peer(run.destination.peer) {
                let bytes = u64::from(run.bytes).saturating_sub(lost_bytes.into());
                peer.sent(packets, bytes, drops.into());
            }
        }
        self.refused.clear();
        let now_ns = clock::monotonic_ns();
        for leaving in self.leaving.drain(..) {
            let lost = lost_packets.min(leaving.packets);
            lost_packets -= lost;
            let took_ns = now_ns.saturating_sub(leaving.read_ns);
            self.instruments.egress_latency.record(took_ns, leaving.packets - lost);
        }
    }

    /// So many packets of a frame are in the next batch of runs.
    #[inline]
    pub(crate) fn frame(&mut self, read_ns: u64, packets: u64) {
        if !self.on || packets == 0 {
            return;
        }
        let room = self.leaving.len() < self.leaving.capacity();
        match self.leaving.last_mut() {
            Some(last) if last.read_ns == read_ns => last.packets += packets,
            // One entry for each frame of a turn at most, for which there is room.
            _ if room => self.leaving.push(Leaving { read_ns, packets }),
            _ => {}
        }
    }

    /// The datapath has decided about a train, or about a part of it.
    #[inline]
    pub(crate) fn train(&mut self, train: &Train, report: &TrainReport) {
        if let Some(reason) = report.last_drop {
            self.instruments.culprits.note(reason, train.from.ip());
        }
        if !self.on {
            return;
        }
        if let Some(peer) = report.peer.and_then(|index| self.instruments.peers.peer(index)) {
            peer.received(report.packets, report.bytes, report.dropped, self.began_ns);
        }
        let room = self.waiting.len() < self.waiting.capacity();
        if report.packets > 0 && train.received_ns > 0 && room {
            let (received_ns, packets) = (train.received_ns, report.packets);
            self.waiting.push(Waiting { received_ns, packets });
        }
    }

    /// The frames of all trains so far were handed to the device.
    pub(crate) fn written(&mut self, frames: &Frames) {
        if !self.on {
            return;
        }
        for frame in frames.frames() {
            self.instruments.write_packets.record(frame.packets.into(), 1);
        }
        // The kernel stamps receives with the wall clock. When somebody sets it in between, a
        // value or two are off; a step backwards counts as no time at all.
        let now_ns = clock::realtime_ns();
        for waiting in self.waiting.drain(..) {
            let took_ns = now_ns.saturating_sub(waiting.received_ns);
            self.instruments.ingress_latency.record(took_ns, waiting.packets);
        }
    }

    /// Makes the turn's books readable.
    pub(crate) fn publish(&self, books: &TurnBooks<'_>) {
        self.instruments.books.publish(books);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twill_datapath::Progress;
    use twill_datapath::batch::{Destination, Inbox, Piece, Pieces, RunLimits, Slot, Source};
    use twill_datapath::route::PeerIndex;

    const PEER: PeerIndex = PeerIndex(3);

    #[test]
    fn what_the_kernel_refused_is_a_drop_of_its_peer_and_has_no_latency() {
        let instruments = instruments();
        let mut meter = Meter::new(Arc::clone(&instruments), true, 4, 4);
        let runs = runs(&[5, 3]);

        let began_ns = clock::monotonic_ns();
        meter.begin(&Inbox { began_ns, ..Inbox::new(4) });
        meter.refused(1, 1, 100);
        meter.refused(1, 1, 100);
        for _ in 0..2 {
            meter.frame(began_ns, 8);
            meter.sent(&runs);
        }

        let peer = traffic(&instruments);
        assert_eq!((peer.egress_packets, peer.egress_drops), (8 + 6, 2));
        assert_eq!(peer.egress_bytes, 1400);
        assert_eq!(instruments.egress_latency.read().count(), 14);
        assert_eq!(instruments.send_datagrams.read().summary().max, 5);
    }

    #[test]
    fn time_in_the_socket_counts_for_every_packet_of_a_train() {
        let instruments = instruments();
        let mut meter = Meter::new(Arc::clone(&instruments), true, 4, 4);
        let frames = Frames::new(4, Pieces::new(4, 0));
        let waited_ns = 5_000_000_000;

        meter.begin(&Inbox { began_ns: 77, ..Inbox::new(4) });
        meter.train(&train(clock::realtime_ns() - waited_ns), &report(40, 2));
        meter.train(&train(0), &report(1, 0));
        meter.written(&frames);
        meter.written(&frames);

        let latency = instruments.ingress_latency.read();
        assert_eq!(latency.count(), 40, "a train without a stamp has no latency");
        assert!(latency.histogram.min() >= waited_ns * 99 / 100);
        let peer = traffic(&instruments);
        assert_eq!((peer.ingress_packets, peer.ingress_drops), (41, 2));
        assert_eq!(peer.last_seen_ns, 77);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_endless_latency() {
        let instruments = instruments();
        let mut meter = Meter::new(Arc::clone(&instruments), true, 4, 4);

        meter.train(&train(clock::realtime_ns() + 3_600_000_000_000), &report(1, 0));
        meter.written(&Frames::new(4, Pieces::new(4, 0)));

        assert_eq!(instruments.ingress_latency.read().summary().max, 63);
    }

    #[test]
    fn a_meter_that_is_off_records_nothing() {
        let instruments = instruments();
        let mut meter = Meter::new(Arc::clone(&instruments), false, 4, 4);

        meter.begin(&Inbox::new(4));
        meter.refused(0, 1, 1);
        meter.sent(&runs(&[5]));
        meter.train(&train(1), &report(1, 0));
        meter.written(&Frames::new(4, Pieces::new(4, 0)));

        assert!(instruments.recorders().iter().all(|recorder| recorder.read().count() == 0));
        assert_eq!(traffic(&instruments), Default::default());
    }

    #[test]
    fn recorders_stand_in_the_order_of_their_definitions() {
        let instruments = WorkerInstruments::default();
        instruments.egress_latency.record(1, 1);
        instruments.ingress_latency.record(1, 2);
        instruments.egress_batch.record(1, 3);
        instruments.ingress_batch.record(1, 4);
        instruments.send_datagrams.record(1, 5);
        instruments.write_packets.record(1, 6);

        let counts = instruments.recorders().map(|recorder| recorder.read().count());

        assert_eq!(counts, [1, 2, 3, 4, 5, 6]);
        let names = WORKER.map(|instrument| instrument.short);
        assert_eq!(names, ["egress", "ingress", "egress-batch", "ingress-batch", "send", "write"]);
        assert!(WORKER.iter().all(|instrument| instrument.buckets.is_sorted()));
    }

    fn instruments() -> Arc<WorkerInstruments> {
        let instruments = WorkerInstruments::default();
        instruments.peers.reserve(4);
        Arc::new(instruments)
    }

    fn traffic(instruments: &WorkerInstruments) -> super::super::peers::PeerTraffic {
        super::super::peers::Ledger::default().traffic(PEER, [&instruments.peers].into_iter())
    }

    /// Runs of so many datagrams of 100 bytes each to the peer.
    fn runs(sizes: &[u16]) -> Datagrams {
        let limits = RunLimits { datagrams: 9, bytes: 9999 };
        let mut datagrams = Datagrams::new(limits, 4, Pieces::new(99, 0));
        for (number, size) in sizes.iter().enumerate() {
            let to = ([192, 0, 2, number as u8], 8285).into();
            for _ in 0..*size {
                let piece = Piece { source: Source::Slot(Slot(0)), offset: 0, len: 100 };
                datagrams
                    .push(Destination { peer: PEER, to, may_fragment: false }, &[piece], *size)
                    .unwrap();
            }
        }
        datagrams
    }

    fn train(received_ns: u64) -> Train {
        let from = "192.0.2.1:8285".parse().unwrap();
        Train { slot: Slot(0), start: 0, len: 0, from, segment: 0, tos: 0, received_ns, flaw: None }
    }

    fn report(packets: u64, dropped: u64) -> TrainReport {
        let (progress, peer) = (Progress::Done, Some(PEER));
        TrainReport { progress, peer, packets, bytes: packets * 100, dropped, last_drop: None }
    }
}
