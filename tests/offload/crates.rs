//! Two crates as oracles, over generated packets: `tun-rs` segments and joins by itself,
//! `etherparse` knows lengths and checksums.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use twill_datapath::offload::vnet_hdr::{self, GsoType, VnetHdr};
use twill_testbed::packets::{ACK, CWR, ECE, FIN, PSH, Recipe, TIMESTAMPS, coalesce, cut};

/// `VIRTIO_NET_HDR_GSO_ECN`.
const GSO_ECN: u8 = 0x80;

proptest! {
    #[test]
    fn tun_rs_cuts_alike((recipe, gso_size) in any_super_packet()) {
        let (header, packet) = recipe.aggregate(gso_size);

        let theirs = cut_by_tun_rs(header, packet.clone(), recipe.from.is_ipv6());

        prop_assert_eq!(cut(header, &packet), theirs);
    }

    #[test]
    fn tun_rs_joins_alike(packets in any_streams()) {
        let ours: Vec<_> = coalesce(&packets).into_iter().map(|(_, frame)| frame).collect();

        let theirs = joined_by_tun_rs(&packets);

        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn every_segment_is_a_correct_packet((recipe, gso_size) in any_super_packet()) {
        let (header, packet) = recipe.aggregate(gso_size);

        let segments = cut(header, &packet);

        let mut stream = Vec::new();
        for (index, segment) in segments.iter().enumerate() {
            let payload = checked_payload(segment);
            prop_assert!(payload.len() == usize::from(gso_size) || index + 1 == segments.len());
            prop_assert!(payload.len() <= usize::from(gso_size));
            stream.extend_from_slice(payload);
        }
        prop_assert_eq!(&stream, &packet[recipe.header_len()..]);
    }
}

#[test]
fn tun_rs_too_leaves_cwr_on_the_first_segment_and_fin_and_psh_on_the_last() {
    let recipe = Recipe { flags: ACK | CWR | FIN | PSH, ..Recipe::tcp(false, 2500) };
    let (header, packet) = recipe.aggregate(1000);

    let theirs = cut_by_tun_rs(header, packet.clone(), false);

    let flags: Vec<_> = theirs.iter().map(|segment| segment[33]).collect();
    assert_eq!(flags, [ACK | CWR, ACK, ACK | FIN | PSH]);
    assert_eq!(cut(header, &packet), theirs);
}

/// Any packet that fits IP, and a segment size for it.
fn any_super_packet() -> impl Strategy<Value = (Recipe, u16)> {
    let size = prop_oneof![Just(1448u16), Just(1200), Just(536), 8u16..64, 1u16..9000];
    let segments = prop_oneof![4 => 1usize..8, 1 => 1usize..64];
    let ip = (any::<bool>(), any::<u16>(), any::<bool>(), 2u8.., any::<u8>());
    let tcp = (any::<bool>(), any::<bool>(), any::<u8>(), any::<u32>());
    (ip, tcp, size, segments, any::<u16>()).prop_map(|(ip, tcp, size, segments, short)| {
        let (v6, id, dont_fragment, hops, traffic_class) = ip;
        let (tcp, timestamps, flags, sequence) = tcp;
        let whole = usize::from(size) * segments;
        let payload = (whole - usize::from(short % size)).min(65_535 - 92);
        let recipe = Recipe {
            tcp,
            timestamps: TIMESTAMPS.filter(|_| timestamps),
            flags: flags & (FIN | PSH | ACK | ECE | CWR),
            dont_fragment,
            sequence,
            id,
            hops,
            traffic_class,
            ..Recipe::tcp(v6, payload)
        };
        (recipe, size)
    })
}

/// Packets of a few flows without gaps, interleaved: at most as many as one frame takes.
fn any_streams() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let payload = prop_oneof![4 => Just(300usize), 1 => 1usize..400];
    let step = (0u16..6, payload, prop::bool::weighted(0.1));
    prop::collection::vec(step, 1..60).prop_map(|steps| {
        let mut next = [(u32::MAX - 1000, u16::MAX - 5); 6];
        let packet = |(flow, payload, push): (u16, usize, bool)| {
            let (sequence, id) = &mut next[usize::from(flow)];
            let recipe = Recipe {
                tcp: flow < 4,
                ports: [4000 + flow; 2],
                sequence: *sequence,
                id: *id,
                flags: if push { ACK | PSH } else { ACK },
                timestamps: TIMESTAMPS.filter(|_| flow == 0),
                ..Recipe::tcp(flow % 2 == 1, payload)
            };
            *sequence = sequence.wrapping_add(payload as u32);
            *id = id.wrapping_add(1);
            recipe.packet()
        };
        steps.into_iter().map(packet).collect()
    })
}

