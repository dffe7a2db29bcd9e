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

/// What is left of an arrival when the batch is full: numbers only, all decided already. Hand the
/// batch to the engine, clear it, and give this to [`Egress::resume`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    destination: Destination,
    /// The packet in its slot.
    packet: Piece,
    /// How a super-packet is cut; nothing for a single packet.
    plan: Option<Plan>,
    /// Datagrams of one run at most.
    most: u16,
    /// The first segment that has not been sent.
    next: u32,
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

    /// Decides about one frame: checks it, finds its peer, takes a hop off, and sends as much of it
    /// as the batch has room for. `bytes` is the frame's slot, edited in place. Errors for inner
    /// senders go to `replies`.
    pub fn frame(
        &mut self,
        world: &World<'_>,
        frame: TunFrame,
        bytes: &mut [u8],
        out: &mut Datagrams,
        replies: &mut Frames,
    ) -> Progress<Cut> {
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
        let packet = &mut received[skipped..];
        let source = Source::Slot(frame.slot);
        let offset = frame.start + skipped as u32;
        let place = Piece { source, offset, len: packet.len() as u32 };
        match header.gso_type {
            GsoType::None => self.single(world, header, packet, place, out, replies),
            _ => self.super_packet(world, header, packet, place, out, replies),
        }
    }

    /// Sends what is left of an arrival, as far as there is room. `bytes` is its slot as
    /// [`Egress::frame`] left it. An empty batch has room for a segment at least.
    pub fn resume(&mut self, cut: Cut, bytes: &[u8], out: &mut Datagrams) -> Progress<Cut> {
        match (cut.plan, cut.packet.of(bytes)) {
            (None, _) if !out.has_room(1, 1, 0) => return Progress::Full(cut),
            (None, _) => self.send(out, cut.destination, &[cut.packet], cut.most),
            (Some(plan), Some(packet)) => return self.segments(cut, &plan, packet, out),
            (Some(plan), None) => {
                self.tally
                    .drop(DropReason::GsoInvalid, plan.segments() as u64 - u64::from(cut.next));
            }
        }
        Progress::Done
    }

    /// Sends segments, each with headers of its own, its payload a piece of the slot.
    fn segments(
        &mut self,
        cut: Cut,
        plan: &Plan,
        packet: &[u8],
        out: &mut Datagrams,
    ) -> Progress<Cut> {
        for next in cut.next as usize..plan.segments() {
            if !out.has_room(1, 2, plan.header_len()) {
                return Progress::Full(Cut { next: next as u32, ..cut });
            }
            let Ok((head, bytes)) = out.pieces.header(plan.header_len()) else {
                return Progress::Full(Cut { next: next as u32, ..cut });
            };
            let payload = plan.write_header(packet, next, bytes);
            let payload = cut.packet.part(payload.start, payload.len());
            self.send(out, cut.destination, &[head, payload], cut.most);
        }
        Progress::Done
    }

    /// Decides about a packet that leaves as it is: one piece of its slot.
    #[inline]
    fn single(
        &mut self,
        world: &World<'_>,
        header: VnetHdr,
        packet: &mut [u8],
        place: Piece,
        out: &mut Datagrams,
        replies: &mut Frames,
    ) -> Progress<Cut> {
        self.tally.packets_in += 1;
        self.tally.bytes_in += packet.len() as u64;
        // Early returns instead of a `Result` handed on: each copy of a destination costs a stall.
        let (destination, len) = match Inner::parse(packet, world.view.carries_v6()) {
            Err(reason) => return self.discard(reason, 1),
            Ok(inner) => {
                let len = inner.total_len();
                match self.prepare(world, inner, len, replies) {
                    Err(reason) => return self.discard(reason, 1),
                    Ok(destination) => (destination, len),
                }
            }
        };
        if let Err(reason) = check_len(len) {
            return self.discard(reason, 1);
        }
        if complete_checksum(header, &mut packet[..len]).is_err() {
            return self.discard(DropReason::GsoInvalid, 1);
        }
        let packet = place.part(0, len);
        if !out.has_room(1, 1, 0) {
            let most = u16::MAX;
            return Progress::Full(Cut { destination, packet, plan: None, most, next: 0 });
        }
        self.send(out, destination, &[packet], u16::MAX);
        Progress::Done
    }

    /// Decides about a super-packet. Apart, so that the way of a small packet stays short.
    #[inline(never)]
    fn super_packet(
        &mut self,
        world: &World<'_>,
        header: VnetHdr,
        packet: &mut [u8],
        place: Piece,
        out: &mut Datagrams,
        replies: &mut Frames,
    ) -> Progress<Cut> {
        let Ok(plan) = Plan::parse(header, packet) else {
            return self.reject(DropReason::GsoInvalid, packet.len());
        };
        let segments = plan.segments();
        self.tally.packets_in += segments as u64;
        self.tally.bytes_in += (plan.packet_len() + (segments - 1) * plan.header_len()) as u64;
        let prepared = Inner::planned(packet, world.view.carries_v6()).and_then(|inner| {
            let destination = self.prepare(world, inner, plan.segment_len(), replies)?;
            check_len(plan.segment_len())?;
            Ok(destination)
        });
        match prepared {
            Ok(destination) => {
                let most = out.even_run(segments, plan.segment_len());
                let place = place.part(0, plan.packet_len());
                let cut = Cut { destination, packet: place, plan: Some(plan), most, next: 0 };
                self.segments(cut, &plan, packet, out)
            }
            Err(reason) => self.discard(reason, segments as u64),
        }
    }

    /// Finds the peer and takes one hop off; what leaves is `longest` bytes at most. The order is
    /// that of flannel's proxy: first the route, then the hop count.
    #[inline]
    fn prepare(
        &mut self,
        world: &World<'_>,
        mut inner: Inner<'_>,
        longest: usize,
        replies: &mut Frames,
    ) -> Result<Destination, DropReason> {
        let (notice, reason) = match route(&inner, longest, world.view) {
            Ok(destination) if inner.hops() > 1 => {
                inner.take_hop();
                return Ok(destination);
            }
            Ok(_) if inner.hops() == 0 => return Err(DropReason::Ttl),
            Ok(_) => (Notice::TimeExceeded, DropReason::Ttl),
            Err(DropReason::NoRoute) => (Notice::NetUnreachable, DropReason::NoRoute),
            Err(reason) => return Err(reason),
        };
        self.replier.answer(world, notice, inner.bytes(), || 0, replies);
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
    #[cold]
    fn reject(&mut self, reason: DropReason, bytes: usize) -> Progress<Cut> {
        self.tally.packets_in += 1;
        self.tally.bytes_in += bytes as u64;
        self.discard(reason, 1)
    }

    /// Books packets that go nowhere.
    #[cold]
    fn discard(&mut self, reason: DropReason, packets: u64) -> Progress<Cut> {
        self.tally.drop(reason, packets);
        Progress::Done
    }

    /// Books datagrams of a run that the kernel refused for good as dropped.
    pub fn refused(&mut self, run: &Run, failure: &Failure) {
        let reason = errno::of_send(failure.errno);
        let bytes = run.bytes_of(failure.first, failure.count);
        self.tally.refuse(reason, u64::from(failure.count), u64::from(bytes));
    }

    /// Tells the sender of a datagram that the path to its peer takes only packets of `mtu` inner
    /// bytes (RFC 1191, RFC 8201), which is asked for only if the sender will be told. `head` is the
    /// datagram's beginning, [`Egress::HEAD`] bytes or all of it. The datagram itself is booked by
    /// [`Egress::refused`].
    pub fn too_long(
        &mut self,
        world: &World<'_>,
        head: &[u8],
        mtu: impl FnOnce() -> u16,
        replies: &mut Frames,
    ) {
        self.replier.answer(world, Notice::TooBig, head, mtu, replies);
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
fn route(inner: &Inner<'_>, longest: usize, view: &View) -> Result<Destination, DropReason> {
    let peer = match inner.destination_holder(view) {
        Holder::Peer(index) => view.peer(index).ok_or(DropReason::NoRoute)?,
        Holder::Local | Holder::Broadcast => return Err(DropReason::LocalLoop),
        Holder::Nobody | Holder::Reserved if inner.is_to_a_group() => {
            return Err(DropReason::Multicast);
        }
        Holder::Nobody | Holder::Reserved => return Err(DropReason::NoRoute),
    };
    // Our own datagrams to a peer must not come back to us as packets.
    if view.nests() && inner.udp_destination().is_some_and(|to| view.is_endpoint(to)) {
        return Err(DropReason::LocalLoop);
    }
    let may_fragment = inner.may_be_fragmented(longest);
    Ok(Destination { peer: peer.index, to: peer.endpoint, may_fragment })
}
