//! Everything crosses, whole and in order, on every engine, wire and MTU.

use crate::capture::{self, Capture, datagrams};
use crate::numbered::{Load, echo_numbered};
use crate::with;
use etherparse::{Ipv4HeaderSlice, TcpHeaderSlice, UdpHeaderSlice, ip_number};
use std::process::Command;
use std::time::{Duration, Instant};
use twill_testbed::pair::{DEVICE, Pair, Setup, output};
use twill_testbed::{UNDERLAY_DEVICE, Underlay, Wire, engines};

#[test]
fn nothing_is_reordered_or_duplicated() {
    for engine in engines().into_iter().chain(["classic"]) {
        for underlay in wires_and_mtus() {
            println!("{engine}, {} wire, MTU {}", underlay.wire, underlay.mtu);
            let setup = Setup { underlay, lines: "probe_seconds = 0", ..with(engine) };
            let Some(pair) = Pair::start("order", &setup) else { return };
            pair.assert_connected();
            let full = usize::from(setup.underlay.mtu) - 28 - 28;
            let whole = [12, 64, full / 2, full - 1, full, 512];
            let also_fragments = [64, full, full + 1, 12, 2 * full + 5, 700];
            let load = Load { flows: 16, rounds: 30, sizes: &whole, window: 256 };

            pair.assert_udp_carries(&[1, 18, 20_000]);
            let packets = echo_numbered(&pair, &load);
            let fragments = echo_numbered(&pair, &Load { sizes: &also_fragments, ..load });

            println!("{packets:?}\n{fragments:?}");
            packets.assert_in_order();
            packets.assert_accounted();
            fragments.assert_in_order();
            fragments.assert_fragments_accounted();
            pair.assert_books_balance();
        }
    }
}

#[test]
fn what_is_lost_under_overload_is_counted_where_it_is_lost() {
    for engine in engines().into_iter().chain(["classic"]) {
        let lines = "probe_seconds = 0\ndevice_queue = 8";
        let setup = Setup { lines, ..with(engine) };
        let Some(pair) = Pair::start("overload", &setup) else { return };
        // What the kernel itself says over IPv6 would be among the drops.
        for host in &pair.hosts {
            let _ = host.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
        }
        pair.assert_connected();
        let load = Load { flows: 16, rounds: 100, sizes: &[64, 700], window: u64::MAX };

        let counted = echo_numbered(&pair, &load);

        println!("{engine}: {counted:?}");
        assert!(counted.lost.devices > 0, "no overload: {counted:?}");
        counted.assert_in_order();
        counted.assert_accounted();
        pair.assert_books_balance();
    }
}

#[test]
fn every_checksum_is_right_on_the_wire() {
    for engine in engines().into_iter().chain(["classic"]) {
        let underlay = Underlay { wire: Wire::Mtu, ..Underlay::default() };
        let setup = Setup { underlay, ..with(engine) };
        let Some(pair) = Pair::start("checksums", &setup) else { return };
        // So that the outer checksums are there to be seen, too.
        for host in &pair.hosts {
            host.run("ethtool", &["-K", UNDERLAY_DEVICE, "tx", "off"]).unwrap();
        }
        pair.assert_connected();
        let captures = [0, 1].map(|index| Capture::start(&pair, index));

        pair.assert_tcp_carries(2, 256 << 10);
        let sizes = [12, 1443, 64, 1444, 4000, 511];
        echo_numbered(&pair, &Load { flows: 8, rounds: 10, sizes: &sizes, window: 256 });

        let mtu = usize::from(setup.underlay.mtu) - 28;
        for capture in captures {
            let outside = capture.file.clone();
            let pcap = capture.finish();
            let seen = verify(datagrams(&pcap).iter().map(|datagram| datagram.inner), mtu);
            println!("{engine}: {seen:?}");
            assert!(seen.tcp > 100 && seen.udp > 50 && seen.fragments > 30, "{seen:?}");

            // A second opinion.
            let inside = pair.bed.folder().join("inside.pcap");
            let packets = datagrams(&pcap);
            let packets = packets.iter().map(|datagram| datagram.inner);
            std::fs::write(&inside, capture::file_of(packets)).unwrap();
            let text = |file| {
                let mut tcpdump = Command::new("tcpdump");
                output(tcpdump.args(["-n", "-vv", "-r"]).arg(file)).unwrap()
            };
            let (outside, inside) = (text(&outside), text(&inside));
            for line in outside.lines().chain(inside.lines()) {
                let wrong = ["bad cksum", "bad udp", "(incorrect", "truncated"];
                let wrong = wrong.iter().any(|word| line.contains(word));
                assert!(!wrong, "{engine}: {line}");
            }
            assert_eq!(outside.matches("[udp sum ok]").count(), seen.all());
            assert_eq!(inside.matches("(correct)").count(), seen.tcp);
            assert_eq!(inside.matches("[udp sum ok]").count(), seen.udp);
        }
        pair.assert_books_balance();
    }
}

