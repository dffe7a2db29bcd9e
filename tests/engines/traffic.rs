//! Bytes both ways.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use twill::engine::{Engine, EngineKind};
use twill::sys::sockopt;
use twill_datapath::batch::{
    Datagrams, Destination, Flaw, Frames, Inbox, Outcome, Piece, Pieces, RunLimits, Source,
};
use twill_datapath::offload::feature::Feature;
use twill_datapath::route::PeerIndex;
use twill_testbed::missing;
use twill_testbed::rig::{
    BATCH, BEYOND, MTU, PATIENCE, Plan, Rig, datagrams_of, every_engine, every_rig, frame_bytes,
    lengths, numbered, packet_of, packet_to, payload_of, push_frame, train_bytes,
};

/// Bytes of IPv4 and UDP headers.
const HEADERS: usize = 28;

#[test]
fn ports_that_an_engine_gives_back_serve_the_next_one() {
    // Frames of the classic engine have no virtio header, those of all others have one.
    let others = EngineKind::ALL.into_iter().filter(|kind| *kind != EngineKind::Classic);
    for next in others {
        every_rig("ports_that_an_engine_gives_back", Plan::default(), |mut rig| {
            let (application, peer) = (rig.application(), rig.peer(2));
            let listen = rig.plan.listen;
            let exchange = |rig: &mut Rig, payload: &[u8]| {
                application.send_to(payload, (BEYOND, 9)).unwrap();
                let frames = rig.frames(1);
                peer.send_to(payload, listen).unwrap();
                let trains = rig.trains(payload.len());
                (frames, trains.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>())
            };
            let kind = if rig.kind == EngineKind::Classic { EngineKind::Classic } else { next };
            exchange(&mut rig, b"first");

            let mut rig = match rig.into_successor(kind) {
                Ok(rig) => rig,
                Err(error) => return missing::skip(kind.name(), &error),
            };

            let (frames, trains) = exchange(&mut rig, b"second");
            assert_eq!(frames.len(), 1);
            assert_eq!(payload_of(&frames[0]), b"second");
            assert_eq!(trains, [b"second"]);
        });
    }
}

#[test]
fn nothing_is_lost_doubled_or_reordered_while_engines_follow_each_other_under_load() {
    every_rig("engines_follow_each_other_under_load", Plan::without_offloads(), |mut rig| {
        const COUNT: u16 = 3000;
        const SUCCESSIONS: usize = 10;
        // Fewer than the device's queue takes (500) while nobody reads.
        const UNDER_WAY: usize = 300;
        let (application, peer) = (rig.application(), rig.peer(2));
        let (listen, kind) = (rig.plan.listen, rig.kind);
        let received = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let seen = Arc::clone(&received);
        let sender = thread::spawn(move || {
            for number in 0..COUNT {
                while seen
                    .iter()
                    .any(|seen| usize::from(number) >= seen.load(Ordering::Relaxed) + UNDER_WAY)
                {
                    thread::yield_now();
                }
                application.send_to(&numbered(number, 60), (BEYOND, 9)).unwrap();
                peer.send_to(&numbered(number, 60), listen).unwrap();
            }
        });
        let header = rig.header_len();
        let (mut frames, mut trains) = (Vec::new(), Vec::new());
        let mut keep = |engine: &mut dyn Engine, inbox: &Inbox| {
            for frame in &inbox.frames {
                frames.push(payload_of(&frame_bytes(engine, frame)[header..]).to_vec());
            }
            trains.extend(inbox.trains.iter().map(|train| train_bytes(engine, train)));
            received[0].store(frames.len(), Ordering::Relaxed);
            received[1].store(trains.len(), Ordering::Relaxed);
            frames.len() >= COUNT.into() && trains.len() >= COUNT.into()
        };

        for succession in 0..SUCCESSIONS {
            rig.engine.receive(&mut rig.inbox, Some(PATIENCE)).unwrap();
            while !rig.inbox.is_empty() {
                assert!(!keep(&mut *rig.engine, &rig.inbox), "all came before the last engine");
                rig.engine.release(&mut rig.inbox);
                rig.engine.receive_last(&mut rig.inbox).unwrap();
            }
            let is_away = kind != EngineKind::Classic && succession % 2 == 0;
            let next = if is_away { EngineKind::Epoll } else { kind };
            rig = rig.into_successor(next).unwrap();
        }
        rig.turns(keep);

        sender.join().unwrap();
        let expected: Vec<_> = (0..COUNT).map(|number| numbered(number, 60)).collect();
        assert!(frames == expected, "from the device: {:?}", numbers(&frames));
        assert!(trains == expected, "from the socket: {:?}", numbers(&trains));
    });
}

