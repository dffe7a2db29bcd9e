//! The table through real devices and sockets, on every engine: what stands on the wire, and what
//! the kernel is handed.

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use std::io::Read;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use twill::config::Settings;
use twill::engine::{EngineChoice, EngineKind};
use twill::gateway::Gateway;
use twill_datapath::IngressCheck;
use twill_datapath::route::View;
use twill_testbed::cases::wire::{Case, Given, Outcome, bytes, cases};
use twill_testbed::overlay::{A, B, with_a_and_b};
use twill_testbed::{Namespace, Testbed, local, settings};

/// The gateway under test.
const GATEWAY: &str = "192.0.2.100:8285";
/// Long enough for a busy machine; a packet takes microseconds.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn every_packet_crosses_real_devices_as_the_table_says_on_every_engine() {
    let Some(testbed) = Testbed::for_test("the wire table on real devices") else { return };
    for kind in EngineKind::ALL {
        let namespace = testbed.namespace(kind.name()).unwrap();
        // Peers and containers are addresses of the loopback device.
        namespace
            .ip("link set lo up
                 addr add 192.0.2.100/32 dev lo
                 addr add 192.0.2.1/32 dev lo
                 addr add 192.0.2.2/32 dev lo
                 addr add 203.0.113.7/32 dev lo
                 addr add 10.10.0.5/32 dev lo")
            .unwrap();
        let Some(gateway) = start(&namespace, kind) else { continue };
        assert_eq!(gateway.engine().0, kind);
        namespace.ip("link set tun0 up\nroute add 10.10.0.0/16 dev tun0").unwrap();
        namespace.enter(|| {
            let wires = Wires::open(gateway.device_index());
            for case in cases() {
                replay(&wires, kind, case);
            }
        });
    }
}

fn replay(wires: &Wires, kind: EngineKind, case: &Case) {
    let name = case.name;
    match case.given {
        Given::FromTun(dump) => {
            wires.hand_out(&bytes(dump));
            match case.twill {
                Outcome::ToPeer(to, expected) => {
                    assert_eq!(wires.at_peer(to), bytes(expected), "{kind}: {name}");
                }
                Outcome::ToTun(expected) => {
                    assert_eq!(wires.icmp(), anonymous(bytes(expected)), "{kind}: {name}");
                }
                Outcome::Silence => {}
            }
            // Whatever else it caused would come before this packet's own outcome.
            let (last, expected) = sentinel([10, 10, 0, 5], [10, 10, 1, 5]);
            wires.hand_out(&last);
            assert_eq!(wires.at_peer(A), expected, "{kind}: after {name}");
        }
        Given::FromPeer(from, dump) => {
            wires.send_from(from, &bytes(dump));
            match case.twill {
                Outcome::ToTun(expected) => {
                    assert_eq!(wires.written(), bytes(expected), "{kind}: {name}");
                }
                Outcome::ToPeer(..) => unreachable!("ingress sends nothing"),
                Outcome::Silence => {}
            }
            let (last, expected) = sentinel([10, 10, 1, 5], [10, 10, 0, 5]);
            wires.send_from(from, &last);
            assert_eq!(wires.written(), expected, "{kind}: after {name}");
        }
    }
}

/// A packet that surely passes, and what becomes of it.
fn sentinel(from: [u8; 4], to: [u8; 4]) -> (Vec<u8>, Vec<u8>) {
    let packet = |ttl| {
        let mut packet = Vec::new();
        let builder = etherparse::PacketBuilder::ipv4(from, to, ttl).udp(7, 7);
        builder.write(&mut packet, b"sentinel").unwrap();
        packet
    };
    (packet(64), packet(63))
}

/// A packet without what the kernel writes into raw packets: identification and checksum.
fn anonymous(mut packet: Vec<u8>) -> Vec<u8> {
    packet[4..6].fill(0);
    packet[10..12].fill(0);
    packet
}

/// All ends of the gateway under test.
struct Wires {
    peers: Vec<UdpSocket>,
    device: SockAddr,
    tun: Socket,
    icmp: Socket,
}

impl Wires {
    fn open(device: u32) -> Self {
        let peers = ["192.0.2.1:50000", "203.0.113.7:8285", A, B].map(|address| {
            let socket = UdpSocket::bind(address).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        });
        let icmp = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
        icmp.set_read_timeout(Some(PATIENCE)).unwrap();
        let tun = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(every_protocol())));
        let tun = tun.unwrap();
        let device = link_address(device);
        tun.bind(&device).unwrap();
        tun.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { peers: peers.into(), device, tun, icmp }
    }

    fn peer(&self, address: &str) -> &UdpSocket {
        let address: SocketAddr = address.parse().unwrap();
        self.peers.iter().find(|peer| peer.local_addr().unwrap() == address).unwrap()
    }

    /// Has the device hand out a packet, whatever it is.
    fn hand_out(&self, packet: &[u8]) {
        self.tun.send_to(packet, &self.device).unwrap();
    }

    /// The next packet that was written to the device.
    fn written(&self) -> Vec<u8> {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 2048];
        loop {
            let (len, from) = self.tun.recv_from(&mut buffer).expect("a packet in time");
            if packet_type(from) != libc::PACKET_OUTGOING {
                let bytes = &buffer[..len];
                // SAFETY: the kernel wrote the first `len` bytes.
                return bytes.iter().map(|byte| unsafe { byte.assume_init() }).collect();
            }
        }
    }

    fn send_from(&self, peer: &str, datagram: &[u8]) {
        self.peer(peer).send_to(datagram, GATEWAY).unwrap();
    }

    fn at_peer(&self, peer: &str) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let (len, from) = self.peer(peer).recv_from(&mut buffer).expect("a datagram in time");
        assert_eq!(from, GATEWAY.parse().unwrap(), "stock peers expect the port of the overlay");
        buffer[..len].to_vec()
    }

    fn icmp(&self) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let len = (&self.icmp).read(&mut buffer).expect("an ICMP error in time");
        anonymous(buffer[..len].to_vec())
    }
}

fn every_protocol() -> i32 {
    i32::from((libc::ETH_P_ALL as u16).to_be())
}

/// A device, for a packet socket.
fn link_address(index: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is plain numbers and fits into the storage.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    link.sll_ifindex = index as i32;
    // SAFETY: the storage holds a `sockaddr_ll`.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as u32) }
}

fn packet_type(from: SockAddr) -> u8 {
    let mut storage = from.as_storage();
    // SAFETY: the address came from a packet socket.
    unsafe { storage.view_as::<libc::sockaddr_ll>() }.sll_pkttype
}

/// `None` where the kernel lacks the engine.
fn start(namespace: &Namespace, kind: EngineKind) -> Option<Gateway> {
    let overlay = with_a_and_b();
    let settings = Settings {
        engine: EngineChoice::Only(kind),
        ingress_check: IngressCheck::Off,
        ..settings(GATEWAY.parse().unwrap(), overlay.addresses[0].into(), overlay.local[0])
    };
    local::start(namespace, &settings, View::new(overlay))
}
