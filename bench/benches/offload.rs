//! What offloads cost: checksums, cutting a super-packet, joining packets.

#![allow(missing_docs, reason = "criterion's macros document nothing")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use twill_bench::{tcp_segment, udp_packet};
use twill_datapath::batch::{Frames, Piece, Pieces, Slot, Source};
use twill_datapath::offload::coalesce::Coalescer;
use twill_datapath::offload::split::{MAX_HEADER_LEN, Plan};
use twill_datapath::offload::vnet_hdr::VnetHdr;
use twill_datapath::wire::checksum::Sum;
use twill_testbed::packets::tso;

fn checksum(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for len in [64, 1472, 65_507] {
        let bytes: Vec<u8> = (0..len).map(|index| index as u8).collect();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_with_input(BenchmarkId::from_parameter(len), &bytes, |bencher, bytes| {
            bencher.iter(|| Sum::default().bytes(black_box(bytes)).finish());
        });
    }
    group.finish();
}

fn split(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("split");
    for (segments, segment) in [(2, 1420), (45, 1420), (64, 536)] {
        let frame =
            tso(segment, &tcp_segment([10, 10, 0, 5], [10, 10, 1, 5], 0, segments * segment));
        let (header, packet) = VnetHdr::parse(&frame).expect("a frame");
        group.throughput(Throughput::Elements(segments as u64));
        group.bench_function(format!("{segments} segments of {segment} bytes"), |bencher| {
            let mut room = [0; MAX_HEADER_LEN];
            bencher.iter(|| {
                let plan = Plan::parse(header, black_box(packet)).expect("a super-packet");
                for index in 0..plan.segments() {
                    black_box(plan.write_header(packet, index, &mut room));
                }
                plan.segments()
            });
        });
    }
    group.finish();
}

fn coalesce(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("coalesce");
    let stream: Vec<_> =
        (0..45).map(|index| tcp_segment([10, 10, 1, 5], [10, 10, 0, 5], index, 1420)).collect();
    let flow: Vec<_> = (0..64).map(|_| udp_packet([10, 10, 1, 5], [10, 10, 0, 5], 64)).collect();
    let flows: Vec<_> =
        (0..64).map(|index| udp_packet([10, 10, 1, index % 16], [10, 10, 0, 5], 64)).collect();
    for (name, packets) in [
        ("45 segments of one TCP stream", stream),
        ("64 UDP packets of one flow", flow),
        ("64 UDP packets of 16 flows, in turn", flows),
    ] {
        group.throughput(Throughput::Elements(packets.len() as u64));
        group.bench_function(name, |bencher| {
            let mut coalescer = Coalescer::new(true, true, true, 256);
            let mut out = Frames::new(256, Pieces::new(4096, 1 << 16));
            bencher.iter(|| {
                for (slot, packet) in packets.iter().enumerate() {
                    let source = Source::Slot(Slot(slot as u16));
                    let piece = Piece { source, offset: 0, len: packet.len() as u32 };
                    coalescer.push(black_box(packet), piece, &mut out).expect("room");
                }
                coalescer.flush(&mut out);
                let frames = out.frames().len();
                out.clear();
                frames
            });
        });
    }
    group.finish();
}

criterion_group!(benches, checksum, split, coalesce);
criterion_main!(benches);
