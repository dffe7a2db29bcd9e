//! From runs to message headers: a chunk of them at a time, ready for one `sendmmsg`.
//!
//! ```text
//! runs      | 5 datagrams to A | 1 to B | 3 to C, demoted    |
//! messages  | 5, UDP_SEGMENT   | 1      | 1    | 1    | 1    |
//! ```
//!
//! A [`Cursor`] says how far the kernel has taken the batch. It only moves forward, so every
//! datagram is handed over exactly once, whatever was refused and tried again in between.
#![allow(unsafe_code, reason = "a message header can only be made from zeroes")]

use super::memory::{Memory, Slots};
use super::policy::RunState;
use crate::engine::Sources;
use crate::sys::cmsg;
use socket2::SockAddr;
use twill_datapath::batch::{Datagrams, Piece, Run};

/// Messages in one chunk.
const CHUNK: usize = 64;
/// Pieces in one chunk, of which the largest run has 254. A run with more leaves datagram by
/// datagram, and a datagram with more not at all.
const IOVECS: usize = 2048;

/// The next datagram to hand over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) run: usize,
    pub(super) datagram: u16,
}

impl Cursor {
    /// The place that so many datagrams of its run further on is.
    pub(super) fn after(self, datagrams: u16, runs: &[Run]) -> Self {
        let datagram = self.datagram + datagrams;
        if datagram >= runs[self.run].datagrams {
            Self { run: self.run + 1, datagram: 0 }
        } else {
            Self { datagram, ..self }
        }
    }
}

/// One message: which datagrams of which run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) run: usize,
    pub(super) first: u16,
    pub(super) datagrams: u16,
    iovecs: (usize, usize),
}

impl Message {
    /// Where the batch goes on once this message is dealt with.
    pub(super) fn after(&self, runs: &[Run]) -> Cursor {
        Cursor { run: self.run, datagram: self.first }.after(self.datagrams, runs)
    }
}

/// A chunk of messages and all that their headers point at.
pub(super) struct Messages {
    messages: Vec<Message>,
    headers: Vec<libc::mmsghdr>,
    iovecs: Vec<libc::iovec>,
    names: Vec<SockAddr>,
    controls: Vec<[u8; cmsg::SEND_SPACE]>,
    sourced: Option<Sourced>,
}

/// Control data of messages that name where they leave from: that first, then a run's segment size.
struct Sourced {
    v4: [u8; cmsg::SOURCE_SPACE],
    v6: [u8; cmsg::SOURCE_SPACE],
    controls: Vec<[u8; cmsg::SOURCE_SPACE + cmsg::SEND_SPACE]>,
}

impl Sourced {
    fn new(sources: Sources) -> Self {
        let Sources { v4, v6 } = sources;
        let (v4, v6) = (cmsg::source(v4.to_ipv6_mapped()), cmsg::source(v6));
        Self { v4, v6, controls: Vec::with_capacity(CHUNK) }
    }

    fn add(&mut self, run: &Run) {
        let source = if run.destination.to.is_ipv6() { &self.v6 } else { &self.v4 };
        let mut control = [0; cmsg::SOURCE_SPACE + cmsg::SEND_SPACE];
        let (first, second) = control.split_at_mut(cmsg::SOURCE_SPACE);
        first.copy_from_slice(source);
        second.copy_from_slice(&cmsg::segment(run.segment));
        self.controls.push(control);
    }
}

impl Messages {
    pub(super) fn new(sources: Option<Sources>) -> Self {
        Self {
            messages: Vec::with_capacity(CHUNK),
            headers: Vec::with_capacity(CHUNK),
            iovecs: Vec::with_capacity(IOVECS),
            names: Vec::with_capacity(CHUNK),
            controls: Vec::with_capacity(CHUNK),
            sourced: sources.map(Sourced::new),
        }
    }

    /// Describes the datagrams from the cursor on, as many as one chunk takes: none only if the
    /// first alone has too many pieces.
    pub(super) fn fill<S: Slots>(
        &mut self,
        datagrams: &Datagrams,
        memory: &Memory<'_, S>,
        state: &RunState,
        mut cursor: Cursor,
    ) {
        self.clear();
        let runs = datagrams.runs();
        while let Some(run) = runs.get(cursor.run) {
            let pieces = datagrams.pieces.iter(&run.chain);
            let whole = cursor.datagram == 0
                && run.chain.count() <= IOVECS
                && (run.datagrams == 1 || state.allows(&run.destination.to, run.segment));
            let complete = if whole {
                self.add_whole(cursor.run, run, pieces, memory)
            } else {
                self.add_singly(cursor, run, pieces, memory)
            };
            if !complete {
                break;
            }
            cursor = Cursor { run: cursor.run + 1, datagram: 0 };
        }
        self.link();
    }

