//! Look-up and build of the route table: it must not matter how many leases there are.

#![allow(missing_docs, reason = "criterion's macros document nothing")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ipnet::{IpNet, Ipv4Net};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use twill_datapath::route::{Holder, Overlay, Peer, PeerIndex, Table, View};

/// Destinations per measurement, as many as a batch of frames asks for.
const PROBES: usize = 64;

/// Leases of /24 from 10.0.0.0/8, as flannel cuts them.
fn leases(count: u32) -> impl Iterator<Item = Ipv4Net> {
    (0..count).map(|lease| Ipv4Net::new_assert(Ipv4Addr::from(0x0a00_0000 | (lease << 8)), 24))
}

fn table(count: u32) -> Table {
    Table::build(
        leases(count)
            .enumerate()
            .map(|(index, lease)| (IpNet::V4(lease), Holder::Peer(PeerIndex(index as u32)))),
    )
}

fn look_up(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route/look-up");
    for count in [10, 1_000, 10_000, 65_000] {
        let table = table(count);
        let mut random = SmallRng::seed_from_u64(7);
        let destinations: Vec<_> = (0..1 << 14)
            .map(|_| Ipv4Addr::from(0x0a00_0000 | random.random_range(0..count) << 8 | 5))
            .collect();
        group.throughput(Throughput::Elements(PROBES as u64));
        let mut batches = destinations.chunks_exact(PROBES).cycle();
        group.bench_function(format!("{count} leases, random"), |bencher| {
            bencher.iter(|| {
                let batch = batches.next().expect("the batches repeat");
                for destination in batch {
                    black_box(table.v4(*destination));
                }
            });
        });
    }
    group.finish();
}

fn build(criterion: &mut Criterion) {
    let peers: Vec<_> = leases(65_000)
        .enumerate()
        .map(|(index, lease)| Peer {
            index: PeerIndex(index as u32),
            name: "peer".into(),
            endpoint: (IpAddr::V4(Ipv4Addr::from(0xac10_0000 | index as u32)), 8285).into(),
            subnets: vec![IpNet::V4(lease)],
        })
        .collect();
    let mut group = criterion.benchmark_group("route/build");
    group.sample_size(20);
    group.bench_function("65000 leases", |bencher| {
        bencher.iter_batched(
            || Overlay { peers: peers.clone(), ..Overlay::default() },
            View::new,
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, look_up, build);
criterion_main!(benches);
