//! Ingress: packets and aggregates on their way to the TUN device, one write each.

use super::{Chain, Full, Pieces};
use alloc::vec::Vec;

/// What a frame carries; decides what to do when the kernel refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// One packet as it came.
    Single,
    /// Several TCP segments under one virtio header.
    Tcp,
    /// Several UDP datagrams under one virtio header.
    Udp,
}

/// One write to the TUN device: virtio header (where the device has one), then the packet.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Its bytes.
    pub chain: Chain,
    /// Number of bytes, virtio header included.
    pub len: u32,
    /// Inner packets it carries.
    pub packets: u16,
    /// Bytes of those packets, each with its own header: what the books count.
    pub packet_bytes: u32,
    /// What it carries.
    pub kind: FrameKind,
}

/// The writes of one turn.
#[derive(Debug)]
pub struct Frames {
    frames: Vec<Frame>,
    max_frames: usize,
    /// Header bytes and chains of the frames.
    pub pieces: Pieces,
}

impl Frames {
    /// Bytes that [`Frames::new`] allocates, beside its pieces.
    #[must_use]
    pub const fn memory(max_frames: usize) -> usize {
        max_frames * size_of::<Frame>()
    }

    /// Room for `max_frames` frames over `pieces`.
    #[must_use]
    pub fn new(max_frames: usize, pieces: Pieces) -> Self {
        Self { frames: Vec::with_capacity(max_frames), max_frames, pieces }
    }

    /// Forgets all frames.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.pieces.clear();
    }

    /// Whether so many more frames, pieces and header bytes fit.
    #[must_use]
    pub fn has_room(&self, frames: usize, links: usize, header_bytes: usize) -> bool {
        self.frames.len() + frames <= self.max_frames && self.pieces.has_room(links, header_bytes)
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// [`Full`] when there is no room; nothing was added.
    #[inline]
    pub fn push(&mut self, frame: Frame) -> Result<(), Full> {
        if self.frames.len() == self.max_frames {
            return Err(Full);
        }
        self.frames.push(frame);
        Ok(())
    }

    /// The frames, in the order in which they must be written.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}
