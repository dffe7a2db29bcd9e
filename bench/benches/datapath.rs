//! Egress and ingress per packet, as a worker calls them: decide, describe, hand over, clear.

#![allow(missing_docs, reason = "criterion's macros document nothing")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ipnet::IpNet;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use twill_bench::{tcp_segment, udp_packet};
use twill_datapath::IngressCheck;
use twill_datapath::batch::{Datagrams, Frames, Pieces, RunLimits, Slot, Train, TunFrame};
use twill_datapath::route::{Overlay, Peer, PeerIndex, View};
use twill_datapath::{Egress, EgressRules, Ingress, IngressRules, Progress, World};
use twill_testbed::packets::{plain, tso};

const PEER: &str = "192.0.2.1:8285";
/// Frames of one turn.
const BATCH: usize = 64;
/// Bytes at the front of a packet that hold all its headers.
const EDITED: usize = 128;

fn egress(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("egress");

    group.throughput(Throughput::Elements(BATCH as u64));
    let small = plain(&udp_packet([10, 10, 0, 5], [10, 10, 1, 5], 36));
    group.bench_function("64 single packets of 64 bytes", |bencher| {
        let mut side = EgressSide::new(&small);
        bencher.iter(|| side.turn(&small, BATCH));
    });

    let super_packet = tso(1420, &tcp_segment([10, 10, 0, 5], [10, 10, 1, 5], 0, 45 * 1420));
    group.throughput(Throughput::Bytes(super_packet.len() as u64));
    group.bench_function("one TCP super-packet of 64 KiB", |bencher| {
        let mut side = EgressSide::new(&super_packet);
        bencher.iter(|| side.turn(&super_packet, 1));
    });
    group.finish();
}

fn ingress(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ingress");
    let small: Vec<_> = (0..64).map(|_| udp_packet([10, 10, 1, 5], [10, 10, 0, 5], 64)).collect();
    let large: Vec<_> =
        (0..45).map(|index| tcp_segment([10, 10, 1, 5], [10, 10, 0, 5], index, 1420)).collect();

    for check in [IngressCheck::Strict, IngressCheck::Peer] {
        for (name, coalesce) in [("alone", false), ("joined", true)] {
            group.throughput(Throughput::Elements(64));
            group.bench_function(format!("train of 64 x 92 bytes, {name}, {check}"), |bencher| {
                let mut side = IngressSide::new(check, coalesce, &small);
                bencher.iter(|| side.turn(&small));
            });
            group.throughput(Throughput::Elements(45));
            group.bench_function(format!("train of 45 x 1472 bytes, {name}, {check}"), |bencher| {
                let mut side = IngressSide::new(check, coalesce, &large);
                bencher.iter(|| side.turn(&large));
            });
        }
    }
    group.finish();
}

struct EgressSide {
    view: View,
    egress: Egress,
    out: Datagrams,
    replies: Frames,
    slot: Vec<u8>,
}

impl EgressSide {
    fn new(frame: &[u8]) -> Self {
        let limits = RunLimits { datagrams: 127, bytes: 65507 };
        let mut side = Self {
            view: view(),
            egress: Egress::new(EgressRules { vnet_hdr: true }),
            out: Datagrams::new(limits, 256, Pieces::new(4096, 1 << 17)),
            replies: Frames::new(8, Pieces::new(8, 8192)),
            slot: vec![0; 1 << 16],
        };
        side.slot[..frame.len()].copy_from_slice(frame);
        side.turn(frame, 1);
        let edited = EDITED.min(frame.len());
        assert_eq!(side.slot[edited..frame.len()], frame[edited..], "egress edits headers only");
        side
    }

    /// The same frame so many times; its headers are put back each time, as egress edits them.
    fn turn(&mut self, frame: &[u8], times: usize) {
        let world = World { view: &self.view, now_ns: 0 };
        let edited = EDITED.min(frame.len());
        for slot in 0..times {
            self.slot[..edited].copy_from_slice(&frame[..edited]);
            let frame =
                TunFrame { slot: Slot(slot as u16), start: 0, len: frame.len() as u32, read_ns: 0 };
            let (out, replies) = (&mut self.out, &mut self.replies);
            let done = self.egress.frame(&world, frame, &mut self.slot, out, replies);
            assert_eq!(done, Progress::Done);
        }
        black_box(self.out.runs());
        self.out.clear();
    }
}

struct IngressSide {
    view: View,
    ingress: Ingress,
    out: Frames,
    slot: Vec<u8>,
}

impl IngressSide {
    fn new(check: IngressCheck, coalesce: bool, datagrams: &[Vec<u8>]) -> Self {
        let rules = IngressRules {
            check,
            peer_sources: Vec::new(),
            vnet_hdr: true,
            coalesce_tcp: coalesce,
            coalesce_udp: coalesce,
        };
        let mut side = Self {
            view: view(),
            ingress: Ingress::new(rules, 256),
            out: Frames::new(256, Pieces::new(4096, 1 << 16)),
            slot: vec![0; 1 << 17],
        };
        let train = datagrams.concat();
        side.slot[..train.len()].copy_from_slice(&train);
        side.turn(datagrams);
        for (slot, datagram) in side.slot.chunks(datagrams[0].len()).zip(datagrams) {
            let edited = EDITED.min(datagram.len());
            assert_eq!(slot[edited..], datagram[edited..], "ingress edits headers only");
        }
        side
    }

    /// The train's headers are put back each time, as ingress edits them.
    fn turn(&mut self, datagrams: &[Vec<u8>]) {
        let world = World { view: &self.view, now_ns: 0 };
        let segment = datagrams[0].len();
        let edited = EDITED.min(segment);
        for (datagram, slot) in datagrams.iter().zip(self.slot.chunks_mut(segment)) {
            slot[..edited].copy_from_slice(&datagram[..edited]);
        }
        let train = Train {
            slot: Slot(0),
            start: 0,
            len: (segment * datagrams.len()) as u32,
            from: PEER.parse().expect("an address"),
            segment: segment as u16,
            tos: 0,
            received_ns: 0,
            flaw: None,
        };
        let report = self.ingress.train(&world, &train, &mut self.slot, &mut self.out);
        self.ingress.flush(&mut self.out);
        assert_eq!(report.packets, datagrams.len() as u64);
        black_box(self.out.frames());
        self.out.clear();
    }
}

fn view() -> View {
    let peers = (0..10u8).map(|index| Peer {
        index: PeerIndex(u32::from(index)),
        name: "peer".into(),
        endpoint: SocketAddr::from(([192, 0, 2, index], 8285)),
        subnets: vec![network([10, 10, index, 0])],
    });
    View::new(Overlay {
        peers: peers.skip(1).collect(),
        local: vec![network([10, 10, 0, 0])],
        addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 10, 0, 0))],
    })
}

fn network(address: [u8; 4]) -> IpNet {
    IpNet::new_assert(IpAddr::from(address), 24)
}

criterion_group!(benches, egress, ingress);
criterion_main!(benches);
