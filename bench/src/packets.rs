//! Packets and frames to work on.

use twill_datapath::offload::vnet_hdr::{GsoType, VnetHdr};
use twill_datapath::wire::checksum::Sum;
use twill_datapath::wire::{protocol, tcp, udp};

/// A packet without virtio header's information: complete.
#[must_use]
pub fn plain(packet: &[u8]) -> Vec<u8> {
    [&VnetHdr::PLAIN.to_bytes(), packet].concat()
}

/// A frame of a TUN device that holds a TCP super-packet for segments of `gso_size` bytes.
#[must_use]
pub fn tso(gso_size: u16, packet: &[u8]) -> Vec<u8> {
    let header = VnetHdr {
        needs_csum: true,
        gso_type: GsoType::TcpV4,
        gso_size,
        csum_start: 20,
        csum_offset: tcp::CHECKSUM_OFFSET as u16,
        ..VnetHdr::PLAIN
    };
    [&header.to_bytes(), packet].concat()
}

/// An IPv4 packet with a UDP payload of `len` bytes, checksums in place.
#[must_use]
pub fn udp_packet(from: [u8; 4], to: [u8; 4], len: usize) -> Vec<u8> {
    let mut transport = vec![0x0f, 0xa0, 0x0f, 0xa1, 0, 0, 0, 0];
    transport[4..6].copy_from_slice(&((len + udp::HEADER_LEN) as u16).to_be_bytes());
    transport.resize(udp::HEADER_LEN + len, 7);
    packet(from, to, protocol::UDP, transport, udp::CHECKSUM_OFFSET)
}

/// Segment `index` of a stream of segments of `len` bytes, with a timestamp option,
/// checksums in place.
#[must_use]
pub fn tcp_segment(from: [u8; 4], to: [u8; 4], index: u32, len: usize) -> Vec<u8> {
    let mut transport = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 0x80, 0x10, 1, 0];
    transport[4..8].copy_from_slice(&(index * len as u32).to_be_bytes());
    transport.extend_from_slice(&[0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    transport.resize(32 + len, 7);
    packet(from, to, protocol::TCP, transport, tcp::CHECKSUM_OFFSET)
}

fn packet(
    from: [u8; 4],
    to: [u8; 4],
    protocol: u8,
    mut transport: Vec<u8>,
    checksum_at: usize,
) -> Vec<u8> {
    let len = transport.len() as u16;
    let pseudo = Sum::default().pseudo_v4(from.into(), to.into(), protocol, len);
    let checksum = pseudo.bytes(&transport).finish();
    transport[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    header[2..4].copy_from_slice(&(len.saturating_add(20)).to_be_bytes());
    header.extend_from_slice(&from);
    header.extend_from_slice(&to);
    let checksum = Sum::default().bytes(&header).finish();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    [header, transport].concat()
}
