//! Many packets into few super-packets, before they are written to the TUN device.
//!
//! ```text
//! arrivals:  a1 b1 a2 c1 b2 a3 x
//! lanes:     [a1 a2 a3] [b1 b2] [c1] [x]
//! frames:     TCP        UDP     c1   x        in order of each lane's first packet
//! ```
//!
//! One lane per flow within a batch, so interleaved flows still merge. Within a flow the order is
//! kept, because a packet that may not join its flow's lane closes it and opens the next one. Across
//! flows a packet may overtake others of the same batch, never of another.
//!
//! The law: what leaves, cut by [`super::split`] or by the kernel, is what came. The one exception
//! is the identification of packets with DF set, which has no meaning (RFC 6864 section 4.1) and
//! which segmentation numbers anew.

use super::vnet_hdr::{GsoType, VnetHdr};
use crate::batch::{Chain, Frame, FrameKind, Frames, Full, Piece};
use crate::wire::{ipv4, ipv6, protocol, tcp, udp};
use std::ops::Range;

/// Most packets in one lane. The kernel takes 64 UDP segments (`UDP_MAX_SEGMENTS` before 6.9), and
/// one `writev` at most 1024 pieces.
const MAX_PACKETS: u16 = 64;
/// Bytes of a super-packet at most, the IPv4 total length.
const MAX_BYTES: usize = 65_535;
/// Slots of the table from flow to open lane; a collision only closes a lane early.
const TABLE: usize = 256;
const NO_LANE: u16 = u16::MAX;
/// Links that one packet takes at most: a header, two payloads.
const LINKS: usize = 3;
/// Header bytes that one packet takes at most: virtio, IPv4 or IPv6, TCP with options.
const HEADER_BYTES: usize = super::vnet_hdr::LEN + ipv6::HEADER_LEN + 60;

/// Joins packets of one batch.
#[derive(Debug)]
pub struct Coalescer {
    tcp: bool,
    udp: bool,
    vnet_hdr: bool,
    lanes: Vec<Lane>,
    max_lanes: usize,
    open: [u16; TABLE],
}

/// Packets of one flow that leave together.
#[derive(Clone, Copy, Debug)]
struct Lane {
    chain: Chain,
    kind: FrameKind,
    packets: u16,
    /// Bytes of the frame without its virtio header.
    bytes: u32,
    /// The first packet where it came, and virtio header with packet headers in the arena.
    first: Piece,
    headers: Option<Piece>,
    shape: Shape,
    closed: bool,
}

/// What the next packet of the flow is compared with.
#[derive(Clone, Copy, Debug)]
struct Shape {
    flow: u32,
    v4: bool,
    tcp: bool,
    ip_header_len: u8,
    header_len: u8,
    /// Payload bytes of every packet but the last.
    segment: u16,
    /// Sequence number that must follow (TCP).
    next_sequence: u32,
    /// Identification that must follow unless DF is set (IPv4).
    next_id: u16,
}

impl Coalescer {
    /// Which protocols to join, whether frames begin with a virtio header (joining needs it), and
    /// how many lanes a batch may have.
    #[must_use]
    pub fn new(tcp: bool, udp: bool, vnet_hdr: bool, max_lanes: usize) -> Self {
        let max_lanes = max_lanes.min(usize::from(NO_LANE));
        Self {
            tcp: tcp && vnet_hdr,
            udp: udp && vnet_hdr,
            vnet_hdr,
            lanes: Vec::with_capacity(max_lanes),
            max_lanes,
            open: [NO_LANE; TABLE],
        }
    }

    /// Stops joining one kind of packets, because the device refuses what comes of it.
    pub fn stop(&mut self, kind: FrameKind) {
        match kind {
            FrameKind::Tcp => self.tcp = false,
            FrameKind::Udp => self.udp = false,
            FrameKind::Single => {}
        }
    }

    /// Whether TCP segments and UDP datagrams are joined.
    #[must_use]
    pub fn joins(&self) -> (bool, bool) {
        (self.tcp, self.udp)
    }

