//! Packets as a host sends them, and super-packets as the kernel hands them out.

use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, TcpHeader};
use proptest::prelude::*;
use twill_datapath::batch::{Frame, FrameKind, Frames, Full, Piece, Pieces, Slot, Source};
use twill_datapath::offload::coalesce::Coalescer;
use twill_datapath::offload::split::Plan;
use twill_datapath::offload::vnet_hdr::{GsoType, VnetHdr};
use twill_datapath::wire::checksum::Sum;
use twill_datapath::wire::{ipv4, ipv6, protocol, tcp, udp};

/// Where packets come from and go to; the kernel test's routes know them.
pub(crate) const SOURCE_V4: [u8; 4] = [10, 1, 0, 2];
pub(crate) const DESTINATION_V4: [u8; 4] = [10, 2, 0, 2];
pub(crate) const SOURCE_V6: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
pub(crate) const DESTINATION_V6: [u8; 16] = [0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// TCP's timestamps, padded as Linux pads them.
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

/// A packet in words.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) v6: bool,
    pub(crate) tcp: bool,
    /// Bytes.
    pub(crate) payload: usize,
    pub(crate) timestamps: bool,
    pub(crate) flags: u8,
    pub(crate) dont_fragment: bool,
    pub(crate) sequence: u32,
    pub(crate) id: u16,
    /// Both ports.
    pub(crate) port: u16,
    pub(crate) hops: u8,
    /// DSCP and ECN.
    pub(crate) traffic_class: u8,
}

impl Recipe {
    pub(crate) fn tcp(v6: bool, payload: usize) -> Self {
        Self {
            v6,
            tcp: true,
            payload,
            timestamps: true,
            flags: tcp::flags::ACK,
            dont_fragment: true,
            sequence: 1000,
            id: 7,
            port: 4000,
            hops: 64,
            traffic_class: 0,
        }
    }

    pub(crate) fn udp(v6: bool, payload: usize) -> Self {
        Self { tcp: false, ..Self::tcp(v6, payload) }
    }

    /// The packet, complete and correct.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let builder = PacketBuilder::ip(self.ip());
        let payload: Vec<_> =
            (0..self.payload).map(|at| (at * 31 + at / 256) as u8 ^ self.sequence as u8).collect();
        let mut packet = Vec::new();
        if self.tcp {
            let mut header = TcpHeader::new(self.port, self.port, self.sequence, 512);
            header.acknowledgment_number = 77;
            if self.timestamps {
                header.set_options_raw(&TIMESTAMPS).unwrap();
            }
            let has = |flag| self.flags & flag != 0;
            header.fin = has(tcp::flags::FIN);
            header.psh = has(tcp::flags::PSH);
            header.ack = has(tcp::flags::ACK);
            header.ece = has(tcp::flags::ECE);
            header.cwr = has(tcp::flags::CWR);
            builder.tcp_header(header).write(&mut packet, &payload).unwrap();
        } else {
            builder.udp(self.port, self.port).write(&mut packet, &payload).unwrap();
        }
        packet
    }

    fn ip(&self) -> IpHeaders {
        let number = if self.tcp { IpNumber::TCP } else { IpNumber::UDP };
        if self.v6 {
            let header = Ipv6Header {
                traffic_class: self.traffic_class,
                next_header: number,
                hop_limit: self.hops,
                source: SOURCE_V6,
                destination: DESTINATION_V6,
                ..Ipv6Header::default()
            };
            return IpHeaders::Ipv6(header, Default::default());
        }
        let mut header = Ipv4Header::new(0, self.hops, number, SOURCE_V4, DESTINATION_V4).unwrap();
        header.identification = self.id;
        header.dont_fragment = self.dont_fragment;
        header.dscp = (self.traffic_class >> 2).try_into().unwrap();
        header.ecn = (self.traffic_class & 3).try_into().unwrap();
        IpHeaders::Ipv4(header, Default::default())
    }

    pub(crate) fn ip_header_len(&self) -> usize {
        if self.v6 { ipv6::HEADER_LEN } else { ipv4::HEADER_LEN }
    }

    pub(crate) fn header_len(&self) -> usize {
        let options = if self.timestamps { TIMESTAMPS.len() } else { 0 };
        let transport = if self.tcp { tcp::HEADER_LEN + options } else { udp::HEADER_LEN };
        self.ip_header_len() + transport
    }

    /// The packet as one super-packet: its virtio header, and its bytes with the partial checksum.
    pub(crate) fn aggregate(&self, gso_size: u16) -> (VnetHdr, Vec<u8>) {
        let (gso_type, offset) = match (self.tcp, self.v6) {
            (true, false) => (GsoType::TcpV4, tcp::CHECKSUM_OFFSET),
            (true, true) => (GsoType::TcpV6, tcp::CHECKSUM_OFFSET),
            (false, _) => (GsoType::UdpL4, udp::CHECKSUM_OFFSET),
        };
        let start = self.ip_header_len();
        let header = VnetHdr {
            needs_csum: true,
            gso_type,
            ecn: self.tcp && self.flags & tcp::flags::CWR != 0,
            hdr_len: self.header_len() as u16,
            gso_size,
            csum_start: start as u16,
            csum_offset: offset as u16,
        };
        let mut packet = self.packet();
        let number = if self.tcp { protocol::TCP } else { protocol::UDP };
        let len = packet.len() - start;
        let pseudo = if self.v6 {
            Sum::default().pseudo_v6(SOURCE_V6.into(), DESTINATION_V6.into(), number, len as u32)
        } else {
            Sum::default().pseudo_v4(SOURCE_V4.into(), DESTINATION_V4.into(), number, len as u16)
        };
        packet[start + offset..start + offset + 2].copy_from_slice(&pseudo.fold().to_be_bytes());
        (header, packet)
    }
}

