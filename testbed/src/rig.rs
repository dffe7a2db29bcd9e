//! One engine between a TUN device and the underlay, in namespaces of its own.
//!
//! ```text
//! application ── tun0 10.77.0.1/24 ── engine ── 192.0.2.1 ═══ wire ═══ 192.0.2.2 .3 .4 ── peers
//!                                               fd00::1                fd00::2
//! ```

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use crate::wait::patient;
use crate::{Namespace, Testbed, missing};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};
use twill::engine::{
    self, Engine, EngineError, EngineKind, EngineStats, Kernel, Ports, Sources, Tuning,
};
use twill::socket::{self, SocketSpec};
use twill::tun::{self, Device, DeviceSpec};
use twill_datapath::batch::{
    Chain, Datagrams, Destination, Frame, FrameKind, Frames, Inbox, Outcome, Piece, Pieces,
    RunLimits, Source, Train, TunFrame,
};
use twill_datapath::offload::feature::{Feature, FeatureSet};
use twill_datapath::offload::vnet_hdr;
use twill_datapath::route::PeerIndex;

/// The device's address; its network holds the addresses of applications beyond the tunnel.
pub const INNER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// An address beyond the tunnel.
pub const BEYOND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The addresses of the engine's host on the wire.
pub const SOURCES: Sources =
    Sources { v4: Ipv4Addr::new(192, 0, 2, 1), v6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1) };
/// MTU of the TUN device.
pub const MTU: u16 = 1452;
/// Arrivals per direction and turn.
pub const BATCH: usize = 64;
/// How long anything may take that must happen at last.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What to build.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The address at which the engine's socket receives.
    pub listen: SocketAddr,
    /// The socket has both IP families.
    pub both_families: bool,
    /// The offloads of device and socket, where the kernel has them.
    pub offloads: FeatureSet,
    /// The receive buffer of the engine's socket, bytes.
    pub socket_buffer: u32,
    /// Send from a socket of its own.
    pub spread: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((SOURCES.v4, 8285)),
            both_families: false,
            offloads: FeatureSet::ALL,
            socket_buffer: 1 << 20,
            spread: false,
        }
    }
}

impl Plan {
    /// The default over IPv6.
    #[must_use]
    pub fn ipv6() -> Self {
        Self { listen: SocketAddr::from((SOURCES.v6, 8285)), ..Self::default() }
    }

    /// The default over IPv4 and over IPv6, by a socket of that family and by one of both.
    #[must_use]
    pub fn by_family() -> [Self; 4] {
        let both = |plan| Self { both_families: true, ..plan };
        [Self::default(), Self::ipv6(), both(Self::default()), both(Self::ipv6())]
    }

    /// The address that the sockets are bound to.
    fn bound(&self) -> SocketAddr {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.listen.port()));
        if self.both_families { any } else { self.listen }
    }

    /// The default without any offload.
    #[must_use]
    pub fn without_offloads() -> Self {
        Self { offloads: FeatureSet::NONE, ..Self::default() }
    }
}

/// The engines, as this kernel lets them work, and as an older one would where that differs.
fn engines() -> Vec<(&'static str, EngineKind, Kernel)> {
    let here = *Kernel::here();
    let all = EngineKind::ALL.into_iter().map(|kind| (kind.name(), kind, here));
    let before_nowait = here.taken_for("6.3.0");
    let all = all.chain([("tokio-uring-6.3", EngineKind::TokioUring, before_nowait)]);
    all.filter(|(_, kind, _)| kind.is_built()).collect()
}

/// Runs a test's body once for each engine, in namespaces of its own and on a thread of its own.
/// Engines that this host lacks are left out.
///
/// # Panics
/// When the body panics, or a rig cannot be built.
pub fn every_engine(test: &str, plan: Plan, body: impl Fn(&mut Rig) + Sync) {
    every_rig(test, plan, |mut rig| body(&mut rig));
}

/// As [`every_engine`], for a body that wants the rig itself.
///
/// # Panics
/// As [`every_engine`].
pub fn every_rig(test: &str, plan: Plan, body: impl Fn(Rig) + Sync) {
    let Some(testbed) = Testbed::for_test(test) else { return };
    let mut tested = 0;
    for (name, kind, kernel) in engines() {
        let near = testbed.namespace(&format!("{name}-near")).unwrap();
        let far = testbed.namespace(&format!("{name}-far")).unwrap();
        lay_wire(&near, &far);
        let body = &body;
        tested += near.clone().enter(|| match Rig::new(&kernel, kind, plan, near, far) {
            Ok(rig) => {
                println!("engine {name}");
                body(rig);
                1
            }
            Err(error @ EngineError::Unsupported { .. }) => {
                missing::skip(kind.name(), &error);
                0
            }
            Err(error) => panic!("engine {name}: {error}"),
        });
    }
    assert!(tested >= 2, "epoll and classic run everywhere");
}