    /// Whether the batch has room for any one packet more, and for all that waits in lanes.
    #[inline]
    #[must_use]
    pub fn has_room(&self, out: &Frames) -> bool {
        self.lanes.len() < self.max_lanes && out.has_room(self.lanes.len() + 1, LINKS, HEADER_BYTES)
    }

    /// Takes a packet whose IP lengths are checked; `piece` is where its bytes lie.
    ///
    /// # Errors
    /// [`Full`] when the batch has no room: [`Coalescer::flush`], write, clear, push again. Nothing
    /// was taken.
    pub fn push(&mut self, packet: &[u8], piece: Piece, out: &mut Frames) -> Result<(), Full> {
        if !self.has_room(out) {
            return Err(Full);
        }
        let Some(shape) = self.shape(packet) else {
            return self.alone(packet, piece, out);
        };
        let entry = shape.flow as usize % TABLE;
        if let Some(lane) = self.lanes.get_mut(usize::from(self.open[entry]))
            && lane.joins(&shape, packet, out)
        {
            return lane.join(&shape, packet, piece, out);
        }
        self.open[entry] = self.lanes.len() as u16;
        self.open_lane(shape, packet, piece, out)
    }

    /// Ends the batch: every lane becomes a frame, in order of its first packet.
    pub fn flush(&mut self, out: &mut Frames) {
        let vnet_len = if self.vnet_hdr { super::vnet_hdr::LEN as u32 } else { 0 };
        for lane in self.lanes.drain(..) {
            if lane.packets > 1 {
                lane.finish(out);
            }
            let frame = Frame {
                chain: lane.chain,
                len: lane.bytes + vnet_len,
                packets: lane.packets,
                packet_bytes: lane.bytes
                    + u32::from(lane.packets - 1) * u32::from(lane.shape.header_len),
                kind: lane.kind,
            };
            // `push` has reserved the room.
            let pushed = out.push(frame);
            debug_assert!(pushed.is_ok());
        }
        self.open = [NO_LANE; TABLE];
    }

    /// A packet that no other may join.
    fn alone(&mut self, packet: &[u8], piece: Piece, out: &mut Frames) -> Result<(), Full> {
        match flow_of(packet) {
            Flow::Known(flow) => self.open[flow as usize % TABLE] = NO_LANE,
            // A fragment names no ports: no later packet may pass it on any lane.
            Flow::Fragment => self.open = [NO_LANE; TABLE],
            Flow::None => {}
        }
        let mut chain = Chain::EMPTY;
        if self.vnet_hdr {
            let (plain, bytes) = out.pieces.header(super::vnet_hdr::LEN)?;
            bytes.copy_from_slice(&VnetHdr::PLAIN.to_bytes());
            out.pieces.append(&mut chain, plain)?;
        }
        out.pieces.append(&mut chain, piece)?;
        self.lanes.push(Lane {
            chain,
            kind: FrameKind::Single,
            packets: 1,
            bytes: piece.len,
            first: piece,
            headers: None,
            shape: Shape::NONE,
            closed: true,
        });
        Ok(())
    }

    /// A packet that the next one of its flow may join.
    fn open_lane(
        &mut self,
        shape: Shape,
        packet: &[u8],
        piece: Piece,
        out: &mut Frames,
    ) -> Result<(), Full> {
        let vnet_len = super::vnet_hdr::LEN;
        let header_len = usize::from(shape.header_len);
        let (headers, bytes) = out.pieces.header(vnet_len + header_len)?;
        bytes[..vnet_len].copy_from_slice(&VnetHdr::PLAIN.to_bytes());
        bytes[vnet_len..].copy_from_slice(&packet[..header_len]);
        let mut chain = Chain::EMPTY;
        out.pieces.append(&mut chain, Piece { len: vnet_len as u32, ..headers })?;
        out.pieces.append(&mut chain, piece)?;
        self.lanes.push(Lane {
            chain,
            kind: FrameKind::Single,
            packets: 1,
            bytes: piece.len,
            first: piece,
            headers: Some(headers),
            closed: shape.ends_lane(packet),
            shape,
        });
        Ok(())
    }

