//! The cases of bad input, D1 to D25 and T1 to T9, on every engine. The datapath alone has the same
//! cases in tests/datapath; here a kernel is in between, and what it does to them.
//!
//! ```text
//! application ── socketpair ── worker, engine ── 127.0.0.1 ══ loopback ══ 127.0.0.2 peer A
//!               (for a TUN queue)                                        127.0.0.3 peer B
//!                                                                        127.0.0.4 a stranger
//! ```
//!
//! A pair of Unix datagram sockets keeps packets apart as a TUN queue does, needs no privilege and
//! carries any virtio header, also those that no kernel would write.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod datagrams;
mod frames;

use super::*;
use crate::engine::{self, EngineKind, Ports, Tuning};
use crate::socket;
use crate::socket::SocketSpec;
use crate::sys::{kernel, sockopt};
use crate::telemetry::counter::Direction;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use twill_datapath::IngressCheck;
use twill_datapath::offload::vnet_hdr::VnetHdr;
use twill_datapath::route::Overlay;
use twill_datapath::{DropReason, Tally};
use twill_testbed::missing;
use twill_testbed::overlay::{self, AT_A, AT_B, HERE, MTU, OWN};
use twill_testbed::packets::{apart, with_vnet_hdr, without_meaningless_id};

/// How long anything may take that must happen at last.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a turn lasts that finds nothing, nanoseconds.
const IDLE_NS: i64 = 2_000_000;

/// What to build.
#[derive(Clone, Copy)]
struct Plan {
    check: IngressCheck,
    gro: bool,
    /// Join packets before they are written.
    coalesce: bool,
}

const STRICT: Plan = Plan { check: IngressCheck::Strict, gro: true, coalesce: true };

/// Who sends a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    A,
    B,
    /// Peer A from a port that is not its gateway's.
    AFromAnotherPort,
    Stranger,
}

/// One send of a sender's socket.
#[derive(Clone, Debug)]
struct Datagram {
    from: Sender,
    bytes: Vec<u8>,
    /// Bytes of every datagram but the last where the send is a run, else 0.
    segment: usize,
    /// Outer TOS octet.
    tos: u8,
}

impl Datagram {
    fn from_a(bytes: &[u8]) -> Self {
        Self { from: Sender::A, bytes: bytes.to_vec(), segment: 0, tos: 0 }
    }

    /// A run: all but the last have the first one's length.
    fn run(datagrams: &[Vec<u8>]) -> Self {
        Self { segment: datagrams[0].len(), ..Self::from_a(&datagrams.concat()) }
    }
}

/// Runs a test's body once for each engine, on a worker of its own.
fn every_engine(plan: Plan, body: impl Fn(&mut Rig)) {
    engines(&EngineKind::ALL, plan, body);
}

/// Of the engines that have offloads.
fn every_engine_with_offloads(plan: Plan, body: impl Fn(&mut Rig)) {
    engines(&[EngineKind::Uring, EngineKind::TokioUring, EngineKind::Epoll], plan, body);
}

fn engines(kinds: &[EngineKind], plan: Plan, body: impl Fn(&mut Rig)) {
    let mut tested = 0;
    for kind in kinds.iter().filter(|kind| kind.is_built()) {
        match Rig::new(*kind, plan) {
            Ok(mut rig) => {
                println!("engine {kind}");
                body(&mut rig);
                tested += 1;
            }
            Err(error @ EngineError::Unsupported { .. }) => missing::skip(kind.name(), &error),
            Err(error) => panic!("engine {kind}: {error}"),
        }
    }
    assert!(tested >= 1, "epoll runs everywhere");
}

/// A worker between both networks.
struct Rig {
    kind: EngineKind,
    worker: Worker,
    instruments: Arc<WorkerInstruments>,
    views: Arc<ArcSwap<View>>,
    /// The application's end of the TUN queue.
    device: UnixDatagram,
    /// A copy of the worker's socket, to change its options.
    udp: OwnedFd,
    gateway: SocketAddr,
    a: UdpSocket,
    b: UdpSocket,
    a_from_another_port: UdpSocket,
    stranger: UdpSocket,
}