fn lay_wire(near: &Namespace, far: &Namespace) {
    near.link("under", far, "under", 1500).unwrap();
    near.ip("addr add 192.0.2.1/24 dev under\naddr add fd00::1/64 dev under nodad").unwrap();
    // By itself the kernel would send from these.
    near.ip("addr add 192.0.2.101/24 dev under\naddr add fd00::101/64 dev under nodad
         route replace 192.0.2.0/24 dev under src 192.0.2.101
         route add fd00::/64 dev under metric 1 src fd00::101")
        .unwrap();
    far.ip("addr add 192.0.2.2/24 dev under\naddr add 192.0.2.3/24 dev under
         addr add 192.0.2.4/24 dev under\naddr add fd00::2/64 dev under nodad")
        .unwrap();
}

/// An engine, its device and its socket.
pub struct Rig {
    /// Which engine.
    pub kind: EngineKind,
    /// Where the engine and the applications are.
    pub near: Namespace,
    /// Where the peers are.
    pub far: Namespace,
    /// What was asked for.
    pub plan: Plan,
    /// The engine itself.
    pub engine: Box<dyn Engine>,
    /// What its last wait brought.
    pub inbox: Inbox,
    /// A copy of the engine's wake descriptor.
    pub wake: OwnedFd,
    /// A copy of the engine's socket, to change its options.
    pub udp: OwnedFd,
    vnet_hdr: bool,
    /// What both the plan and the device have.
    offloads: FeatureSet,
    tuning: Tuning,
}

impl Rig {
    fn new(
        kernel: &Kernel,
        kind: EngineKind,
        plan: Plan,
        near: Namespace,
        far: Namespace,
    ) -> Result<Self, EngineError> {
        let vnet_hdr = kind != EngineKind::Classic;
        let offloads = if vnet_hdr { plan.offloads } else { FeatureSet::NONE };
        let spec = DeviceSpec { name: "tun0", queues: 1, vnet_hdr, offloads };
        let device = Device::create(&spec).unwrap();
        let tun = device.queues.into_iter().next().unwrap();
        let netmask = Ipv4Addr::new(255, 255, 255, 0);
        tun::configure(tun.as_fd(), "tun0", MTU, Some((INNER, netmask))).unwrap();
        near.ip("link set tun0 up").unwrap();
        let features = device.granted.and(offloads);
        let gro = features.has(Feature::Gro);
        let listen = plan.bound();
        let spec = SocketSpec { listen, shared: false, gro, buffer: plan.socket_buffer };
        let udp = socket::open(&spec).unwrap();
        let udp_send = plan.spread.then(|| {
            let listen = SocketAddr::new(listen.ip(), 0);
            socket::open(&SocketSpec { listen, gro: false, ..spec }).unwrap()
        });
        let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        let tuning = Tuning {
            batch: BATCH,
            gro,
            gso: features.has(Feature::Gso),
            super_packets: features.has(Feature::Tso) || features.has(Feature::Uso),
            mtu: MTU,
            sources: plan.both_families.then_some(SOURCES),
        };
        let copies = (wake.try_clone().unwrap(), udp.try_clone().unwrap());
        let engine = engine::open_on(kernel, kind, Ports { tun, udp, udp_send, wake }, tuning)?;
        Ok(Self {
            kind,
            near,
            far,
            plan,
            engine,
            inbox: Inbox::new(BATCH),
            wake: copies.0,
            udp: copies.1,
            vnet_hdr,
            offloads: features,
            tuning,
        })
    }

    /// The same device and sockets, in the hands of another engine.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] when this host does not have it.
    pub fn into_successor(self, kind: EngineKind) -> Result<Self, EngineError> {
        let Self { engine, tuning, .. } = self;
        let engine = engine::open(kind, engine.into_ports(), tuning)?;
        Ok(Self { kind, engine, ..self })
    }

    /// Whether the engine has the offload in this rig.
    pub fn has(&self, feature: Feature) -> bool {
        self.offloads.has(feature)
    }

    /// Whether what one send made arrives in one piece. Before Linux 5.11 a veth takes the run apart
    /// (`NETIF_F_GSO_SOFTWARE` lacks UDP there), and nothing joins it again.
    pub fn wire_keeps_trains(&self) -> bool {
        let features = self.far.run("ethtool", &["-k", "under"]).unwrap();
        assert!(features.contains("tx-udp-segmentation:"), "{features}");
        features.contains("tx-udp-segmentation: on")
    }

    /// A socket of an application on this side of the tunnel.
    pub fn application(&self) -> UdpSocket {
        waiting(UdpSocket::bind((INNER, 0)).unwrap())
    }

    /// A peer's socket; `host` is the last byte of its address.
    pub fn peer(&self, host: u16) -> UdpSocket {
        let address = match self.plan.listen {
            SocketAddr::V4(_) => SocketAddr::from(([192, 0, 2, host as u8], 0)),
            SocketAddr::V6(_) => SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, host], 0)),
        };
        waiting(self.far.enter(|| UdpSocket::bind(address).unwrap()))
    }

    /// What the engine has counted.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        self.engine.stats()
    }

    /// Takes turns until `done` says so; `turn` sees each non-empty inbox before it is released.
    pub fn turns(&mut self, mut turn: impl FnMut(&mut dyn Engine, &Inbox) -> bool) {
        let deadline = Instant::now() + patient(PATIENCE);
        loop {
            self.engine.receive(&mut self.inbox, Some(Duration::from_millis(50))).unwrap();
            let done = turn(&mut *self.engine, &self.inbox);
            self.engine.release(&mut self.inbox);
            if done {
                return;
            }
            assert!(Instant::now() < deadline, "engine {}: nothing more arrives", self.kind);
        }
    }

    /// Packets from the device, without their virtio headers, until there are `count`.
    pub fn frames(&mut self, count: usize) -> Vec<Vec<u8>> {
        let header = self.header_len();
        let mut frames = Vec::new();
        self.turns(|engine, inbox| {
            let packets = inbox.frames.iter().map(|frame| frame_bytes(engine, frame));
            frames.extend(packets.map(|bytes| bytes[header..].to_vec()));
            frames.len() >= count
        });
        frames
    }

    /// Trains from the socket with their bytes, until they hold `bytes` bytes.
    pub fn trains(&mut self, bytes: usize) -> Vec<(Train, Vec<u8>)> {
        let mut trains: Vec<(Train, Vec<u8>)> = Vec::new();
        self.turns(|engine, inbox| {
            let arrived = inbox.trains.iter().map(|train| (*train, train_bytes(engine, train)));
            trains.extend(arrived);
            trains.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() >= bytes
        });
        trains
    }

    /// Sends datagrams, gathered into runs where the rig has them.
    pub fn send(&mut self, packets: &[(SocketAddr, Vec<u8>)]) -> Outcome {
        self.send_runs(&gather(packets, false))
    }

    /// Sends packets whose senders allow fragments.
    pub fn send_fragmentable(&mut self, packets: &[(SocketAddr, Vec<u8>)]) -> Outcome {
        self.send_runs(&gather(packets, true))
    }

    fn send_runs(&mut self, datagrams: &Datagrams) -> Outcome {
        let mut outcome = Outcome::new(1024);
        self.engine.send(datagrams, &mut outcome);
        outcome
    }

    /// Writes packets to the device, each with an empty virtio header where it has one.
    pub fn write(&mut self, packets: &[Vec<u8>]) -> Outcome {
        let header = self.header_len();
        let bytes = packets.iter().map(|packet| packet.len() + header).sum();
        let mut frames = Frames::new(packets.len(), Pieces::new(packets.len(), bytes));
        for packet in packets {
            let (piece, room) = frames.pieces.header(header + packet.len()).unwrap();
            room[..header].fill(0);
            room[header..].copy_from_slice(packet);
            push_frame(&mut frames, &[piece], packet.len());
        }
        let mut outcome = Outcome::new(1024);
        self.engine.write(&frames, &mut outcome);
        outcome
    }

    /// The length of the virtio header before each packet.
    #[must_use]
    pub fn header_len(&self) -> usize {
        if self.vnet_hdr { vnet_hdr::LEN } else { 0 }
    }
}

