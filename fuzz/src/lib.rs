//! What twill does with bytes that nobody vouches for. Each function takes any input, and panics
//! when a promise is broken: no panic, no overrun, and the laws of the offloads.

use ipnet::IpNet;
use std::collections::BTreeMap;
#[cfg(feature = "daemon")]
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
#[cfg(feature = "daemon")]
use std::net::{Shutdown, TcpStream};
#[cfg(feature = "daemon")]
use std::sync::OnceLock;
#[cfg(feature = "daemon")]
use std::time::Duration;
#[cfg(feature = "daemon")]
use twill::config::file::{self, FileErrors, Located};
#[cfg(feature = "daemon")]
use twill::control::Message;
#[cfg(feature = "daemon")]
use twill::telemetry::http::{self, Answer, Routes};
use twill_datapath::IngressCheck;
use twill_datapath::batch::{Frame, FrameKind, Frames, Full, Piece, Pieces, Slot, Source, Train};
use twill_datapath::offload::coalesce::Coalescer;
use twill_datapath::offload::split::{self, Plan, complete_checksum};
use twill_datapath::offload::vnet_hdr::{self, GsoType, VnetHdr};
use twill_datapath::route::{Overlay, Peer, PeerIndex, View};
use twill_datapath::wire::{ipv4, ipv6, protocol};
use twill_datapath::{Ingress, IngressRules, Progress, World};
use twill_testbed::packets::{cut, gather, without_meaningless_id};

/// A target's name, which is its corpus's too, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("split", split),
    ("coalesce", coalesce),
    ("vnet_hdr", vnet_hdr),
    ("decapsulate", decapsulate),
    #[cfg(feature = "daemon")]
    ("config", config),
    #[cfg(feature = "daemon")]
    ("control", control),
    #[cfg(feature = "daemon")]
    ("http", http),
];

/// A frame as the TUN device hands it out: virtio header, packet. Its segments have all of the
/// payload, in order, each under whole headers and none above the segment size.
pub fn split(data: &[u8]) {
    let Some((header, packet)) = VnetHdr::parse(data) else { return };
    let _ = complete_checksum(header, &mut packet.to_vec());
    let Ok(plan) = Plan::parse(header, packet) else { return };
    assert!(plan.header_len() <= split::MAX_HEADER_LEN);
    assert!(plan.packet_len() <= packet.len());
    let mut room = [0; split::MAX_HEADER_LEN];
    let mut next = plan.header_len();
    for index in 0..plan.segments() {
        let payload = plan.write_header(packet, index, &mut room);
        assert_eq!(payload, plan.payload(index));
        assert_eq!(payload.start, next);
        assert!(payload.len() <= usize::from(header.gso_size));
        next = payload.end;
    }
    assert_eq!(next, plan.packet_len());
}

/// Packets, each behind its length (two bytes, little-endian): what the joined frames are cut into
/// is what went in, flow by flow.
pub fn coalesce(data: &[u8]) {
    let packets = packets(data);
    let mut frames = Frames::new(64, Pieces::new(1024, 1 << 14));
    let mut coalescer = Coalescer::new(true, true, true, 64);
    let mut back = Vec::new();
    for (slot, packet) in packets.iter().enumerate() {
        let source = Source::Slot(Slot(slot as u16));
        let piece = Piece { source, offset: 0, len: packet.len() as u32 };
        if coalescer.push(packet, piece, &mut frames) == Err(Full) {
            coalescer.flush(&mut frames);
            take_apart(&mut frames, &packets, &mut back);
            assert_eq!(coalescer.push(packet, piece, &mut frames), Ok(()));
        }
    }
    coalescer.flush(&mut frames);
    take_apart(&mut frames, &packets, &mut back);
    assert_eq!(by_flow(&packets), by_flow(&back));
}

/// The virtio header: what is read and written again means the same.
pub fn vnet_hdr(data: &[u8]) {
    let Some((header, packet)) = VnetHdr::parse(data) else {
        assert!(data.len() < vnet_hdr::LEN);
        return;
    };
    assert_eq!(packet, &data[vnet_hdr::LEN..]);
    let bytes = header.to_bytes();
    assert_eq!(bytes[1..], data[1..vnet_hdr::LEN]);
    assert_eq!(VnetHdr::parse(&bytes), Some((header, [].as_slice())));
}

