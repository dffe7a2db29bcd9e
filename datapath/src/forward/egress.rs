//! From the TUN device to peers.

use super::errno;
use super::icmp_reply::{MAX_QUOTED, Notice, Replier, ReplyTally};
use super::inner::Inner;
use super::{DropReason, Progress, Tally, World};
use crate::batch::{Datagrams, Destination, Failure, Frames, Piece, Run, Source, TunFrame};
use crate::offload::split::{GsoInvalid, Plan, complete_checksum};
use crate::offload::vnet_hdr::{self, GsoType, VnetHdr};
use crate::route::{Holder, View};
use crate::wire::udp;

/// What egress must know of the TUN device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EgressRules {
    /// Frames carry a virtio header, in both directions.
    pub vnet_hdr: bool,
}

/// The egress side of one worker.
#[derive(Debug)]
pub struct Egress {
    rules: EgressRules,
    replier: Replier,
    /// The books.
    pub tally: Tally,
}

/// Where a packet lies: its slot, and the offset of its first byte there.
#[derive(Clone, Copy)]
struct Place {
    source: Source,
    offset: u32,
}

impl Place {
    fn piece(self, from: usize, len: usize) -> Piece {
        Piece { source: self.source, offset: self.offset + from as u32, len: len as u32 }
    }
}

impl Egress {
    /// Bytes of a datagram that [`Egress::too_long`] can make use of.
    pub const HEAD: usize = MAX_QUOTED;

    /// An egress side with empty books.
    #[must_use]
    pub fn new(rules: EgressRules) -> Self {
        Self { rules, replier: Replier::new(rules.vnet_hdr), tally: Tally::default() }
    }

    /// ICMP errors sent and held back.
    #[must_use]
    pub fn replies(&self) -> ReplyTally {
        self.replier.tally
    }

    /// Decides about one frame. `bytes` is the frame's slot, edited in place; `next` is 0 for a new
    /// frame, or what [`Progress::Full`] said. Errors for inner senders go to `replies`.
    pub fn frame(
        &mut self,
        world: &World<'_>,
        frame: TunFrame,
        bytes: &mut [u8],
        next: usize,
        out: &mut Datagrams,
        replies: &mut Frames,
    ) -> Progress {
        let start = frame.start as usize;
        let received = bytes.get_mut(start..start + frame.len as usize).unwrap_or_default();
        let (header, skipped) = if self.rules.vnet_hdr {
            match VnetHdr::parse(received) {
                Some((header, _)) => (header, vnet_hdr::LEN),
                None => return self.reject(DropReason::Short, 0),
            }
        } else {
            (VnetHdr::PLAIN, 0)
        };
        let place =
            Place { source: Source::Slot(frame.slot), offset: frame.start + skipped as u32 };
        let packet = &mut received[skipped..];
        match header.gso_type {
            GsoType::None => self.single(world, header, packet, place, out, replies),
            _ => self.super_packet(world, header, packet, place, next, out, replies),
        }
    }

    /// One packet: one piece of its slot.
    fn single(
        &mut self,
        world: &World<'_>,
        header: VnetHdr,
        packet: &mut [u8],
        place: Place,
        out: &mut Datagrams,
        replies: &mut Frames,
    ) -> Progress {
        if !out.has_room(1, 1, 0) {
            return Progress::Full { next: 0 };
        }
        self.tally.packets_in += 1;
        self.tally.bytes_in += packet.len() as u64;
        let prepared = self.prepare(world, packet, replies).and_then(|(destination, len)| {
            check_len(len)?;
            complete_checksum(header, &mut packet[..len])?;
            Ok((destination, len))
        });
        match prepared {
            Ok((destination, len)) => {
                self.send(out, destination, &[place.piece(0, len)], u16::MAX);
            }
            Err(reason) => self.tally.drop(reason, 1),
        }
        Progress::Done
    }

    /// A super-packet: each segment with headers of its own, its payload a piece of the slot.
    #[expect(clippy::too_many_arguments, reason = "what a frame is, and the batches it goes to")]
    fn super_packet(
        &mut self,
        world: &World<'_>,
        header: VnetHdr,
        packet: &mut [u8],
        place: Place,
        next: usize,
        out: &mut Datagrams,
        replies: &mut Frames,
    ) -> Progress {
        let Ok(plan) = Plan::parse(header, packet) else {
            return self.reject(DropReason::GsoInvalid, packet.len());
        };
        let (segments, header_len) = (plan.segments(), plan.header_len());
        if !out.has_room(1, 2, header_len) {
            return Progress::Full { next };
        }
        let prepared = if next == 0 {
            self.tally.packets_in += segments as u64;
            self.tally.bytes_in += (plan.packet_len() + (segments - 1) * header_len) as u64;
            self.prepare(world, packet, replies)
        } else {
            // The hop is off already; the peer is looked up again, as it may be gone.
            Inner::parse(packet, world.view.carries_v6())
                .and_then(|inner| Ok((route(&inner, world.view)?, inner.total_len())))
        };
        // The plan again, over headers that now carry the right hop count.
        let planned = prepared.and_then(|(destination, _)| {
            let plan = Plan::parse(header, packet)?;
            check_len(plan.segment_len())?;
            Ok((destination, plan))
        });
        let (destination, plan) = match planned {
            Ok(planned) => planned,
            Err(reason) => {
                self.tally.drop(reason, (segments - next) as u64);
                return Progress::Done;
            }
        };
        let most = out.even_run(segments, plan.segment_len());
        for index in next..segments {
            if !out.has_room(1, 2, header_len) {
                return Progress::Full { next: index };
            }
            let Ok((head, bytes)) = out.pieces.header(header_len) else {
                return Progress::Full { next: index };
            };
            let payload = plan.write_header(index, bytes);
            let payload = place.piece(payload.start, payload.len());
            self.send(out, destination, &[head, payload], most);
        }
        Progress::Done
    }

