//! Scattered bytes: chains of ranges over receive slots and over headers written here.

use super::{Full, Slot};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

/// Where a piece's bytes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a receive slot of the engine.
    Slot(Slot),
    /// In the batch's own header bytes.
    Headers,
}

/// A range of bytes: offset and length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which memory the range is in.
    pub source: Source,
    /// First byte.
    pub offset: u32,
    /// Number of bytes.
    pub len: u32,
}

impl Piece {
    /// `len` bytes of the piece from its byte `from` on.
    #[inline]
    #[must_use]
    pub const fn part(self, from: usize, len: usize) -> Self {
        Self { offset: self.offset + from as u32, len: len as u32, ..self }
    }

    /// The piece's bytes of the memory that it lies in; nothing when they are not there.
    #[inline]
    #[must_use]
    pub fn of(self, memory: &[u8]) -> Option<&[u8]> {
        memory.get(self.offset as usize..)?.get(..self.len as usize)
    }

    /// [`Piece::of`] for bytes that are edited.
    #[inline]
    #[must_use]
    pub fn of_mut(self, memory: &mut [u8]) -> Option<&mut [u8]> {
        memory.get_mut(self.offset as usize..)?.get_mut(..self.len as usize)
    }
}

/// A list of pieces inside [`Pieces`]; lists grow independently of each other, so runs to several
/// peers may interleave.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    head: u32,
    tail: u32,
    count: u32,
}

impl Chain {
    /// The empty list.
    pub const EMPTY: Self = Self { head: NIL, tail: NIL, count: 0 };

    /// Number of pieces, as many as `iovec`s are needed.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count as usize
    }
}

const NIL: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    piece: Piece,
    next: u32,
}

/// Storage for chains and for header bytes; sized once, cleared every turn.
#[derive(Debug)]
pub struct Pieces {
    links: Vec<Link>,
    max_links: usize,
    headers: Box<[u8]>,
    used: usize,
}

impl Pieces {
    /// Bytes that [`Pieces::new`] allocates.
    #[must_use]
    pub const fn memory(max_links: usize, header_bytes: usize) -> usize {
        max_links * size_of::<Link>() + header_bytes
    }

    /// Room for `max_links` pieces and `header_bytes` bytes of headers.
    #[must_use]
    pub fn new(max_links: usize, header_bytes: usize) -> Self {
        Self {
            links: Vec::with_capacity(max_links),
            max_links,
            headers: vec![0; header_bytes].into_boxed_slice(),
            used: 0,
        }
    }

    /// Forgets all chains and headers.
    pub fn clear(&mut self) {
        self.links.clear();
        self.used = 0;
    }

    /// Whether so many more pieces and header bytes fit.
    #[must_use]
    pub fn has_room(&self, links: usize, header_bytes: usize) -> bool {
        self.links.len() + links <= self.max_links && self.used + header_bytes <= self.headers.len()
    }

    /// Takes `len` header bytes; their content is whatever an earlier turn left, the caller writes
    /// all of them.
    ///
    /// # Errors
    /// [`Full`] when the header bytes are used up.
    #[inline]
    pub fn header(&mut self, len: usize) -> Result<(Piece, &mut [u8]), Full> {
        let from = self.used;
        let bytes = self.headers.get_mut(from..from + len).ok_or(Full)?;
        self.used += len;
        Ok((Piece { source: Source::Headers, offset: from as u32, len: len as u32 }, bytes))
    }

    /// All header bytes, for an engine that resolves [`Source::Headers`].
    #[must_use]
    pub fn headers(&self) -> &[u8] {
        &self.headers
    }

    /// The header bytes of a piece whose source is [`Source::Headers`], to finish what was only
    /// known later.
    #[inline]
    pub fn header_mut(&mut self, piece: Piece) -> &mut [u8] {
        debug_assert_eq!(piece.source, Source::Headers);
        &mut self.headers[piece.offset as usize..(piece.offset + piece.len) as usize]
    }

