use super::*;
use crate::engine::output::fault::{Faulty, Sent};
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use twill_datapath::batch::{Destination, Piece, Pieces, RunLimits, Slot, Source};
use twill_datapath::route::PeerIndex;

/// Errors that the kernel gives to a run and not to its datagrams.
const OF_RUNS: [i32; 3] = [libc::EIO, libc::EINVAL, libc::EMSGSIZE];

#[test]
fn a_run_leaves_in_one_message_and_a_single_datagram_without_control_data() {
    let batch = Batch::new(&[(1, 100), (1, 100), (1, 30), (2, 40)]);
    let mut kernel = Faulty::new(|_| None);

    let after = batch.send(&mut kernel, &mut Transmitter::new(true, None));

    let shapes = kernel.taken.iter().map(|sent| (sent.datagrams.len(), sent.is_run));
    assert_eq!(shapes.collect::<Vec<_>>(), [(3, true), (1, false)]);
    assert_eq!((kernel.calls, after.stats.syscalls), (1, 1));
}

#[test]
fn every_message_names_its_source_where_sockets_have_two_families() {
    let packets = [(1, 100), (1, 100), (1, 30), (2, 40)];
    let (v4, v6) = (Ipv4Addr::new(192, 0, 2, 9), Ipv6Addr::from(9));
    let to_v4 = Batch::new(&packets);
    let to_v6 = Batch::between(&packets, Batch::destination_v6);
    for (batch, expected) in [(to_v4, v4.to_ipv6_mapped()), (to_v6, v6)] {
        let mut kernel = Faulty::new(|_| None);

        let sources = Some(Sources { v4, v6 });
        let after = batch.send(&mut kernel, &mut Transmitter::new(true, sources));

        let seen = kernel.taken.iter().map(|sent| (sent.datagrams.len(), sent.is_run, sent.source));
        let expected = Some(expected);
        assert_eq!(seen.collect::<Vec<_>>(), [(3, true, expected), (1, false, expected)]);
        assert_eq!(kernel.wire(), batch.expected());
        assert_eq!((kernel.calls, after.stats.syscalls), (1, 1));
    }
}

#[test]
fn a_refused_run_is_replayed_one_by_one_exactly_once() {
    for errno in OF_RUNS {
        let batch = Batch::new(&[(1, 100), (1, 100), (1, 30), (2, 40)]);
        let mut kernel = Faulty::new(|sent: &Sent| sent.is_run.then_some(errno));

        let after = batch.send(&mut kernel, &mut Transmitter::new(true, None));

        assert_eq!(kernel.wire(), batch.expected(), "errno {errno}");
        assert!(after.outcome.failures().is_empty(), "errno {errno}");
        assert_eq!((after.outcome.replayed, after.stats.gso_replays), (1, 1), "errno {errno}");
    }
}

#[test]
fn a_run_that_is_too_long_for_one_path_leaves_the_other_peers_runs_alone() {
    for errno in [libc::EINVAL, libc::EMSGSIZE] {
        let batch = Batch::new(&[(1, 100), (1, 100), (2, 100), (2, 100)]);
        let to_1 = Batch::to(1);
        let mut kernel =
            Faulty::new(|sent: &Sent| (sent.is_run && sent.to == to_1).then_some(errno));
        let mut transmitter = Transmitter::new(true, None);

        batch.send(&mut kernel, &mut transmitter);
        kernel.taken.clear();
        let after = batch.send(&mut kernel, &mut transmitter);

        let runs = kernel.taken.iter().filter(|sent| sent.is_run).map(|sent| sent.to);
        assert_eq!(runs.collect::<Vec<_>>(), [Batch::to(2)], "errno {errno}");
        assert_eq!(after.outcome.replayed, 0, "the second batch knows");
        assert_eq!((after.stats.gso_active, after.stats.gso_demoted_peers), (true, 1));
    }
}