/// Datagrams from the network. The first two bytes choose the check, the source and the segment
/// size; the rest is what was received. Every packet is booked, and none leaves twice.
pub fn decapsulate(data: &[u8]) {
    let [choice, segment, received @ ..] = data else { return };
    if received.is_empty() || received.len() > usize::from(u16::MAX) {
        return;
    }
    let check = [IngressCheck::Strict, IngressCheck::Peer, IngressCheck::Off];
    let rules = IngressRules {
        check: check[usize::from(choice % 3)],
        peer_sources: Vec::new(),
        vnet_hdr: choice & 0x40 == 0,
        coalesce_tcp: true,
        coalesce_udp: true,
    };
    let sender = 1 + (choice >> 3) % 3;
    let train = Train {
        slot: Slot(0),
        start: 0,
        len: received.len() as u32,
        from: SocketAddr::from(([192, 0, 2, sender], 8285)),
        segment: u16::from(*segment),
        tos: choice >> 6,
        received_ns: 0,
        flaw: None,
    };
    let view = view();
    let world = World { view: &view, now_ns: 0 };
    let mut ingress = Ingress::new(rules, 32);
    let mut frames = Frames::new(32, Pieces::new(256, 1 << 13));
    let mut bytes = received.to_vec();
    let (mut forwarded, mut written) = (0, 0);
    let mut report = ingress.train(&world, &train, &mut bytes, &mut frames);
    loop {
        ingress.flush(&mut frames);
        forwarded += report.packets;
        for frame in frames.frames() {
            written += u64::from(frame.packets);
            bytes_of(&frames, frame, std::slice::from_ref(&bytes));
        }
        frames.clear();
        match report.progress {
            Progress::Done => break,
            Progress::Full(rest) => {
                assert!(report.packets + report.dropped > 0, "an empty batch takes a packet");
                report = ingress.resume(&world, rest, &mut bytes, &mut frames);
            }
        }
    }
    assert_eq!(forwarded, written);
    assert_eq!(ingress.tally.imbalance(), 0);
}

/// The text of a configuration file; every mistake says something and has a place inside it.
#[cfg(feature = "daemon")]
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (Ok((_, mistakes)) | Err(mistakes)) = file::parse(text);
    for Located { line, column, message } in FileErrors::new("twill.toml", text, &mistakes).mistakes
    {
        assert!(!message.is_empty());
        let line = text.split('\n').nth(line - 1).expect("a line of the text");
        assert!(column <= line.chars().count() + 1, "{message}");
    }
}

/// A line from the control socket: it is a request that means the same when it is written again, or
/// the answer says why it is none.
#[cfg(feature = "daemon")]
pub fn control(data: &[u8]) {
    match Message::parse(data) {
        Ok(message) => {
            let again = serde_json::to_vec(&message).expect("a message");
            assert_eq!(Message::parse(&again).as_ref(), Ok(&message));
        }
        Err(reason) => assert!(!reason.is_empty()),
    }
}

/// What a client sends to the HTTP server, over loopback: the server ends the conversation, all that it
/// says is HTTP, and it goes on serving others.
#[cfg(feature = "daemon")]
pub fn http(data: &[u8]) {
    let answer = |request: &[u8]| {
        let mut client = TcpStream::connect(http_server()).expect("a server that listens");
        client.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        // The server may have ended the conversation by then.
        let _ = client.write_all(request).and_then(|()| client.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        let ended = client.read_to_end(&mut answer).map_err(|error| error.kind());
        assert_ne!(ended.err(), Some(ErrorKind::WouldBlock), "the server goes on for ever");
        answer
    };

    let said = answer(&data[..data.len().min(1 << 16)]);
    assert!(said.is_empty() || said.starts_with(b"HTTP/1."));
    assert!(answer(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").starts_with(b"HTTP/1.1 200"));
}

/// The address of a server that runs as long as the process.
#[cfg(feature = "daemon")]
fn http_server() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let routes = Routes::default().with("/healthz", || Answer::text(200, "well"));
                let server = http::serve(([127, 0, 0, 1], 0).into(), routes).await;
                let server = server.expect("a port of loopback");
                tell.send(server.address()).expect("somebody who waits");
                std::future::pending::<()>().await;
            });
        });
        told.recv().expect("a server")
    })
}