    pub(super) fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The headers of the messages from `first` on; their pointers are valid until the next fill.
    pub(super) fn headers_mut(&mut self, first: usize) -> &mut [libc::mmsghdr] {
        &mut self.headers[first..]
    }

    fn clear(&mut self) {
        self.messages.clear();
        self.headers.clear();
        self.iovecs.clear();
        self.names.clear();
        self.controls.clear();
        if let Some(sourced) = &mut self.sourced {
            sourced.controls.clear();
        }
    }

    /// A run as one message; says whether there was room.
    fn add_whole<S: Slots>(
        &mut self,
        index: usize,
        run: &Run,
        pieces: impl Iterator<Item = Piece>,
        memory: &Memory<'_, S>,
    ) -> bool {
        if self.messages.len() == CHUNK || self.iovecs.len() + run.chain.count() > IOVECS {
            return false;
        }
        let from = self.iovecs.len();
        self.iovecs.extend(pieces.map(|piece| memory.iovec(piece)));
        let iovecs = (from, self.iovecs.len());
        self.add(run, Message { run: index, first: 0, datagrams: run.datagrams, iovecs });
        true
    }

    /// A run's datagrams as messages of their own, cut out of its pieces; says whether all had room.
    fn add_singly<S: Slots>(
        &mut self,
        cursor: Cursor,
        run: &Run,
        pieces: impl Iterator<Item = Piece>,
        memory: &Memory<'_, S>,
    ) -> bool {
        let mut index = cursor.datagram;
        let mut skip = u32::from(run.segment) * u32::from(index);
        let mut left = run.datagram_len(index);
        let mut from = self.iovecs.len();
        for mut piece in pieces {
            let skipped = skip.min(piece.len);
            skip -= skipped;
            piece = Piece { offset: piece.offset + skipped, len: piece.len - skipped, ..piece };
            while piece.len > 0 {
                if self.messages.len() == CHUNK || self.iovecs.len() == IOVECS {
                    self.iovecs.truncate(from);
                    return false;
                }
                let len = piece.len.min(left);
                self.iovecs.push(memory.iovec(Piece { len, ..piece }));
                piece = Piece { offset: piece.offset + len, len: piece.len - len, ..piece };
                left -= len;
                if left == 0 {
                    let to = self.iovecs.len();
                    let message =
                        Message { run: cursor.run, first: index, datagrams: 1, iovecs: (from, to) };
                    self.add(run, message);
                    from = to;
                    index += 1;
                    left = run.datagram_len(index);
                }
            }
        }
        true
    }

    fn add(&mut self, run: &Run, message: Message) {
        self.messages.push(message);
        self.names.push(run.destination.to.into());
        match &mut self.sourced {
            None => self.controls.push(cmsg::segment(run.segment)),
            Some(sourced) => sourced.add(run),
        }
    }

    /// Points the headers at their parts, now that nothing moves any more.
    fn link(&mut self) {
        for (index, message) in self.messages.iter().enumerate() {
            let (from, to) = message.iovecs;
            let name = &self.names[index];
            let mut header = empty_header();
            header.msg_hdr.msg_name = name.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_namelen = name.len();
            header.msg_hdr.msg_iov = self.iovecs[from..to].as_mut_ptr();
            // These fields are narrower in musl's header.
            header.msg_hdr.msg_iovlen = (to - from) as _;
            // Some drivers refuse the segment size on a single datagram, where it means nothing.
            let segment = if message.datagrams > 1 { cmsg::SEND_SPACE } else { 0 };
            let (control, len) = match &mut self.sourced {
                None => (self.controls[index].as_mut_ptr(), segment),
                Some(sourced) => {
                    (sourced.controls[index].as_mut_ptr(), cmsg::SOURCE_SPACE + segment)
                }
            };
            if len > 0 {
                header.msg_hdr.msg_control = control.cast();
                header.msg_hdr.msg_controllen = len as _;
            }
            self.headers.push(header);
        }
    }
}

/// A header that points at nothing.
pub(in crate::engine) fn empty_header() -> libc::mmsghdr {
    // SAFETY: all fields are integers and pointers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}