#[test]
fn a_device_that_cannot_checksum_ends_the_runs_of_all() {
    let batch = Batch::new(&[(1, 100), (1, 100), (2, 100), (2, 100)]);
    let mut kernel = Faulty::new(|sent: &Sent| sent.is_run.then_some(libc::EIO));

    let after = batch.send(&mut kernel, &mut Transmitter::new(true, None));

    assert_eq!(kernel.wire(), batch.expected());
    assert_eq!(after.outcome.replayed, 1, "the second run was not tried as one");
    assert!(!after.stats.gso_active);
}

#[test]
fn what_is_too_long_for_its_path_leaves_in_fragments_at_its_place_if_it_may() {
    let batch = Batch::new(&[(1, 50), (1, 200), (1, 200), (1, 60), (2, 200), (2, 70), (1, 200)]);
    let len = |sent: &Sent| sent.datagrams.iter().map(Vec::len).max();
    let mut kernel = Faulty::new(|sent: &Sent| {
        (len(sent) >= Some(200) && !sent.in_fragments).then_some(libc::EMSGSIZE)
    });

    let after = batch.send(&mut kernel, &mut Transmitter::new(true, None));

    let mut expected = batch.expected();
    let bound = expected.remove(4);
    assert_eq!(kernel.wire(), expected);
    assert_eq!(batch.failed(&after.outcome), [bound]);
    assert_eq!(after.outcome.failures()[0].errno, libc::EMSGSIZE);
    let fragmented = kernel.taken.iter().filter(|sent| sent.in_fragments).count();
    assert_eq!(fragmented, 3, "and nothing else");
}

#[test]
fn a_call_that_takes_nothing_and_says_nothing_ends_all_the_same() {
    assert!(some(0).is_err());
    let batch = Batch::new(&[(1, 50), (2, 60)]);
    let mut kernel = Faulty::new(|_| None).at_most(0);

    let after = batch.send(&mut kernel, &mut Transmitter::new(true, None));

    assert_eq!(batch.failed(&after.outcome), batch.expected());
}

#[test]
fn runs_in_more_pieces_than_a_chunk_holds_leave_and_a_datagram_in_more_is_given_up() {
    let limits = RunLimits { datagrams: 127, bytes: 65_507 };
    let mut datagrams = Datagrams::new(limits, 8, Pieces::new(1 << 14, 0));
    // Every second byte, so that pieces do not become one.
    let byte = |at: u32| Piece { source: Source::Slot(Slot(0)), offset: 2 * at, len: 1 };
    for (peer, pieces) in [(1, 1500), (1, 1500), (2, 9000), (3, 10)] {
        let pieces: Vec<_> = (0..pieces).map(byte).collect();
        datagrams.push(Batch::destination(peer), &pieces, u16::MAX).unwrap();
    }
    let batch = Batch { datagrams, slot: Bytes(vec![7; 1 << 15]) };
    let mut kernel = Faulty::new(|_| None);

    let after = batch.send(&mut kernel, &mut Transmitter::new(true, None));

    let mut expected = batch.expected();
    let given_up = expected.remove(2);
    assert_eq!(kernel.wire(), expected);
    assert_eq!(batch.failed(&after.outcome), [given_up]);
}

#[test]
fn one_bad_destination_loses_its_own_datagrams_only() {
    for errno in [libc::EPERM, libc::ENETUNREACH, libc::EHOSTUNREACH, libc::ENOMEM, libc::EACCES] {
        let batch = Batch::new(&[(1, 50), (2, 100), (2, 100), (3, 50), (2, 30), (1, 20)]);
        let bad = Batch::to(2);
        let mut kernel = Faulty::new(|sent: &Sent| (sent.to == bad).then_some(errno));

        let after = batch.send(&mut kernel, &mut Transmitter::new(true, None));

        let good: Vec<_> = batch.expected().into_iter().filter(|(to, _)| *to != bad).collect();
        assert_eq!(kernel.wire(), good, "errno {errno}");
        let failed: u16 = after.outcome.failures().iter().map(|failure| failure.count).sum();
        assert_eq!(failed, 3);
        assert!(after.outcome.failures().iter().all(|failure| failure.errno == errno));
    }
}