    /// Everything that is decided once per frame: checks the packet, finds the peer, takes one hop
    /// off. The order is that of flannel's proxy: first the route, then the hop count.
    fn prepare(
        &mut self,
        world: &World<'_>,
        packet: &mut [u8],
        replies: &mut Frames,
    ) -> Result<(Destination, usize), DropReason> {
        let mut inner = Inner::parse(packet, world.view.carries_v6())?;
        let len = inner.total_len();
        let (notice, reason) = match route(&inner, world.view) {
            Ok(destination) if inner.hops() > 1 => {
                inner.take_hop();
                return Ok((destination, len));
            }
            Ok(_) if inner.hops() == 0 => return Err(DropReason::Ttl),
            Ok(_) => (Notice::TimeExceeded, DropReason::Ttl),
            Err(DropReason::NoRoute) => (Notice::NetUnreachable, DropReason::NoRoute),
            Err(reason) => return Err(reason),
        };
        self.replier.answer(world, notice, &packet[..len], replies);
        Err(reason)
    }

    /// Adds a datagram, for which there is room, and books it.
    fn send(&mut self, out: &mut Datagrams, destination: Destination, pieces: &[Piece], most: u16) {
        let bytes: u32 = pieces.iter().map(|piece| piece.len).sum();
        match out.push(destination, pieces, most) {
            Ok(()) => {
                self.tally.packets_out += 1;
                self.tally.bytes_out += u64::from(bytes);
            }
            Err(_) => self.tally.drop(DropReason::SendNoBuffers, 1),
        }
    }

    /// Books a frame of which not even the number of packets is known.
    fn reject(&mut self, reason: DropReason, bytes: usize) -> Progress {
        self.tally.packets_in += 1;
        self.tally.bytes_in += bytes as u64;
        self.tally.drop(reason, 1);
        Progress::Done
    }

    /// Books datagrams of a run that the kernel refused for good as dropped.
    pub fn refused(&mut self, run: &Run, failure: &Failure) {
        let reason = errno::of_send(failure.errno);
        let bytes = run.bytes_of(failure.first, failure.count);
        self.tally.refuse(reason, u64::from(failure.count), u64::from(bytes));
    }

    /// Tells the sender of a datagram that the path to its peer takes only packets of `mtu` inner
    /// bytes (RFC 1191, RFC 8201). `head` is the datagram's beginning, [`Egress::HEAD`] bytes or all
    /// of it. The datagram itself is booked by [`Egress::refused`].
    pub fn too_long(&mut self, world: &World<'_>, head: &[u8], mtu: u16, replies: &mut Frames) {
        self.replier.answer(world, Notice::TooBig { mtu }, head, replies);
    }
}

/// Whether one UDP datagram over IPv4 carries a packet of so many bytes.
fn check_len(len: usize) -> Result<(), DropReason> {
    if len > usize::from(udp::MAX_PAYLOAD) { Err(DropReason::TooBig) } else { Ok(()) }
}

impl From<GsoInvalid> for DropReason {
    fn from(_: GsoInvalid) -> Self {
        Self::GsoInvalid
    }
}

/// The peer that holds the destination.
#[inline]
fn route(inner: &Inner<'_>, view: &View) -> Result<Destination, DropReason> {
    let peer = match inner.destination_holder(view) {
        Holder::Peer(index) => view.peer(index).ok_or(DropReason::NoRoute)?,
        Holder::Local | Holder::Broadcast => return Err(DropReason::LocalLoop),
        Holder::Nobody | Holder::Reserved => return Err(DropReason::NoRoute),
    };
    // Our own datagrams to a peer must not come back to us as packets.
    if view.nests() && inner.udp_destination().is_some_and(|to| view.is_endpoint(to)) {
        return Err(DropReason::LocalLoop);
    }
    let may_fragment = inner.may_be_fragmented();
    Ok(Destination { peer: peer.index, to: peer.endpoint, may_fragment })
}