    /// What a packet looks like to the next one; `None` when it cannot share a frame at all. Each
    /// line is one reason.
    fn shape(&self, packet: &[u8]) -> Option<Shape> {
        let v4 = packet[0] >> 4 == 4;
        let (ip_header_len, transport_protocol, id) = if v4 {
            let ip = ipv4::Packet::trusted(packet);
            // Options would have to be equal, and are so rare that nobody compares them.
            if ip.header_len() != ipv4::HEADER_LEN {
                return None;
            }
            // Only whole packets have a transport header and a checksum over all of it.
            if ip.is_fragment() {
                return None;
            }
            // A broken header must arrive broken; segmentation would mend it.
            if !ip.checksum_is_valid() {
                return None;
            }
            (ipv4::HEADER_LEN, ip.protocol(), ip.id())
        } else {
            let ip = ipv6::Packet::trusted(packet);
            // Extension headers stand between: opaque.
            (ipv6::HEADER_LEN, ip.next_header(), 0)
        };
        let transport = &packet[ip_header_len..];
        let shape = match transport_protocol {
            protocol::TCP if self.tcp => tcp_shape(transport)?,
            protocol::UDP if self.udp => udp_shape(transport)?,
            _ => return None,
        };
        // A broken checksum must arrive broken; segmentation would mend it.
        if !transport_checksum_is_valid(v4, transport_protocol, packet) {
            return None;
        }
        let Flow::Known(flow) = flow_of(packet) else {
            return None;
        };
        Some(Shape {
            flow,
            v4,
            ip_header_len: ip_header_len as u8,
            header_len: (ip_header_len + usize::from(shape.header_len)) as u8,
            next_id: id.wrapping_add(1),
            ..shape
        })
    }
}

fn tcp_shape(transport: &[u8]) -> Option<Shape> {
    use tcp::flags::{ACK, ECE, PSH};
    let tcp = tcp::Segment::parse(transport).ok()?;
    // SYN, FIN, RST and URG mean something at their place in the stream; CWR belongs to one
    // segment (RFC 3168); segmentation would move them.
    if tcp.flags() & !(ACK | PSH | ECE) != 0 || tcp.flags() & ACK == 0 {
        return None;
    }
    // A bare acknowledgment carries nothing to cut; two of them are two signals.
    if tcp.payload().is_empty() {
        return None;
    }
    Some(Shape {
        tcp: true,
        header_len: tcp.header_len() as u8,
        segment: tcp.payload().len() as u16,
        next_sequence: tcp.sequence().wrapping_add(tcp.payload().len() as u32),
        ..Shape::NONE
    })
}

fn udp_shape(transport: &[u8]) -> Option<Shape> {
    let udp = udp::Datagram::parse(transport).ok()?;
    // The length field must cover the packet, or cutting would lose the rest.
    if usize::from(udp.length()) != transport.len() {
        return None;
    }
    // An empty datagram cannot be cut off a longer one.
    if udp.payload().is_empty() {
        return None;
    }
    // "No checksum" must stay none; segmentation would compute one.
    if udp.checksum() == 0 {
        return None;
    }
    Some(Shape {
        tcp: false,
        header_len: udp::HEADER_LEN as u8,
        segment: udp.payload().len() as u16,
        ..Shape::NONE
    })
}

impl Shape {
    const NONE: Self = Self {
        flow: 0,
        v4: false,
        tcp: false,
        ip_header_len: 0,
        header_len: 0,
        segment: 0,
        next_sequence: 0,
        next_id: 0,
    };

    /// PSH marks the end of what the sender handed over: it must be the super-packet's last.
    fn ends_lane(&self, packet: &[u8]) -> bool {
        self.tcp && tcp_flags(packet, self) & tcp::flags::PSH != 0
    }
}

