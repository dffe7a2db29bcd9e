//! Telling an inner sender why its packet goes nowhere.
//!
//! The form is that of flannel's proxy (`send_net_unreachable`), so that scripts and stacks see
//! what they are used to: from the TUN device's address, TTL 8, identification, TOS and flags 0,
//! quoting the header and eight bytes. Unlike flannel's, a reply quotes only bytes that were
//! received, and replies are limited in rate. IPv6 has no such model; there RFC 4443 decides.
//!
//! The kernel takes no packet with its own address as source from a device, unless `accept_local`
//! is set there. So replies are frames of their own, which the worker sends by a raw socket.
//!
//! flannel never answers ICMP, so a ping to nowhere meets silence, and net-unreachable keeps that.
//! Time-exceeded and fragmentation-needed, which flannel does not send at all, follow RFC 1122
//! section 3.2.2: only ICMP errors get none. traceroute and path MTU discovery by echo then work.

use super::World;
use crate::batch::{Chain, Frame, FrameKind, Frames};
use crate::offload::vnet_hdr::{self, VnetHdr};
use crate::route::{Holder, View};
use crate::wire::{icmp, icmpv6, ipv4, ipv6, protocol};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// No peer holds the destination.
    NetUnreachable,
    /// The hop count reached zero here.
    TimeExceeded,
    /// The packet may not be fragmented and is longer than what its path takes.
    TooBig,
}

impl Notice {
    fn message_v4(self, mtu: impl FnOnce() -> u16) -> icmp::Repr {
        use icmp::{kind, unreachable};
        let (kind, code, mtu) = match self {
            Self::NetUnreachable => (kind::UNREACHABLE, unreachable::NET, 0),
            Self::TimeExceeded => (kind::TIME_EXCEEDED, 0, 0),
            Self::TooBig => {
                (kind::UNREACHABLE, unreachable::FRAGMENTATION_NEEDED, mtu().max(ipv4::MIN_MTU))
            }
        };
        icmp::Repr { kind, code, rest: u32::from(mtu).to_be_bytes() }
    }

    /// No MTU below IPv6's least one is told: hosts take it for an error (RFC 8201 section 4). What
    /// fits the least one leaves in outer fragments instead (RFC 2473 section 7.1).
    fn message_v6(self, mtu: impl FnOnce() -> u16) -> icmpv6::Repr {
        let (kind, mtu) = match self {
            Self::NetUnreachable => (icmpv6::kind::UNREACHABLE, 0),
            Self::TimeExceeded => (icmpv6::kind::TIME_EXCEEDED, 0),
            Self::TooBig => (icmpv6::kind::PACKET_TOO_BIG, mtu().max(ipv6::MIN_MTU)),
        };
        icmpv6::Repr { kind, code: 0, rest: u32::from(mtu).to_be_bytes() }
    }
}

/// Replies since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplyTally {
    /// ICMP errors put on their way to an inner sender.
    pub sent: u64,
    /// ICMP errors that the rate limit, or a full batch, kept back.
    pub limited: u64,
}

/// Replies of one [`Bucket`] per second, on average.
const PER_SECOND: u64 = 100;
/// Replies of one [`Bucket`] that may follow each other at once.
const BURST: u64 = 50;
/// Buckets for path MTUs. Senders share one when their addresses have the same hash.
const SENDERS: usize = 64;

/// flannel's TTL for replies: their receivers are behind this host.
const TTL: u8 = 8;
/// The default of hosts (RFC 1700), for IPv6 replies.
const HOP_LIMIT: u8 = 64;
/// Bytes that a reply quotes behind the IPv4 header (RFC 792).
const QUOTED_V4: usize = 8;
/// A longer header is not quoted, as flannel's buffer has no room for it.
const MAX_HEADER_V4: usize = 56;
/// Bytes that a reply quotes at most, so that it stays within IPv6's minimum MTU (RFC 4443
/// section 2.4(c)).
const QUOTED_V6: usize = 1280 - ipv6::HEADER_LEN - icmpv6::HEADER_LEN;
/// The most that a reply ever needs of the packet that it is about.
pub(super) const MAX_QUOTED: usize = QUOTED_V6;

/// The writer of replies.
#[derive(Debug)]
pub(super) struct Replier {
    vnet_hdr: bool,
    buckets: Buckets,
    pub(super) tally: ReplyTally,
}

impl Replier {
    pub(super) fn new(vnet_hdr: bool) -> Self {
        Self { vnet_hdr, buckets: Buckets::new(), tally: ReplyTally::default() }
    }

