//! The order of every flow while workers choose who goes first: small packets beside bulk.

use crate::numbered::{Load, beside, echo_numbered};
use crate::with;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use twill::sys::sockopt;
use twill_testbed::numbered::{Arrivals, Disorder, datagram};
use twill_testbed::pair::{Pair, Setup};
use twill_testbed::{Underlay, Wire, engines};

/// Flows of bulk each way: over eight queues, some workers have several.
const FLOWS: usize = 8;
/// Bytes of a datagram, and datagrams of a super-packet: one fills most of a turn.
const SEGMENT: usize = 1000;
const SEGMENTS: u32 = 50;
/// Super-packets that a flow sends back to back: more than a turn has room for.
const BURST: u32 = 3;
/// Datagrams that may be out at once: what the device's queue holds, which counts super-packets.
const WINDOW: u64 = FLOWS as u64 * BURST as u64 * SEGMENTS as u64;
/// How long nothing arrives until what is out is taken for lost.
const SILENCE: Duration = Duration::from_millis(100);

#[test]
fn small_flows_and_bulk_keep_their_order_over_eight_queues() {
    for engine in engines() {
        for wire in [Wire::Offloaded, Wire::Mtu] {
            let lines = "queues = 8\nprobe_seconds = 0";
            let underlay = Underlay { wire, ..Underlay::default() };
            let setup = Setup { underlay, lines, ..with(engine) };
            let Some(pair) = Pair::start("order beside bulk", &setup) else { return };
            pair.assert_connected();

            let (counted, bulk) = beside_bulk(&pair, || {
                let load = Load { flows: 64, rounds: 40, sizes: &[64, 64, 1200, 500], window: 512 };
                echo_numbered(&pair, &load)
            });

            println!("{engine}, {wire} wire: {counted:?}, {bulk:?}");
            counted.assert_in_order();
            for bulk in bulk {
                assert_eq!(bulk.wrong, Disorder::default(), "{engine}: {bulk:?}");
                assert!(bulk.arrived >= WINDOW, "{engine}: no bulk: {bulk:?}");
            }
            pair.assert_books_balance();
        }
    }
}

/// What became of one direction's bulk, datagrams.
#[derive(Clone, Copy, Debug, Default)]
struct Bulk {
    arrived: u64,
    wrong: Disorder,
}

/// Does something while bulk goes both ways between the pods.
fn beside_bulk<T>(pair: &Pair, work: impl FnOnce() -> T) -> (T, [Bulk; 2]) {
    let mut both = [Bulk::default(); 2];
    let [there, back] = &mut both;
    let result = beside(
        |done| *there = send_bulk(pair, 0, done),
        || beside(|done| *back = send_bulk(pair, 1, done), work),
    );
    (result, both)
}

/// Sends super-packets from one pod to the other until told to end, and reads what arrives.
fn send_bulk(pair: &Pair, from: usize, done: &AtomicBool) -> Bulk {
    let (sender, receiver) = (&pair.pods[from], &pair.pods[1 - from]);
    let sink = receiver.enter(|| UdpSocket::bind((receiver.address(), 0)).unwrap());
    sink.set_read_timeout(Some(SILENCE)).unwrap();
    set_socket_recv_buffer_size_force(&sink, 16 << 20).unwrap();
    let to = sink.local_addr().unwrap();
    let flows: Vec<_> = (0..FLOWS).map(|_| sender.enter(|| super_packets(to))).collect();

    let mut bulk = Bulk::default();
    let (mut out, mut first) = (0, 0);
    let (mut arrivals, mut room) = (Arrivals::new(FLOWS), [0; SEGMENT]);
    while !done.load(Ordering::Relaxed) {
        for (flow, socket) in flows.iter().enumerate() {
            for burst in 0..BURST {
                // Where a queue is full, the kernel may refuse it: that is loss, not disorder.
                let sent = socket.send(&super_packet(flow, first + burst * SEGMENTS));
                out += sent.map_or(0, |_| u64::from(SEGMENTS));
            }
        }
        first += BURST * SEGMENTS;
        while out > WINDOW {
            match sink.recv(&mut room) {
                Ok(_) => bulk.note(&room, &mut arrivals),
                // What is still out is lost, or late.
                Err(_) => out = 1,
            }
            out -= 1;
        }
    }
    while sink.recv(&mut room).is_ok() {
        bulk.note(&room, &mut arrivals);
    }
    bulk
}

impl Bulk {
    fn note(&mut self, datagram: &[u8], arrivals: &mut Arrivals) {
        self.arrived += 1;
        arrivals.note(datagram, &mut self.wrong, |_, _| SEGMENT);
    }
}

fn super_packets(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect(to).unwrap();
    let segment = SEGMENT as libc::c_int;
    sockopt::set_int(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, segment).unwrap();
    socket
}

/// Datagrams of one flow, each with the flow and its number.
fn super_packet(flow: usize, first: u32) -> Vec<u8> {
    (first..).take(SEGMENTS as usize).flat_map(|number| datagram(flow, number, SEGMENT)).collect()
}
