//! Two gateways in memory, and one packet from a host behind the first to a host behind the second.
//!
//! ```text
//! 10.10.1.5 ── first gateway ══ UDP ══ second gateway ── 10.10.2.5
//!              192.0.2.1:8285          192.0.2.2:8285
//! ```
//!
//! Run it with `cargo run -p twill-datapath --example two_gateways`.

use std::net::{Ipv4Addr, SocketAddr};
use twill_datapath::batch::{
    Chain, Datagrams, Frames, Piece, Pieces, RunLimits, Slot, Train, TunFrame,
};
use twill_datapath::route::{Overlay, Peer, PeerIndex, View};
use twill_datapath::wire::{ipv4, protocol, udp};
use twill_datapath::{Egress, EgressRules, Ingress, IngressCheck, IngressRules, Progress, World};

/// Room for one packet.
const ROOM: usize = 2048;

fn main() {
    let mut first = Gateway::new(1, 2);
    let mut second = Gateway::new(2, 1);
    let packet = packet(b"hello");

    let (to, datagram) = first.send(&packet);
    println!("{} bytes leave for {to}", datagram.len());
    let delivered = second.receive(first.address, &datagram);
    println!("{} bytes arrive: {:?}", delivered.len(), String::from_utf8_lossy(&delivered[28..]));

    assert_eq!(to, second.address);
    assert_eq!(delivered[28..], packet[28..], "the payload is untouched");
    assert_eq!(delivered[8], packet[8] - 2, "each gateway takes one hop off");
    assert_eq!(first.egress.tally.imbalance() + second.ingress.tally.imbalance(), 0);
}

/// A gateway whose device and socket are the caller's.
struct Gateway {
    address: SocketAddr,
    view: View,
    egress: Egress,
    ingress: Ingress,
    datagrams: Datagrams,
    frames: Frames,
    replies: Frames,
}

impl Gateway {
    /// The gateway of `10.10.NUMBER.0/24`, which knows one peer.
    fn new(number: u8, peer: u8) -> Self {
        let network = |number| ipnet::IpNet::new_assert([10, 10, number, 0].into(), 24);
        let address = |number| SocketAddr::from(([192, 0, 2, number], 8285));
        let peer = Peer {
            index: PeerIndex(0),
            name: "the other gateway".into(),
            endpoint: address(peer),
            subnets: vec![network(peer)],
        };
        let overlay = Overlay {
            peers: vec![peer],
            local: vec![network(number)],
            addresses: vec![[10, 10, number, 0].into()],
        };
        let rules = IngressRules {
            check: IngressCheck::Strict,
            peer_sources: Vec::new(),
            vnet_hdr: false,
            coalesce_tcp: false,
            coalesce_udp: false,
        };
        let room = || Pieces::new(8, ROOM);
        Self {
            address: address(number),
            view: View::new(overlay),
            egress: Egress::new(EgressRules { vnet_hdr: false }),
            ingress: Ingress::new(rules, 8),
            datagrams: Datagrams::new(RunLimits { datagrams: 1, bytes: 65_507 }, 8, room()),
            frames: Frames::new(8, room()),
            replies: Frames::new(8, room()),
        }
    }

    /// What leaves by the socket for a packet that the device handed out.
    fn send(&mut self, packet: &[u8]) -> (SocketAddr, Vec<u8>) {
        let mut slot = packet.to_vec();
        let frame = TunFrame { slot: Slot(0), start: 0, len: slot.len() as u32, read_ns: 0 };
        let world = World { view: &self.view, now_ns: 0 };
        let (out, replies) = (&mut self.datagrams, &mut self.replies);
        let progress = self.egress.frame(&world, frame, &mut slot, out, replies);
        assert_eq!(progress, Progress::Done);
        let run = self.datagrams.runs()[0];
        let datagram = bytes(&self.datagrams.pieces, &run.chain, &slot);
        self.datagrams.clear();
        (run.destination.to, datagram)
    }

    /// What is written to the device for a datagram that the socket received.
    fn receive(&mut self, from: SocketAddr, datagram: &[u8]) -> Vec<u8> {
        let mut slot = datagram.to_vec();
        let train = Train {
            slot: Slot(0),
            start: 0,
            len: slot.len() as u32,
            from,
            segment: 0,
            tos: 0,
            received_ns: 0,
            flaw: None,
        };
        let world = World { view: &self.view, now_ns: 0 };
        let report = self.ingress.train(&world, &train, &mut slot, &mut self.frames);
        self.ingress.flush(&mut self.frames);
        assert_eq!((report.packets, report.last_drop), (1, None));
        let packet = bytes(&self.frames.pieces, &self.frames.frames()[0].chain, &slot);
        self.frames.clear();
        packet
    }
}

/// The bytes of a chain: what an engine would hand to `sendmsg` or `writev`.
fn bytes(pieces: &Pieces, chain: &Chain, slot: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; ROOM];
    let copy = |piece: Piece, out: &mut [u8]| {
        out.copy_from_slice(piece.of(slot).expect("a piece of the slot"));
    };
    let len = pieces.copy(chain, 0, &mut bytes, copy);
    bytes.truncate(len);
    bytes
}

/// A UDP datagram from 10.10.1.5 to 10.10.2.5.
fn packet(data: &[u8]) -> Vec<u8> {
    let length = (udp::HEADER_LEN + data.len()) as u16;
    let mut packet = vec![0; ipv4::HEADER_LEN];
    ipv4::Repr {
        tos: 0,
        id: 0,
        dont_fragment: true,
        ttl: 64,
        protocol: protocol::UDP,
        source: Ipv4Addr::new(10, 10, 1, 5),
        destination: Ipv4Addr::new(10, 10, 2, 5),
        payload_len: length,
    }
    .emit(&mut packet);
    let mut header = [0; udp::HEADER_LEN];
    udp::Repr { source_port: 4000, destination_port: 53, length }.emit(&mut header);
    packet.extend(header);
    packet.extend(data);
    packet
}