/// Runs of these datagrams, whose bytes lie in headers.
fn gather(packets: &[(SocketAddr, Vec<u8>)], may_fragment: bool) -> Datagrams {
    let limits = RunLimits { datagrams: 63, bytes: 65_507 };
    let bytes = packets.iter().map(|(_, packet)| packet.len()).sum();
    let pieces = Pieces::new(packets.len(), bytes);
    let mut datagrams = Datagrams::new(limits, packets.len(), pieces);
    for (to, packet) in packets {
        let (piece, room) = datagrams.pieces.header(packet.len()).unwrap();
        room.copy_from_slice(packet);
        let host = match to.ip() {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets()[15],
        };
        let destination = Destination { peer: PeerIndex(host.into()), to: *to, may_fragment };
        datagrams.push(destination, &[piece], u16::MAX).unwrap();
    }
    datagrams
}

/// Adds a frame of one packet, which is `packet_len` long, made of pieces.
pub fn push_frame(frames: &mut Frames, pieces: &[Piece], packet_len: usize) {
    let mut chain = Chain::EMPTY;
    for piece in pieces {
        frames.pieces.append(&mut chain, *piece).unwrap();
    }
    let len = pieces.iter().map(|piece| piece.len).sum();
    let packet_bytes = packet_len as u32;
    frames.push(Frame { chain, len, packets: 1, packet_bytes, kind: FrameKind::Single }).unwrap();
}

