//! From pieces to bytes: what an engine's slots and a batch's headers have in common.

use twill_datapath::batch::{Piece, Slot, Source};

/// Receive slots whose bytes can be looked at.
pub(in crate::engine) trait Slots {
    /// All bytes of a slot.
    fn slot(&self, slot: Slot) -> &[u8];
}

/// Where the bytes of pieces lie for the length of one call.
pub(super) struct Memory<'a, S> {
    slots: &'a S,
    headers: &'a [u8],
}

impl<'a, S: Slots> Memory<'a, S> {
    pub(super) fn new(slots: &'a S, headers: &'a [u8]) -> Self {
        Self { slots, headers }
    }

    /// The bytes of a piece; none when it lies outside, which no correct datapath produces.
    #[inline]
    pub(super) fn bytes(&self, piece: Piece) -> &'a [u8] {
        let (from, len) = (piece.offset as usize, piece.len as usize);
        let memory = match piece.source {
            Source::Headers => self.headers,
            Source::Slot(slot) => self.slots.slot(slot),
        };
        debug_assert!(from + len <= memory.len());
        memory.get(from..from + len).unwrap_or_default()
    }

    /// The piece as the kernel reads it.
    #[inline]
    pub(super) fn iovec(&self, piece: Piece) -> libc::iovec {
        let bytes = self.bytes(piece);
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
    }
}
