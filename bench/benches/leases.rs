//! What it takes to follow as many leases as a flannel network can have, and how much memory.

#![allow(missing_docs, reason = "criterion's macros document nothing")]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ipnet::{IpNet, Ipv4Net};
use std::hint::black_box;
use std::net::Ipv4Addr;
use twill::subnet::Reconciler;
use twill::subnet::etcd::{Entry, Event, KeyList, LeaseAttrs, LeaseTable, Own, Position, Prefix};
use twill_datapath::route::View;

/// Leases of /24 from 10.0.0.0/8, all but the first.
const LEASES: u32 = 65_000;
const PORT: u16 = 8285;

fn prefix() -> Prefix {
    Prefix::new("/coreos.com/network")
}

fn own() -> Own {
    let subnets = subnet(0).into();
    let attrs = LeaseAttrs { public_ip: Ipv4Addr::new(192, 0, 2, 1).into() };
    let networks = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8).into();
    Own { networks, subnets, key: prefix().lease(subnets).into(), attrs, local: Vec::new() }
}

fn subnet(lease: u32) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::from(0x0a00_0000 | (lease << 8)), 24)
}

fn entry(lease: u32, revision: i64) -> Entry {
    let public_ip = Ipv4Addr::from(0xac10_0000 | lease).into();
    Entry {
        key: prefix().lease(subnet(lease).into()).into(),
        value: LeaseAttrs { public_ip }.value().into(),
        revision,
        lease: i64::from(lease) + 1,
    }
}

fn snapshot() -> KeyList {
    let entries = (1..=LEASES).map(|lease| entry(lease, i64::from(lease))).collect();
    let at = Position { cluster: 1, term: 2, revision: i64::from(LEASES) };
    KeyList { entries, at }
}

/// A gateway's whole way from a list of leases to what workers look up.
struct Node {
    table: LeaseTable,
    reconciler: Reconciler,
}

impl Node {
    fn new() -> Self {
        let subnet = subnet(0);
        let reconciler = Reconciler::new(vec![IpNet::V4(subnet)], vec![subnet.addr().into()]);
        Self { table: LeaseTable::new(own()), reconciler }
    }

    fn list(&mut self, snapshot: &KeyList) -> View {
        self.table.listed(snapshot);
        self.view()
    }

    fn change(&mut self, events: &[Event]) -> View {
        self.table.changed(events);
        self.view()
    }

    fn view(&mut self) -> View {
        self.reconciler.apply(self.table.peers(PORT)).expect("fewer than the most");
        self.reconciler.view()
    }
}

fn leases(criterion: &mut Criterion) {
    state_memory();
    let snapshot = snapshot();
    let listed = || {
        let mut node = Node::new();
        node.list(&snapshot);
        node
    };
    let mut group = criterion.benchmark_group("leases/65000");
    group.sample_size(10);
    group.bench_function("list", |bencher| {
        bencher.iter_batched(
            Node::new,
            |mut node| black_box(node.list(&snapshot)),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("one moves", |bencher| {
        let moved = Entry { value: entry(LEASES + 7, 0).value, ..entry(7, 1 << 40) };
        bencher.iter_batched(
            listed,
            |mut node| black_box(node.change(&[Event::Put(moved.clone())])),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("all go", |bencher| {
        let gone: Vec<_> = (1..=LEASES)
            .map(|lease| Event::Delete { key: entry(lease, 0).key, revision: 1 << 40 })
            .collect();
        bencher.iter_batched(
            listed,
            |mut node| black_box(node.change(&gone)),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// Prints how much memory a gateway has for them, the list from the store not counted.
fn state_memory() {
    let snapshot = snapshot();
    let before = resident_kib();
    let mut node = Node::new();
    let view = node.list(&snapshot);
    let after = resident_kib();
    println!("leases/65000/memory    {} MiB resident", (after - before) >> 10);
    black_box((node.table, view));
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

criterion_group!(benches, leases);
criterion_main!(benches);
