//! Gateways that look for arrivals awake while answers come quickly.

use crate::numbered::{Load, echo_numbered};
use crate::with;
use std::net::UdpSocket;
use std::time::Duration;
use twill_testbed::engines;
use twill_testbed::pair::{PATIENCE, Pair, Setup};
use twill_testbed::process::cpu_seconds;

/// One answer after another, more than a worker waits for until it looks for the next one awake.
const ANSWERS: usize = 500;
/// How long nothing happens while a gateway's CPU time is counted.
const QUIET: Duration = Duration::from_millis(500);

#[test]
fn gateways_that_poll_carry_everything_in_order_and_sleep_when_it_is_quiet() {
    for engine in engines() {
        for queues in [1, 4] {
            let lines = &format!("busy_poll_us = \"auto\"\nqueues = {queues}\nprobe_seconds = 0");
            let setup = Setup { lines, ..with(engine) };
            let Some(mut pair) = Pair::start("busy poll", &setup) else { return };
            pair.assert_connected();

            answers(&pair);
            pair.assert_tcp_carries(4, 1 << 20);
            answers(&pair);
            let load = Load { flows: 16, rounds: 40, sizes: &[64, 1200], window: 256 };
            let counted = echo_numbered(&pair, &load);

            counted.assert_in_order();
            counted.assert_accounted();
            answers(&pair);
            for gateway in &pair.gateways {
                let before = cpu_seconds(gateway.process.pid());
                std::thread::sleep(QUIET);
                let used = cpu_seconds(gateway.process.pid()) - before;
                assert!(used < QUIET.as_secs_f64() / 4.0, "{engine}: {used} s while it was quiet");
            }
            pair.assert_books_balance();
            // The last wait, which may be an awake one, ends when the gateway is told to.
            answers(&pair);
            for gateway in &mut pair.gateways {
                assert!(gateway.process.stop(PATIENCE).unwrap().success(), "{engine}");
            }
        }
    }
}

/// One request and its answer after another.
fn answers(pair: &Pair) {
    let [here, there] = [0, 1].map(|index| {
        let socket = pair.pods[index].enter(|| UdpSocket::bind((pair.pods[index].address(), 0)));
        let socket = socket.unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    });
    here.connect(there.local_addr().unwrap()).unwrap();
    there.connect(here.local_addr().unwrap()).unwrap();
    let mut room = [0; 8];
    for number in 0..ANSWERS {
        here.send(&number.to_be_bytes()).unwrap();
        there.recv(&mut room).unwrap();
        there.send(&room).unwrap();
        here.recv(&mut room).unwrap();
        assert_eq!(room, number.to_be_bytes());
    }
}