/// The bytes of a frame in its slot.
pub fn frame_bytes(engine: &mut dyn Engine, frame: &TunFrame) -> Vec<u8> {
    engine.slot_mut(frame.slot)[frame.start as usize..][..frame.len as usize].to_vec()
}

/// The bytes of a receive in its slot.
pub fn train_bytes(engine: &mut dyn Engine, train: &Train) -> Vec<u8> {
    engine.slot_mut(train.slot)[train.start as usize..][..train.len as usize].to_vec()
}

/// The piece that a frame's packet is, without its virtio header.
pub fn packet_of(frame: &TunFrame, header: usize) -> Piece {
    let header = header as u32;
    Piece {
        source: Source::Slot(frame.slot),
        offset: frame.start + header,
        len: frame.len - header,
    }
}

/// A datagram of this number and length.
pub fn numbered(number: u16, len: usize) -> Vec<u8> {
    let mut bytes = vec![number as u8; len];
    let digits = number.to_be_bytes();
    let room = len.min(digits.len());
    bytes[..room].copy_from_slice(&digits[..room]);
    bytes
}

/// An IPv4 packet with a UDP datagram from beyond the tunnel to an application, checksums left to
/// the rule that zero means none.
pub fn packet_to(application: &UdpSocket, payload: &[u8]) -> Vec<u8> {
    let SocketAddr::V4(to) = application.local_addr().unwrap() else { unreachable!() };
    let builder =
        etherparse::PacketBuilder::ipv4(BEYOND.octets(), to.ip().octets(), 64).udp(7777, to.port());
    let mut packet = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut packet, payload).unwrap();
    packet
}

/// The UDP payload of an IPv4 packet without options.
pub fn payload_of(packet: &[u8]) -> &[u8] {
    &packet[28..]
}

/// The next `count` datagrams of a socket, which has no more.
pub fn datagrams_of(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut bytes = vec![0; 1 << 16];
    let mut datagrams = Vec::new();
    for _ in 0..count {
        match socket.recv(&mut bytes) {
            Ok(len) => datagrams.push(bytes[..len].to_vec()),
            Err(error) => panic!("{} of {count} datagrams: {error}", datagrams.len()),
        }
    }
    assert_nothing_more(socket);
    datagrams
}

/// No datagram waits in a socket.
pub fn assert_nothing_more(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    let error = socket.recv(&mut [0; 1]).map(|len| format!("{len} bytes")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    socket.set_nonblocking(false).unwrap();
}

/// How many datagrams the failures of an outcome stand for, run by run.
pub fn failed(outcome: &Outcome) -> usize {
    outcome.failures().iter().map(|failure| usize::from(failure.count)).sum()
}

/// All lengths from one to the other, in steps that hit every alignment.
pub fn lengths(range: RangeInclusive<usize>) -> impl Iterator<Item = usize> {
    let end = *range.end();
    range.step_by(13).chain([end - 1, end])
}

fn waiting(socket: UdpSocket) -> UdpSocket {
    socket.set_read_timeout(Some(patient(PATIENCE))).unwrap();
    socket
}