    /// Answers a packet, or the part of it that is at hand, unless a rule forbids it or no address
    /// is there to answer from. `mtu` is asked for only when [`Notice::TooBig`] will be sent.
    #[cold]
    pub(super) fn answer(
        &mut self,
        world: &World<'_>,
        notice: Notice,
        packet: &[u8],
        mtu: impl FnOnce() -> u16,
        out: &mut Frames,
    ) {
        let _answered = match packet.first().map(|octet| octet >> 4) {
            Some(4) => self.answer_v4(world, notice, packet, mtu, out),
            Some(6) => self.answer_v6(world, notice, packet, mtu, out),
            _ => None,
        };
    }

    fn answer_v4(
        &mut self,
        world: &World<'_>,
        notice: Notice,
        packet: &[u8],
        mtu: impl FnOnce() -> u16,
        out: &mut Frames,
    ) -> Option<()> {
        let offender = Offender4::eligible(packet, notice, world.view)?;
        let from = own_v4(world.view)?;
        let quoted = &packet[..packet.len().min(offender.header_len + QUOTED_V4)];
        let len = ipv4::HEADER_LEN + icmp::HEADER_LEN + quoted.len();
        let to = offender.source;
        let reply = self.reply(world, notice, to.into(), len, out)?;
        write_v4(reply, from, to, notice.message_v4(mtu), quoted);
        Some(())
    }

    fn answer_v6(
        &mut self,
        world: &World<'_>,
        notice: Notice,
        packet: &[u8],
        mtu: impl FnOnce() -> u16,
        out: &mut Frames,
    ) -> Option<()> {
        let to = eligible_v6(packet, notice, world.view)?;
        let from = own_v6(world.view)?;
        let quoted = &packet[..packet.len().min(QUOTED_V6)];
        let len = ipv6::HEADER_LEN + icmpv6::HEADER_LEN + quoted.len();
        let reply = self.reply(world, notice, to.into(), len, out)?;
        write_v6(reply, from, to, notice.message_v6(mtu), quoted);
        Some(())
    }

    /// A new frame's `len` bytes behind its virtio header; they hold anything.
    fn reply<'a>(
        &mut self,
        world: &World<'_>,
        notice: Notice,
        to: IpAddr,
        len: usize,
        out: &'a mut Frames,
    ) -> Option<&'a mut [u8]> {
        let head = if self.vnet_hdr { vnet_hdr::LEN } else { 0 };
        if !out.has_room(1, 1, head + len) || !self.buckets.of(notice, to).take(world.now_ns) {
            self.tally.limited += 1;
            return None;
        }
        self.tally.sent += 1;
        let (piece, _) = out.pieces.header(head + len).ok()?;
        let mut chain = Chain::EMPTY;
        out.pieces.append(&mut chain, piece).ok()?;
        let frame = Frame {
            chain,
            len: piece.len,
            packets: 1,
            packet_bytes: len as u32,
            kind: FrameKind::Single,
        };
        out.push(frame).ok()?;
        let bytes = out.pieces.header_mut(piece);
        let (before, reply) = bytes.split_at_mut(head);
        before.copy_from_slice(&VnetHdr::PLAIN.to_bytes()[..head]);
        Some(reply)
    }
}

/// The first IPv4 address of the TUN device.
fn own_v4(view: &View) -> Option<Ipv4Addr> {
    view.addresses().iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    })
}

/// The first IPv6 address of the TUN device.
fn own_v6(view: &View) -> Option<Ipv6Addr> {
    view.addresses().iter().find_map(|address| match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    })
}

/// Whether an address can be the one host that sent a packet.
fn is_answerable(holder: Holder) -> bool {
    !matches!(holder, Holder::Reserved | Holder::Broadcast)
}

/// An IPv4 packet about which an error may be sent.
struct Offender4 {
    header_len: usize,
    source: Ipv4Addr,
}

impl Offender4 {
    /// The rules of RFC 1122 section 3.2.2 and RFC 1812 section 4.3.2.7, and flannel's two.
    fn eligible(packet: &[u8], notice: Notice, view: &View) -> Option<Self> {
        let header: &[u8; ipv4::HEADER_LEN] = packet.first_chunk()?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let fragment_offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
        let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
        let source = Ipv4Addr::new(s0, s1, s2, s3);
        let destination = Ipv4Addr::new(d0, d1, d2, d3);
        if header_len > MAX_HEADER_V4 || header_len > packet.len() {
            return None;
        }
        if fragment_offset != 0 {
            return None;
        }
        if destination.is_multicast() || destination.is_broadcast() {
            return None;
        }
        if !is_answerable(view.holder_v4(source)) {
            return None;
        }
        if header[9] == protocol::ICMP
            && (notice == Notice::NetUnreachable || is_error_v4(&packet[header_len..]))
        {
            return None;
        }
        Some(Self { header_len, source })
    }
}

