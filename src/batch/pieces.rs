//! Scattered bytes: chains of ranges over receive slots and over headers written here.

use super::{Full, Slot};

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
        std::iter::from_fn(move || {
            let link = self.links.get(at as usize)?;
            at = link.next;
            Some(link.piece)
        })
    }
}
