//! From peers to the TUN device.

use super::errno;
use super::inner::Inner;
use super::{DropReason, IngressCheck, Progress, Tally, World};
use crate::batch::{Failure, Flaw, Frame, FrameKind, Frames, Full, Piece, Source, Train};
use crate::offload::coalesce::Coalescer;
use crate::route::{Holder, PeerIndex, View};
use crate::wire::Ecn;
use alloc::vec::Vec;
use core::net::IpAddr;
use ipnet::IpNet;

/// What ingress demands of a datagram, and what the TUN device takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressRules {
    /// How much is checked.
    pub check: IngressCheck,
    /// Outer networks from which any peer's datagrams may come.
    pub peer_sources: Vec<IpNet>,
    /// Frames carry a virtio header.
    pub vnet_hdr: bool,
    /// Join TCP segments of a flow.
    pub coalesce_tcp: bool,
    /// Join UDP datagrams of a flow.
    pub coalesce_udp: bool,
}

/// What became of a train in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainReport {
    /// Whether all of it was seen.
    pub progress: Progress<TrainRest>,
    /// Who sent it, judged by the outer source; the first of several peers at one address.
    pub peer: Option<PeerIndex>,
    /// Packets forwarded.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// Why the last dropped packet was dropped: something to name in a log, together with the
    /// train's source.
    pub last_drop: Option<DropReason>,
}

impl TrainReport {
    fn of(sender: &Sender) -> Self {
        let peer = sender.peer;
        Self { progress: Progress::Done, peer, packets: 0, bytes: 0, dropped: 0, last_drop: None }
    }
}

/// What is to be done with a frame that the TUN device refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwritten {
    /// Its packets are dropped and booked.
    Dropped,
    /// Its packets are to be cut apart by [`super::Unjoin`] and written one by one. They stay
    /// booked as out.
    WriteSingly,
}

/// The ingress side of one worker.
#[derive(Debug)]
pub struct Ingress {
    rules: IngressRules,
    coalescer: Coalescer,
    /// The books.
    pub tally: Tally,
}

/// What is left of a train when the batch is full: numbers only. Write the batch, clear it, and give
/// this to [`Ingress::resume`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainRest {
    sender: Sender,
    /// The bytes that are left.
    bytes: Piece,
    /// Bytes of every datagram but the last.
    segment: u32,
}

/// What the outer source may do, found once per train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sender {
    address: IpAddr,
    peer: Option<PeerIndex>,
    /// The address is one of `peer_sources`: it may speak for every peer.
    any: bool,
    tos: u8,
}

impl Ingress {
    /// Bytes that [`Ingress::new`] allocates.
    #[must_use]
    pub const fn memory(max_frames: usize) -> usize {
        Coalescer::memory(max_frames)
    }

    /// An ingress side with empty books, for batches of at most `max_frames` frames.
    #[must_use]
    pub fn new(rules: IngressRules, max_frames: usize) -> Self {
        let coalescer =
            Coalescer::new(rules.coalesce_tcp, rules.coalesce_udp, rules.vnet_hdr, max_frames);
        Self { rules, coalescer, tally: Tally::default() }
    }

    /// Decides about one train: finds its sender, and delivers as many of its datagrams as the batch
    /// has room for. `bytes` is the train's slot, edited in place. After the turn's last train, and
    /// before a full batch is written, call [`Ingress::flush`].
    pub fn train(
        &mut self,
        world: &World<'_>,
        train: &Train,
        bytes: &mut [u8],
        out: &mut Frames,
    ) -> TrainReport {
        let source = Source::Slot(train.slot);
        let received = Piece { source, offset: train.start, len: train.len };
        let len = received.of(bytes).unwrap_or_default().len() as u32;
        let segment = if train.segment == 0 { len.max(1) } else { u32::from(train.segment) };
        let datagrams = u64::from(len.div_ceil(segment).max(1));
        self.tally.packets_in += datagrams;
        self.tally.bytes_in += u64::from(len);
        let sender = self.sender(world.view, train);
        if let Err(reason) = self.admit(train, &sender) {
            let mut report = TrainReport::of(&sender);
            self.drop(reason, datagrams, &mut report);
            return report;
        }
        let rest = TrainRest { sender, bytes: Piece { len, ..received }, segment };
        self.resume(world, rest, bytes, out)
    }

    /// Delivers what is left of a train, as far as there is room. `bytes` is its slot as
    /// [`Ingress::train`] left it.
    pub fn resume(
        &mut self,
        world: &World<'_>,
        mut rest: TrainRest,
        bytes: &mut [u8],
        out: &mut Frames,
    ) -> TrainReport {
        let mut report = TrainReport::of(&rest.sender);
        loop {
            if !self.coalescer.has_room(out) {
                report.progress = Progress::Full(rest);
                return report;
            }
            let piece = Piece { len: rest.bytes.len.min(rest.segment), ..rest.bytes };
            let datagram = piece.of_mut(bytes).unwrap_or_default();
            match self.packet(world.view, &rest.sender, datagram) {
                Ok(len) => self.deliver(&datagram[..len], piece.part(0, len), out, &mut report),
                Err(reason) => self.drop(reason, 1, &mut report),
            }
            let len = piece.len as usize;
            rest.bytes = rest.bytes.part(len, rest.bytes.len as usize - len);
            if rest.bytes.len == 0 {
                return report;
            }
        }
    }

