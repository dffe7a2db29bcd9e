//! Super-packets as a TUN device hands them out and takes them.

use super::{internet_checksum, pseudo_header};
use twill_datapath::batch::{Chain, FrameKind, Frames, Full, Piece, Pieces, Slot, Source};
use twill_datapath::offload::coalesce::Coalescer;
use twill_datapath::offload::split::Plan;
use twill_datapath::offload::vnet_hdr::{self, GsoType, VnetHdr};
use twill_datapath::wire::{ipv6, protocol};
use twill_datapath::{Progress, Unjoin};

/// A frame of a TUN device with `IFF_VNET_HDR`: virtio header, packet.
#[must_use]
pub fn with_vnet_hdr(header: VnetHdr, packet: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(vnet_hdr::LEN + packet.len());
    frame.extend_from_slice(&header.to_bytes());
    frame.extend_from_slice(packet);
    frame
}

/// A frame whose packet is complete.
#[must_use]
pub fn plain(packet: &[u8]) -> Vec<u8> {
    with_vnet_hdr(VnetHdr::PLAIN, packet)
}

/// The frame as which the kernel hands out a TCP packet for segmentation. Its checksum is complete
/// where the kernel's would be partial; segmentation computes it anew either way.
#[must_use]
pub fn tso(gso_size: usize, packet: &[u8]) -> Vec<u8> {
    let header = VnetHdr {
        needs_csum: true,
        gso_type: GsoType::TcpV4,
        gso_size: gso_size as u16,
        csum_start: 20,
        csum_offset: 16,
        ..VnetHdr::PLAIN
    };
    with_vnet_hdr(header, packet)
}

/// The packet with the sum of its pseudo-header where its UDP checksum belongs.
#[must_use]
pub fn with_partial_checksum(whole: &[u8]) -> Vec<u8> {
    let mut partial = whole.to_vec();
    let sum = !internet_checksum(&pseudo_header(whole));
    partial[26..28].copy_from_slice(&sum.to_be_bytes());
    partial
}

/// An IPv6 super-packet with destination options of 8 bytes before its transport.
#[must_use]
pub fn behind_options(header: VnetHdr, mut packet: Vec<u8>) -> (VnetHdr, Vec<u8>) {
    // PadN: six bytes of nothing.
    let options = [packet[6], 0, 1, 4, 0, 0, 0, 0];
    packet.splice(ipv6::HEADER_LEN..ipv6::HEADER_LEN, options);
    packet[6] = protocol::DESTINATION_OPTIONS;
    let payload_len = (packet.len() - ipv6::HEADER_LEN) as u16;
    packet[4..6].copy_from_slice(&payload_len.to_be_bytes());
    let (hdr_len, csum_start) = (header.hdr_len + 8, header.csum_start + 8);
    (VnetHdr { hdr_len, csum_start, ..header }, packet)
}

/// The packets of a super-packet, cut by [`Plan`].
///
/// # Panics
/// When it is no super-packet.
#[must_use]
pub fn cut(header: VnetHdr, packet: &[u8]) -> Vec<Vec<u8>> {
    let plan = Plan::parse(header, packet).unwrap();
    (0..plan.segments())
        .map(|index| {
            let mut segment = vec![0; plan.header_len()];
            let payload = plan.write_header(packet, index, &mut segment);
            segment.extend_from_slice(&packet[payload]);
            segment
        })
        .collect()
}

/// The packets of a frame, cut by [`Unjoin`] in batches of `room` frames.
///
/// # Panics
/// When it cannot be cut.
#[must_use]
pub fn apart((header, packet): &(VnetHdr, Vec<u8>), room: usize) -> Vec<Vec<u8>> {
    let frame = with_vnet_hdr(*header, packet);
    let mut out = Frames::new(room, Pieces::new(room, 2000 * room));
    let mut packets = Vec::new();
    let mut rest = Unjoin::parse(&frame).unwrap();
    loop {
        let progress = rest.write(&frame, &mut out);
        for frame in out.frames() {
            let bytes = gather(&out.pieces, &frame.chain, |_| unreachable!("all are headers"));
            assert_eq!(bytes.len(), frame.len as usize);
            assert_eq!(bytes[..10], VnetHdr::PLAIN.to_bytes());
            assert_eq!((frame.packets, frame.packet_bytes), (1, frame.len - 10));
            packets.push(bytes[10..].to_vec());
        }
        out.clear();
        match progress {
            Progress::Done => return packets,
            Progress::Full(missing) => rest = missing,
        }
    }
}

/// The frames that a batch becomes.
///
/// # Panics
/// When it is more than 256 frames.
#[must_use]
pub fn coalesce(packets: &[Vec<u8>]) -> Vec<(FrameKind, Vec<u8>)> {
    let mut frames = Frames::new(256, Pieces::new(4096, 1 << 16));
    let mut coalescer = Coalescer::new(true, true, true, 256);
    for (slot, packet) in packets.iter().enumerate() {
        let source = Source::Slot(Slot(slot as u16));
        let piece = Piece { source, offset: 0, len: packet.len() as u32 };
        assert_ne!(coalescer.push(packet, piece, &mut frames), Err(Full));
    }
    coalescer.flush(&mut frames);
    let bytes = |chain| gather(&frames.pieces, chain, |Slot(slot)| &packets[usize::from(slot)][..]);
    frames.frames().iter().map(|frame| (frame.kind, bytes(&frame.chain))).collect()
}

/// The bytes of a chain whose slots hold what `slot` says.
///
/// # Panics
/// When a piece is not within its slot.
pub fn gather<'a>(pieces: &Pieces, chain: &Chain, slot: impl Fn(Slot) -> &'a [u8]) -> Vec<u8> {
    let len: u32 = pieces.iter(chain).map(|piece| piece.len).sum();
    let mut bytes = vec![0; len as usize];
    let copied = pieces.copy(chain, 0, &mut bytes, |piece, out| {
        let Source::Slot(number) = piece.source else { unreachable!("a slot's piece") };
        out.copy_from_slice(&slot(number)[piece.offset as usize..][..out.len()]);
    });
    assert_eq!(copied, bytes.len());
    bytes
}