impl Rig {
    fn new(kind: EngineKind, plan: Plan) -> Result<Self, EngineError> {
        let host = |last| UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), 0)).unwrap();
        let (a, b) = (host(2), host(3));
        let (device, tun) = UnixDatagram::pair().unwrap();
        tun.set_nonblocking(true).unwrap();
        let offloads = kind != EngineKind::Classic;
        let gro = plan.gro && offloads;
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let spec = SocketSpec { listen, shared: false, gro, buffer: 1 << 20 };
        let udp = socket::open(&spec).unwrap();
        let copy = udp.try_clone().unwrap();
        let gateway = UdpSocket::from(udp.try_clone().unwrap()).local_addr().unwrap();
        let ports = Ports { tun: tun.into(), udp, udp_send: None, wake: ticks() };
        let release = kernel::release();
        let tuning = Tuning {
            batch: BATCH,
            gro,
            gso: offloads && socket::gso_policy(&release, false).on,
            super_packets: offloads,
            mtu: MTU,
            sources: None,
        };
        let coalesce = plan.coalesce && offloads;
        let views = Arc::new(ArcSwap::from_pointee(View::new(overlay(&a, &b))));
        let common = Common {
            views: Arc::clone(&views),
            stop: Arc::default(),
            limits: RunLimits { datagrams: socket::max_run(&release), bytes: 65_507 },
            egress: EgressRules { vnet_hdr: offloads },
            ingress: IngressRules {
                check: plan.check,
                peer_sources: Vec::new(),
                vnet_hdr: offloads,
                coalesce_tcp: coalesce,
                coalesce_udp: coalesce,
            },
            originator: None,
            sources: Ipv4Addr::LOCALHOST.into(),
            busy_poll: BusyPoll::Never,
            telemetry: true,
        };
        let engine = engine::open(kind, ports, tuning)?;
        let instruments = Arc::<WorkerInstruments>::default();
        Ok(Self {
            kind,
            worker: Worker::new(engine, common, Arc::clone(&instruments)),
            instruments,
            views,
            device,
            udp: copy,
            gateway,
            a_from_another_port: host(2),
            stranger: host(4),
            a,
            b,
        })
    }

    fn has_offloads(&self) -> bool {
        self.kind != EngineKind::Classic
    }

    /// [`Rig::ingress_of`] one datagram or run.
    #[track_caller]
    fn ingress(
        &mut self,
        case: &str,
        datagram: &Datagram,
        packets: &[Vec<u8>],
        books: Tally,
    ) -> Vec<(VnetHdr, Vec<u8>)> {
        self.ingress_of(case, std::slice::from_ref(datagram), packets, books)
    }

    /// Sends datagrams to the gateway and checks what they come to: the packets written to the
    /// device, in order, the books of both directions, and nothing else. Returns the frames.
    #[track_caller]
    fn ingress_of(
        &mut self,
        case: &str,
        datagrams: &[Datagram],
        packets: &[Vec<u8>],
        books: Tally,
    ) -> Vec<(VnetHdr, Vec<u8>)> {
        for datagram in datagrams {
            self.send(datagram);
        }
        self.turns(case, |_, ingress| ingress.packets_in >= books.packets_in);

        let frames = self.written();
        let written: Vec<_> = frames.iter().flat_map(|frame| apart(frame, 64)).collect();
        let comparable = |packets: &[Vec<u8>]| -> Vec<_> {
            packets.iter().cloned().map(without_meaningless_id).collect()
        };
        assert_eq!(comparable(&written), comparable(packets), "{}: {case}", self.kind);
        self.assert_nothing_sent(case);
        self.close_books(case, Tally::default(), books);
        frames
    }

    /// Hands a frame to the worker and checks what it comes to: the datagrams that peers receive,
    /// in order per peer, the packets written back to the device, the books of both directions, and
    /// nothing else.
    #[track_caller]
    fn egress(
        &mut self,
        case: &str,
        frame: &[u8],
        datagrams: &[(Sender, Vec<u8>)],
        replies: &[Vec<u8>],
        books: Tally,
    ) {
        self.device.send(frame).unwrap();
        self.turns(case, |egress, _| egress.packets_in >= books.packets_in);

        for (to, expected) in datagrams {
            let received = receive(self.socket(*to), self.gateway);
            assert!(received == *expected, "{}: {case}: {received:02x?}", self.kind);
        }
        self.assert_nothing_sent(case);
        let written: Vec<_> = self
            .written()
            .into_iter()
            .map(|(header, packet)| {
                assert_eq!(header, VnetHdr::PLAIN);
                packet
            })
            .collect();
        assert_eq!(written, replies, "{}: {case}", self.kind);
        self.close_books(case, books, Tally::default());
    }

    /// A packet as the device hands it out when there is nothing to do about it.
    fn plain(&self, packet: &[u8]) -> Vec<u8> {
        if self.has_offloads() { with_vnet_hdr(VnetHdr::PLAIN, packet) } else { packet.to_vec() }
    }

    fn send(&self, datagram: &Datagram) {
        let socket = self.socket(datagram.from);
        let options = [
            (libc::IPPROTO_IP, libc::IP_TOS, datagram.tos.into()),
            (libc::SOL_UDP, libc::UDP_SEGMENT, datagram.segment as i32),
        ];
        for (level, option, value) in options {
            sockopt::set_int(socket.as_fd(), level, option, value).unwrap();
        }
        socket.send_to(&datagram.bytes, self.gateway).unwrap();
    }

    fn socket(&self, sender: Sender) -> &UdpSocket {
        match sender {
            Sender::A => &self.a,
            Sender::B => &self.b,
            Sender::AFromAnotherPort => &self.a_from_another_port,
            Sender::Stranger => &self.stranger,
        }
    }

    /// Takes turns until the books say so, and one more, for what should not follow.
    #[track_caller]
    fn turns(&mut self, case: &str, done: impl Fn(&Tally, &Tally) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.worker.turn().unwrap();
            let (egress, ingress) =
                (&self.worker.pipeline.egress.tally, &self.worker.pipeline.ingress.tally);
            if done(egress, ingress) {
                break;
            }
            let books = (egress, ingress);
            assert!(Instant::now() < deadline, "{}: {case}: no more arrives: {books:?}", self.kind);
        }
        self.worker.turn().unwrap();
    }

    /// All frames that the worker has written, virtio header apart.
    fn written(&self) -> Vec<(VnetHdr, Vec<u8>)> {
        self.device.set_nonblocking(true).unwrap();
        let mut room = vec![0; 1 << 17];
        let mut frames = Vec::new();
        while let Ok(len) = self.device.recv(&mut room) {
            let bytes = &room[..len];
            let (header, packet) = if self.has_offloads() {
                VnetHdr::parse(bytes).expect("a virtio header")
            } else {
                (VnetHdr::PLAIN, bytes)
            };
            frames.push((header, packet.to_vec()));
        }
        self.device.set_nonblocking(false).unwrap();
        frames
    }

    #[track_caller]
    fn assert_nothing_sent(&self, case: &str) {
        for to in [Sender::A, Sender::B, Sender::AFromAnotherPort, Sender::Stranger] {
            let socket = self.socket(to);
            socket.set_nonblocking(true).unwrap();
            let error = socket.recv(&mut [0; 1]).map(|len| format!("{len} bytes")).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{}: {case}: {to:?}", self.kind);
            socket.set_nonblocking(false).unwrap();
        }
    }

    /// Compares the worker's books, and what it published of them, and begins new ones.
    #[track_caller]
    fn close_books(&mut self, case: &str, egress: Tally, ingress: Tally) {
        let pipeline = &mut self.worker.pipeline;
        let kept = [&mut pipeline.egress.tally, &mut pipeline.ingress.tally].map(std::mem::take);
        let published = self.instruments.books.read();
        let at = format!("{}: {case}", self.kind);

        assert_eq!(kept, [egress, ingress], "{at}");
        assert_eq!(egress.imbalance(), 0, "{at}");
        assert_eq!(ingress.imbalance(), 0, "{at}");
        assert_eq!(published.egress, as_published(&egress), "{at}");
        assert_eq!(published.ingress, as_published(&ingress), "{at}");
    }
}

