//! Arrivals that meet a full batch: nothing of them is touched or counted until there is room.

use crate::harness::*;
use twill_datapath::IngressCheck;
use twill_datapath::batch::{Datagrams, Frames, Pieces, RunLimits, Slot, Train, TunFrame};
use twill_datapath::offload::vnet_hdr::VnetHdr;
use twill_datapath::route::View;
use twill_datapath::{
    DropReason, Egress, EgressRules, Ingress, IngressRules, Progress, Tally, World,
};

#[test]
fn a_packet_that_finds_the_batch_full_waits_untouched() {
    let mut side = EgressSide::new();
    side.fill();
    let packet = with_vnet_hdr(VnetHdr::PLAIN, &udp(HERE, AT_B, 64, b"waits"));
    let mut slot = packet.clone();

    assert_eq!(side.frame(&mut slot, 0), Progress::Full { next: 0 });
    assert_eq!(slot, packet);
    assert_eq!(side.egress.tally, Tally::default());

    side.out.clear();
    assert_eq!(side.frame(&mut slot, 0), Progress::Done);
    assert_eq!(side.egress.tally, forwarded(1, packet.len() - 10));
}

#[test]
fn a_super_packet_that_finds_the_batch_full_waits_untouched() {
    let mut side = EgressSide::new();
    side.fill();
    let frame = tso(100, &tcp(HERE, AT_A, 64, 1, ACK, &[7; 200]));
    let mut slot = frame.clone();

    assert_eq!(side.frame(&mut slot, 0), Progress::Full { next: 0 });
    assert_eq!(slot, frame);
    assert_eq!(side.egress.tally, Tally::default());

    side.out.clear();
    assert_eq!(side.frame(&mut slot, 0), Progress::Done);
    assert_eq!(side.egress.tally, forwarded(2, 2 * 152));
}

#[test]
fn a_train_that_finds_the_batch_full_waits_untouched() {
    let mut side = IngressSide::new();
    let packet = udp(AT_A, HERE, 64, b"waits");
    let mut slot = packet.repeat(4);
    assert_eq!(side.train(&mut slot.clone(), 0), Progress::Full { next: 2 });
    let books = side.ingress.tally;

    assert_eq!(side.train(&mut slot, 0), Progress::Full { next: 0 });
    assert_eq!(slot, packet.repeat(4));
    assert_eq!(side.ingress.tally, books);
}

#[test]
fn a_peer_that_goes_away_between_two_batches_takes_the_rest_of_its_train_with_it() {
    let mut side = IngressSide::new();
    let packet = udp(AT_A, HERE, 64, b"payload");
    let mut slot = packet.repeat(5);
    assert_eq!(side.train(&mut slot, 0), Progress::Full { next: 2 });
    side.ingress.flush(&mut side.out);
    side.out.clear();

    side.view = View::default();
    assert_eq!(side.train(&mut slot, 2), Progress::Done);

    let mut expected = Tally {
        packets_in: 5,
        bytes_in: 5 * packet.len() as u64,
        packets_out: 2,
        bytes_out: 2 * packet.len() as u64,
        ..Tally::default()
    };
    expected.drop(DropReason::UnknownPeer, 3);
    assert_eq!(side.ingress.tally, expected);
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
        while self.frame(&mut packet.clone(), 0) == Progress::Done {}
        self.egress.tally = Tally::default();
    }

    fn frame(&mut self, slot: &mut [u8], next: usize) -> Progress {
        let world = World { view: &self.view, now_ns: 0 };
        let frame = TunFrame { slot: Slot(0), start: 0, len: slot.len() as u32 };
        self.egress.frame(&world, frame, slot, next, &mut self.out, &mut self.replies)
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
            mtu: MTU,
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
    fn train(&mut self, slot: &mut [u8], next: usize) -> Progress {
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
        self.ingress.train(&world, &train, slot, next, &mut self.out).progress
    }
}
