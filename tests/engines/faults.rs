//! What the kernel refuses, and what must come of it: nothing is lost that could leave, nothing
//! leaves twice, and every loss is reported.

use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};
use std::io::{Write, stderr};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{process, thread};
use twill::engine::EngineKind;
use twill::socket;
use twill::sys::sockopt;
use twill_datapath::offload::feature::Feature;
use twill_testbed::rig::{
    BEYOND, PATIENCE, Plan, Rig, assert_nothing_more, datagrams_of, every_engine, failed,
    frame_bytes, numbered, payload_of, train_bytes,
};
use twill_testbed::snmp;

#[test]
fn a_run_that_the_socket_refuses_leaves_one_by_one_exactly_once() {
    every_engine("a_run_that_the_socket_refuses_leaves_one_by_one", Plan::default(), |rig| {
        let (peer, other) = (rig.peer(2), rig.peer(3));
        let to = [&peer, &other].map(|socket| socket.local_addr().unwrap());
        // Linux refuses UDP_SEGMENT with EINVAL on a socket that sends without checksums.
        sockopt::set_int(rig.udp.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        let packets: Vec<_> =
            (0..40).map(|number| (to[usize::from(number) % 2], numbered(number, 700))).collect();

        let outcome = rig.send(&packets);

        assert!(outcome.failures().is_empty(), "{:?}", outcome.failures());
        for (parity, socket) in [&peer, &other].into_iter().enumerate() {
            let expected: Vec<_> =
                packets.iter().skip(parity).step_by(2).map(|(_, packet)| packet.clone()).collect();
            assert_eq!(datagrams_of(socket, 20), expected);
        }
        let runs = if rig.has(Feature::Gso) { 2 } else { 0 };
        assert_eq!((u64::from(outcome.replayed), rig.stats().gso_replays), (runs, runs));
        assert_eq!(rig.stats().gso_demoted_peers, runs);
    });
}

#[test]
fn datagrams_beyond_the_path_are_reported() {
    every_engine("datagrams_beyond_the_path_are_reported", Plan::default(), |rig| {
        rig.near.ip("route add 192.0.2.3/32 dev under mtu 1000").unwrap();
        let (wide, narrow) = (rig.peer(2), rig.peer(3));
        let to = [&wide, &narrow].map(|socket| socket.local_addr().unwrap());
        let packets: Vec<_> =
            (0..20).map(|number| (to[usize::from(number) % 2], numbered(number, 1200))).collect();

        let outcome = rig.send(&packets);

        assert_eq!(datagrams_of(&wide, 10).len(), 10);
        assert_nothing_more(&narrow);
        assert_eq!(failed(&outcome), 10);
        assert!(outcome.failures().iter().all(|failure| failure.errno == libc::EMSGSIZE));
        assert_eq!(socket::path_to(to[1]).unwrap().mtu, 1000);
        assert_eq!(socket::path_to(to[0]).unwrap().mtu, 1500);
        assert_eq!(rig.stats().gso_demoted_peers, u64::from(rig.has(Feature::Gso)));
    });
}

#[test]
fn datagrams_beyond_the_path_that_may_be_fragmented_leave_at_their_place() {
    every_engine("datagrams_beyond_the_path_leave_at_their_place", Plan::default(), |rig| {
        rig.near.ip("route add 192.0.2.3/32 dev under mtu 1000").unwrap();
        let peer = rig.peer(3);
        let to = peer.local_addr().unwrap();
        let size = |number| if number % 3 == 0 { 1200 } else { 300 };
        let packets: Vec<_> = (0..50).map(|number| (to, numbered(number, size(number)))).collect();

        let outcome = rig.send_fragmentable(&packets);

        assert_eq!(failed(&outcome), 0);
        let expected: Vec<_> = packets.iter().map(|(_, packet)| packet.clone()).collect();
        assert_eq!(datagrams_of(&peer, 50), expected);
        // Fragmenting is for those alone: one that may not be is refused as before.
        assert_eq!(failed(&rig.send(&packets[..2])), 1);
    });
}

#[test]
fn datagrams_beyond_the_path_are_reported_by_any_socket_in_either_family() {
    for plan in Plan::by_family() {
        every_engine("datagrams_beyond_the_path_are_reported_in_either_family", plan, |rig| {
            let peer = rig.peer(2);
            let to = peer.local_addr().unwrap();
            rig.near.ip(&format!("route add {} dev under mtu 1300", to.ip())).unwrap();
            let packets: Vec<_> = (0..10).map(|number| (to, numbered(number, 1300))).collect();

            let outcome = rig.send(&packets);

            assert_eq!(failed(&outcome), 10);
            assert!(outcome.failures().iter().all(|failure| failure.errno == libc::EMSGSIZE));
            assert_eq!(socket::path_to(to).unwrap().mtu, 1300);
            assert_eq!(failed(&rig.send_fragmentable(&packets[7..8])), 0);
            assert_eq!(datagrams_of(&peer, 1), [numbered(7, 1300)]);
            assert_eq!(failed(&rig.send(&packets[..1])), 1, "fragmenting is off again");
        });
    }
}

#[test]
fn a_run_that_fits_the_path_leaves_again_after_one_that_did_not() {
    every_engine("a_run_that_fits_leaves_again_after_one_that_did_not", Plan::default(), |rig| {
        rig.near.ip("route add 192.0.2.3/32 dev under mtu 1000").unwrap();
        let peer = rig.peer(3);
        let to = peer.local_addr().unwrap();
        let long: Vec<_> = (0..10).map(|number| (to, numbered(number, 1200))).collect();
        let short: Vec<_> = (0..10).map(|number| (to, numbered(number, 900))).collect();

        assert_eq!(failed(&rig.send(&long)), 10);
        assert_eq!(failed(&rig.send(&short)), 0);

        let expected: Vec<_> = short.into_iter().map(|(_, packet)| packet).collect();
        assert_eq!(datagrams_of(&peer, 10), expected);
    });
}

#[test]
fn a_storm_of_icmp_errors_reaches_neither_sends_nor_receives() {
    every_engine("a_storm_of_icmp_errors", Plan::default(), |rig| {
        rig.far.sysctl("net.ipv4.icmp_ratelimit", "0").unwrap();
        let nobody = SocketAddr::from(([192, 0, 2, 3], 9));
        let packets: Vec<_> = (0..20).map(|number| (nobody, numbered(number, 100))).collect();
        let peer = rig.peer(2);

        let deadline = Instant::now() + PATIENCE;
        while snmp::counter("Icmp", "InDestUnreachs") < 100 {
            assert!(Instant::now() < deadline, "no ICMP error arrives");
            assert_eq!(failed(&rig.send(&packets)), 0);
            peer.send_to(b"in between", rig.plan.listen).unwrap();
            let trains = rig.trains(10);
            assert!(trains.iter().all(|(_, bytes)| bytes == b"in between"));
        }

        assert_eq!(rig.stats().socket_errors, 0);
        assert_eq!(rig.stats().gso_demoted_peers, 0);
    });
}

#[test]
fn a_destination_that_is_refused_leaves_the_others_alone() {
    every_engine("a_destination_that_is_refused_leaves_the_others_alone", Plan::default(), |rig| {
        rig.near
            .ip("route add unreachable 198.51.100.1
                 route add prohibit 198.51.100.2
                 route add blackhole 198.51.100.3")
            .unwrap();
        rig.near.run("iptables", &["-w", "-A", "OUTPUT", "-d", "192.0.2.4", "-j", "DROP"]).unwrap();
        let bad: [(SocketAddr, i32); 5] = [
            ("198.51.100.1:1".parse().unwrap(), libc::EHOSTUNREACH),
            ("198.51.100.2:1".parse().unwrap(), libc::EACCES),
            ("198.51.100.3:1".parse().unwrap(), libc::EINVAL),
            ("203.0.113.1:1".parse().unwrap(), libc::ENETUNREACH),
            ("192.0.2.4:1".parse().unwrap(), libc::EPERM),
        ];
        let peer = rig.peer(2);
        let to = peer.local_addr().unwrap();
        for (bad, errno) in bad {
            let packets: Vec<_> = (0..30)
                .map(|number| (if number % 3 == 1 { bad } else { to }, numbered(number, 300)))
                .collect();

            let outcome = rig.send(&packets);

            let good = packets.iter().filter(|(address, _)| *address == to);
            let expected: Vec<_> = good.map(|(_, packet)| packet.clone()).collect();
            assert_eq!(datagrams_of(&peer, 20), expected, "{bad}");
            assert_eq!(failed(&outcome), 10, "{bad}");
            assert!(
                outcome.failures().iter().all(|failure| failure.errno == errno),
                "{bad}: {:?}",
                outcome.failures()
            );
        }
        assert!(rig.send(&[(to, numbered(0, 50)), (to, numbered(1, 50))]).failures().is_empty());
    });
}

#[test]
fn unreachable_ports_never_end_the_loop() {
    every_engine("unreachable_ports_never_end_the_loop", Plan::default(), |rig| {
        let peer = rig.peer(2);
        let nobody = SocketAddr::new(peer.local_addr().unwrap().ip(), 1);
        rig.far.sysctl("net.ipv4.icmp_ratelimit", "0").unwrap();

        for number in 0..200 {
            assert!(rig.send(&[(nobody, numbered(number, 40))]).failures().is_empty());
            rig.engine.receive(&mut rig.inbox, Some(Duration::ZERO)).unwrap();
            rig.engine.release(&mut rig.inbox);
        }

        peer.send_to(&[1; 40], rig.plan.listen).unwrap();
        assert_eq!(rig.trains(40).len(), 1);
    });
}

#[test]
fn a_wire_slower_than_the_worker_loses_what_it_reports_and_nothing_else() {
    let plan = Plan { socket_buffer: 20_000, ..Plan::default() };
    every_engine("a_wire_slower_than_the_worker_loses_what_it_reports", plan, |rig| {
        let shaped = ["qdisc", "add", "dev", "under", "root", "tbf", "rate", "800kbit"];
        let limits = ["burst", "3000", "limit", "1000000"];
        rig.near.run("tc", &[&shaped[..], &limits[..]].concat()).unwrap();
        let peer = rig.peer(2);
        // All of them may arrive before the first is read.
        set_socket_recv_buffer_size_force(&peer, 1 << 20).unwrap();
        let to = peer.local_addr().unwrap();
        let packets: Vec<_> = (0..200).map(|number| (to, numbered(number, 1000))).collect();

        let outcome = rig.send(&packets);

        assert!(failed(&outcome) > 0, "the wire was too fast for this test");
        assert!(outcome.failures().iter().all(|failure| failure.errno == libc::EAGAIN));
        let arrived = datagrams_of(&peer, packets.len() - failed(&outcome));
        assert!(arrived.is_sorted(), "in order");
    });
}

#[test]
fn what_the_kernel_drops_for_want_of_room_is_counted() {
    let plan = Plan { socket_buffer: 4096, ..Plan::default() };
    every_engine("what_the_kernel_drops_for_want_of_room_is_counted", plan, |rig| {
        const COUNT: usize = 500;
        let peer = rig.peer(2);
        for number in 0..COUNT as u16 {
            peer.send_to(&numbered(number, 100), rig.plan.listen).unwrap();
        }

        let arrived = drain(rig);
        // The counter travels with the next datagram that finds room.
        peer.send_to(&numbered(0, 100), rig.plan.listen).unwrap();
        let arrived = arrived + rig.trains(100).len();

        assert!(arrived < COUNT, "the socket took everything");
        // The baseline does not ask for the counter.
        if rig.has(Feature::Gro) {
            assert_eq!(arrived as u64 + rig.stats().socket_overflows, COUNT as u64 + 1);
        }
    });
}

#[test]
fn a_ring_without_buffers_is_armed_again_at_once() {
    // More than any engine has buffers, and than a turn takes.
    const COUNT: u16 = 200;
    every_engine("a_ring_without_buffers_is_armed_again_at_once", Plan::default(), |rig| {
        let (peer, application) = (rig.peer(2), rig.application());
        for number in 0..COUNT {
            peer.send_to(&numbered(number, 100), rig.plan.listen).unwrap();
            application.send_to(&numbered(number, 60), (BEYOND, 9)).unwrap();
        }

        let header = rig.header_len();
        let (mut datagrams, mut payloads) = (Vec::new(), Vec::new());
        while datagrams.len() < COUNT.into() || payloads.len() < COUNT.into() {
            // All is there: a turn that waits for longer stands still.
            rig.engine.receive(&mut rig.inbox, Some(Duration::from_millis(50))).unwrap();
            let (kind, stats) = (rig.kind, rig.stats());
            assert!(!rig.inbox.is_empty(), "{kind} found nothing to do: {stats:?}");
            for train in &rig.inbox.trains {
                datagrams.push(train_bytes(&mut *rig.engine, train));
            }
            for frame in &rig.inbox.frames {
                let bytes = frame_bytes(&mut *rig.engine, frame);
                payloads.push(payload_of(&bytes[header..]).to_vec());
            }
            rig.engine.release(&mut rig.inbox);
        }

        let sent = |len| (0..COUNT).map(|number| numbered(number, len)).collect::<Vec<_>>();
        assert!(datagrams == sent(100), "datagrams are lost or out of order");
        assert!(payloads == sent(60), "frames are lost or out of order");
        if rig.kind == EngineKind::Uring {
            let stats = rig.stats();
            assert!(stats.no_buffers > 0 && stats.rearmed > 0, "{stats:?}");
            assert_eq!(stats.cq_overflows, 0, "{stats:?}");
        }
    });
}

#[test]
fn completions_that_the_kernel_lost_end_neither_the_engine_nor_an_operation() {
    every_engine("completions_that_the_kernel_lost", Plan::default(), |rig| {
        if rig.kind != EngineKind::Uring {
            return;
        }
        let (peer, application) = (rig.peer(2), rig.application());
        peer.send_to(&numbered(1, 50), rig.plan.listen).unwrap();
        assert_eq!(rig.trains(50).len(), 1);
        let _in_time = hang_ends_the_process();
        // From now on on this thread, looking without a wait ends as if completions were lost. The engine
        // does so only when the kernel has something.
        lose_completions();
        peer.send_to(&numbered(2, 50), rig.plan.listen).unwrap();

        while rig.stats().cq_overflows == 0 {
            rig.engine.receive(&mut rig.inbox, Some(Duration::ZERO)).unwrap();
        }

        assert!(rig.inbox.is_empty());
        let stats = rig.stats();
        assert_eq!(stats.cq_overflows, 1, "{stats:?}");
        assert_eq!(stats.rearmed, 3, "{stats:?}");
        application.send_to(&numbered(2, 60), (BEYOND, 9)).unwrap();
        for number in 3..102 {
            peer.send_to(&numbered(number, 50), rig.plan.listen).unwrap();
            application.send_to(&numbered(number, 60), (BEYOND, 9)).unwrap();
        }
        let (mut trains, mut frames) = (0, 0);
        while trains < 100 || frames < 100 {
            rig.engine.receive(&mut rig.inbox, None).unwrap();
            trains += rig.inbox.trains.len();
            frames += rig.inbox.frames.len();
            rig.engine.release(&mut rig.inbox);
        }
        assert_eq!((trains, frames), (100, 100), "each arrives once");
        rustix::io::write(&rig.wake, &1u64.to_ne_bytes()).unwrap();
        rig.engine.receive(&mut rig.inbox, None).unwrap();
    });
}

/// Ends this process, which is to fail and not to hang, unless the sender is dropped in time: a
/// thread that waits without a timeout cannot be made to panic.
fn hang_ends_the_process() -> mpsc::Sender<()> {
    let (in_time, watch) = mpsc::channel();
    thread::spawn(move || {
        if watch.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = writeln!(stderr(), "completions_that_the_kernel_lost: it waits for ever");
            process::exit(1);
        }
    });
    in_time
}

/// Has io_uring_enter fail with EBADR on this thread whenever it waits for no completion.
fn lose_completions() {
    let none = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, 0).unwrap();
    let calls = [(libc::SYS_io_uring_enter, vec![SeccompRule::new(vec![none]).unwrap()])];
    let filter = SeccompFilter::new(
        calls.into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EBADR as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    apply_filter(&program).unwrap();
}

/// Takes what has arrived so far; how many datagrams.
fn drain(rig: &mut Rig) -> usize {
    let mut arrived = 0;
    loop {
        rig.engine.receive(&mut rig.inbox, Some(Duration::from_millis(20))).unwrap();
        let trains = rig.inbox.trains.len();
        rig.engine.release(&mut rig.inbox);
        if trains == 0 {
            return arrived;
        }
        arrived += trains;
    }
}