/// Something that wakes a worker again and again, so that no turn waits for ever.
fn ticks() -> OwnedFd {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK).unwrap();
    let tick = Timespec { tv_sec: 0, tv_nsec: IDLE_NS };
    let spec = Itimerspec { it_interval: tick, it_value: tick };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec).unwrap();
    timer
}

/// The overlay of the datapath's own cases, its peers at these sockets.
fn overlay(a: &UdpSocket, b: &UdpSocket) -> Overlay {
    overlay::overlay(a.local_addr().unwrap(), b.local_addr().unwrap())
}

/// A datagram from the gateway.
#[track_caller]
fn receive(socket: &UdpSocket, gateway: SocketAddr) -> Vec<u8> {
    let mut room = vec![0; 1 << 16];
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let (len, from) = socket.recv_from(&mut room).unwrap();
    assert_eq!(from, gateway);
    room.truncate(len);
    room
}

fn as_published(tally: &Tally) -> Direction {
    let counts =
        DropReason::ALL.iter().map(|reason| (reason.label(), tally.drops[*reason as usize]));
    Direction {
        packets_in: tally.packets_in,
        bytes_in: tally.bytes_in,
        packets_out: tally.packets_out,
        bytes_out: tally.bytes_out,
        drops: counts
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.to_owned(), count))
            .collect(),
        imbalance: 0,
    }
}