#[test]
fn packets_of_every_size_leave_the_device_for_the_wire_unchanged() {
    for plan in Plan::by_family().into_iter().chain([Plan::without_offloads()]) {
        every_engine(
            "packets_of_every_size_leave_the_device_for_the_wire_unchanged",
            plan,
            |rig| {
                let (application, peer) = (rig.application(), rig.peer(2));
                let to = peer.local_addr().unwrap();
                let destination = Destination { peer: PeerIndex(0), to, may_fragment: false };
                let header = rig.header_len();
                let payloads: Vec<_> = lengths(0..=usize::from(MTU) - HEADERS)
                    .enumerate()
                    .map(|(number, len)| numbered(number as u16, len))
                    .collect();
                for payload in &payloads {
                    application.send_to(payload, (BEYOND, 9)).unwrap();
                }

                let limits = RunLimits { datagrams: 63, bytes: 65_507 };
                let mut out = Datagrams::new(limits, 256, Pieces::new(256, 0));
                let mut outcome = Outcome::new(256);
                let mut left = payloads.len();
                rig.turns(|engine, inbox| {
                    out.clear();
                    for frame in &inbox.frames {
                        out.push(destination, &[packet_of(frame, header)], 63).unwrap();
                    }
                    engine.send(&out, &mut outcome);
                    left -= inbox.frames.len();
                    left == 0
                });

                assert!(outcome.failures().is_empty());
                let arrived = datagrams_of(&peer, payloads.len());
                let arrived: Vec<_> = arrived.iter().map(|packet| payload_of(packet)).collect();
                assert_eq!(arrived, payloads);
            },
        );
    }
}

#[test]
fn packets_of_every_size_come_from_the_wire_to_the_device_unchanged() {
    for plan in Plan::by_family().into_iter().chain([Plan::without_offloads()]) {
        every_engine(
            "packets_of_every_size_come_from_the_wire_to_the_device_unchanged",
            plan,
            |rig| {
                let (application, peer) = (rig.application(), rig.peer(2));
                let listen = rig.plan.listen;
                let header = rig.header_len();
                let payloads: Vec<_> = lengths(0..=usize::from(MTU) - HEADERS)
                    .enumerate()
                    .map(|(number, len)| numbered(number as u16, len))
                    .collect();
                for payload in &payloads {
                    peer.send_to(&packet_to(&application, payload), listen).unwrap();
                }

                let mut out = Frames::new(256, Pieces::new(512, 4096));
                let mut outcome = Outcome::new(256);
                let mut left = payloads.len();
                rig.turns(|engine, inbox| {
                    out.clear();
                    for train in &inbox.trains {
                        let from =
                            SocketAddr::new(train.from.ip().to_canonical(), train.from.port());
                        assert_eq!((from, train.flaw), (peer.local_addr().unwrap(), None));
                        let mut pieces = Vec::new();
                        if header > 0 {
                            let (piece, bytes) = out.pieces.header(header).unwrap();
                            bytes.fill(0);
                            pieces.push(piece);
                        }
                        let source = Source::Slot(train.slot);
                        pieces.push(Piece { source, offset: train.start, len: train.len });
                        push_frame(&mut out, &pieces, train.len as usize);
                    }
                    engine.write(&out, &mut outcome);
                    left -= inbox.trains.len();
                    left == 0
                });

                assert!(outcome.failures().is_empty());
                assert_eq!(datagrams_of(&application, payloads.len()), payloads);
            },
        );
    }
}

#[test]
fn a_run_arrives_as_datagrams_of_equal_size_and_costs_one_call() {
    for plan in Plan::by_family() {
        every_engine("a_run_arrives_as_datagrams_of_equal_size", plan, |rig| {
            let peer = rig.peer(2);
            let to = peer.local_addr().unwrap();
            let lengths = [vec![500; 20], vec![123], vec![40; 3]].concat();
            let packets: Vec<_> =
                (0..).zip(lengths).map(|(number, len)| (to, numbered(number, len))).collect();
            let before = rig.stats().syscalls;

            let outcome = rig.send(&packets);

            assert!(outcome.failures().is_empty());
            let expected: Vec<_> = packets.into_iter().map(|(_, packet)| packet).collect();
            assert_eq!(datagrams_of(&peer, expected.len()), expected);
            assert_eq!(rig.stats().syscalls - before, 1);
            assert_eq!(rig.stats().gso_active, rig.has(Feature::Gso));
        });
    }
}

