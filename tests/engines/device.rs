//! The device goes down, comes back, and goes for good.

use std::thread;
use std::time::{Duration, Instant};
use twill::engine::EngineError;
use twill_testbed::rig::{BEYOND, PATIENCE, Plan, datagrams_of, every_engine, numbered, packet_to};
use twill_testbed::slowness;

#[test]
fn a_device_that_is_down_refuses_packets_and_is_waited_for_quietly() {
    every_engine("a_device_that_is_down_is_waited_for_quietly", Plan::default(), |rig| {
        let application = rig.application();
        rig.near.ip("link set tun0 down").unwrap();

        let outcome = rig.write(&[packet_to(&application, b"down"), packet_to(&application, b"d")]);
        let before = rig.stats().syscalls;
        for _ in 0..5 {
            rig.engine.receive(&mut rig.inbox, Some(Duration::from_millis(20))).unwrap();
            rig.engine.release(&mut rig.inbox);
        }
        let calls = rig.stats().syscalls - before;

        assert_eq!(outcome.failures().len(), 2);
        assert!(outcome.failures().iter().all(|failure| failure.errno == libc::EIO));
        assert!(calls <= 20, "{calls} calls while nothing happened");
    });
}

#[test]
fn a_device_that_comes_up_again_carries_packets_both_ways() {
    every_engine("a_device_that_comes_up_again_carries_packets", Plan::default(), |rig| {
        let application = rig.application();
        for round in 0..3 {
            rig.near.ip("link set tun0 down").unwrap();
            rig.engine.receive(&mut rig.inbox, Some(Duration::from_millis(10))).unwrap();
            rig.engine.release(&mut rig.inbox);
            rig.near.ip("link set tun0 up").unwrap();

            application.send_to(&numbered(round, 50), (BEYOND, 9)).unwrap();
            let outcome = rig.write(&[packet_to(&application, &numbered(round, 70))]);

            assert_eq!(rig.frames(1).len(), 1);
            assert!(outcome.failures().is_empty());
            assert_eq!(datagrams_of(&application, 1), [numbered(round, 70)]);
        }
    });
}

#[test]
fn a_device_that_is_deleted_ends_the_wait_with_that_error() {
    every_engine("a_device_that_is_deleted_ends_the_wait", Plan::default(), |rig| {
        let near = rig.near.clone();
        let remover = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            near.ip("link del tun0").unwrap();
        });

        let error = until_error(rig);

        assert!(matches!(error, EngineError::DeviceGone), "{error}");
        remover.join().unwrap();
    });
}

#[test]
fn a_device_that_is_deleted_under_load_ends_the_loop_with_that_error() {
    every_engine("a_device_that_is_deleted_under_load_ends_the_loop", Plan::default(), |rig| {
        let peer = rig.peer(2);
        let listen = rig.plan.listen;
        for number in 0..500 {
            peer.send_to(&numbered(number, 60), listen).unwrap();
        }
        rig.near.ip("link del tun0").unwrap();

        let error = until_error(rig);

        assert!(matches!(error, EngineError::DeviceGone), "{error}");
        let outcome = rig.write(&[numbered(0, 60)]);
        assert_eq!(outcome.failures().len(), 1, "a write is refused and no more");
    });
}

fn until_error(rig: &mut twill_testbed::rig::Rig) -> EngineError {
    let limit = PATIENCE * slowness();
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Err(error) = rig.engine.receive(&mut rig.inbox, Some(limit)) {
            return error;
        }
        rig.engine.release(&mut rig.inbox);
    }
    panic!("engine {}: no error", rig.kind);
}