    /// Moves what is still being joined into the batch.
    pub fn flush(&mut self, out: &mut Frames) {
        self.coalescer.flush(out);
    }

    fn sender(&self, view: &View, train: &Train) -> Sender {
        let address = train.from.ip().to_canonical();
        Sender {
            address,
            peer: view.peers_at(address).next(),
            any: self.rules.peer_sources.iter().any(|network| network.contains(&address)),
            tos: train.tos,
        }
    }

    /// What is decided once per train.
    fn admit(&self, train: &Train, sender: &Sender) -> Result<(), DropReason> {
        match train.flaw {
            Some(Flaw::MessageTruncated) => return Err(DropReason::MessageTruncated),
            Some(Flaw::ControlTruncated) => return Err(DropReason::ControlTruncated),
            None => {}
        }
        if self.rules.check != IngressCheck::Off && sender.peer.is_none() && !sender.any {
            return Err(DropReason::UnknownPeer);
        }
        Ok(())
    }

    /// Checks one packet and takes one hop off; returns its length.
    fn packet(
        &self,
        view: &View,
        sender: &Sender,
        datagram: &mut [u8],
    ) -> Result<usize, DropReason> {
        let mut inner = Inner::parse(datagram, view.carries_v6())?;
        let len = inner.total_len();
        if self.rules.check == IngressCheck::Strict {
            source_is_the_senders(&inner, view, sender)?;
            if inner.destination_holder(view) != Holder::Local {
                return Err(DropReason::DestinationScope);
            }
        }
        match inner.hops() {
            0 => return Err(DropReason::Ttl),
            // The hop that would be the last is the kernel's: it forwards with a TTL of one less,
            // so it answers with time exceeded itself, or takes the packet if it is for this host.
            1 => {}
            _ => inner.take_hop(),
        }
        decapsulate_ecn(&mut inner, Ecn::from_tos(sender.tos))?;
        Ok(len)
    }

    /// Hands on a packet, for which there is room, and books it.
    fn deliver(&mut self, packet: &[u8], piece: Piece, out: &mut Frames, report: &mut TrainReport) {
        match self.coalescer.push(packet, piece, out) {
            Ok(()) => {
                self.tally.packets_out += 1;
                self.tally.bytes_out += packet.len() as u64;
                report.packets += 1;
                report.bytes += packet.len() as u64;
            }
            Err(Full) => self.drop(DropReason::TunOther, 1, report),
        }
    }

    /// Books dropped packets.
    fn drop(&mut self, reason: DropReason, count: u64, report: &mut TrainReport) {
        self.tally.drop(reason, count);
        report.dropped += count;
        report.last_drop = Some(reason);
    }

    /// Decides about a frame that the TUN device refused for good. Some kernels refuse joined
    /// frames that others take (EINVAL; Linux 6.6.44 does for short tails): joining of that kind
    /// ends, and the packets are to be written one by one.
    pub fn refused(&mut self, frame: &Frame, failure: &Failure) -> Unwritten {
        if failure.errno == errno::EINVAL && frame.kind != FrameKind::Single {
            self.coalescer.stop(frame.kind);
            return Unwritten::WriteSingly;
        }
        let reason = errno::of_write(failure.errno);
        self.tally.refuse(reason, u64::from(frame.packets), u64::from(frame.packet_bytes));
        Unwritten::Dropped
    }

    /// Whether TCP segments and UDP datagrams are still joined.
    #[must_use]
    pub fn coalesces(&self) -> (bool, bool) {
        self.coalescer.coalesces()
    }
}

/// The inner source is behind the peer that the outer source names.
#[inline]
fn source_is_the_senders(
    inner: &Inner<'_>,
    view: &View,
    sender: &Sender,
) -> Result<(), DropReason> {
    match inner.source_holder(view) {
        Holder::Peer(owner) if sender.any || sender.peer == Some(owner) => Ok(()),
        Holder::Peer(owner) if view.is_at(owner, sender.address) => Ok(()),
        Holder::Reserved | Holder::Broadcast => Err(DropReason::Martian),
        Holder::Peer(_) | Holder::Local | Holder::Nobody => Err(DropReason::SourceMismatch),
    }
}

/// Carries the outer ECN codepoint inwards: RFC 6040 figure 4.
#[inline]
fn decapsulate_ecn(inner: &mut Inner<'_>, outer: Ecn) -> Result<(), DropReason> {
    match (inner.ecn(), outer) {
        (Ecn::NotEct, Ecn::Ce) => return Err(DropReason::Ecn),
        (Ecn::Ect0 | Ecn::Ect1, Ecn::Ce) => inner.set_ecn(Ecn::Ce),
        (Ecn::Ect0, Ecn::Ect1) => inner.set_ecn(Ecn::Ect1),
        _ => {}
    }
    Ok(())
}