/// The frames that a batch becomes.
fn joined_by_tun_rs(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    // It writes a virtio header to every frame, and none to a packet that went into another's.
    const NO_FRAME: [u8; vnet_hdr::LEN] = [0xff; vnet_hdr::LEN];
    let room = |packet: &Vec<u8>| {
        let mut frame = Vec::with_capacity(1 << 16);
        frame.extend(NO_FRAME);
        frame.extend_from_slice(packet);
        frame
    };
    let mut frames: Vec<_> = packets.iter().map(room).collect();
    tun_rs::GROTable::new().apply_gro(&mut frames, vnet_hdr::LEN, true).unwrap();
    frames.retain(|frame| !frame.starts_with(&NO_FRAME));
    frames
}

fn cut_by_tun_rs(header: VnetHdr, mut packet: Vec<u8>, v6: bool) -> Vec<Vec<u8>> {
    let gso_type = match header.gso_type {
        GsoType::TcpV4 => tun_rs::VIRTIO_NET_HDR_GSO_TCPV4,
        GsoType::TcpV6 => tun_rs::VIRTIO_NET_HDR_GSO_TCPV6,
        _ => tun_rs::VIRTIO_NET_HDR_GSO_UDP_L4,
    };
    let header = tun_rs::VirtioNetHdr {
        flags: 1,
        gso_type: gso_type | if header.ecn { GSO_ECN } else { 0 },
        hdr_len: header.hdr_len,
        gso_size: header.gso_size,
        csum_start: header.csum_start,
        csum_offset: header.csum_offset,
    };
    let payload = packet.len() - usize::from(header.hdr_len);
    let count = payload.div_ceil(usize::from(header.gso_size)).max(1);
    let mut rooms = vec![vec![0; usize::from(header.hdr_len) + payload]; count];
    let mut sizes = vec![0; count];
    let cut = tun_rs::gso_split(&mut packet, header, &mut rooms, &mut sizes, 0, v6).unwrap();
    let filled = rooms.iter().zip(sizes).take(cut);
    filled.map(|(room, len)| room[..len].to_vec()).collect()
}

/// The payload of a packet whose lengths and checksums are right.
fn checked_payload(packet: &[u8]) -> &[u8] {
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let transport = sliced.transport.unwrap();
    let (transport_len, checksum, right) = match (sliced.net.unwrap(), &transport) {
        (NetSlice::Ipv4(ip), transport) => {
            let header = ip.header().to_header();
            assert_eq!(usize::from(header.total_len), packet.len());
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            let (given, right) = match transport {
                TransportSlice::Tcp(tcp) => {
                    (tcp.checksum(), tcp.calc_checksum_ipv4(header.source, header.destination))
                }
                TransportSlice::Udp(udp) => {
                    let right = udp.to_header().calc_checksum_ipv4(&header, udp.payload());
                    (udp.checksum(), right)
                }
                _ => panic!("neither TCP nor UDP"),
            };
            (packet.len() - header.header_len(), given, right)
        }
        (NetSlice::Ipv6(ip), transport) => {
            let header = ip.header().to_header();
            assert_eq!(usize::from(header.payload_length), packet.len() - header.header_len());
            let (given, right) = match transport {
                TransportSlice::Tcp(tcp) => {
                    (tcp.checksum(), tcp.calc_checksum_ipv6(header.source, header.destination))
                }
                TransportSlice::Udp(udp) => {
                    let right = udp.to_header().calc_checksum_ipv6(&header, udp.payload());
                    (udp.checksum(), right)
                }
                _ => panic!("neither TCP nor UDP"),
            };
            (packet.len() - header.header_len(), given, right)
        }
        (NetSlice::Arp(_), _) => panic!("no IP packet"),
    };
    assert_eq!(right.unwrap(), checksum);
    match transport {
        TransportSlice::Tcp(tcp) => tcp.payload(),
        TransportSlice::Udp(udp) => {
            assert_eq!(usize::from(udp.length()), transport_len);
            udp.payload()
        }
        _ => unreachable!("seen above"),
    }
}