impl Lane {
    /// Whether a packet may become the lane's last. Each line is one reason against it.
    fn joins(&self, new: &Shape, packet: &[u8], out: &Frames) -> bool {
        let old = &self.shape;
        let Some(headers) = self.headers else { return false };
        let range =
            headers.offset as usize + super::vnet_hdr::LEN..(headers.offset + headers.len) as usize;
        let template = &out.pieces.headers()[range];
        // The lane ended with a short or pushed segment.
        if self.closed {
            return false;
        }
        // Another kind of packet, or other options.
        if (old.v4, old.tcp, old.header_len) != (new.v4, new.tcp, new.header_len) {
            return false;
        }
        // Another flow, hop count, TOS, DF, window, acknowledgment or option.
        if !constant_fields(old).iter().all(|f| template[f.clone()] == packet[f.clone()]) {
            return false;
        }
        // Longer than the segments before it: it would be cut.
        if new.segment > old.segment {
            return false;
        }
        // Not the next bytes of the stream.
        if old.tcp && new.next_sequence.wrapping_sub(u32::from(new.segment)) != old.next_sequence {
            return false;
        }
        // Flags other than PSH must be the same on all.
        if old.tcp {
            let differ = tcp_flags(packet, new) ^ template[tcp_flags_at(old)];
            if differ & !tcp::flags::PSH != 0 {
                return false;
            }
        }
        // A packet that may be fragmented needs its own identification kept.
        if old.v4
            && !ipv4::Packet::trusted(template).dont_fragment()
            && new.next_id.wrapping_sub(1) != old.next_id
        {
            return false;
        }
        // As many as the kernel cuts.
        if self.packets == MAX_PACKETS {
            return false;
        }
        // As long as IP allows.
        self.bytes as usize + usize::from(new.segment) <= MAX_BYTES
    }

    fn join(
        &mut self,
        new: &Shape,
        packet: &[u8],
        piece: Piece,
        out: &mut Frames,
    ) -> Result<(), Full> {
        let payload = |piece: Piece| Piece {
            offset: piece.offset + u32::from(new.header_len),
            len: piece.len - u32::from(new.header_len),
            ..piece
        };
        if let (1, Some(headers)) = (self.packets, self.headers) {
            self.chain = Chain::EMPTY;
            out.pieces.append(&mut self.chain, headers)?;
            out.pieces.append(&mut self.chain, payload(self.first))?;
            self.kind = if new.tcp { FrameKind::Tcp } else { FrameKind::Udp };
        }
        out.pieces.append(&mut self.chain, payload(piece))?;
        self.packets += 1;
        self.bytes += u32::from(new.segment);
        self.shape.next_sequence = new.next_sequence;
        self.shape.next_id = new.next_id;
        // A shorter segment can only be the last one.
        self.closed = new.segment < self.shape.segment;
        if new.ends_lane(packet) {
            self.closed = true;
            if let Some(headers) = self.headers {
                let at = super::vnet_hdr::LEN + tcp_flags_at(new);
                out.pieces.header_mut(headers)[at] |= tcp::flags::PSH;
            }
        }
        Ok(())
    }

