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
use crate::wire::checksum::Sum;
use crate::wire::{icmp, icmpv6, ipv4, ipv6, protocol};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// No peer holds the destination.
    NetUnreachable,
    /// The hop count reached zero here.
    TimeExceeded,
    /// The packet may not be fragmented and is longer than this many bytes.
    TooBig { mtu: u16 },
}

/// Replies since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplyTally {
    /// ICMP errors put on their way to an inner sender.
    pub sent: u64,
    /// ICMP errors that the rate limit, or a full batch, kept back.
    pub limited: u64,
}

/// Replies that a worker may send per second, on average.
const PER_SECOND: u64 = 100;
/// Replies that may follow each other at once.
const BURST: u64 = 50;

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
    bucket: Bucket,
    pub(super) tally: ReplyTally,
}

impl Replier {
    pub(super) fn new(vnet_hdr: bool) -> Self {
        Self { vnet_hdr, bucket: Bucket::new(PER_SECOND, BURST), tally: ReplyTally::default() }
    }

    /// Answers a packet, or the part of it that is at hand, unless a rule forbids it or no address
    /// is there to answer from.
    #[cold]
    pub(super) fn answer(
        &mut self,
        world: &World<'_>,
        notice: Notice,
        packet: &[u8],
        out: &mut Frames,
    ) {
        let _answered = match packet.first().map(|octet| octet >> 4) {
            Some(4) => self.answer_v4(world, notice, packet, out),
            Some(6) => self.answer_v6(world, notice, packet, out),
            _ => None,
        };
    }

    fn answer_v4(
        &mut self,
        world: &World<'_>,
        notice: Notice,
        packet: &[u8],
        out: &mut Frames,
    ) -> Option<()> {
        let offender = Offender4::eligible(packet, notice, world.view)?;
        let from = own_v4(world.view)?;
        let quoted = &packet[..packet.len().min(offender.header_len + QUOTED_V4)];
        let len = ipv4::HEADER_LEN + icmp::HEADER_LEN + quoted.len();
        let reply = self.reply(world.now_ns, len, out)?;
        write_v4(reply, from, offender.source, notice, quoted);
        Some(())
    }

    fn answer_v6(
        &mut self,
        world: &World<'_>,
        notice: Notice,
        packet: &[u8],
        out: &mut Frames,
    ) -> Option<()> {
        let to = eligible_v6(packet, notice, world.view)?;
        let from = own_v6(world.view)?;
        let quoted = &packet[..packet.len().min(QUOTED_V6)];
        let len = ipv6::HEADER_LEN + icmpv6::HEADER_LEN + quoted.len();
        let reply = self.reply(world.now_ns, len, out)?;
        write_v6(reply, from, to, notice, quoted);
        Some(())
    }

    /// A new frame's `len` bytes behind its virtio header; they hold anything.
    fn reply<'a>(&mut self, now_ns: u64, len: usize, out: &'a mut Frames) -> Option<&'a mut [u8]> {
        let head = if self.vnet_hdr { vnet_hdr::LEN } else { 0 };
        if !out.has_room(1, 1, head + len) || !self.bucket.take(now_ns) {
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
    if destination.is_multicast() && !matches!(notice, Notice::TooBig { .. }) {
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

fn write_v4(out: &mut [u8], from: Ipv4Addr, to: Ipv4Addr, notice: Notice, quoted: &[u8]) {
    let (kind, code, rest) = match notice {
        Notice::NetUnreachable => (icmp::kind::UNREACHABLE, icmp::unreachable::NET, [0; 4]),
        Notice::TimeExceeded => (icmp::kind::TIME_EXCEEDED, 0, [0; 4]),
        Notice::TooBig { mtu } => {
            let [high, low] = mtu.to_be_bytes();
            let code = icmp::unreachable::FRAGMENTATION_NEEDED;
            (icmp::kind::UNREACHABLE, code, [0, 0, high, low])
        }
    };
    let [len_high, len_low] = (out.len() as u16).to_be_bytes();
    let (header, message) = out.split_at_mut(ipv4::HEADER_LEN);
    header[..12].copy_from_slice(&[
        0x45,
        0,
        len_high,
        len_low,
        0,
        0,
        0,
        0,
        TTL,
        protocol::ICMP,
        0,
        0,
    ]);
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    let checksum = Sum::default().bytes(header).finish();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());

    write_message(message, [kind, code], rest, quoted, Sum::default());
}

fn write_v6(out: &mut [u8], from: Ipv6Addr, to: Ipv6Addr, notice: Notice, quoted: &[u8]) {
    let (kind, rest) = match notice {
        Notice::NetUnreachable => (icmpv6::kind::UNREACHABLE, [0; 4]),
        Notice::TimeExceeded => (icmpv6::kind::TIME_EXCEEDED, [0; 4]),
        Notice::TooBig { mtu } => (icmpv6::kind::PACKET_TOO_BIG, u32::from(mtu).to_be_bytes()),
    };
    let (header, message) = out.split_at_mut(ipv6::HEADER_LEN);
    let len = message.len() as u16;
    header[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    header[4..6].copy_from_slice(&len.to_be_bytes());
    header[6] = protocol::ICMPV6;
    header[7] = HOP_LIMIT;
    header[8..24].copy_from_slice(&from.octets());
    header[24..40].copy_from_slice(&to.octets());

    let pseudo = Sum::default().pseudo_v6(from, to, protocol::ICMPV6, u32::from(len));
    write_message(message, [kind, 0], rest, quoted, pseudo);
}

/// An ICMP message of either family: type and code, checksum, four bytes, the quotation.
fn write_message(out: &mut [u8], kind: [u8; 2], rest: [u8; 4], quoted: &[u8], pseudo: Sum) {
    out[..2].copy_from_slice(&kind);
    out[2..4].fill(0);
    out[4..8].copy_from_slice(&rest);
    out[8..].copy_from_slice(quoted);
    let checksum = pseudo.bytes(out).finish();
    out[2..4].copy_from_slice(&checksum.to_be_bytes());
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
