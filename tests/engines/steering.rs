//! The kernel's choice of a socket, against the same choice made here.

use crate::creation::in_namespace;
use etherparse::{IpFragOffset, PacketBuilder};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;
use twill::socket::{self, Originator, SocketSpec};
use twill::sys::sockopt;
use twill_datapath::wire::checksum::Sum;
use twill_datapath::wire::protocol;

const GROUP: usize = 5;
/// Where datagrams are sent to, and where the sockets are bound: of one IP family, and of both.
const PLACES: [(&str, &str); 4] = [
    ("127.0.0.1:8285", "127.0.0.1:8285"),
    ("[::1]:8285", "[::1]:8285"),
    ("127.0.0.1:8285", "[::]:8285"),
    ("[::1]:8285", "[::]:8285"),
];

/// Runs a test at each place, each time in another namespace: a process that another test starts may have the
/// sockets of the place before until its `exec`.
fn at_each_place(test: &str, body: impl Fn(SocketAddr, &str) + Sync) {
    for (listen, bound) in PLACES {
        in_namespace(test, |_| body(listen.parse().unwrap(), bound));
    }
}

#[test]
fn the_kernel_steers_every_kind_of_inner_packet_as_the_reference_does() {
    at_each_place("the_kernel_steers", |listen, bound| {
        let group = group(bound, true);
        // A peer that sends from the listening port, as flannel does, has another address.
        let from = other(listen, listen.port());

        let mut used = [0; GROUP];
        for packet in packets() {
            let expected = reference(&packet);
            from.send_to(&packet, listen).unwrap();
            let socket = receiver_of(&group, &packet);
            assert_eq!(socket, expected, "{listen}: {packet:02x?}");
            used[socket] += 1;
        }

        assert!(used.iter().all(|packets| *packets > 0), "{listen}: {used:?}");
    });
}

#[test]
fn a_port_other_than_the_listening_one_names_the_worker_whatever_is_inside() {
    for by_flow in [false, true] {
        at_each_place("a_port_names_the_worker", |listen, bound| {
            let group = group(bound, by_flow);
            for worker in 0..2 * GROUP {
                let from = other(listen, 0x9000 + worker as u16);
                for packet in packets().into_iter().take(8) {
                    from.send_to(&packet, listen).unwrap();
                    assert_eq!(receiver_of(&group, &packet), worker % GROUP);
                }
            }
        });
    }
}

#[test]
fn outer_ipv4_options_do_not_hide_the_port() {
    for bound in ["127.0.0.1:8285", "[::]:8285"] {
        in_namespace("outer_options", |_| {
            let listen: SocketAddr = "127.0.0.1:8285".parse().unwrap();
            let group = group(bound, false);
            for worker in 0..2 * GROUP {
                let from = other(listen, 0x9000 + worker as u16);
                let no_operations = i32::from_ne_bytes([1; 4]);
                sockopt::set_int(from.as_fd(), libc::IPPROTO_IP, libc::IP_OPTIONS, no_operations)
                    .unwrap();
                let packet = [worker as u8; 40];

                from.send_to(&packet, listen).unwrap();

                assert_eq!(receiver_of(&group, &packet), worker % GROUP);
            }
        });
    }
}

#[test]
fn the_kernel_chooses_by_itself_behind_outer_ipv6_extension_headers() {
    in_namespace("outer_extension_headers", |_| {
        let listen: SocketAddr = "[::1]:8285".parse().unwrap();
        let group = group("[::1]:8285", false);
        // Loopback takes no packet from an address that is not there.
        let _other = other(listen, 0x8fff);
        let originator = Originator::open().unwrap();

        let used: BTreeSet<_> = (0x9000..0x9040)
            .map(|port| {
                let payload = u16::to_be_bytes(port);
                originator.send(&behind_padding(port, &payload)).unwrap();
                receiver_of(&group, &payload)
            })
            .collect();

        assert!(used.len() > 1, "all went to one socket");
    });
}

/// A datagram from ::2 to the group, behind destination options that are padding.
fn behind_padding(port: u16, payload: &[u8]) -> Vec<u8> {
    let (from, to) = (Ipv6Addr::from(2), Ipv6Addr::LOCALHOST);
    let len = 8 + payload.len() as u16;
    let mut udp = [port, 8285, len, 0].map(u16::to_be_bytes).concat();
    udp.extend_from_slice(payload);
    let sum = Sum::default().pseudo_v6(from, to, protocol::UDP, len.into()).bytes(&udp);
    udp[6..8].copy_from_slice(&sum.finish().to_be_bytes());
    let options = [protocol::UDP, 0, 1, 4, 0, 0, 0, 0];
    let mut packet = vec![0x60, 0, 0, 0, 0, 8 + len as u8, 60, 64];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(options);
    packet.extend(udp);
    packet
}

#[test]
fn what_is_no_ip_packet_or_cut_short_still_arrives_somewhere() {
    at_each_place("cut_short_still_arrives", |listen, bound| {
        let group = group(bound, true);
        let from = other(listen, listen.port());
        let (v4, v6) = (&packets()[0], &packets()[1]);
        for packet in
            [v4, v6].into_iter().flat_map(|packet| (1..packet.len()).map(|len| &packet[..len]))
        {
            from.send_to(packet, listen).unwrap();
            receiver_of(&group, packet);
        }
        for version in 0..16 {
            let packet = [version << 4; 60];
            from.send_to(&packet, listen).unwrap();
            receiver_of(&group, &packet);
        }
    });
}