    /// Appends a piece to a chain; one that continues the chain's last piece in memory extends it
    /// instead.
    ///
    /// # Errors
    /// [`Full`] when the links are used up; the chain is as before.
    #[inline]
    pub fn append(&mut self, chain: &mut Chain, piece: Piece) -> Result<(), Full> {
        if chain.tail != NIL {
            let last = &mut self.links[chain.tail as usize].piece;
            if last.source == piece.source && last.offset + last.len == piece.offset {
                last.len += piece.len;
                return Ok(());
            }
        }
        if self.links.len() == self.max_links {
            return Err(Full);
        }
        let index = self.links.len() as u32;
        self.links.push(Link { piece, next: NIL });
        match chain.tail {
            NIL => chain.head = index,
            tail => self.links[tail as usize].next = index,
        }
        chain.tail = index;
        chain.count += 1;
        Ok(())
    }

    /// The pieces of a chain, in order.
    pub fn iter(&self, chain: &Chain) -> impl Iterator<Item = Piece> + '_ {
        let mut at = chain.head;
        core::iter::from_fn(move || {
            let link = self.links.get(at as usize)?;
            at = link.next;
            Some(link.piece)
        })
    }

    /// Copies a chain's bytes from offset `from` on into `out`, until either ends; returns how many.
    /// Headers are here; `slot` copies the bytes of a piece that lies in a receive slot.
    pub fn copy(
        &self,
        chain: &Chain,
        from: u32,
        out: &mut [u8],
        mut slot: impl FnMut(Piece, &mut [u8]),
    ) -> usize {
        let mut skip = from;
        let mut copied = 0;
        for piece in self.iter(chain) {
            let skipped = skip.min(piece.len);
            skip -= skipped;
            let len = (piece.len - skipped).min((out.len() - copied) as u32);
            if len == 0 {
                continue;
            }
            let part = Piece { offset: piece.offset + skipped, len, ..piece };
            let target = &mut out[copied..copied + len as usize];
            match part.source {
                Source::Headers => {
                    let at = part.offset as usize;
                    target.copy_from_slice(&self.headers[at..at + len as usize]);
                }
                Source::Slot(_) => slot(part, target),
            }
            copied += len as usize;
        }
        copied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_copied_from_any_offset_across_headers_and_slots() {
        let mut pieces = Pieces::new(8, 8);
        let mut chain = Chain::EMPTY;
        let (header, bytes) = pieces.header(3).unwrap();
        bytes.copy_from_slice(b"abc");
        pieces.append(&mut chain, header).unwrap();
        let slot = Piece { source: Source::Slot(Slot(7)), offset: 2, len: 4 };
        pieces.append(&mut chain, slot).unwrap();

        for from in 0..8 {
            for room in 0..8 {
                let mut out = vec![0; room];
                let copied = pieces.copy(&chain, from, &mut out, |piece, target| {
                    assert_eq!(piece.source, Source::Slot(Slot(7)));
                    let at = piece.offset as usize;
                    target.copy_from_slice(&b"..defg.."[at..at + target.len()]);
                });

                let expected = &b"abcdefg"[(from as usize).min(7)..];
                let expected = &expected[..expected.len().min(room)];
                assert_eq!(&out[..copied], expected, "from {from}, room {room}");
            }
        }
    }

    #[test]
    fn pieces_that_touch_in_memory_become_one() {
        let mut pieces = Pieces::new(1, 0);
        let mut chain = Chain::EMPTY;
        let piece = |offset, len| Piece { source: Source::Slot(Slot(0)), offset, len };

        pieces.append(&mut chain, piece(0, 10)).unwrap();
        pieces.append(&mut chain, piece(10, 5)).unwrap();

        assert_eq!(pieces.iter(&chain).collect::<Vec<_>>(), [piece(0, 15)]);
        assert_eq!(pieces.append(&mut chain, piece(20, 1)), Err(Full));
    }
}
