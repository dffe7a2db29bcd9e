use super::pseudo_header;
use super::{ACK, CWR, ECE, FIN, PSH, SYN, URG, internet_checksum};
use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, TcpHeader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use twill_datapath::offload::vnet_hdr::{GsoType, VnetHdr};
use twill_datapath::wire::{ipv4, ipv6, tcp, udp};

/// Where IPv4 recipes go unless a test says otherwise.
pub const DESTINATION_V4: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2);
const DESTINATION_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 2);

/// The timestamps of TCP recipes: the sender's, and the one that it echoes.
pub const TIMESTAMPS: Option<[u32; 2]> = Some([7, 9]);
/// Bytes of the timestamps option as Linux pads it.
const TIMESTAMPS_LEN: usize = 12;

/// A TCP or UDP packet in words.
///
/// ```
/// use twill_testbed::packets::{ACK, PSH, Recipe};
///
/// let last = Recipe { sequence: 2000, flags: ACK | PSH, ..Recipe::tcp(false, 500) };
/// assert_eq!(last.packet().len(), last.header_len() + 500);
/// ```
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The source, of the same family as the destination.
    pub from: IpAddr,
    /// The destination.
    pub to: IpAddr,
    /// TCP rather than UDP.
    pub tcp: bool,
    /// The source's port and the destination's.
    pub ports: [u16; 2],
    /// Bytes of payload.
    pub payload: usize,
    /// TCP's timestamps.
    pub timestamps: Option<[u32; 2]>,
    /// TCP's flags.
    pub flags: u8,
    /// TCP's sequence number.
    pub sequence: u32,
    /// IPv4's flag.
    pub dont_fragment: bool,
    /// IPv4's identification.
    pub id: u16,
    /// TTL or hop limit.
    pub hops: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
}

impl Recipe {
    /// An acknowledgment with so many bytes of payload.
    #[must_use]
    pub fn tcp(v6: bool, payload: usize) -> Self {
        let (from, to) = if v6 {
            (SOURCE_V6.into(), DESTINATION_V6.into())
        } else {
            (SOURCE_V4.into(), DESTINATION_V4.into())
        };
        Self {
            from,
            to,
            tcp: true,
            ports: [4000; 2],
            payload,
            timestamps: TIMESTAMPS,
            flags: ACK,
            sequence: 1000,
            dont_fragment: true,
            id: 7,
            hops: 64,
            traffic_class: 0,
        }
    }

    /// A datagram with so many bytes of payload.
    #[must_use]
    pub fn udp(v6: bool, payload: usize) -> Self {
        Self { tcp: false, ..Self::tcp(v6, payload) }
    }

    /// The packet, complete and correct. Its payload depends on its length and sequence number.
    #[must_use]
    pub fn packet(&self) -> Vec<u8> {
        let bytes = (0..self.payload).map(|at| (at * 31 + at / 256) as u8 ^ self.sequence as u8);
        self.carrying(&bytes.collect::<Vec<_>>())
    }

    /// The packet with this payload.
    ///
    /// # Panics
    /// When it is too long.
    #[must_use]
    pub fn carrying(&self, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ip(self.ip());
        let mut packet = Vec::new();
        if self.tcp {
            builder.tcp_header(self.tcp_header()).write(&mut packet, payload).unwrap();
        } else {
            let [from, to] = self.ports;
            builder.udp(from, to).write(&mut packet, payload).unwrap();
        }
        packet
    }

    fn tcp_header(&self) -> TcpHeader {
        let mut header = TcpHeader::new(self.ports[0], self.ports[1], self.sequence, 1000);
        if let Some(times) = self.timestamps {
            let [now, echoed] = times.map(u32::to_be_bytes);
            let options = [&[1, 1, 8, 10], &now[..], &echoed[..]].concat();
            header.set_options_raw(&options).unwrap();
        }
        let has = |flag| self.flags & flag != 0;
        header.fin = has(FIN);
        header.syn = has(SYN);
        header.psh = has(PSH);
        header.ack = has(ACK);
        header.urg = has(URG);
        header.ece = has(ECE);
        header.cwr = has(CWR);
        header.acknowledgment_number = if has(ACK) { 9 } else { 0 };
        header.urgent_pointer = if has(URG) { 3 } else { 0 };
        header
    }

    fn ip(&self) -> IpHeaders {
        let number = if self.tcp { IpNumber::TCP } else { IpNumber::UDP };
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let (from, to) = (from.octets(), to.octets());
                let mut header = Ipv4Header::new(0, self.hops, number, from, to).unwrap();
                header.identification = self.id;
                header.dont_fragment = self.dont_fragment;
                header.dscp = (self.traffic_class >> 2).try_into().unwrap();
                header.ecn = (self.traffic_class & 3).try_into().unwrap();
                IpHeaders::Ipv4(header, Default::default())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let header = Ipv6Header {
                    traffic_class: self.traffic_class,
                    next_header: number,
                    hop_limit: self.hops,
                    source: from.octets(),
                    destination: to.octets(),
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(header, Default::default())
            }
            _ => panic!("from {} to {}: two families", self.from, self.to),
        }
    }

    fn ip_header_len(&self) -> usize {
        if self.from.is_ipv6() { ipv6::HEADER_LEN } else { ipv4::HEADER_LEN }
    }

    /// Bytes before the payload.
    #[must_use]
    pub fn header_len(&self) -> usize {
        let options = if self.timestamps.is_some() { TIMESTAMPS_LEN } else { 0 };
        let transport = if self.tcp { tcp::HEADER_LEN + options } else { udp::HEADER_LEN };
        self.ip_header_len() + transport
    }

    /// The packet as one super-packet: its virtio header, and its bytes with the partial checksum.
    #[must_use]
    pub fn aggregate(&self, gso_size: u16) -> (VnetHdr, Vec<u8>) {
        let (gso_type, offset) = match (self.tcp, self.from.is_ipv6()) {
            (true, false) => (GsoType::TcpV4, tcp::CHECKSUM_OFFSET),
            (true, true) => (GsoType::TcpV6, tcp::CHECKSUM_OFFSET),
            (false, _) => (GsoType::UdpL4, udp::CHECKSUM_OFFSET),
        };
        let start = self.ip_header_len();
        let header = VnetHdr {
            needs_csum: true,
            gso_type,
            ecn: self.tcp && self.flags & CWR != 0,
            hdr_len: self.header_len() as u16,
            gso_size,
            csum_start: start as u16,
            csum_offset: offset as u16,
        };
        let mut packet = self.packet();
        let sum = !internet_checksum(&pseudo_header(&packet));
        packet[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
        (header, packet)
    }
}