fn is_error_v4(message: &[u8]) -> bool {
    use icmp::kind::{PARAMETER_PROBLEM, REDIRECT, SOURCE_QUENCH, TIME_EXCEEDED, UNREACHABLE};
    matches!(
        message.first(),
        None | Some(&(UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM))
    )
}

/// The source of an IPv6 packet about which an error may be sent: RFC 4443 section 2.4(e).
fn eligible_v6(packet: &[u8], notice: Notice, view: &View) -> Option<Ipv6Addr> {
    let header: &[u8; ipv6::HEADER_LEN] = packet.first_chunk()?;
    let (source, destination) = header[8..].split_first_chunk::<16>()?;
    let source = Ipv6Addr::from(*source);
    let destination = Ipv6Addr::from(*destination.first_chunk::<16>()?);
    if destination.is_multicast() && notice != Notice::TooBig {
        return None;
    }
    if !is_answerable(view.holder_v6(source)) {
        return None;
    }
    match ipv6::upper_layer(packet)? {
        (protocol::ICMPV6, at) if is_error_v6(&packet[at..]) => None,
        _ => Some(source),
    }
}

fn is_error_v6(message: &[u8]) -> bool {
    message.first().is_none_or(|kind| {
        *kind < icmpv6::kind::FIRST_INFORMATIONAL || *kind == icmpv6::kind::REDIRECT
    })
}

fn write_v4(
    out: &mut [u8],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    message: icmp::Repr,
    quoted: &[u8],
) {
    let (header, payload) = out.split_at_mut(ipv4::HEADER_LEN);
    payload[icmp::HEADER_LEN..].copy_from_slice(quoted);
    message.emit(payload);
    let (protocol, payload_len) = (protocol::ICMP, payload.len() as u16);
    let (tos, id, dont_fragment, ttl) = (0, 0, false, TTL);
    ipv4::Repr { tos, id, dont_fragment, ttl, protocol, source, destination, payload_len }
        .emit(header);
}

fn write_v6(
    out: &mut [u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    message: icmpv6::Repr,
    quoted: &[u8],
) {
    let (header, payload) = out.split_at_mut(ipv6::HEADER_LEN);
    payload[icmpv6::HEADER_LEN..].copy_from_slice(quoted);
    message.emit(payload, source, destination);
    let (next_header, payload_len) = (protocol::ICMPV6, payload.len() as u16);
    let (traffic_class, hop_limit) = (0, HOP_LIMIT);
    ipv6::Repr { traffic_class, next_header, hop_limit, source, destination, payload_len }
        .emit(header);
}

/// What limits replies. Path MTUs have buckets of their own, one for each sender or a few: neither a
/// traceroute without end nor another pod's oversized packets stop path MTU discovery.
#[derive(Debug)]
struct Buckets {
    path_mtus: [Bucket; SENDERS],
    others: Bucket,
}

impl Buckets {
    fn new() -> Self {
        let bucket = || Bucket::new(PER_SECOND, BURST);
        Self { path_mtus: core::array::from_fn(|_| bucket()), others: bucket() }
    }

    fn of(&mut self, notice: Notice, to: IpAddr) -> &mut Bucket {
        if notice != Notice::TooBig {
            return &mut self.others;
        }
        let low = match to {
            IpAddr::V4(to) => u64::from(to.to_bits()),
            IpAddr::V6(to) => (to.to_bits() ^ (to.to_bits() >> 64)) as u64,
        };
        // Fibonacci hashing: the top bits depend on all others.
        let hash = low.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &mut self.path_mtus[(hash >> (64 - SENDERS.trailing_zeros())) as usize]
    }
}

/// A token bucket as one number: the time at which it is full again (the generic cell rate
/// algorithm, ITU-T I.371).
#[derive(Debug)]
struct Bucket {
    interval_ns: u64,
    depth_ns: u64,
    full_at_ns: u64,
}

impl Bucket {
    const fn new(per_second: u64, burst: u64) -> Self {
        let interval_ns = 1_000_000_000 / per_second;
        Self { interval_ns, depth_ns: interval_ns * burst, full_at_ns: 0 }
    }

    fn take(&mut self, now_ns: u64) -> bool {
        let full_at_ns = self.full_at_ns.max(now_ns) + self.interval_ns;
        if full_at_ns > now_ns + self.depth_ns {
            return false;
        }
        self.full_at_ns = full_at_ns;
        true
    }
}
