//! Taking back a joined frame that the TUN device refused.

use crate::batch::{Chain, Frame, FrameKind, Frames, Full};
use crate::offload::split::{GsoInvalid, Plan};
use crate::offload::vnet_hdr::{self, GsoType, VnetHdr};

use super::Progress;

/// A joined frame on its way back into the packets that it was made of.
#[derive(Clone, Copy, Debug)]
pub struct Unjoin {
    /// How the frame is cut; nothing for a frame of one packet, which comes out as it is.
    plan: Option<Plan>,
    next: usize,
}

impl Unjoin {
    /// Plans to cut a frame, virtio header first.
    ///
    /// # Errors
    /// [`GsoInvalid`] when the bytes are no frame that a device with virtio headers would take.
    pub fn parse(frame: &[u8]) -> Result<Self, GsoInvalid> {
        let (header, packet) = VnetHdr::parse(frame).ok_or(GsoInvalid)?;
        let plan = match header.gso_type {
            GsoType::None => None,
            _ => Some(Plan::parse(header, packet)?),
        };
        Ok(Self { plan, next: 0 })
    }

    /// Adds the packets of `frame` that are still missing, as many as there is room for: one frame
    /// each in `out`, virtio header included, all bytes in `out`'s own memory. `frame` holds the
    /// bytes that were parsed.
    pub fn write(mut self, frame: &[u8], out: &mut Frames) -> Progress<Self> {
        let Some(plan) = self.plan else {
            return match push(out, frame.len(), |bytes| bytes.copy_from_slice(frame)) {
                Ok(()) => Progress::Done,
                Err(Full) => Progress::Full(self),
            };
        };
        let packet = &frame[vnet_hdr::LEN..];
        while self.next < plan.segments() {
            let len = vnet_hdr::LEN + plan.header_len() + plan.payload(self.next).len();
            let pushed = push(out, len, |bytes| {
                let (before, bytes) = bytes.split_at_mut(vnet_hdr::LEN);
                let (head, rest) = bytes.split_at_mut(plan.header_len());
                before.copy_from_slice(&VnetHdr::PLAIN.to_bytes());
                let payload = plan.write_header(packet, self.next, head);
                rest.copy_from_slice(&packet[payload]);
            });
            match pushed {
                Ok(()) => self.next += 1,
                Err(Full) => return Progress::Full(self),
            }
        }
        Progress::Done
    }
}

/// A frame of one packet, its `len` bytes written by `write`.
fn push(out: &mut Frames, len: usize, write: impl FnOnce(&mut [u8])) -> Result<(), Full> {
    if !out.has_room(1, 1, len) {
        return Err(Full);
    }
    let (piece, bytes) = out.pieces.header(len)?;
    write(bytes);
    let mut chain = Chain::EMPTY;
    out.pieces.append(&mut chain, piece)?;
    let packet_bytes = piece.len - vnet_hdr::LEN as u32;
    out.push(Frame { chain, len: piece.len, packets: 1, packet_bytes, kind: FrameKind::Single })
}
