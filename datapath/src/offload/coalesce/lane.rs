//! Packets of one flow on their way into one frame.

use super::shape::{Shape, tcp_flags, tcp_flags_at};
use crate::batch::{Chain, FrameKind, Frames, Full, Piece};
use crate::offload::vnet_hdr::{self, GsoType, VnetHdr};
use crate::wire::{ipv4, ipv6, tcp, udp};
use core::ops::Range;

/// Most packets in one lane. The kernel takes 64 UDP segments (`UDP_MAX_SEGMENTS` before 6.9), and
/// one `writev` at most 1024 pieces.
const MAX_PACKETS: u16 = 64;
/// Bytes of a super-packet at most, the IPv4 total length.
const MAX_BYTES: usize = 65_535;

/// Packets of one flow that leave together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lane {
    pub(super) chain: Chain,
    pub(super) kind: FrameKind,
    pub(super) packets: u16,
    /// Bytes of the frame without its virtio header.
    pub(super) bytes: u32,
    /// The first packet where it came, and virtio header with packet headers in the arena.
    pub(super) first: Piece,
    pub(super) headers: Option<Piece>,
    pub(super) shape: Shape,
    pub(super) closed: bool,
}

impl Lane {
    /// Whether a packet may become the lane's last. Each line is one reason against it.
    pub(super) fn accepts(&self, new: &Shape, packet: &[u8], out: &Frames) -> bool {
        let old = &self.shape;
        let Some(headers) = self.headers else { return false };
        let range =
            headers.offset as usize + vnet_hdr::LEN..(headers.offset + headers.len) as usize;
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

    pub(super) fn append(
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
                let at = vnet_hdr::LEN + usize::from(new.ip_header_len);
                let mut tcp = tcp::Segment::trusted(&mut out.pieces.header_mut(headers)[at..]);
                tcp.set_flags(tcp.flags() | tcp::flags::PSH);
            }
        }
        Ok(())
    }

    /// Writes the virtio header, the lengths and the partial checksum of a super-packet.
    pub(super) fn finish(&self, out: &mut Frames) {
        let Some(headers) = self.headers else { return };
        let shape = &self.shape;
        let ip_header_len = usize::from(shape.ip_header_len);
        let bytes = out.pieces.header_mut(headers);
        let (vnet, packet) = bytes.split_at_mut(vnet_hdr::LEN);
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