/// Packets of each kind.
#[derive(Debug, Default)]
struct Seen {
    tcp: usize,
    udp: usize,
    fragments: usize,
    others: usize,
}

impl Seen {
    fn all(&self) -> usize {
        self.tcp + self.udp + self.fragments + self.others
    }
}

/// Looks at every checksum, and that no packet is longer than the MTU; the kernel that puts
/// fragments together looks at those of what was fragmented.
fn verify<'a>(packets: impl Iterator<Item = &'a [u8]>, mtu: usize) -> Seen {
    let mut seen = Seen::default();
    for packet in packets {
        let ip = Ipv4HeaderSlice::from_slice(packet).unwrap();
        assert_eq!(usize::from(ip.total_len()), packet.len());
        assert!(packet.len() <= mtu, "{} bytes, the MTU is {mtu}", packet.len());
        assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
        let (source, destination) = (ip.source(), ip.destination());
        let rest = &packet[ip.slice().len()..];
        if ip.is_fragmenting_payload() {
            seen.fragments += 1;
        } else if ip.protocol() == ip_number::TCP {
            let tcp = TcpHeaderSlice::from_slice(rest).unwrap();
            let data = &rest[tcp.slice().len()..];
            let right = tcp.calc_checksum_ipv4_raw(source, destination, data).unwrap();
            assert_eq!(tcp.checksum(), right, "{packet:02x?}");
            seen.tcp += 1;
        } else if ip.protocol() == ip_number::UDP {
            let udp = UdpHeaderSlice::from_slice(rest).unwrap();
            let right = udp.to_header().calc_checksum_ipv4_raw(source, destination, &rest[8..]);
            assert_ne!(udp.checksum(), 0);
            assert_eq!(udp.checksum(), right.unwrap(), "{packet:02x?}");
            seen.udp += 1;
        } else {
            seen.others += 1;
        }
    }
    seen
}

#[test]
fn fifty_parallel_streams() {
    for engine in engines().into_iter().chain(["classic"]) {
        for underlay in wires_and_mtus() {
            println!("{engine}, {} wire, MTU {}", underlay.wire, underlay.mtu);
            let setup = Setup { underlay, ..with(engine) };
            let Some(pair) = Pair::start("fifty streams", &setup) else { return };
            pair.assert_connected();
            let began = Instant::now();

            pair.assert_tcp_carries(50, 64 << 10);
            pair.assert_tcp_carries(1, 2 << 20);

            // A stream that stalls waits for retransmissions, minutes in the end.
            let took = began.elapsed();
            assert!(took < Duration::from_secs(60), "{took:?} for 10 MB");
            pair.assert_books_balance();
        }
    }
}

#[test]
fn several_queues_carry_what_one_does() {
    for engine in engines() {
        let Some(mut pair) = Pair::start("several_queues", &with(engine)) else { return };
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
            let Some(mut pair) = Pair::start("every_offload", &with(engine)) else { return };
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

fn wires_and_mtus() -> Vec<Underlay> {
    let mut all = Vec::new();
    for wire in [Wire::Offloaded, Wire::Mtu] {
        for mtu in [1280, 1500, 9000] {
            all.push(Underlay { mtu, wire, ..Underlay::default() });
        }
    }
    all
}
