//! Inner senders really hear why their packets go nowhere: containers behind bridges, a gateway on
//! the host, the kernel between them.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use socket2::{Domain, Protocol, Socket, Type};
use std::io::Read;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;
use twill_testbed::local::LocalPair;
use twill_testbed::{Host, Namespace};

/// An address of the overlay that nobody holds.
const NOWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 244, 99, 9), 9);
/// Long enough for a busy machine; a reply takes microseconds.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_container_hears_that_no_peer_holds_its_destination() {
    let Some(pair) = two_hosts("no peer", 1500) else { return };
    let pod = pair.hosts[0].add_pod(1472).unwrap();

    let message = icmp_after(&pod, || {
        let socket = UdpSocket::bind((pod.address(), 4000)).unwrap();
        socket.send_to(b"hello", NOWHERE).unwrap();
    });

    assert_eq!(message.from, tun_address(&pair.hosts[0]), "from the TUN device's address");
    assert_eq!(message.kind, [3, 0], "net unreachable");
    assert_eq!(message.quoted[12..16], pod.address().octets());
    assert_eq!(message.quoted[16..20], NOWHERE.0.octets());
    assert_eq!(message.quoted[20..22], 4000u16.to_be_bytes(), "with its ports");
}

#[test]
fn a_process_of_the_host_hears_it_too() {
    let Some(pair) = two_hosts("own process", 1500) else { return };

    let message = icmp_after(&pair.hosts[0], || {
        UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"hello", NOWHERE).unwrap();
    });

    assert_eq!(message.kind, [3, 0]);
}

#[test]
fn a_container_hears_where_its_hops_end() {
    let Some(pair) = two_hosts("hops", 1500) else { return };
    let pod = pair.hosts[0].add_pod(1472).unwrap();
    let there = pair.hosts[1].add_pod(1472).unwrap();

    // The host takes one hop, twill the next: 2 end in the near gateway; the far gateway leaves
    // the last of 3 to its kernel.
    let ends_at = |hops| {
        let message = icmp_after(&pod, || {
            let socket = UdpSocket::bind((pod.address(), 0)).unwrap();
            socket.set_ttl(hops).unwrap();
            socket.send_to(b"hello", (there.address(), 33434)).unwrap();
        });
        assert_eq!(message.kind, [11, 0], "time exceeded in transit");
        message.from
    };

    assert_eq!(ends_at(2), tun_address(&pair.hosts[0]));
    assert_eq!(ends_at(3), tun_address(&pair.hosts[1]));
}

#[test]
fn a_container_hears_the_mtu_of_a_path_that_is_narrower_than_the_device() {
    let Some(pair) = two_hosts("mtu", 1400) else { return };
    let pod = pair.hosts[0].add_pod(1472).unwrap();
    let there = pair.hosts[1].add_pod(1472).unwrap();

    // The kernel's path MTU discovery sets DF on what this socket sends.
    let message = icmp_after(&pod, || {
        let socket = UdpSocket::bind((pod.address(), 0)).unwrap();
        socket.send_to(&[7; 1400], (there.address(), 9)).unwrap();
    });

    assert_eq!(message.kind, [3, 4], "fragmentation needed");
    assert_eq!(message.mtu, 1400 - 28, "what is left inside the tunnel");
}

#[test]
fn what_may_be_fragmented_crosses_a_narrow_path_in_order() {
    let Some(pair) = two_hosts("fragments", 1400) else { return };
    let pod = pair.hosts[0].add_pod(1472).unwrap();
    let there = pair.hosts[1].add_pod(1472).unwrap();
    // Sockets that open from now on leave DF clear.
    pod.sysctl("net.ipv4.ip_no_pmtu_disc", "1").unwrap();
    let receiver = there.enter(|| UdpSocket::bind((there.address(), 7000)).unwrap());
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let sender = pod.enter(|| UdpSocket::bind((pod.address(), 0)).unwrap());

    let size = |number: u16| if number.is_multiple_of(3) { 1440 } else { 200 };
    let mut numbers = Vec::new();
    for burst in 0..10 {
        for number in burst * 30..(burst + 1) * 30 {
            let mut datagram = vec![0; size(number)];
            datagram[..2].copy_from_slice(&number.to_be_bytes());
            sender.send_to(&datagram, (there.address(), 7000)).unwrap();
        }
        for _ in 0..30 {
            let mut datagram = [0; 1500];
            let len = receiver.recv(&mut datagram).expect("a datagram in time");
            let number = u16::from_be_bytes([datagram[0], datagram[1]]);
            assert_eq!(len, size(number));
            numbers.push(number);
        }
    }

    assert_eq!(numbers, (0..300).collect::<Vec<_>>());
}

/// The underlay's devices have this MTU, the TUN devices 1472.
fn two_hosts(test: &str, underlay_mtu: u16) -> Option<LocalPair> {
    LocalPair::start(test, underlay_mtu, |settings| settings)
}

/// The first of the host's pod network, as flannel sets it.
fn tun_address(host: &Host) -> Ipv4Addr {
    host.pod_network()
}

/// An ICMP error.
struct Message {
    from: Ipv4Addr,
    kind: [u8; 2],
    mtu: u16,
    quoted: Vec<u8>,
}

/// The first ICMP error that arrives in a namespace after something was sent there.
fn icmp_after(namespace: &Namespace, send: impl FnOnce() + Send) -> Message {
    namespace.enter(|| {
        let mut listener = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
        listener.set_read_timeout(Some(PATIENCE)).unwrap();
        send();
        let mut packet = [0; 2048];
        let len = listener.read(&mut packet).expect("an ICMP error in time");
        let header_len = usize::from(packet[0] & 0x0f) * 4;
        let [.., a, b, c, d, _, _, _, _] = packet[..20] else { unreachable!() };
        let icmp = &packet[header_len..len];
        Message {
            from: Ipv4Addr::new(a, b, c, d),
            kind: [icmp[0], icmp[1]],
            mtu: u16::from_be_bytes([icmp[6], icmp[7]]),
            quoted: icmp[8..].to_vec(),
        }
    })
}
