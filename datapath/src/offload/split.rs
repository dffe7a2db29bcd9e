//! One super-packet into the packets that the kernel would have made of it.
//!
//! Oracle: `tcp_gso_segment`, `__udp_gso_segment` and `inet_gso_segment` of Linux. Every segment
//! gets its own headers; its payload stays where it is and is named by its range.

use super::vnet_hdr::{GsoType, VnetHdr};
use crate::wire::checksum::Sum;
use crate::wire::{ipv4, ipv6, protocol, tcp, udp};
use core::ops::Range;

/// The virtio header and the packet do not describe a super-packet or a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the virtio header does not fit the packet")]
pub struct GsoInvalid;

/// The largest headers that a plan accepts: IPv4 and TCP, both with all their options, bytes. IPv6
/// has room for 20 bytes of options then, or for more where TCP has less.
pub const MAX_HEADER_LEN: usize = 120;

/// How a super-packet will be cut: numbers only, so that it can be kept while the packet's bytes
/// are edited. The methods that read a packet take the bytes that the plan was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    v4: bool,
    tcp: bool,
    ip_header_len: u8,
    header_len: u8,
    gso_size: u16,
    segments: u32,
    packet_len: u32,
}

impl Plan {
    /// Checks that the headers are what the virtio header claims. Its `hdr_len` is only a hint and
    /// not used.
    ///
    /// # Errors
    /// [`GsoInvalid`].
    pub fn parse(header: VnetHdr, packet: &[u8]) -> Result<Self, GsoInvalid> {
        let (v4, tcp) = match header.gso_type {
            GsoType::TcpV4 => (true, true),
            GsoType::TcpV6 => (false, true),
            GsoType::UdpL4 => (packet.first().is_some_and(|byte| byte >> 4 == 4), false),
            GsoType::None | GsoType::Unknown(_) => return Err(GsoInvalid),
        };
        let wanted = if tcp { protocol::TCP } else { protocol::UDP };
        let (ip_header_len, total_len) = if v4 {
            let ip = ipv4::Packet::parse(packet).map_err(|_| GsoInvalid)?;
            if ip.is_fragment() || ip.protocol() != wanted {
                return Err(GsoInvalid);
            }
            (ip.header_len(), ip.total_len())
        } else {
            let ip = ipv6::Packet::parse(packet).map_err(|_| GsoInvalid)?;
            match ip.upper_layer() {
                Some((next, at)) if next == wanted => (at, ip.total_len()),
                _ => return Err(GsoInvalid),
            }
        };
        let packet = &packet[..total_len];
        let transport = &packet[ip_header_len..];
        let transport_len = if tcp {
            tcp::Segment::parse(transport).map_err(|_| GsoInvalid)?.header_len()
        } else if transport.len() >= udp::HEADER_LEN {
            udp::HEADER_LEN
        } else {
            return Err(GsoInvalid);
        };
        if header.gso_size == 0 || (header.needs_csum && !checksum_fits(header, packet)) {
            return Err(GsoInvalid);
        }
        let header_len = ip_header_len + transport_len;
        if header_len > MAX_HEADER_LEN {
            return Err(GsoInvalid);
        }
        let segments = (total_len - header_len).div_ceil(usize::from(header.gso_size)).max(1);
        Ok(Self {
            v4,
            tcp,
            ip_header_len: ip_header_len as u8,
            header_len: header_len as u8,
            gso_size: header.gso_size,
            segments: segments as u32,
            packet_len: total_len as u32,
        })
    }

    fn ip_header_len(&self) -> usize {
        usize::from(self.ip_header_len)
    }

    fn gso_size(&self) -> usize {
        usize::from(self.gso_size)
    }

