//! What arrives from outside that should not get in.

use crate::numbered::{Counted, Load, beside, echo_numbered, flood};
use crate::with;
use etherparse::PacketBuilder;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use twill_testbed::pair::{Pair, Setup};
use twill_testbed::{engines, process::resident_kib, slowness};

#[test]
fn strangers_and_forgers_are_kept_out() {
    for engine in engines() {
        let Some(pair) = Pair::start("strangers", &with(engine)) else { return };
        pair.assert_connected();
        let gateway = SocketAddr::from((pair.hosts[0].address(), 8285));
        let (here, there) = (pair.pods[0].address(), pair.pods[1].address());
        let elsewhere = Ipv4Addr::new(198, 51, 100, 9);
        let stranger = Ipv4Addr::new(192, 0, 2, 77);
        pair.hosts[1].ip(&format!("address add {stranger}/24 dev u0")).unwrap();
        let from = |source: Ipv4Addr| pair.hosts[1].enter(|| UdpSocket::bind((source, 0)).unwrap());
        let (known, unknown) = (from(pair.hosts[1].address()), from(stranger));
        let cases: [(&UdpSocket, Vec<u8>, &str); 7] = [
            (&unknown, udp(there, here, 64), "unknown_peer"),
            (&known, udp(elsewhere, here, 64), "src_mismatch"),
            (&known, udp(here, here, 64), "src_mismatch"),
            (&known, udp(Ipv4Addr::LOCALHOST, here, 64), "martian"),
            (&known, udp(there, elsewhere, 64), "dst_scope"),
            (&known, udp(there, here, 0), "ttl"),
            (&known, vec![0x45; 7], "short"),
        ];
        for (socket, datagram, reason) in cases {
            let before = pair.drops(0, "ingress", reason);

            socket.send_to(&datagram, gateway).unwrap();

            pair.eventually(reason, |pair| pair.drops(0, "ingress", reason) == before + 1);
        }
        pair.eventually("a log line that names the stranger", |pair| {
            let log = pair.gateways[0].process.log();
            let mut lines = log.lines().filter(|line| line.contains("unknown_peer"));
            lines.any(|line| line.contains(&stranger.to_string()))
        });
        pair.assert_connected();
        pair.assert_books_balance();
    }
}

#[test]
fn garbage_from_a_stranger_leaves_good_traffic_alone() {
    for engine in engines() {
        let setup = Setup { lines: "probe_seconds = 0", ..with(engine) };
        let Some(pair) = Pair::start("garbage", &setup) else { return };
        pair.assert_connected();
        let gateway = SocketAddr::from((pair.hosts[0].address(), 8285));
        let garbage = |socket: &UdpSocket, rate: u64, done: &AtomicBool| {
            flood(socket, gateway, GARBAGE, rate, done);
        };
        let stranger = Ipv4Addr::new(192, 0, 2, 78);
        pair.hosts[1].ip(&format!("address add {stranger}/24 dev u0")).unwrap();
        let socket = pair.hosts[1].enter(|| UdpSocket::bind((stranger, 0)).unwrap());
        let load = Load { flows: 16, rounds: 60, sizes: &[64, 1400, 300], window: 128 };
        let share_lost = |counted: &Counted| counted.missing() as f64 / counted.sent as f64;
        let alone = echo_numbered(&pair, &load);
        let log_lines = pair.gateways[0].process.log().lines().count();
        // What warms up with the first garbage is not what grows.
        beside(|done| garbage(&socket, 1000, done), pause);
        let memory = resident_kib(pair.gateways[0].process.pid());

        // As much as this machine has room for: where the CPUs are taken, everybody loses.
        let slower = u64::from(slowness());
        let rates = [100_000, 50_000, 25_000, 10_000].map(|rate| rate / slower);
        let found = rates.into_iter().find(|rate| {
            let (before, began) = (pair.drops(0, "ingress", "unknown_peer"), Instant::now());
            let counted = beside(
                |done| garbage(&socket, *rate, done),
                || {
                    pause();
                    echo_numbered(&pair, &load)
                },
            );
            let arrived = pair.drops(0, "ingress", "unknown_peer") - before;
            let arrived = arrived as f64 / began.elapsed().as_secs_f64();
            println!("{engine}: {arrived:.0} of {rate} a second: {counted:?}");
            counted.assert_in_order();
            arrived > 1000.0 / slower as f64 && share_lost(&counted) < share_lost(&alone) + 0.01
        });

        assert!(found.is_some(), "{engine}: good datagrams are lost: {}", pair.status(0));
        let grown = resident_kib(pair.gateways[0].process.pid()).saturating_sub(memory);
        assert!(grown < 512, "{engine}: {grown} KiB more");
        let lines = pair.gateways[0].process.log().lines().count() - log_lines;
        assert!(lines < 10, "{lines} log lines about garbage");
        pair.assert_tcp_carries(2, 1 << 20);
        pair.assert_books_balance();
    }
}

/// Sizes of datagrams that begin like IPv4 and are nothing.
const GARBAGE: &[usize] = &[1, 20, 600, 64, 1400];

/// Long enough for a flood to be one.
fn pause() {
    std::thread::sleep(Duration::from_millis(300));
}

/// A UDP packet with a payload of ten bytes.
pub(crate) fn udp(source: Ipv4Addr, destination: Ipv4Addr, ttl: u8) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4(source.octets(), destination.octets(), ttl)
        .udp(7001, 7002)
        .write(&mut packet, &[7; 10])
        .unwrap();
    packet
}
