//! Everything crosses, whole and in order, on every engine, wire and MTU.

use crate::pair::{DEVICE, Pair, engines, wires_and_mtus};

#[test]
fn tcp_udp_and_fragments_cross_on_every_engine_wire_and_mtu() {
    for engine in engines().into_iter().chain(["classic"]) {
        for underlay in wires_and_mtus() {
            println!("{engine}, {} wire, MTU {}", underlay.wire, underlay.mtu);
            let Some(pair) = Pair::start_on("traffic", engine, &underlay) else { return };
            let inner = usize::from(underlay.mtu) - 28;

            pair.assert_connected();
            pair.assert_tcp_carries(1, 4 << 20);
            let full = inner - 28;
            pair.assert_udp_carries(&[1, 18, 64, 512, full - 1, full, full + 1, 4000, 20_000]);

            pair.assert_books_balance();
        }
    }
}

#[test]
fn fifty_parallel_streams_keep_their_bytes() {
    for engine in engines() {
        let Some(pair) = Pair::start("fifty_parallel_streams", engine) else { return };

        pair.assert_tcp_carries(50, 256 << 10);

        pair.assert_books_balance();
    }
}

#[test]
fn several_queues_carry_what_one_does() {
    for engine in engines() {
        let Some(mut pair) = Pair::start("several_queues", engine) else { return };
        pair.restart_with("queues = 4\npinning = \"nic\"\nbusy_poll_us = 50");

        assert_eq!(pair.status(0)["queues"], 4);
        pair.assert_connected();
        pair.assert_tcp_carries(16, 512 << 10);
        pair.assert_udp_carries(&[64; 200]);

        pair.assert_books_balance();
    }
}

#[test]
fn every_offload_can_be_switched_off_alone() {
    for engine in engines() {
        for name in ["tso", "uso", "gso", "gro", "coalesce-tcp", "coalesce-udp"] {
            let Some(mut pair) = Pair::start("every_offload", engine) else { return };
            pair.restart_with(&format!("offload = {{ {name} = false }}"));

            let offloads = pair.status(0)["offloads"].clone();
            let features = pair.hosts[0].run("ethtool", &["-k", DEVICE]).unwrap();
            // The driver does not know UDP super-packets before Linux 6.2.
            let no_uso = features.contains("tx-udp-segmentation: off [fixed]");
            for offload in offloads.as_array().unwrap() {
                let of_uso = offload["name"] == "uso" || offload["name"] == "coalesce-udp";
                let expected = offload["name"] != name && !(of_uso && no_uso);
                assert_eq!(offload["on"], expected, "{engine} without {name}: {offload}");
            }
            pair.assert_tcp_carries(2, 1 << 20);
            pair.assert_udp_carries(&[64, 1400, 4000]);

            pair.assert_books_balance();
        }
    }
}
