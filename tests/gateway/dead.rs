//! Peers whose hosts are gone: nobody answers ARP for them.

use crate::numbered::{Load, beside, echo_numbered};
use crate::with;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use twill_testbed::engines;
use twill_testbed::pair::{Pair, Setup};

/// Enough of them that what the kernel keeps for each fills a socket's buffer.
const DEAD: u8 = 60;
/// Bytes of a packet to each.
const SIZE: usize = 1400;

#[test]
fn dead_peers_cost_only_themselves() {
    for engine in engines() {
        // The send buffer holds what a third of the dead peers' neighbours keep.
        let setup = Setup { lines: "socket_buffer = 2097152\nprobe_seconds = 0", ..with(engine) };
        let Some(pair) = Pair::start("dead peers", &setup) else { return };
        pair.assert_connected();
        let peers = (0..DEAD).map(|number| {
            let (name, host) = (format!("dead{number}"), 100 + number);
            [name, format!("192.0.2.{host}:8285"), format!("10.99.{number}.0/24")]
        });
        for [name, endpoint, subnet] in peers {
            let args = ["peer", "add", &subnet, &endpoint, "--name", &name];
            pair.twill(0, &args).unwrap();
        }
        let load = Load { flows: 16, rounds: 500, sizes: &[64, 1400, 300], window: 64 };

        let counted = beside(
            |done| send_to_the_dead(&pair, done),
            || {
                // From before the buffer fills until after it was enlarged.
                let before = echo_numbered(&pair, &load);
                pair.eventually("a larger send buffer", |pair| {
                    pair.status(0)["counters"]["buffer_growths"].as_u64() > Some(0)
                });
                [before, echo_numbered(&pair, &load)]
            },
        );

        for counted in counted {
            println!("{engine}: {counted:?}");
            counted.assert_in_order();
            assert_eq!(counted.missing(), 0, "{engine}: {}", pair.status(0));
        }
        pair.eventually("a log line that names them", |pair| {
            let log = pair.gateways[0].process.log();
            log.lines()
                .any(|line| line.contains("do not answer") && line.contains("dead7 (192.0.2.107)"))
        });
        pair.assert_books_balance();
    }
}

/// Forty packets a second and more to each, from the pod.
fn send_to_the_dead(pair: &Pair, done: &AtomicBool) {
    let socket = pair.pods[0].enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    while !done.load(Ordering::Relaxed) {
        for number in 0..DEAD {
            let to = Ipv4Addr::new(10, 99, number, 2);
            // What a full queue refuses is lost, as on any network.
            let _ = socket.send_to(&[number; SIZE], (to, 9));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