/// An IPv6 super-packet with destination options of 8 bytes before its transport.
pub(crate) fn behind_options(header: VnetHdr, mut packet: Vec<u8>) -> (VnetHdr, Vec<u8>) {
    // PadN: six bytes of nothing.
    let options = [packet[6], 0, 1, 4, 0, 0, 0, 0];
    packet.splice(ipv6::HEADER_LEN..ipv6::HEADER_LEN, options);
    packet[6] = protocol::DESTINATION_OPTIONS;
    let payload_len = (packet.len() - ipv6::HEADER_LEN) as u16;
    packet[4..6].copy_from_slice(&payload_len.to_be_bytes());
    let (hdr_len, csum_start) = (header.hdr_len + 8, header.csum_start + 8);
    (VnetHdr { hdr_len, csum_start, ..header }, packet)
}

/// A super-packet cut by what is under test.
pub(crate) fn cut(header: VnetHdr, packet: &[u8]) -> Vec<Vec<u8>> {
    let plan = Plan::parse(header, packet).unwrap();
    (0..plan.segments())
        .map(|index| {
            let mut segment = vec![0; plan.header_len()];
            let payload = plan.write_header(index, &mut segment);
            segment.extend_from_slice(&packet[payload]);
            segment
        })
        .collect()
}

/// The frames that a batch becomes.
pub(crate) fn coalesce(packets: &[Vec<u8>]) -> Vec<(FrameKind, Vec<u8>)> {
    let mut frames = Frames::new(256, Pieces::new(4096, 1 << 16));
    let mut coalescer = Coalescer::new(true, true, true, 256);
    for (slot, packet) in packets.iter().enumerate() {
        let source = Source::Slot(Slot(slot as u16));
        let piece = Piece { source, offset: 0, len: packet.len() as u32 };
        assert_ne!(coalescer.push(packet, piece, &mut frames), Err(Full));
    }
    coalescer.flush(&mut frames);
    frames.frames().iter().map(|frame| (frame.kind, gather(&frames, frame, packets))).collect()
}

fn gather(frames: &Frames, frame: &Frame, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![0; frame.len as usize];
    frames.pieces.copy(&frame.chain, 0, &mut bytes, |piece, out| {
        let Source::Slot(Slot(slot)) = piece.source else { unreachable!("a slot piece") };
        let at = piece.offset as usize;
        out.copy_from_slice(&packets[usize::from(slot)][at..at + out.len()]);
    });
    bytes
}

/// A packet after one hop.
pub(crate) fn forwarded(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        packet[7] -= 1;
        return packet;
    }
    packet[8] -= 1;
    ipv4::Packet::trusted(&mut packet).fill_checksum();
    packet
}

/// Any packet that fits IP, and a segment size for it.
pub(crate) fn any_super_packet() -> impl Strategy<Value = (Recipe, u16)> {
    let size = prop_oneof![Just(1448u16), Just(1200), Just(536), 8u16..64, 1u16..9000];
    let segments = prop_oneof![4 => 1usize..8, 1 => 1usize..64];
    let ip = (any::<bool>(), any::<u16>(), any::<bool>(), 2u8.., any::<u8>());
    let tcp = (any::<bool>(), any::<bool>(), any::<u8>(), any::<u32>());
    (ip, tcp, size, segments, any::<u16>()).prop_map(|(ip, tcp, size, segments, short)| {
        let (v6, id, dont_fragment, hops, traffic_class) = ip;
        let (tcp, timestamps, flags, sequence) = tcp;
        let whole = usize::from(size) * segments;
        let payload = (whole - usize::from(short % size)).min(65_535 - 92);
        let recipe = Recipe {
            v6,
            tcp,
            payload,
            timestamps,
            flags,
            dont_fragment,
            sequence,
            id,
            port: 4000,
            hops,
            traffic_class,
        };
        (recipe, size)
    })
}
