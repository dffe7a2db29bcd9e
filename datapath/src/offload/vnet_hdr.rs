//! The virtio network header that precedes every packet on a TUN device with `IFF_VNET_HDR`.
//!
//! Linux `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h), little-endian fields because
//! twill sets `TUNSETVNETLE`:
//!
//! ```text
//! | flags 1 | gso_type 1 | hdr_len 2 | gso_size 2 | csum_start 2 | csum_offset 2 |
//! ```

/// Bytes of the header.
pub const LEN: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum at `csum_start + csum_offset` holds only the
/// pseudo-header's sum.
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_ECN`: a flag on top of the type, set when the TCP segment carries CWR.
const GSO_ECN: u8 = 0x80;

/// What kind of super-packet follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoType {
    /// One packet.
    None,
    /// TCP over IPv4 (`VIRTIO_NET_HDR_GSO_TCPV4`).
    TcpV4,
    /// TCP over IPv6 (`VIRTIO_NET_HDR_GSO_TCPV6`).
    TcpV6,
    /// UDP datagrams of equal size (`VIRTIO_NET_HDR_GSO_UDP_L4`, Linux 6.2 on TUN).
    UdpL4,
    /// Anything else: UDP fragmentation offload (3) or a value of a later kernel.
    Unknown(u8),
}

impl GsoType {
    const fn from_wire(value: u8) -> Self {
        match value & !GSO_ECN {
            0 => Self::None,
            1 => Self::TcpV4,
            4 => Self::TcpV6,
            5 => Self::UdpL4,
            other => Self::Unknown(other),
        }
    }

    const fn to_wire(self) -> u8 {
        match self {
            Self::None => 0,
            Self::TcpV4 => 1,
            Self::TcpV6 => 4,
            Self::UdpL4 => 5,
            Self::Unknown(value) => value,
        }
    }
}

/// The header, decoded. `hdr_len` is the kernel's hint only: recompute it from the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VnetHdr {
    /// The transport checksum is partial.
    pub needs_csum: bool,
    /// What follows.
    pub gso_type: GsoType,
    /// CWR rides on the first segment (`VIRTIO_NET_HDR_GSO_ECN`).
    pub ecn: bool,
    /// Bytes of all headers, a hint.
    pub hdr_len: u16,
    /// Payload bytes of every segment but the last.
    pub gso_size: u16,
    /// Where the checksum begins to count, bytes from the packet's start.
    pub csum_start: u16,
    /// Where the checksum is stored, bytes from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHdr {
    /// The header of one packet with complete checksums.
    pub const PLAIN: Self = Self {
        needs_csum: false,
        gso_type: GsoType::None,
        ecn: false,
        hdr_len: 0,
        gso_size: 0,
        csum_start: 0,
        csum_offset: 0,
    };

    /// Decodes the header and returns it with the packet behind it; `None` when the bytes are
    /// shorter.
    #[inline]
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<(Self, &[u8])> {
        let (header, packet) = frame.split_at_checked(LEN)?;
        let field = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let parsed = Self {
            needs_csum: header[0] & NEEDS_CSUM != 0,
            gso_type: GsoType::from_wire(header[1]),
            ecn: header[1] & GSO_ECN != 0,
            hdr_len: field(2),
            gso_size: field(4),
            csum_start: field(6),
            csum_offset: field(8),
        };
        Some((parsed, packet))
    }

    /// The header as the kernel reads it.
    #[inline]
    #[must_use]
    pub fn to_bytes(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0] = if self.needs_csum { NEEDS_CSUM } else { 0 };
        bytes[1] = self.gso_type.to_wire() | if self.ecn { GSO_ECN } else { 0 };
        bytes[2..4].copy_from_slice(&self.hdr_len.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.gso_size.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.csum_start.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.csum_offset.to_le_bytes());
        bytes
    }
}
