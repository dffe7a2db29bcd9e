//! ICMP errors that nobody on the path has sent.

use crate::with;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{Ipv4Addr, SocketAddrV4};
use twill_datapath::wire::checksum::Sum;
use twill_testbed::engines;
use twill_testbed::pair::{Pair, Setup};

/// The least path MTU that Linux believes; 552 unless somebody changes it.
const FLOOR: &str = "net.ipv4.route.min_pmtu";

#[test]
fn a_forged_path_mtu_of_a_host_that_is_no_peer_ends_no_connection() {
    for engine in engines() {
        let setup = Setup { hosts: 3, ..with(engine) };
        let Some(pair) = Pair::start("forged", &setup) else { return };
        pair.assert_connected();
        let [us, peer] = [0, 1].map(|index: usize| pair.hosts[index].address());
        let path = |pair: &Pair| {
            let peer = peer.to_string();
            pair.hosts[0].run("ip", &["route", "get", &peer, "from", &us.to_string()]).unwrap()
        };

        // About ports that the gateway does not have, and about a datagram of somebody else's.
        forge(&pair, (us, 9), (peer, 8285));
        forge(&pair, (Ipv4Addr::new(192, 0, 2, 77), 8285), (peer, 8285));
        pair.assert_connected();
        assert!(!path(&pair).contains("mtu"), "{engine}: {}", path(&pair));

        // About a datagram that the gateway may have sent: the kernel cannot tell, but has a floor.
        for floor in [1400, 552] {
            pair.hosts[0].sysctl(FLOOR, &floor.to_string()).unwrap();
            pair.hosts[0].run("ip", &["route", "flush", "cache"]).unwrap();
            forge(&pair, (us, 8285), (peer, 8285));
            pair.eventually("the floor", |pair| path(pair).contains(&format!("mtu lock {floor}")));
        }
        pair.assert_connected();
        pair.assert_tcp_carries(2, 1 << 20);
        pair.assert_books_balance();
    }
}

/// The third host says that a datagram of the first one was too long for a link of 68 bytes.
fn forge(pair: &Pair, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) {
    let mut quoted = vec![0x45, 0, 0x05, 0xdc, 0, 1, 0x40, 0, 64, 17, 0, 0];
    quoted.extend(from.0.octets());
    quoted.extend(to.0.octets());
    let sum = Sum::default().bytes(&quoted).finish();
    quoted[10..12].copy_from_slice(&sum.to_be_bytes());
    for half in [from.1, to.1, 1480, 0] {
        quoted.extend(half.to_be_bytes());
    }
    // Destination unreachable, fragmentation needed (RFC 1191).
    let mut message = vec![3, 4, 0, 0, 0, 0, 0, 68];
    message.extend(quoted);
    let sum = Sum::default().bytes(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    pair.hosts[2].enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
        let victim = SocketAddrV4::new(pair.hosts[0].address(), 0);
        socket.send_to(&message, &victim.into()).unwrap();
    });
}
