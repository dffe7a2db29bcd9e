//! Arrivals that meet a full batch: what was decided about them waits, until there is room.

use crate::harness::*;
use twill_datapath::batch::{Datagrams, Frames, Pieces, RunLimits, Slot, Train, TunFrame};
use twill_datapath::offload::vnet_hdr::VnetHdr;
use twill_datapath::route::View;
use twill_datapath::{
    Cut, Egress, EgressRules, Ingress, IngressCheck, IngressRules, Progress, Tally, TrainReport,
    World,
};

#[test]
fn a_packet_that_finds_the_batch_full_waits_and_leaves_once() {
    let mut side = EgressSide::new();
    side.fill();
    let packet = with_vnet_hdr(VnetHdr::PLAIN, &udp(HERE, AT_B, 64, b"waits"));
    let mut slot = packet.clone();

    let rest = full(side.frame(&mut slot));
    assert_eq!(full(side.egress.resume(rest, &slot, &mut side.out)), rest, "still no room");
    assert_eq!(side.egress.tally.packets_out, 0);

    side.out.clear();
    assert_eq!(side.egress.resume(rest, &slot, &mut side.out), Progress::Done);
    assert_eq!(side.egress.tally, forwarded(1, packet.len() - 10));
    assert_eq!(slot[10 + 8], 63, "one hop is taken");
}

#[test]
fn a_super_packet_that_finds_the_batch_full_waits_and_leaves_once() {
    let mut side = EgressSide::new();
    side.fill();
    let mut slot = tso(100, &tcp(HERE, AT_A, 64, 1, ACK, &[7; 200]));

    let rest = full(side.frame(&mut slot));
    assert_eq!(side.egress.tally.packets_out, 0);

    side.out.clear();
    assert_eq!(side.egress.resume(rest, &slot, &mut side.out), Progress::Done);
    assert_eq!(side.egress.tally, forwarded(2, 2 * 152));
    assert_eq!(slot[10 + 8], 63, "one hop is taken");
}

#[test]
fn the_rest_of_a_cut_over_another_slot_is_counted_as_dropped() {
    let mut side = EgressSide::new();
    side.fill();
    let mut slot = tso(100, &tcp(HERE, AT_A, 64, 1, ACK, &[7; 200]));
    let rest = full(side.frame(&mut slot));
    side.out.clear();

    assert_eq!(side.egress.resume(rest, &slot[..200], &mut side.out), Progress::Done);

    assert_eq!((side.egress.tally.dropped(), side.egress.tally.imbalance()), (2, 0));
}

#[test]
fn a_train_that_finds_the_batch_full_is_delivered_in_parts() {
    let mut side = IngressSide::new();
    let packet = udp(AT_A, HERE, 64, b"waits");
    let mut slot = packet.repeat(5);

    let mut report = side.train(&mut slot);
    let mut delivered = vec![report.packets];
    while let Progress::Full(rest) = report.progress {
        side.ingress.flush(&mut side.out);
        side.out.clear();
        let world = World { view: &side.view, now_ns: 0 };
        report = side.ingress.resume(&world, rest, &mut slot, &mut side.out);
        delivered.push(report.packets);
    }

    assert_eq!(delivered, [2, 2, 1]);
    assert_eq!(side.ingress.tally, forwarded(5, 5 * packet.len()));
    assert!(slot.chunks(packet.len()).all(|datagram| datagram[8] == 63), "one hop is taken");
}

fn full(progress: Progress<Cut>) -> Cut {
    match progress {
        Progress::Full(rest) => rest,
        Progress::Done => panic!("there was room"),
    }
}

/// Egress over a batch of two datagrams.
struct EgressSide {
    view: View,
    egress: Egress,
    out: Datagrams,
    replies: Frames,
}

impl EgressSide {
    fn new() -> Self {
        let limits = RunLimits { datagrams: 1, bytes: 65507 };
        Self {
            view: Setup::default().host().view,
            egress: Egress::new(EgressRules { vnet_hdr: true }),
            out: Datagrams::new(limits, 2, Pieces::new(4, 256)),
            replies: Frames::new(1, Pieces::new(1, 0)),
        }
    }

    fn fill(&mut self) {
        let packet = with_vnet_hdr(VnetHdr::PLAIN, &udp(HERE, AT_A, 64, b"first"));
        while self.frame(&mut packet.clone()) == Progress::Done {}
        self.egress.tally = Tally::default();
    }

    fn frame(&mut self, slot: &mut [u8]) -> Progress<Cut> {
        let world = World { view: &self.view, now_ns: 0 };
        let frame = TunFrame { slot: Slot(0), start: 0, len: slot.len() as u32, read_ns: 0 };
        self.egress.frame(&world, frame, slot, &mut self.out, &mut self.replies)
    }
}

/// Ingress over a batch of two frames.
struct IngressSide {
    view: View,
    ingress: Ingress,
    out: Frames,
}

impl IngressSide {
    fn new() -> Self {
        let rules = IngressRules {
            check: IngressCheck::Strict,
            peer_sources: Vec::new(),
            vnet_hdr: false,
            coalesce_tcp: false,
            coalesce_udp: false,
        };
        Self {
            view: Setup::default().host().view,
            ingress: Ingress::new(rules, 2),
            out: Frames::new(2, Pieces::new(16, 1024)),
        }
    }

    /// A train of datagrams that are all as long as the first one says.
    fn train(&mut self, slot: &mut [u8]) -> TrainReport {
        let world = World { view: &self.view, now_ns: 0 };
        let train = Train {
            slot: Slot(0),
            start: 0,
            len: slot.len() as u32,
            from: A.parse().unwrap(),
            segment: u16::from_be_bytes([slot[2], slot[3]]),
            tos: 0,
            received_ns: 0,
            flaw: None,
        };
        self.ingress.train(&world, &train, slot, &mut self.out)
    }
}
