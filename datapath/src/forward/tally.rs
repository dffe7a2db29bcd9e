//! Drop reasons and the books that must balance: packets in = packets out + drops.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $label:literal,)+) => {
        /// Why a packet was not forwarded. The discriminant is the counter's index, the label the
        /// metric's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// All reasons, in counter order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The reason's name in metrics, logs and reports.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc,)+).trim_ascii_start(),)+
                }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than an IP header, or than the virtio header before it.
    Short => "short",
    /// The IP version is neither 4 nor 6.
    Version => "version",
    /// The header length is below 20 bytes or reaches beyond the packet.
    HeaderLength => "ihl",
    /// The total length exceeds the bytes that arrived.
    Truncated => "truncated",
    /// The total length is shorter than the header.
    TotalLength => "totlen",
    /// The IP version is one that this tunnel does not carry.
    Family => "family",
    /// The outer source does not belong to a peer.
    UnknownPeer => "unknown_peer",
    /// The inner source does not belong to the peer that sent the packet.
    SourceMismatch => "src_mismatch",
    /// The inner source is an address that no host may send from.
    Martian => "martian",
    /// The inner destination is not behind this gateway.
    DestinationScope => "dst_scope",
    /// The hop count is used up.
    Ttl => "ttl",
    /// Congestion was experienced outside and cannot be told inside (RFC 6040).
    Ecn => "ecn",
    /// No peer holds the destination.
    NoRoute => "no_route",
    /// The destination is a multicast group; twill carries unicast only.
    Multicast => "multicast",
    /// The destination is behind this gateway itself: a routing loop.
    LocalLoop => "local_loop",
    /// The virtio header describes no valid super-packet or checksum.
    GsoInvalid => "gso_invalid",
    /// The packet is longer than what one UDP datagram carries.
    TooBig => "too_big",
    /// The datagram was longer than the receive buffer.
    MessageTruncated => "msg_trunc",
    /// The kernel lost the datagram's control data.
    ControlTruncated => "ctrunc",
    /// The peer's socket or interface queue had no room (ENOBUFS, EAGAIN, ENOMEM).
    SendNoBuffers => "send_nobufs",
    /// A local firewall refused the datagram (EPERM).
    SendRefused => "send_perm",
    /// The peer's address is a broadcast address here, or a route prohibits it (EACCES).
    SendProhibited => "send_acces",
    /// The host has no route to the peer (ENETUNREACH, EHOSTUNREACH, ENETDOWN).
    SendUnreachable => "send_unreach",
    /// The datagram exceeds the path's MTU (EMSGSIZE).
    SendTooBig => "send_msgsize",
    /// The kernel refused the datagram for another reason.
    SendOther => "send_other",
    /// The TUN device refused the packet because it is down (EIO).
    TunDown => "tun_down",
    /// The TUN device refused the packet for another reason.
    TunOther => "tun_other",
}

/// The books of one direction, kept by a worker as plain numbers and published once per turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Inner packets that arrived; a super-packet counts once for each of its segments.
    pub packets_in: u64,
    /// Their bytes, from the IP header on.
    pub bytes_in: u64,
    /// Inner packets that left.
    pub packets_out: u64,
    /// Their bytes, from the IP header on.
    pub bytes_out: u64,
    /// Packets dropped, by reason.
    pub drops: [u64; DropReason::ALL.len()],
}

impl Tally {
    /// Books `count` dropped packets.
    #[inline]
    pub fn drop(&mut self, reason: DropReason, count: u64) {
        self.drops[reason as usize] += count;
    }

    /// Takes back packets that were booked as out, because the kernel refused them later.
    #[inline]
    pub fn refuse(&mut self, reason: DropReason, packets: u64, bytes: u64) {
        self.packets_out -= packets;
        self.bytes_out -= bytes;
        self.drop(reason, packets);
    }

    /// Adds the books of somebody else.
    pub fn add(&mut self, other: &Self) {
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
        for (sum, drops) in self.drops.iter_mut().zip(other.drops) {
            *sum += drops;
        }
    }

    /// All drops.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// Packets in, minus packets out, minus drops: zero when the books balance.
    #[must_use]
    pub fn imbalance(&self) -> i64 {
        self.packets_in as i64 - self.packets_out as i64 - self.dropped() as i64
    }
}