#[test]
fn a_train_is_one_arrival() {
    for plan in Plan::by_family() {
        every_engine("a_train_is_one_arrival", plan, is_one_arrival);
    }

    fn is_one_arrival(rig: &mut Rig) {
        let peer = rig.peer(2);
        // The wire carries what one send made whole, as it does between virtual machines.
        sockopt::set_int(peer.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 1000).unwrap();
        let bytes: Vec<_> = (0..10).flat_map(|number| numbered(number, 1000)).collect();
        let bytes = [bytes, numbered(10, 77)].concat();
        peer.send_to(&bytes, rig.plan.listen).unwrap();

        let trains = rig.trains(bytes.len());

        let shape: Vec<_> =
            trains.iter().map(|(train, bytes)| (train.segment, bytes.len())).collect();
        if rig.has(Feature::Gro) && rig.wire_keeps_trains() {
            assert_eq!(shape, [(1000, 10_077)]);
        } else {
            assert_eq!(shape, [vec![(0, 1000); 10], vec![(0, 77)]].concat());
        }
        assert_eq!(trains.into_iter().flat_map(|(_, bytes)| bytes).collect::<Vec<_>>(), bytes);
    }
}

#[test]
fn the_largest_train_fits() {
    every_engine("the_largest_train_fits", Plan::default(), |rig| {
        let peer = rig.peer(2);
        const SEGMENT: usize = 1040;
        sockopt::set_int(peer.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, SEGMENT as i32).unwrap();
        let bytes = (0..).flat_map(|number| numbered(number, SEGMENT));
        let bytes: Vec<u8> = bytes.take(65_507).collect();
        peer.send_to(&bytes, rig.plan.listen).unwrap();

        let trains = rig.trains(bytes.len());

        assert!(trains.iter().all(|(train, _)| train.flaw.is_none()));
        assert_eq!(trains.into_iter().flat_map(|(_, bytes)| bytes).collect::<Vec<_>>(), bytes);
    });
}

#[test]
fn a_super_packet_is_one_frame_where_the_device_has_them() {
    for plan in [Plan::default(), Plan::without_offloads()] {
        every_engine("a_super_packet_is_one_frame_where_the_device_has_them", plan, |rig| {
            let application = rig.application();
            sockopt::set_int(application.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 1000).unwrap();
            let run = vec![7; 10_000];
            if let Err(error) = application.send_to(&run, (BEYOND, 9)) {
                // Before Linux 6.11 a device that cannot checksum takes no run, only datagrams.
                assert_eq!(error.raw_os_error(), Some(libc::EIO));
                assert!(!rig.has(Feature::Tso), "a device with offloads checksums");
                sockopt::set_int(application.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 0).unwrap();
                for datagram in run.chunks(1000) {
                    application.send_to(datagram, (BEYOND, 9)).unwrap();
                }
            }

            let frames = if rig.has(Feature::Uso) { rig.frames(1) } else { rig.frames(10) };

            let lengths: Vec<_> = frames.iter().map(Vec::len).collect();
            if rig.has(Feature::Uso) {
                assert_eq!(lengths, [10_000 + HEADERS]);
            } else {
                assert_eq!(lengths, [1000 + HEADERS; 10]);
            }
        });
    }
}

