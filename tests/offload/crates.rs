//! Two crates as oracles, over generated packets: `tun-rs` segments by itself, `etherparse` knows
//! lengths and checksums.

use crate::packets::{Recipe, any_super_packet, cut};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use twill::offload::vnet_hdr::{GsoType, VnetHdr};
use twill::wire::tcp::flags::CWR;

proptest! {
    #[test]
    fn tun_rs_cuts_alike((recipe, gso_size) in any_super_packet()) {
        // It repeats CWR on every segment, where the kernel has it on the first alone.
        let recipe = Recipe { flags: recipe.flags & !CWR, ..recipe };
        let (header, packet) = recipe.aggregate(gso_size);

        let theirs = cut_by_tun_rs(header, packet.clone(), recipe.v6);

        prop_assert_eq!(cut(header, &packet), theirs);
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

fn cut_by_tun_rs(header: VnetHdr, mut packet: Vec<u8>, v6: bool) -> Vec<Vec<u8>> {
    let header = tun_rs::VirtioNetHdr {
        flags: 1,
        gso_type: match header.gso_type {
            GsoType::TcpV4 => tun_rs::VIRTIO_NET_HDR_GSO_TCPV4,
            GsoType::TcpV6 => tun_rs::VIRTIO_NET_HDR_GSO_TCPV6,
            _ => tun_rs::VIRTIO_NET_HDR_GSO_UDP_L4,
        },
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
