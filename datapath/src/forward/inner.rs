//! An inner packet of either family, as far as forwarding looks at it.

use super::DropReason;
use crate::route::{Holder, View};
use crate::wire::{Ecn, Malformed, ipv4, ipv6, protocol};
use core::net::{IpAddr, SocketAddr};

/// A packet whose lengths are consistent.
pub(super) enum Inner<'a> {
    V4(ipv4::Packet<&'a mut [u8]>),
    V6(ipv6::Packet<&'a mut [u8]>),
}

impl From<Malformed> for DropReason {
    fn from(flaw: Malformed) -> Self {
        match flaw {
            Malformed::Short => Self::Short,
            Malformed::Version => Self::Version,
            Malformed::HeaderLength => Self::HeaderLength,
            Malformed::TotalLength => Self::TotalLength,
            Malformed::Truncated => Self::Truncated,
        }
    }
}

impl<'a> Inner<'a> {
    /// Checks version, family and lengths, in the order of the fields. Bytes behind the packet's
    /// own length are not part of it.
    #[inline]
    pub(super) fn parse(bytes: &'a mut [u8], carries_v6: bool) -> Result<Self, DropReason> {
        if bytes.len() < ipv4::HEADER_LEN {
            return Err(DropReason::Short);
        }
        match bytes[0] >> 4 {
            4 => Ok(Self::V4(ipv4::Packet::parse(bytes)?)),
            6 if carries_v6 => Ok(Self::V6(ipv6::Packet::parse(bytes)?)),
            6 => Err(DropReason::Family),
            _ => Err(DropReason::Version),
        }
    }

    /// A packet whose lengths a [`Plan`](crate::offload::split::Plan) has checked.
    pub(super) fn planned(bytes: &'a mut [u8], carries_v6: bool) -> Result<Self, DropReason> {
        match bytes.first().map(|octet| octet >> 4) {
            Some(4) => Ok(Self::V4(ipv4::Packet::trusted(bytes))),
            _ if carries_v6 => Ok(Self::V6(ipv6::Packet::trusted(bytes))),
            _ => Err(DropReason::Family),
        }
    }

    /// The packet without what lies behind it.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::V4(packet) => packet.bytes(),
            Self::V6(packet) => packet.bytes(),
        }
    }

    /// Header and payload, bytes.
    #[inline]
    pub(super) fn total_len(&self) -> usize {
        match self {
            Self::V4(packet) => packet.total_len(),
            Self::V6(packet) => packet.total_len(),
        }
    }

    #[inline]
    pub(super) fn source_holder(&self, view: &View) -> Holder {
        match self {
            Self::V4(packet) => view.holder_v4(packet.source()),
            Self::V6(packet) => view.holder_v6(packet.source()),
        }
    }

    #[inline]
    pub(super) fn destination_holder(&self, view: &View) -> Holder {
        match self {
            Self::V4(packet) => view.holder_v4(packet.destination()),
            Self::V6(packet) => view.holder_v6(packet.destination()),
        }
    }

    /// Whether datagrams of up to `longest` bytes that carry it may leave in outer fragments. IPv4:
    /// the sender left DF clear. IPv6: no sender makes packets shorter than the least MTU, so those
    /// must pass (RFC 2473 section 7.1, RFC 4213 section 3.2).
    #[inline]
    pub(super) fn may_be_fragmented(&self, longest: usize) -> bool {
        match self {
            Self::V4(packet) => !packet.dont_fragment(),
            Self::V6(_) => longest <= usize::from(ipv6::MIN_MTU),
        }
    }

    /// Whether the destination is a multicast address.
    pub(super) fn is_to_a_group(&self) -> bool {
        match self {
            Self::V4(packet) => packet.destination().is_multicast(),
            Self::V6(packet) => packet.destination().is_multicast(),
        }
    }

    /// Hops left.
    #[inline]
    pub(super) fn hops(&self) -> u8 {
        match self {
            Self::V4(packet) => packet.ttl(),
            Self::V6(packet) => packet.hop_limit(),
        }
    }

    /// Takes one hop off, the checksum patched as flannel's proxy does.
    #[inline]
    pub(super) fn take_hop(&mut self) {
        match self {
            Self::V4(packet) => packet.decrement_ttl(),
            Self::V6(packet) => packet.decrement_hop_limit(),
        };
    }

    #[inline]
    pub(super) fn ecn(&self) -> Ecn {
        Ecn::from_tos(match self {
            Self::V4(packet) => packet.tos(),
            Self::V6(packet) => packet.traffic_class(),
        })
    }

    #[inline]
    pub(super) fn set_ecn(&mut self, ecn: Ecn) {
        match self {
            Self::V4(packet) => packet.set_ecn(ecn),
            Self::V6(packet) => packet.set_ecn(ecn),
        }
    }

    /// Where a UDP datagram goes, or the datagram whose first fragment this is.
    pub(super) fn udp_destination(&self) -> Option<SocketAddr> {
        let (address, datagram) = match self {
            Self::V4(packet) if packet.protocol() == protocol::UDP && packet.begins_datagram() => {
                (IpAddr::V4(packet.destination()), packet.payload())
            }
            Self::V6(packet) => {
                let (mut number, mut at) = packet.upper_layer()?;
                at -= ipv6::HEADER_LEN;
                if number == protocol::FRAGMENT {
                    let [next, _, high, low, ..] =
                        *packet.payload().get(at..)?.first_chunk::<8>()?;
                    // The offset without the flags below it (RFC 8200, section 4.5).
                    if u16::from_be_bytes([high, low]) & !7 != 0 {
                        return None;
                    }
                    (number, at) = (next, at + 8);
                }
                if number != protocol::UDP {
                    return None;
                }
                (IpAddr::V6(packet.destination()), packet.payload().get(at..)?)
            }
            Self::V4(_) => return None,
        };
        let [_, _, high, low] = *datagram.first_chunk()?;
        Some(SocketAddr::new(address, u16::from_be_bytes([high, low])))
    }
}