    /// Writes the virtio header, the lengths and the partial checksum of a super-packet.
    fn finish(&self, out: &mut Frames) {
        let Some(headers) = self.headers else { return };
        let shape = &self.shape;
        let ip_header_len = usize::from(shape.ip_header_len);
        let bytes = out.pieces.header_mut(headers);
        let (vnet, packet) = bytes.split_at_mut(super::vnet_hdr::LEN);
        let (ip, transport) = packet.split_at_mut(ip_header_len);
        let transport_len = self.bytes as usize - ip_header_len;
        let sum = if shape.v4 {
            let mut ip = ipv4::Packet::trusted(ip);
            ip.set_total_len(self.bytes as u16);
            ip.fill_checksum();
            ip.pseudo_sum(transport_len as u16)
        } else {
            let mut ip = ipv6::Packet::trusted(ip);
            ip.set_payload_len(transport_len as u16);
            ip.pseudo_sum(transport_len as u32)
        };
        let (gso_type, csum_offset) = if shape.tcp {
            tcp::Segment::trusted(transport).set_checksum(sum.fold());
            let gso_type = if shape.v4 { GsoType::TcpV4 } else { GsoType::TcpV6 };
            (gso_type, tcp::CHECKSUM_OFFSET)
        } else {
            let mut udp = udp::Datagram::trusted(transport);
            udp.set_length(transport_len as u16);
            udp.set_checksum(sum.fold());
            (GsoType::UdpL4, udp::CHECKSUM_OFFSET)
        };
        let header = VnetHdr {
            needs_csum: true,
            gso_type,
            ecn: false,
            hdr_len: u16::from(shape.header_len),
            gso_size: shape.segment,
            csum_start: u16::from(shape.ip_header_len),
            csum_offset: csum_offset as u16,
        };
        vnet.copy_from_slice(&header.to_bytes());
    }
}

/// Header bytes that must be the same in every packet of a lane.
fn constant_fields(shape: &Shape) -> [Range<usize>; 7] {
    let ip = usize::from(shape.ip_header_len);
    let all = usize::from(shape.header_len);
    let none = all..all;
    // IPv4: version, header length, TOS; fragment field, hop count, protocol; addresses.
    // IPv6: version, class, flow label; next header, hop limit, addresses.
    let [a, b, c] = if shape.v4 { [0..2, 6..10, 12..20] } else { [0..4, 6..40, none.clone()] };
    let ports = ip..ip + 4;
    if shape.tcp {
        // Acknowledgment and data offset; window; urgent pointer and options.
        [a, b, c, ports, ip + 8..ip + 13, ip + 14..ip + 16, ip + 18..all]
    } else {
        [a, b, c, ports, none.clone(), none.clone(), none]
    }
}

fn tcp_flags_at(shape: &Shape) -> usize {
    usize::from(shape.ip_header_len) + 13
}

fn tcp_flags(packet: &[u8], shape: &Shape) -> u8 {
    packet[tcp_flags_at(shape)]
}

fn transport_checksum_is_valid(v4: bool, transport_protocol: u8, packet: &[u8]) -> bool {
    let sum = if v4 {
        let ip = ipv4::Packet::trusted(packet);
        let len = (packet.len() - ip.header_len()) as u16;
        ip.pseudo_sum(len).bytes(ip.payload())
    } else {
        let ip = ipv6::Packet::trusted(packet);
        let len = (packet.len() - ipv6::HEADER_LEN) as u32;
        ip.pseudo_sum(len).bytes(ip.payload())
    };
    debug_assert!(matches!(transport_protocol, protocol::TCP | protocol::UDP));
    sum.finish() == 0
}

enum Flow {
    /// A hash of addresses, ports and protocol.
    Known(u32),
    /// A piece of a packet of some flow between its addresses.
    Fragment,
    /// Neither TCP nor UDP: nothing that lanes could overtake in its own flow.
    None,
}

fn flow_of(packet: &[u8]) -> Flow {
    let v4 = packet[0] >> 4 == 4;
    let (addresses, at, transport_protocol) = if v4 {
        let ip = ipv4::Packet::trusted(packet);
        if ip.is_fragment() {
            return Flow::Fragment;
        }
        (12..20, ip.header_len(), ip.protocol())
    } else {
        (8..40, ipv6::HEADER_LEN, packet[6])
    };
    let Some(ports) = packet.get(at..at + 4) else { return Flow::None };
    if !matches!(transport_protocol, protocol::TCP | protocol::UDP) {
        return Flow::None;
    }
    // A multiplicative hash (Fibonacci hashing): the table needs only the top bits well mixed.
    let words = packet[addresses].chunks_exact(4).chain([ports]);
    let mixed = words.fold(u64::from(transport_protocol), |hash, word| {
        let word = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        (hash.rotate_left(5) ^ u64::from(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    Flow::Known((mixed >> 32) as u32)
}