/// Packets whose IP lengths are checked, as ingress hands them to the coalescer; at most 1000.
fn packets(mut data: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    while let [low, high, rest @ ..] = data {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (packet, rest) = rest.split_at(len);
        data = rest;
        let total_len = match packet.first().map(|byte| byte >> 4) {
            Some(4) => ipv4::Packet::parse(packet).map(|ip| ip.total_len()).ok(),
            Some(6) => ipv6::Packet::parse(packet).map(|ip| ip.total_len()).ok(),
            _ => None,
        };
        if let Some(total_len) = total_len {
            packets.push(packet[..total_len].to_vec());
        }
        if packets.len() == 1000 {
            break;
        }
    }
    packets
}

fn take_apart(frames: &mut Frames, packets: &[Vec<u8>], back: &mut Vec<Vec<u8>>) {
    for frame in frames.frames() {
        let bytes = bytes_of(frames, frame, packets);
        let (header, packet) = VnetHdr::parse(&bytes).expect("a virtio header");
        if header.gso_type == GsoType::None {
            assert_eq!((header, frame.kind), (VnetHdr::PLAIN, FrameKind::Single));
            back.push(packet.to_vec());
            continue;
        }
        let segments = cut(header, packet);
        assert_eq!(segments.len(), usize::from(frame.packets));
        back.extend(segments);
    }
    frames.clear();
}

fn bytes_of(frames: &Frames, frame: &Frame, slots: &[Vec<u8>]) -> Vec<u8> {
    let bytes = gather(&frames.pieces, &frame.chain, |Slot(slot)| &slots[usize::from(slot)]);
    assert_eq!(bytes.len(), frame.len as usize);
    bytes
}

/// Packets by flow, within it by content, as flows may pass each other. None may pass a packet
/// between the same addresses whose ports are hidden, so each comes with how many of those there
/// were before it.
fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<(usize, Vec<u8>)>> {
    let mut flows = BTreeMap::<_, Vec<_>>::new();
    let mut hidden = BTreeMap::<_, usize>::new();
    for packet in packets {
        let (mut flow, ports) = flow(packet);
        let before = hidden.entry(flow.clone()).or_default();
        let position = *before;
        match ports {
            Some(ports) => flow.extend(ports),
            None => *before += 1,
        }
        let packet = without_meaningless_id(packet.clone());
        flows.entry(flow).or_default().push((position, packet));
    }
    flows
}

/// The addresses; then protocol and ports, unless they are another packet's (fragments) or
/// behind other headers (IPv6).
fn flow(packet: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let (addresses, number, header_len, hidden) = if packet[0] >> 4 == 4 {
        let ip = ipv4::Packet::trusted(packet);
        (12..20, packet[9], ip.header_len(), ip.is_fragment())
    } else {
        let known = [protocol::TCP, protocol::UDP, protocol::ICMPV6].contains(&packet[6]);
        (8..40, packet[6], ipv6::HEADER_LEN, !known)
    };
    let pair = packet[addresses].to_vec();
    let ports = packet.iter().skip(header_len).take(4);
    let ports = std::iter::once(&number).chain(ports).copied().collect();
    (pair, (!hidden).then_some(ports))
}

/// 10.10.0.0/24 and fd00::/64 are here; 192.0.2.1 and .2 are peers.
fn view() -> View {
    let peer = |index: u8, v6: &str| Peer {
        index: PeerIndex(u32::from(index)),
        name: "peer".into(),
        endpoint: SocketAddr::from(([192, 0, 2, index], 8285)),
        subnets: vec![ipv4_network(index), v6.parse().expect("a network")],
    };
    View::new(Overlay {
        peers: vec![peer(1, "fd00:0:0:1::/64"), peer(2, "fd00:0:0:2::/64")],
        local: vec![ipv4_network(0), "fd00::/64".parse().expect("a network")],
        addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 10, 0, 0))],
    })
}

fn ipv4_network(third: u8) -> IpNet {
    IpNet::new_assert(IpAddr::from([10, 10, third, 0]), 24)
}
