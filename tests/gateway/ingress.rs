//! What arrives from outside that should not get in.

use crate::pair::{Pair, engines};
use etherparse::PacketBuilder;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

#[test]
fn strangers_and_forgers_are_kept_out() {
    for engine in engines() {
        let Some(pair) = Pair::start("strangers", engine) else { return };
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
        pair.assert_connected();
        pair.assert_books_balance();
    }
}

#[test]
fn garbage_from_a_stranger_leaves_good_traffic_alone() {
    // tokio-uring receives one datagram at a time: a flood simply is its capacity.
    for engine in engines().into_iter().filter(|engine| *engine != "tokio-uring") {
        let Some(pair) = Pair::start("garbage", engine) else { return };
        pair.assert_connected();
        let gateway = SocketAddr::from((pair.hosts[0].address(), 8285));
        let stranger = Ipv4Addr::new(192, 0, 2, 78);
        pair.hosts[1].ip(&format!("address add {stranger}/24 dev u0")).unwrap();
        let socket = pair.hosts[1].enter(|| UdpSocket::bind((stranger, 0)).unwrap());
        let log_lines = pair.gateways[0].process.log().lines().count();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    for size in [1, 20, 600, 1400] {
                        let _ = socket.send_to(&vec![0x45; size], gateway);
                    }
                }
            });

            pair.assert_tcp_carries(2, 2 << 20);

            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });

        assert!(pair.drops(0, "ingress", "unknown_peer") > 1000, "{}", pair.status(0));
        let lines = pair.gateways[0].process.log().lines().count() - log_lines;
        assert!(lines < 10, "{lines} log lines about garbage");
        pair.assert_books_balance();
    }
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