#[test]
fn an_arrival_says_when_it_came_and_how_it_was_marked() {
    for plan in Plan::by_family() {
        let (level, option) = match plan.listen {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        every_engine("an_arrival_says_when_it_came_and_how_it_was_marked", plan, |rig| {
            let peer = rig.peer(2);
            sockopt::set_int(peer.as_fd(), level, option, 0x2b).unwrap();
            let before = now_ns();
            peer.send_to(&[1; 40], rig.plan.listen).unwrap();

            let (train, _) = rig.trains(40).remove(0);

            // The baseline asks for neither, as flannel does not.
            if rig.has(Feature::Gro) {
                assert_eq!(train.tos, 0x2b);
                assert!((before..=now_ns()).contains(&train.received_ns));
            }
        });
    }
}

#[test]
fn a_datagram_that_is_too_long_for_its_slot_is_marked() {
    let plan = Plan::without_offloads();
    every_engine("a_datagram_that_is_too_long_for_its_slot_is_marked", plan, |rig| {
        let peer = rig.peer(2);
        peer.send_to(&[1; 4000], rig.plan.listen).unwrap();
        peer.send_to(&[2; 40], rig.plan.listen).unwrap();

        let mut flaws = Vec::new();
        rig.turns(|_, inbox| {
            flaws.extend(inbox.trains.iter().map(|train| train.flaw));
            flaws.len() == 2
        });

        assert_eq!(flaws, [Some(Flaw::MessageTruncated), None]);
    });
}

#[test]
fn more_than_a_batch_arrives_in_order_over_several_turns() {
    for plan in [Plan::default(), Plan::without_offloads()] {
        every_engine("more_than_a_batch_arrives_in_order_over_several_turns", plan, |rig| {
            const COUNT: usize = 5 * BATCH + 3;
            let (application, peer) = (rig.application(), rig.peer(2));
            for number in 0..COUNT as u16 {
                application.send_to(&numbered(number, 60), (BEYOND, 9)).unwrap();
                peer.send_to(&numbered(number, 60), rig.plan.listen).unwrap();
            }

            let header = rig.header_len();
            let (mut frames, mut trains) = (Vec::new(), Vec::new());
            rig.turns(|engine, inbox| {
                assert!(inbox.frames.len() <= BATCH && inbox.trains.len() <= BATCH);
                for frame in &inbox.frames {
                    let from = frame.start as usize + header + HEADERS;
                    frames.push(engine.slot_mut(frame.slot)[from..][..60].to_vec());
                }
                for train in &inbox.trains {
                    let bytes = train_bytes(engine, train);
                    trains.extend(bytes.chunks(60).map(<[u8]>::to_vec));
                }
                frames.len() >= COUNT && trains.len() >= COUNT
            });

            let expected: Vec<_> = (0..COUNT as u16).map(|number| numbered(number, 60)).collect();
            assert_eq!(frames, expected);
            assert_eq!(trains, expected);
        });
    }
}

#[test]
fn a_wait_without_end_after_a_full_batch_brings_the_next_arrivals() {
    every_engine("a_wait_without_end_after_a_full_batch", Plan::without_offloads(), |rig| {
        const COUNT: usize = 3 * BATCH;
        let application = rig.application();
        for number in 0..COUNT as u16 {
            application.send_to(&numbered(number, 60), (BEYOND, 9)).unwrap();
        }
        // It fails instead of standing still.
        let wake = rig.wake.try_clone().unwrap();
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        let waker = thread::spawn(move || {
            let late = is_done.recv_timeout(PATIENCE).is_err();
            rustix::io::write(&wake, &1u64.to_ne_bytes()).unwrap();
            late
        });

        let mut frames = 0;
        while frames < COUNT && !waker.is_finished() {
            rig.engine.receive(&mut rig.inbox, None).unwrap();
            frames += rig.inbox.frames.len();
            rig.engine.release(&mut rig.inbox);
        }

        let _ = done.send(());
        assert!(!waker.join().unwrap(), "{frames} of {COUNT} arrived");
        assert_eq!(frames, COUNT);
    });
}

#[test]
fn slots_are_free_again_after_every_turn() {
    every_engine("slots_are_free_again_after_every_turn", Plan::default(), |rig| {
        let (application, peer) = (rig.application(), rig.peer(2));
        for number in 0..2000 {
            application.send_to(&numbered(number, 30), (BEYOND, 9)).unwrap();
            peer.send_to(&numbered(number, 30), rig.plan.listen).unwrap();

            let (mut frames, mut trains) = (0, 0);
            rig.turns(|_, inbox| {
                frames += inbox.frames.len();
                trains += inbox.trains.len();
                frames == 1 && trains == 1
            });
        }

        assert_eq!(rig.stats().no_buffers, 0);
    });
}

#[test]
fn what_waits_keeps_its_slots_while_more_arrives_and_part_of_it_is_released() {
    every_engine("what_waits_keeps_its_slots", Plan::without_offloads(), |rig| {
        const COUNT: u16 = 400;
        let (application, peer, listen) = (rig.application(), rig.peer(2), rig.plan.listen);
        for number in 0..COUNT {
            application.send_to(&numbered(number, 200), (BEYOND, 9)).unwrap();
            peer.send_to(&numbered(number, 200), listen).unwrap();
        }
        let header = rig.header_len();
        let (mut out, mut back): (Vec<Vec<u8>>, Vec<Vec<u8>>) = Default::default();
        let mut part = Inbox::new(BATCH);
        let deadline = Instant::now() + PATIENCE;

        while out.len() < COUNT.into() || back.len() < COUNT.into() {
            let nothing_waits = rig.inbox.is_empty();
            let time = if nothing_waits { Duration::from_millis(50) } else { Duration::ZERO };
            rig.engine.receive(&mut rig.inbox, Some(time)).unwrap();
            // The later half leaves first, and what is left waits for the next time.
            let (frames, trains) = (&mut rig.inbox.frames, &mut rig.inbox.trains);
            part.frames.extend(frames.drain(frames.len() / 2..));
            part.trains.extend(trains.drain(trains.len() / 2..));
            let packets = part.frames.iter().map(|frame| frame_bytes(&mut *rig.engine, frame));
            out.extend(packets.map(|bytes| payload_of(&bytes[header..]).to_vec()));
            back.extend(part.trains.iter().map(|train| train_bytes(&mut *rig.engine, train)));
            rig.engine.release(&mut part);
            assert!(Instant::now() < deadline, "{} of {COUNT}, {}", out.len(), back.len());
        }

        for mut numbered in [out, back] {
            let whole = numbered.iter().all(|bytes| bytes.len() == 200);
            numbered.sort();
            numbered.dedup();
            assert!(whole && numbers(&numbered).into_iter().eq(0..COUNT), "each arrived once");
        }
    });
}

#[test]
fn the_wake_descriptor_ends_a_wait_without_end() {
    every_engine("the_wake_descriptor_ends_a_wait_without_end", Plan::default(), |rig| {
        for _ in 0..3 {
            let wake = rig.wake.try_clone().unwrap();
            let waker = thread::spawn(move || {
                thread::sleep(Duration::from_millis(20));
                rustix::io::write(&wake, &1u64.to_ne_bytes()).unwrap();
            });

            rig.engine.receive(&mut rig.inbox, None).unwrap();

            assert!(rig.inbox.is_empty());
            rig.engine.release(&mut rig.inbox);
            waker.join().unwrap();
        }
    });
}

#[test]
fn a_wait_ends_in_time_and_an_idle_engine_makes_few_calls() {
    every_engine(
        "a_wait_ends_in_time_and_an_idle_engine_makes_few_calls",
        Plan::default(),
        |rig| {
            let before = rig.stats().syscalls;
            let start = Instant::now();

            for _ in 0..5 {
                rig.engine.receive(&mut rig.inbox, Some(Duration::from_millis(20))).unwrap();
                assert!(rig.inbox.is_empty());
                rig.engine.release(&mut rig.inbox);
            }

            let waited = start.elapsed();
            assert!(waited >= Duration::from_millis(95) && waited < PATIENCE, "{waited:?}");
            assert!(rig.stats().syscalls - before <= 15, "{:?}", rig.stats());
        },
    );
}

#[test]
fn what_is_spread_over_source_ports_leaves_from_the_other_socket() {
    let spread = |plan| [Plan { spread: true, ..plan }, plan];
    for plan in Plan::by_family().into_iter().flat_map(spread) {
        every_engine("what_is_spread_leaves_from_the_other_socket", plan, |rig| {
            let peer = rig.peer(2);
            let to = peer.local_addr().unwrap();

            rig.send(&[(to, numbered(1, 40)), (to, numbered(2, 40))]);

            for _ in 0..2 {
                let (_, from) = peer.recv_from(&mut [0; 100]).unwrap();
                assert_eq!(from.ip(), rig.plan.listen.ip());
                assert_eq!(from.port() != rig.plan.listen.port(), plan.spread);
            }
        });
    }
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// The numbers that datagrams begin with.
fn numbers(datagrams: &[Vec<u8>]) -> Vec<u16> {
    datagrams.iter().map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]])).collect()
}