#[test]
fn a_queue_without_room_is_tried_four_times_and_then_its_datagrams_are_given_up() {
    let batch = Batch::new(&[(1, 50), (2, 60), (3, 70)]);
    let bad = Batch::to(2);
    let mut tries = 0;
    let mut kernel = Faulty::new(|sent: &Sent| {
        tries += usize::from(sent.to == bad);
        (sent.to == bad).then_some(libc::ENOBUFS)
    });

    let after = batch.send(&mut kernel, &mut Transmitter::new(true, None));

    assert_eq!(kernel.wire().len(), 2);
    // The one that ended the first call is not an attempt of its own.
    assert_eq!(tries, 1 + 4);
    assert_eq!(after.outcome.failures().len(), 1);
}

#[test]
fn a_queue_that_drains_in_time_loses_nothing() {
    let batch = Batch::new(&[(1, 50), (2, 60)]);
    let mut refusals = [libc::EAGAIN, libc::ENOBUFS, libc::EINTR, libc::EAGAIN].into_iter();
    let mut kernel = Faulty::new(|_: &Sent| refusals.next());

    let after = batch.send(&mut kernel, &mut Transmitter::new(true, None));

    assert_eq!(kernel.wire(), batch.expected());
    assert_eq!(kernel.waits, 2);
    assert!(after.outcome.failures().is_empty());
}

#[test]
fn a_full_socket_holds_the_worker_up_once_and_not_for_every_message() {
    let packets: Vec<_> = (0..100).map(|number| (number % 7, 50)).collect();
    let batch = Batch::new(&packets);
    let mut kernel = Faulty::new(|_: &Sent| Some(libc::EAGAIN));

    let after = batch.send(&mut kernel, &mut Transmitter::new(true, None));

    assert_eq!(kernel.waits, 3);
    let failed: u16 = after.outcome.failures().iter().map(|failure| failure.count).sum();
    assert_eq!(failed, 100);
}

#[test]
fn runs_are_tried_again_after_a_while() {
    let batch = Batch::new(&[(1, 100), (1, 100)]);
    let mut transmitter = Transmitter::new(true, None);
    batch.send(&mut Faulty::new(|sent: &Sent| sent.is_run.then_some(libc::EIO)), &mut transmitter);

    transmitter.state.restore(Instant::now() + Duration::from_secs(3600));
    let mut kernel = Faulty::new(|_| None);
    let after = batch.send(&mut kernel, &mut transmitter);

    assert!(kernel.taken[0].is_run && after.stats.gso_active);
}

proptest! {
    /// Whatever is refused, each datagram is taken once or reported once, and every peer's
    /// datagrams stay in order.
    #[test]
    fn every_datagram_leaves_or_fails_exactly_once(
        packets in proptest::collection::vec((0u16..5, 20u32..60), 1..300),
        refusals in proptest::collection::vec(proptest::option::weighted(0.3, 0usize..9), 1..50),
        most in 1usize..70,
        gso in any::<bool>(),
    ) {
        const ERRNOS: [i32; 9] = [
            libc::EIO, libc::EINVAL, libc::EMSGSIZE, libc::ENOBUFS, libc::EAGAIN, libc::EINTR,
            libc::EPERM, libc::ENETUNREACH, libc::ENOMEM,
        ];
        let batch = Batch::new(&packets);
        let mut script = refusals.into_iter().chain([None]).cycle();
        let mut kernel = Faulty::new(|_: &Sent| script.next().flatten().map(|n| ERRNOS[n]))
            .at_most(most);

        let after = batch.send(&mut kernel, &mut Transmitter::new(gso, None));

        let mut failed = batch.failed(&after.outcome);
        let mut taken = kernel.wire();
        for datagram in batch.expected() {
            let next = taken.iter().position(|(to, _)| *to == datagram.0);
            if next.is_some_and(|next| taken[next] == datagram) {
                taken.remove(next.unwrap());
            } else {
                let at = failed.iter().position(|failed| *failed == datagram);
                prop_assert!(at.is_some(), "{datagram:?} is lost or out of order");
                failed.swap_remove(at.unwrap());
            }
        }
        prop_assert!(taken.is_empty() && failed.is_empty(), "{taken:?} {failed:?} left twice");
        prop_assert!(gso || kernel.taken.iter().all(|sent| !sent.is_run));
    }
}

