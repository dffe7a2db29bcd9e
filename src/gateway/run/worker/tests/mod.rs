//! Workers on an engine without a kernel: whole turns.

use super::*;
use crate::engine::loopback::{Loopback, Wires};
use ipnet::IpNet;
use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use twill_datapath::IngressCheck;
use twill_datapath::route::{Overlay, Peer, PeerIndex};
use twill_datapath::{DropReason, Tally};
use twill_testbed::packets::{self, ACK, plain, tcp, tso};

/// A host at the near gateway, and one at the far one.
const NEAR: [u8; 4] = [10, 10, 0, 5];
const FAR: [u8; 4] = [10, 10, 1, 5];
/// A network whose gateway nobody runs.
const ELSEWHERE: [u8; 4] = [10, 10, 2, 5];
/// The far gateway's UDP address, on a host that every test machine can reach.
const FAR_ENDPOINT: &str = "127.0.0.2:8285";
const NEAR_ENDPOINT: &str = "127.0.0.1:8285";

mod order;
mod refusals;

#[test]
fn one_turn_carries_both_directions() {
    let mut side = Side::near();
    side.wires.borrow_mut().from_tun.push_back(plain(&udp(NEAR, FAR, b"out")));
    let arrival = udp(FAR, NEAR, b"in");
    side.arrives(0, arrival);

    side.turn();

    let wires = side.wires.borrow();
    assert_eq!(wires.to_udp.len(), 1);
    assert_eq!(wires.to_tun.len(), 1);
    assert_eq!((side.egress().packets_out, side.ingress().packets_out), (1, 1));
}

#[test]
fn what_an_engine_holds_when_its_worker_ends_leaves_first() {
    let mut side = Side::near();
    for number in 0..2 * BATCH {
        let packet = plain(&udp(NEAR, FAR, format!("{number}").as_bytes()));
        side.wires.borrow_mut().from_tun.push_back(packet);
    }
    side.worker.stop.store(true, Ordering::Relaxed);

    side.worker.turns().unwrap();

    assert!(!side.wires.borrow().has_arrivals());
    assert_eq!(side.egress().packets_out, 2 * BATCH as u64);
}

#[test]
fn a_new_view_counts_from_the_next_turn_on() {
    let mut side = Side::near();
    let packet = plain(&udp(NEAR, [10, 10, 77, 1], b""));
    side.wires.borrow_mut().from_tun.push_back(packet.clone());
    side.turn();
    assert_eq!(side.egress().drops[DropReason::NoRoute as usize], 1);

    let mut overlay = overlay([10, 10, 0, 0]);
    overlay.peers.push(peer(7, "127.0.0.9:8285", [10, 10, 77, 0]));
    side.views.store(Arc::new(View::new(overlay)));
    side.wires.borrow_mut().from_tun.push_back(packet);
    side.turn();

    assert_eq!(side.wires.borrow().to_udp[0].0, "127.0.0.9:8285".parse().unwrap());
}

#[test]
fn a_sender_without_a_route_is_told_through_the_device() {
    let mut side = Side::near();
    let packet = udp(NEAR, [10, 10, 77, 1], b"");
    side.wires.borrow_mut().from_tun.push_back(plain(&packet));

    side.turn();

    let wires = side.wires.borrow();
    assert_eq!(wires.to_tun.len(), 1);
    assert_eq!(wires.to_tun[0][10 + 28..], packet[..28]);
    assert_eq!(side.ingress(), Tally::default(), "a reply is nobody's packet");
}

/// A worker and the wires it is on.
struct Side {
    worker: Worker,
    wires: Rc<RefCell<Wires>>,
    views: Arc<ArcSwap<View>>,
}

impl Side {
    fn near() -> Self {
        Self::with(overlay([10, 10, 0, 0]))
    }

    fn far() -> Self {
        Self::with(overlay([10, 10, 1, 0]))
    }

    fn with(overlay: Overlay) -> Self {
        let wires = Wires::new();
        let views = Arc::new(ArcSwap::from_pointee(View::new(overlay)));
        let common = Common {
            views: Arc::clone(&views),
            stop: Arc::default(),
            limits: RunLimits { datagrams: 63, bytes: 65_507 },
            egress: EgressRules { vnet_hdr: true },
            ingress: IngressRules {
                check: IngressCheck::Strict,
                peer_sources: Vec::new(),
                vnet_hdr: true,
                coalesce_tcp: true,
                coalesce_udp: true,
            },
            originator: None,
            sources: Ipv4Addr::LOCALHOST.into(),
            busy_poll: BusyPoll::Never,
            telemetry: true,
        };
        let engine = Loopback::new(Rc::clone(&wires), BATCH);
        Self { worker: Worker::new(Box::new(engine), common, Arc::default()), wires, views }
    }

    fn turn(&mut self) {
        self.worker.turn().unwrap();
    }

    /// Turns until everything that arrived is done.
    fn turns(&mut self) {
        while self.wires.borrow().has_arrivals() || !self.worker.backlog.inbox.is_empty() {
            self.turn();
        }
    }

    /// A receive from the far gateway.
    fn arrives(&self, segment: u16, bytes: Vec<u8>) {
        let from = FAR_ENDPOINT.parse().unwrap();
        self.wires.borrow_mut().from_udp.push_back((from, segment, bytes));
    }

    fn egress(&self) -> Tally {
        self.worker.pipeline.egress.tally
    }

    fn ingress(&self) -> Tally {
        self.worker.pipeline.ingress.tally
    }
}

/// The overlay as the gateway with this subnet sees it.
fn overlay(own: [u8; 4]) -> Overlay {
    let peers = [
        peer(0, NEAR_ENDPOINT, [10, 10, 0, 0]),
        peer(1, FAR_ENDPOINT, [10, 10, 1, 0]),
        peer(2, "127.0.0.3:8285", [10, 10, 2, 0]),
    ];
    let own_subnet = subnet(own);
    Overlay {
        peers: peers.into_iter().filter(|peer| peer.subnets != [own_subnet]).collect(),
        local: vec![own_subnet],
        addresses: vec![IpAddr::from(own)],
    }
}

fn peer(index: u32, endpoint: &str, network: [u8; 4]) -> Peer {
    Peer {
        index: PeerIndex(index),
        name: endpoint.into(),
        endpoint: endpoint.parse().unwrap(),
        subnets: vec![subnet(network)],
    }
}

fn subnet(address: [u8; 4]) -> IpNet {
    IpNet::new_assert(IpAddr::from(address), 24)
}

fn udp(from: [u8; 4], to: [u8; 4], data: &[u8]) -> Vec<u8> {
    packets::udp(from, to, 64, data)
}
