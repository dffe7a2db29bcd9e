//! Taking back a joined frame that the TUN device refused.

use crate::batch::{Chain, Frame, FrameKind, Frames, Full};
use crate::offload::split::{GsoInvalid, Plan};
use crate::offload::vnet_hdr::{self, GsoType, VnetHdr};

use super::Progress;

/// Cuts a joined frame, virtio header first, into the packets that it was made of: one frame each
/// in `out`, virtio header included, all bytes in `out`'s own memory. `next` is 0 for a new frame,
/// or what [`Progress::Full`] said. A frame of one packet comes out as it is.
///
/// # Errors
/// [`GsoInvalid`] when the bytes are no frame that a device with virtio headers would take.
pub fn unjoin(frame: &[u8], next: usize, out: &mut Frames) -> Result<Progress, GsoInvalid> {
    let (header, packet) = VnetHdr::parse(frame).ok_or(GsoInvalid)?;
    if header.gso_type == GsoType::None {
        return Ok(match push(out, frame.len(), |bytes| bytes.copy_from_slice(frame)) {
            Ok(()) => Progress::Done,
            Err(Full) => Progress::Full { next },
        });
    }
    let plan = Plan::parse(header, packet)?;
    for index in next..plan.segments() {
        let len = vnet_hdr::LEN + plan.header_len() + plan.payload(index).len();
        let pushed = push(out, len, |bytes| {
            let (before, bytes) = bytes.split_at_mut(vnet_hdr::LEN);
            let (head, rest) = bytes.split_at_mut(plan.header_len());
            before.copy_from_slice(&VnetHdr::PLAIN.to_bytes());
            let payload = plan.write_header(index, head);
            rest.copy_from_slice(&packet[payload]);
        });
        if pushed.is_err() {
            return Ok(Progress::Full { next: index });
        }
    }
    Ok(Progress::Done)
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