/// A batch of numbered datagrams, and the slot that their bytes lie in.
struct Batch {
    datagrams: Datagrams,
    slot: Bytes,
}

struct Bytes(Vec<u8>);

impl Slots for Bytes {
    fn slot(&self, _: Slot) -> &[u8] {
        &self.0
    }
}

/// What one send reported.
struct After {
    outcome: Outcome,
    stats: EngineStats,
}

impl Batch {
    /// Datagrams by peer and length, each in two pieces as split packets are.
    fn new(packets: &[(u16, u32)]) -> Self {
        Self::between(packets, Self::destination)
    }

    fn between(packets: &[(u16, u32)], destination: fn(u16) -> Destination) -> Self {
        let limits = RunLimits { datagrams: 127, bytes: 65_507 };
        let mut datagrams = Datagrams::new(limits, 512, Pieces::new(2048, 4096));
        let mut slot = Vec::new();
        for (number, (peer, len)) in packets.iter().enumerate() {
            let destination = destination(*peer);
            let (header, bytes) = datagrams.pieces.header(8).unwrap();
            bytes.copy_from_slice(&number.to_be_bytes());
            let offset = slot.len() as u32;
            slot.resize(slot.len() + *len as usize - 8, number as u8);
            let payload = Piece { source: Source::Slot(Slot(0)), offset, len: len - 8 };
            datagrams.push(destination, &[header, payload], u16::MAX).unwrap();
        }
        Self { datagrams, slot: Bytes(slot) }
    }

    /// What goes to an odd peer may be fragmented.
    fn destination(peer: u16) -> Destination {
        let may_fragment = peer % 2 == 1;
        Destination { peer: PeerIndex(peer.into()), to: Self::to(peer), may_fragment }
    }

    /// The same to an IPv6 address.
    fn destination_v6(peer: u16) -> Destination {
        let to = (Ipv6Addr::LOCALHOST, peer).into();
        Destination { to, ..Self::destination(peer) }
    }

    fn to(peer: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], peer))
    }

    fn send(&self, calls: &mut impl SendCalls, transmitter: &mut Transmitter) -> After {
        let mut after = After { outcome: Outcome::new(1024), stats: EngineStats::default() };
        let memory = Memory::new(&self.slot, self.datagrams.pieces.headers());
        transmitter.send(calls, &self.datagrams, &memory, &mut after.outcome, &mut after.stats);
        after
    }

    /// All datagrams in the order in which they must leave.
    fn expected(&self) -> Vec<(SocketAddr, Vec<u8>)> {
        let runs = self.datagrams.runs().iter().enumerate();
        runs.flat_map(|(item, run)| (0..run.datagrams).map(move |index| self.datagram(item, index)))
            .collect()
    }

    /// The datagrams that were given up.
    fn failed(&self, outcome: &Outcome) -> Vec<(SocketAddr, Vec<u8>)> {
        let failures = outcome.failures().iter();
        failures
            .flat_map(|failure| {
                let indexes = failure.first..failure.first + failure.count;
                indexes.map(|index| self.datagram(failure.item as usize, index))
            })
            .collect()
    }

    fn datagram(&self, item: usize, index: u16) -> (SocketAddr, Vec<u8>) {
        let run = &self.datagrams.runs()[item];
        let mut bytes = vec![0; run.datagram_len(index) as usize];
        let from = u32::from(run.segment) * u32::from(index);
        self.datagrams.pieces.copy(&run.chain, from, &mut bytes, |piece, out| {
            out.copy_from_slice(&self.slot.0[piece.offset as usize..][..out.len()]);
        });
        (run.destination.to, bytes)
    }
}