    /// Number of segments, at least one.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments as usize
    }

    /// Bytes of the super-packet, headers included.
    #[must_use]
    pub fn packet_len(&self) -> usize {
        self.packet_len as usize
    }

    /// Bytes of every segment's headers.
    #[must_use]
    pub fn header_len(&self) -> usize {
        usize::from(self.header_len)
    }

    /// Bytes of every segment but the last, headers included.
    #[must_use]
    pub fn segment_len(&self) -> usize {
        self.header_len() + self.gso_size().min(self.packet_len() - self.header_len())
    }

    /// The payload of segment `index`, as a range of the packet's bytes.
    #[must_use]
    pub fn payload(&self, index: usize) -> Range<usize> {
        let from = self.header_len() + index * self.gso_size();
        from..(from + self.gso_size()).min(self.packet_len())
    }

    /// Writes the headers of segment `index` of `packet`, checksums included, to `out`, which has
    /// [`Plan::header_len`] bytes, and returns the range of its payload. Everything that segments
    /// share, the hop count too, is taken from the super-packet's headers as they are now.
    pub fn write_header(&self, packet: &[u8], index: usize, out: &mut [u8]) -> Range<usize> {
        let range = self.payload(index);
        let payload = &packet[range.clone()];
        let out = &mut out[..self.header_len()];
        out.copy_from_slice(&packet[..self.header_len()]);
        let (ip, transport) = out.split_at_mut(self.ip_header_len());
        let transport_len = transport.len() + payload.len();
        let pseudo = self.write_ip(index, ip, transport_len);
        if self.tcp {
            self.write_tcp(index, transport, payload, pseudo);
        } else {
            write_udp(transport, payload, pseudo);
        }
        range
    }

    /// Returns the sum of the pseudo-header.
    fn write_ip(&self, index: usize, header: &mut [u8], transport_len: usize) -> Sum {
        let protocol = if self.tcp { protocol::TCP } else { protocol::UDP };
        if self.v4 {
            let mut ip = ipv4::Packet::trusted(header);
            ip.set_total_len((self.ip_header_len() + transport_len) as u16);
            let id = ip.id().wrapping_add(index as u16);
            ip.set_id(id);
            ip.fill_checksum();
            let (source, destination) = (ip.source(), ip.destination());
            Sum::default().pseudo_v4(source, destination, protocol, transport_len as u16)
        } else {
            let mut ip = ipv6::Packet::trusted(header);
            ip.set_payload_len((self.ip_header_len() - ipv6::HEADER_LEN + transport_len) as u16);
            let (source, destination) = (ip.source(), ip.destination());
            Sum::default().pseudo_v6(source, destination, protocol, transport_len as u32)
        }
    }

    /// CWR rides on the first segment only, FIN and PSH on the last (`tcp_gso_segment`).
    fn write_tcp(&self, index: usize, header: &mut [u8], payload: &[u8], pseudo: Sum) {
        let mut tcp = tcp::Segment::trusted(header);
        let sequence = tcp.sequence().wrapping_add((index * self.gso_size()) as u32);
        let mut flags = tcp.flags();
        if index > 0 {
            flags &= !tcp::flags::CWR;
        }
        if index + 1 < self.segments() {
            flags &= !(tcp::flags::FIN | tcp::flags::PSH);
        }
        tcp.set_sequence(sequence);
        tcp.set_flags(flags);
        tcp.set_checksum(0);
        let checksum = pseudo.bytes(tcp.header()).bytes(payload).finish();
        tcp.set_checksum(checksum);
    }
}

fn write_udp(header: &mut [u8], payload: &[u8], pseudo: Sum) {
    let mut udp = udp::Datagram::trusted(header);
    udp.set_length((udp::HEADER_LEN + payload.len()) as u16);
    udp.set_checksum(0);
    let checksum = pseudo.bytes(udp.header()).bytes(payload).finish();
    udp.set_checksum(udp::nonzero(checksum));
}

/// Completes the partial checksum of a packet that is no super-packet; nothing to do without one.
///
/// # Errors
/// [`GsoInvalid`] when the checksum lies outside the packet, or is a super-packet's.
pub fn complete_checksum(header: VnetHdr, packet: &mut [u8]) -> Result<(), GsoInvalid> {
    if header.gso_type != GsoType::None {
        return Err(GsoInvalid);
    }
    if !header.needs_csum {
        return Ok(());
    }
    if !checksum_fits(header, packet) {
        return Err(GsoInvalid);
    }
    let start = usize::from(header.csum_start);
    let at = start + usize::from(header.csum_offset);
    // The field holds the pseudo-header's sum, so summing over it completes the checksum.
    let mut checksum = Sum::default().bytes(&packet[start..]).finish();
    if usize::from(header.csum_offset) == udp::CHECKSUM_OFFSET {
        checksum = udp::nonzero(checksum);
    }
    packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

fn checksum_fits(header: VnetHdr, packet: &[u8]) -> bool {
    usize::from(header.csum_start) + usize::from(header.csum_offset) + 2 <= packet.len()
}