/// Sockets that share an address, with the program.
fn group(bound: &str, by_flow: bool) -> Vec<UdpSocket> {
    let listen: SocketAddr = bound.parse().unwrap();
    let spec = SocketSpec { listen, shared: true, gro: false, buffer: 1 << 16 };
    let first = socket::open_first(&spec).unwrap();
    let others = (1..GROUP).map(|_| socket::open(&spec).unwrap());
    let group: Vec<_> = std::iter::once(first).chain(others).map(UdpSocket::from).collect();
    socket::steer(group[0].as_fd(), listen, GROUP, by_flow).unwrap();
    group
}

/// A socket of another address of this host, for a peer.
fn other(listen: SocketAddr, port: u16) -> UdpSocket {
    let ip = if listen.is_ipv6() { "::2" } else { "127.0.0.2" };
    if listen.is_ipv6() {
        let add = ["-6", "address", "replace", "::2/128", "dev", "lo", "nodad"];
        assert!(std::process::Command::new("ip").args(add).status().unwrap().success());
    }
    let domain = Domain::for_address(listen);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    // The group may be bound to all addresses.
    socket.set_reuse_port(true).unwrap();
    socket.bind(&SocketAddr::from((ip.parse::<IpAddr>().unwrap(), port)).into()).unwrap();
    socket.into()
}

/// The socket that has the packet; loopback delivers before `send_to` returns, or soon after.
fn receiver_of(group: &[UdpSocket], packet: &[u8]) -> usize {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let mut room = [0; 2048];
    loop {
        for (number, socket) in group.iter().enumerate() {
            if let Ok(len) = socket.recv(&mut room) {
                assert_eq!(&room[..len], packet);
                return number;
            }
        }
        assert!(std::time::Instant::now() < deadline, "no socket has {packet:02x?}");
        std::thread::yield_now();
    }
}

/// TCP, UDP, ICMP and fragments of many flows, in both versions; IPv4 with options too.
fn packets() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for flow in 0..40u8 {
        let v4 = || PacketBuilder::ipv4([10, 0, 1, flow], [10, 0, 2, 7], 64);
        let (from, to) = (v6(1, flow), v6(2, 7));
        let v6 = || PacketBuilder::ipv6(from, to, 64);
        let port = 1000 + u16::from(flow);
        let mut add = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = Vec::new();
            write(&mut packet);
            all.push(packet);
        };
        add(&|packet| v4().udp(port, 53).write(packet, b"x").unwrap());
        add(&|packet| v6().udp(port, 53).write(packet, b"x").unwrap());
        add(&|packet| v4().tcp(port, 80, 1, 1).write(packet, b"x").unwrap());
        add(&|packet| v6().tcp(port, 80, 1, 1).write(packet, b"x").unwrap());
        add(&|packet| v4().icmpv4_echo_request(port, 1).write(packet, b"x").unwrap());
        add(&|packet| v6().icmpv6_echo_request(port, 1).write(packet, b"x").unwrap());
        let header = |more, offset| {
            let mut ip = etherparse::Ipv4Header::new(
                8,
                64,
                etherparse::IpNumber::UDP,
                [10, 0, 1, flow],
                [10, 0, 2, 7],
            )
            .unwrap();
            ip.more_fragments = more;
            ip.fragment_offset = IpFragOffset::try_new(offset).unwrap();
            ip
        };
        for (more, offset) in [(true, 0), (true, 1), (false, 9)] {
            add(&|packet| {
                header(more, offset).write(packet).unwrap();
                packet.extend([flow; 8]);
            });
        }
        add(&|packet| {
            let mut ip = header(false, 0);
            ip.options = [1, 1, 1, 1, 1, 1, 1, 0].into();
            ip.write(packet).unwrap();
            packet.extend([3, flow, 4, 5, 0, 8, 0, 0]);
        });
    }
    all
}

fn v6(network: u8, host: u8) -> [u8; 16] {
    Ipv6Addr::new(0xfd00, 0, 0, network.into(), 0, 0, 0, host.into()).octets()
}

/// The socket for a packet of a peer with one port.
fn reference(packet: &[u8]) -> usize {
    const GOLDEN: u32 = 0x9e37_79b1;
    let (addresses, protocol, header, fragment) = if packet[0] >> 4 == 4 {
        let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
        (12..20, packet[9], usize::from(packet[0] & 15) * 4, fragment)
    } else {
        (8..40, packet[6], 40, false)
    };
    let mut words: Vec<&[u8]> = packet[addresses].chunks(4).collect();
    if !fragment && [6, 17].contains(&protocol) {
        words.push(&packet[header..header + 4]);
    }
    let hash = words.into_iter().fold(0u32, |hash, word| {
        hash.wrapping_mul(GOLDEN) ^ u32::from_be_bytes(word.try_into().unwrap())
    });
    (hash.wrapping_mul(GOLDEN) >> 16) as usize % GROUP
}
