//! What one packet looks like to the next: whether it may share a frame at all, and with which.

use crate::wire::{ipv4, ipv6, protocol, tcp, udp};

/// What the next packet of the flow is compared with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) flow: u32,
    pub(super) v4: bool,
    pub(super) tcp: bool,
    pub(super) ip_header_len: u8,
    pub(super) header_len: u8,
    /// Payload bytes of every packet but the last.
    pub(super) segment: u16,
    /// Sequence number that must follow (TCP).
    pub(super) next_sequence: u32,
    /// Identification that must follow unless DF is set (IPv4).
    pub(super) next_id: u16,
}

impl Shape {
    pub(super) const NONE: Self = Self {
        flow: 0,
        v4: false,
        tcp: false,
        ip_header_len: 0,
        header_len: 0,
        segment: 0,
        next_sequence: 0,
        next_id: 0,
    };

    /// What a packet looks like to the next one; `None` when it cannot share a frame at all. Each
    /// line is one reason.
    pub(super) fn of(packet: &[u8], join_tcp: bool, join_udp: bool) -> Option<Self> {
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
            protocol::TCP if join_tcp => tcp_shape(transport)?,
            protocol::UDP if join_udp => udp_shape(transport)?,
            _ => return None,
        };
        // A broken checksum must arrive broken; segmentation would mend it.
        if !transport_checksum_is_valid(v4, transport_protocol, packet) {
            return None;
        }
        let Flow::Known(flow) = flow_of(packet) else {
            return None;
        };
        Some(Self {
            flow,
            v4,
            ip_header_len: ip_header_len as u8,
            header_len: (ip_header_len + usize::from(shape.header_len)) as u8,
            next_id: id.wrapping_add(1),
            ..shape
        })
    }

    /// PSH marks the end of what the sender handed over: it must be the super-packet's last.
    pub(super) fn ends_lane(&self, packet: &[u8]) -> bool {
        self.tcp && tcp_flags(packet, self) & tcp::flags::PSH != 0
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

pub(super) fn tcp_flags_at(shape: &Shape) -> usize {
    usize::from(shape.ip_header_len) + 13
}

pub(super) fn tcp_flags(packet: &[u8], shape: &Shape) -> u8 {
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

pub(super) enum Flow {
    /// A hash of addresses, ports and protocol.
    Known(u32),
    /// Of any flow between its addresses: its ports are elsewhere, or out of sight.
    Hidden,
    /// Neither TCP nor UDP: nothing that lanes could overtake in its own flow.
    None,
}

pub(super) fn flow_of(packet: &[u8]) -> Flow {
    let v4 = packet[0] >> 4 == 4;
    let (addresses, at, transport_protocol) = if v4 {
        let ip = ipv4::Packet::trusted(packet);
        if ip.is_fragment() {
            return Flow::Hidden;
        }
        (ipv4::SOURCE..ipv4::HEADER_LEN, ip.header_len(), ip.protocol())
    } else {
        let ip = ipv6::Packet::trusted(packet);
        (ipv6::SOURCE..ipv6::HEADER_LEN, ipv6::HEADER_LEN, ip.next_header())
    };
    match transport_protocol {
        protocol::TCP | protocol::UDP => {}
        protocol::ICMPV6 => return Flow::None,
        // An extension header: that of a fragment, or one that some of a flow's packets carry.
        _ if !v4 => return Flow::Hidden,
        _ => return Flow::None,
    }
    let Some(ports) = packet.get(at..at + 4) else { return Flow::None };
    // A multiplicative hash (Fibonacci hashing): the table needs only the top bits well mixed.
    let words = packet[addresses].chunks_exact(4).chain([ports]);
    let mixed = words.fold(u64::from(transport_protocol), |hash, word| {
        let word = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        (hash.rotate_left(5) ^ u64::from(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    Flow::Known((mixed >> 32) as u32)
}
