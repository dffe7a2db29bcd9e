//! Egress: packets on their way to peers, gathered into runs that one send call can carry.
//!
//! `UDP_SEGMENT` cuts one buffer into datagrams of equal size, the last one shorter. So a run takes
//! packets of one size to one peer, whatever their flows, and a shorter packet ends it. One run per
//! peer is open at a time, which keeps the packets of every peer, and so of every flow, in order.

use super::{Chain, Full, Piece, Pieces};
use crate::route::PeerIndex;
use alloc::vec::Vec;
use core::net::SocketAddr;

/// What one send call may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLimits {
    /// Datagrams in one run: 1 switches runs off. The kernel's cap is 63 before Linux 6.9, 127
    /// after (`UDP_MAX_SEGMENTS`, minus one for the UDP header it counts).
    pub datagrams: u16,
    /// Bytes in one run; 65507 is the largest IPv4 UDP payload.
    pub bytes: u32,
}

/// Where a packet goes, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The peer, for its counters.
    pub peer: PeerIndex,
    /// Its UDP address.
    pub to: SocketAddr,
    /// The packet's sender allows fragments: a datagram that is too long for its path leaves in some.
    pub may_fragment: bool,
}

/// Datagrams to one peer in one send call: all of `segment` bytes but the last, which may be
/// shorter.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Where to.
    pub destination: Destination,
    /// Bytes of every datagram but the last.
    pub segment: u16,
    /// Number of datagrams, at least one.
    pub datagrams: u16,
    /// Bytes of all datagrams.
    pub bytes: u32,
    /// Their bytes.
    pub chain: Chain,
    closed: bool,
}

impl Run {
    /// Bytes of one datagram of the run.
    #[must_use]
    pub fn datagram_len(&self, index: u16) -> u32 {
        let before = u32::from(self.segment) * u32::from(index);
        self.bytes.saturating_sub(before).min(u32::from(self.segment))
    }

    /// Bytes of `count` datagrams of the run from the `first` on.
    #[must_use]
    pub fn bytes_of(&self, first: u16, count: u16) -> u32 {
        let segment = u32::from(self.segment);
        let before = segment * u32::from(first);
        self.bytes.saturating_sub(before).min(segment * u32::from(count))
    }
}

/// The runs of one turn.
#[derive(Debug)]
pub struct Datagrams {
    runs: Vec<Run>,
    max_runs: usize,
    open: [u32; OPEN],
    limits: RunLimits,
    /// Header bytes and chains of the runs.
    pub pieces: Pieces,
}

/// Size of the direct-mapped cache from peer to its open run; a collision only ends a run early.
const OPEN: usize = 64;
const NONE: u32 = u32::MAX;

impl Datagrams {
    /// Bytes that [`Datagrams::new`] allocates, beside its pieces.
    #[must_use]
    pub const fn memory(max_runs: usize) -> usize {
        max_runs * size_of::<Run>()
    }

    /// Room for `max_runs` runs over `pieces`.
    #[must_use]
    pub fn new(limits: RunLimits, max_runs: usize, pieces: Pieces) -> Self {
        Self { runs: Vec::with_capacity(max_runs), max_runs, open: [NONE; OPEN], limits, pieces }
    }

    /// Forgets all runs.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.open = [NONE; OPEN];
        self.pieces.clear();
    }

    /// The runs, in the order in which they must leave.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether so many more datagrams, pieces and header bytes fit, wherever they go.
    #[inline]
    #[must_use]
    pub fn has_room(&self, datagrams: usize, links: usize, header_bytes: usize) -> bool {
        self.runs.len() + datagrams <= self.max_runs && self.pieces.has_room(links, header_bytes)
    }

    /// Datagrams per run so that `count` datagrams of `segment` bytes leave in the fewest sends of
    /// even size: two halves instead of 64 KiB and a crumb.
    #[must_use]
    pub fn even_run(&self, count: usize, segment: usize) -> u16 {
        let most = (self.limits.bytes as usize / segment.max(1))
            .clamp(1, usize::from(self.limits.datagrams));
        count.div_ceil(count.div_ceil(most).max(1)).max(1) as u16
    }

    /// Adds one datagram made of `pieces`, in a run of at most `most` datagrams.
    ///
    /// # Errors
    /// [`Full`] when there is no room; nothing was added.
    #[inline]
    pub fn push(
        &mut self,
        destination: Destination,
        pieces: &[Piece],
        most: u16,
    ) -> Result<(), Full> {
        if !self.pieces.has_room(pieces.len(), 0) {
            return Err(Full);
        }
        let len: u32 = pieces.iter().map(|piece| piece.len).sum();
        let cached = &mut self.open[destination.peer.0 as usize % OPEN];
        let open = self.runs.get_mut(*cached as usize).filter(|run| {
            !run.closed
                && run.destination == destination
                && len <= u32::from(run.segment)
                && run.datagrams < most.min(self.limits.datagrams)
                && run.bytes + len <= self.limits.bytes
        });
        let run = match open {
            Some(run) => run,
            None => {
                if self.runs.len() == self.max_runs {
                    return Err(Full);
                }
                *cached = self.runs.len() as u32;
                self.runs.push(Run {
                    destination,
                    segment: len as u16,
                    datagrams: 0,
                    bytes: 0,
                    chain: Chain::EMPTY,
                    closed: false,
                });
                let last = self.runs.len() - 1;
                &mut self.runs[last]
            }
        };
        for piece in pieces {
            self.pieces.append(&mut run.chain, *piece)?;
        }
        run.datagrams += 1;
        run.bytes += len;
        run.closed |= len < u32::from(run.segment);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_datagram_of_a_run_may_be_shorter() {
        let mut out = Datagrams::new(RunLimits { datagrams: 9, bytes: 9999 }, 4, Pieces::new(9, 0));
        for (slot, len) in [(0, 100), (1, 100), (2, 30)] {
            let source = crate::batch::Source::Slot(crate::batch::Slot(slot));
            out.push(to(1), &[Piece { source, offset: 0, len }], 9).unwrap();
        }

        let run = out.runs()[0];

        assert_eq!([0, 1, 2, 3].map(|index| run.datagram_len(index)), [100, 100, 30, 0]);
        assert_eq!(run.bytes_of(0, 3), 230);
        assert_eq!(run.bytes_of(1, 2), 130);
        assert_eq!(run.bytes_of(0, 1), 100);
    }

    fn to(peer: u32) -> Destination {
        Destination {
            peer: PeerIndex(peer),
            to: "192.0.2.1:8285".parse().unwrap(),
            may_fragment: false,
        }
    }
}
