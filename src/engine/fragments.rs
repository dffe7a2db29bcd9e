//! The slow path for a datagram that is longer than its path and may be fragmented.

use super::memory::{Memory, Slots};
use crate::batch::{Datagrams, Piece};
use crate::socket::{Fragmentation, set_fragmentation};
use std::io;
use std::os::fd::BorrowedFd;

/// The largest UDP payload over IPv4, bytes.
const MAX_DATAGRAM: usize = 65_507;

/// Sends datagram `index` of run `item` with IP fragmentation allowed, and forbids it again. One
/// thread owns the socket, so nothing else is sent in between.
pub(super) fn send<S: Slots>(
    socket: BorrowedFd<'_>,
    datagrams: &Datagrams,
    memory: &Memory<'_, S>,
    item: u32,
    index: u16,
) -> io::Result<()> {
    let run = datagrams.runs().get(item as usize).ok_or(io::ErrorKind::NotFound)?;
    let mut bytes = [0; MAX_DATAGRAM];
    let len = (run.datagram_len(index) as usize).min(MAX_DATAGRAM);
    let from = u32::from(run.segment) * u32::from(index);
    let copy = |piece: Piece, out: &mut [u8]| out.copy_from_slice(memory.bytes(piece));
    let len = datagrams.pieces.copy(&run.chain, from, &mut bytes[..len], copy);
    let to = run.destination.to;

    set_fragmentation(socket, to.is_ipv6(), Fragmentation::Allowed)?;
    let flags = rustix::net::SendFlags::DONTWAIT;
    let sent = rustix::net::sendto(socket, &bytes[..len], flags, &to);
    set_fragmentation(socket, to.is_ipv6(), Fragmentation::Refused)?;
    sent?;
    Ok(())
}
