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

mod lane;
mod shape;

use super::vnet_hdr::{self, VnetHdr};
use crate::batch::{Chain, Frame, FrameKind, Frames, Full, Piece};
use crate::wire::ipv6;
use alloc::vec::Vec;
use lane::Lane;
use shape::{Flow, Shape, flow_of};

/// Slots of the table from flow to open lane; a collision only closes a lane early.
const TABLE: usize = 256;
const NO_LANE: u16 = u16::MAX;
/// Links that one packet takes at most: a header, two payloads.
const LINKS: usize = 3;
/// Header bytes that one packet takes at most: virtio, IPv4 or IPv6, TCP with options.
const HEADER_BYTES: usize = vnet_hdr::LEN + ipv6::HEADER_LEN + 60;

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

impl Coalescer {
    /// Bytes that [`Coalescer::new`] allocates.
    #[must_use]
    pub const fn memory(max_lanes: usize) -> usize {
        max_lanes * size_of::<Lane>()
    }

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
    pub fn coalesces(&self) -> (bool, bool) {
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
        let Some(shape) = Shape::of(packet, self.tcp, self.udp) else {
            return self.alone(packet, piece, out);
        };
        let entry = shape.flow as usize % TABLE;
        if let Some(lane) = self.lanes.get_mut(usize::from(self.open[entry]))
            && lane.accepts(&shape, packet, out)
        {
            return lane.append(&shape, packet, piece, out);
        }
        self.open[entry] = self.lanes.len() as u16;
        self.open_lane(shape, packet, piece, out)
    }

    /// Ends the batch: every lane becomes a frame, in order of its first packet.
    pub fn flush(&mut self, out: &mut Frames) {
        let vnet_len = if self.vnet_hdr { vnet_hdr::LEN as u32 } else { 0 };
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
            // It names no ports: no later packet may pass it on any lane.
            Flow::Hidden => self.open = [NO_LANE; TABLE],
            Flow::None => {}
        }
        let mut chain = Chain::EMPTY;
        if self.vnet_hdr {
            let (plain, bytes) = out.pieces.header(vnet_hdr::LEN)?;
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
        let vnet_len = vnet_hdr::LEN;
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
}
