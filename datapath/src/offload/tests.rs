//! The laws of splitting and coalescing, over generated packets.

use super::coalesce::Coalescer;
use super::split::{Plan, complete_checksum};
use super::vnet_hdr::{self, GsoType, VnetHdr};
use crate::batch::{Frame, FrameKind, Frames, Full, Piece, Pieces, Slot, Source};
use crate::wire::checksum::Sum;
use crate::wire::{ipv4, ipv6, protocol, tcp, udp};
use core::net::{Ipv4Addr, Ipv6Addr};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// One packet to build: which flow, what it says, how it is spoiled.
#[derive(Clone, Debug)]
struct Recipe {
    flow: u8,
    v6: bool,
    tcp: bool,
    payload: usize,
    flags: u8,
    dont_fragment: bool,
    /// How far the stream or the identification skips before this packet.
    skip: u32,
    spoil: Spoil,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Spoil {
    Nothing,
    Transport,
    IpHeader,
    NoChecksum,
    Fragment,
    /// IPv4 options, or an IPv6 extension header.
    Options,
}

fn recipes() -> impl Strategy<Value = Vec<Recipe>> {
    let spoil = prop_oneof![
        20 => Just(Spoil::Nothing),
        1 => Just(Spoil::Transport),
        1 => Just(Spoil::IpHeader),
        1 => Just(Spoil::NoChecksum),
        1 => Just(Spoil::Fragment),
        1 => Just(Spoil::Options),
    ];
    let flags = prop_oneof![
        12 => Just(tcp::flags::ACK),
        2 => Just(tcp::flags::ACK | tcp::flags::PSH),
        1 => Just(tcp::flags::ACK | tcp::flags::ECE),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![10 => Just(100usize), 2 => 0usize..100, 1 => 100usize..1400];
    let skip = prop_oneof![12 => Just(0u32), 1 => any::<u32>()];
    let recipe = (0u8..4, any::<bool>(), any::<bool>(), payload, flags, any::<bool>(), skip, spoil)
        .prop_map(|(flow, v6, tcp, payload, flags, dont_fragment, skip, spoil)| Recipe {
            flow,
            v6: v6 && flow > 1,
            tcp: tcp || flow == 0,
            payload,
            flags,
            dont_fragment: dont_fragment && flow != 1,
            skip,
            spoil,
        });
    proptest::collection::vec(recipe, 1..120)
}

/// Builds the packets, each flow's sequence numbers and identifications running on.
fn build(recipes: &[Recipe]) -> Vec<Vec<u8>> {
    let mut sequence = [0u32; 4];
    let mut id = [7u16; 4];
    let mut packets = Vec::new();
    for recipe in recipes {
        let flow = usize::from(recipe.flow);
        sequence[flow] = sequence[flow].wrapping_add(recipe.skip);
        id[flow] = id[flow].wrapping_add(recipe.skip as u16);
        packets.push(packet(recipe, sequence[flow], id[flow]));
        sequence[flow] = sequence[flow].wrapping_add(recipe.payload as u32);
        id[flow] = id[flow].wrapping_add(1);
    }
    packets
}

fn packet(recipe: &Recipe, sequence: u32, id: u16) -> Vec<u8> {
    let ip_len = match (recipe.v6, recipe.spoil) {
        (true, Spoil::Fragment | Spoil::Options) => ipv6::HEADER_LEN + 8,
        (true, _) => ipv6::HEADER_LEN,
        (false, Spoil::Options) => ipv4::HEADER_LEN + 4,
        (false, _) => ipv4::HEADER_LEN,
    };
    let header = if recipe.tcp { tcp::HEADER_LEN + 12 } else { udp::HEADER_LEN };
    let transport_len = header + recipe.payload;
    let number = if recipe.tcp { protocol::TCP } else { protocol::UDP };
    let mut bytes = vec![0; ip_len + transport_len];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = (at as u32).wrapping_mul(31).wrapping_add(sequence) as u8;
    }
    let (ip, transport) = bytes.split_at_mut(ip_len);
    transport[..header].fill(1);
    transport[0..4].copy_from_slice(&[recipe.flow, 1, 2, 3]);
    if recipe.tcp {
        transport[12] = (header as u8 / 4) << 4;
        let mut segment = tcp::Segment::trusted(&mut *transport);
        segment.set_sequence(sequence);
        segment.set_flags(recipe.flags);
        segment.set_checksum(0);
    } else {
        let mut datagram = udp::Datagram::trusted(&mut *transport);
        datagram.set_length(transport_len as u16);
        datagram.set_checksum(0);
    }
    ip.fill(0);
    let sum = if recipe.v6 {
        ip[0] = 0x60;
        ip[6] = number;
        ip[7] = 64;
        ip[23] = 1;
        ip[39] = 2;
        let payload_len = ip_len - ipv6::HEADER_LEN + transport_len;
        ipv6::Packet::trusted(&mut *ip).set_payload_len(payload_len as u16);
        // The fragment header with "more fragments", or destination options that are padding.
        match recipe.spoil {
            Spoil::Fragment => {
                ip[6] = 44;
                ip[40..44].copy_from_slice(&[number, 0, 0, 1]);
            }
            Spoil::Options => {
                ip[6] = 60;
                ip[40..44].copy_from_slice(&[number, 0, 1, 4]);
            }
            _ => {}
        }
        let (source, destination) = (Ipv6Addr::from(1), Ipv6Addr::from(2));
        Sum::default().pseudo_v6(source, destination, number, transport_len as u32)
    } else {
        ip[0] = 0x40 | (ip_len / 4) as u8;
        ip[20..].fill(1);
        ip[6] = if recipe.dont_fragment { 0x40 } else { 0 };
        ip[8] = 64;
        ip[9] = number;
        ip[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        if recipe.spoil == Spoil::Fragment {
            ip[6] = 0x20;
        }
        let mut header = ipv4::Packet::trusted(&mut *ip);
        header.set_total_len((ip_len + transport_len) as u16);
        header.set_id(id);
        header.fill_checksum();
        let (source, destination) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        Sum::default().pseudo_v4(source, destination, number, transport_len as u16)
    };
    let checksum = sum.bytes(transport).finish();
    if recipe.tcp {
        tcp::Segment::trusted(&mut *transport).set_checksum(checksum);
    } else if recipe.spoil != Spoil::NoChecksum {
        udp::Datagram::trusted(&mut *transport).set_checksum(udp::nonzero(checksum));
    }
    match recipe.spoil {
        Spoil::Transport => transport[header - 1] ^= 0x10,
        Spoil::IpHeader if !recipe.v6 => ip[10] ^= 0x40,
        _ => {}
    }
    bytes
}

/// Coalesces in batches and takes the frames apart again.
fn there_and_back(packets: &[Vec<u8>], max_lanes: usize) -> (Vec<Vec<u8>>, usize) {
    let mut frames = Frames::new(64, Pieces::new(400, 20_000));
    let mut coalescer = Coalescer::new(true, true, true, max_lanes);
    let mut out = Vec::new();
    let mut merged = 0;
    let mut deliver = |frames: &mut Frames| {
        for frame in frames.frames() {
            let bytes = gather(frames, frame, packets);
            let apart = apart(&bytes);
            assert_eq!(apart.len(), usize::from(frame.packets));
            assert_eq!(apart.iter().map(Vec::len).sum::<usize>(), frame.packet_bytes as usize);
            merged += usize::from(frame.kind != FrameKind::Single);
            out.extend(apart);
        }
        frames.clear();
    };
    for (index, packet) in packets.iter().enumerate() {
        let slot = Source::Slot(Slot(index as u16));
        let piece = Piece { source: slot, offset: 0, len: packet.len() as u32 };
        if coalescer.push(packet, piece, &mut frames) == Err(Full) {
            coalescer.flush(&mut frames);
            deliver(&mut frames);
            coalescer.push(packet, piece, &mut frames).expect("an empty batch has room");
        }
    }
    coalescer.flush(&mut frames);
    deliver(&mut frames);
    (out, merged)
}

fn gather(frames: &Frames, frame: &Frame, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![0; frame.len as usize];
    let copied = frames.pieces.copy(&frame.chain, 0, &mut bytes, |piece, out| {
        let Source::Slot(Slot(slot)) = piece.source else { unreachable!("a slot piece") };
        let at = piece.offset as usize;
        out.copy_from_slice(&packets[usize::from(slot)][at..at + out.len()]);
    });
    assert_eq!(copied, bytes.len());
    bytes
}

fn apart(frame: &[u8]) -> Vec<Vec<u8>> {
    let (header, packet) = VnetHdr::parse(frame).expect("a virtio header");
    if header.gso_type == GsoType::None {
        assert_eq!(header, VnetHdr::PLAIN);
        return vec![packet.to_vec()];
    }
    let plan = Plan::parse(header, packet).expect("a valid super-packet");
    (0..plan.segments())
        .map(|index| {
            let mut segment = vec![0; plan.header_len()];
            let payload = plan.write_header(packet, index, &mut segment);
            segment.extend(&packet[payload]);
            segment
        })
        .collect()
}

/// The identification of a packet with DF set means nothing (RFC 6864); both sides drop it.
fn without_meaningless_id(mut packet: Vec<u8>) -> Vec<u8> {
    let v4 = packet[0] >> 4 == 4;
    let mut ip = ipv4::Packet::trusted(&mut packet);
    if v4 && ip.dont_fragment() {
        ip.set_id(0);
        ip.fill_checksum();
    }
    packet
}

/// A packet, and the number of those before it that may be of any flow: fragments, and what has its
/// ports behind other headers.
type Placed = (usize, Vec<u8>);

fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<(u8, u8, u8), Vec<Placed>> {
    let mut flows = BTreeMap::<_, Vec<_>>::new();
    let mut hidden = [0; 2];
    for packet in packets {
        let v4 = packet[0] >> 4 == 4;
        let before = &mut hidden[usize::from(v4)];
        let number = packet[if v4 { 9 } else { 6 }];
        let is_hidden = if v4 {
            ipv4::Packet::trusted(packet).is_fragment()
        } else {
            number != protocol::TCP && number != protocol::UDP
        };
        let header_len = if v4 { usize::from(packet[0] & 0xf) * 4 } else { ipv6::HEADER_LEN };
        let flow = match is_hidden {
            true => (packet[0] >> 4, 0, 0),
            false => (packet[0] >> 4, number, packet[header_len]),
        };
        flows.entry(flow).or_default().push((*before, packet.clone()));
        *before += usize::from(is_hidden);
    }
    flows
}

proptest! {
    #[test]
    fn splitting_what_was_coalesced_gives_every_flow_back(
        recipes in recipes(), max_lanes in 1usize..64,
    ) {
        // A broken header checksum is not mended, so its packet is compared as it is.
        let packets = build(&recipes);

        let (back, _) = there_and_back(&packets, max_lanes);

        let clean = |packets: &[Vec<u8>]| {
            let valid = |p: &Vec<u8>| p[0] >> 4 == 6 || ipv4::Packet::trusted(p).checksum_is_valid();
            let clean = packets.iter().cloned();
            clean
                .map(|p| if valid(&p) { without_meaningless_id(p) } else { p })
                .collect::<Vec<_>>()
        };
        prop_assert_eq!(by_flow(&clean(&packets)), by_flow(&clean(&back)));
    }

    #[test]
    fn junk_never_panics(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        flags in 0u8..2, kind in 0u8..8, size in any::<u16>(), start in 0u16..100, at in 0u16..30,
    ) {
        let mut frame = vec![flags, kind, 0, 0];
        for field in [size, start, at] {
            frame.extend(field.to_le_bytes());
        }
        let (header, _) = VnetHdr::parse(&frame).expect("ten bytes");
        if let Ok(plan) = Plan::parse(header, &bytes) {
            let mut out = vec![0; plan.header_len()];
            for index in 0..plan.segments() {
                plan.write_header(&bytes, index, &mut out);
            }
        }
        let _ = complete_checksum(header, &mut bytes);
    }
}

#[test]
fn interleaved_flows_merge_into_one_frame_each() {
    let plain = |flow| Recipe {
        flow,
        v6: false,
        tcp: flow % 2 == 0,
        payload: 100,
        flags: tcp::flags::ACK,
        dont_fragment: true,
        skip: 0,
        spoil: Spoil::Nothing,
    };
    let recipes: Vec<_> = (0..60).map(|n| plain(n % 4)).collect();

    let (back, merged) = there_and_back(&build(&recipes), 64);

    assert_eq!(back.len(), 60);
    assert_eq!(merged, 4);
}

#[test]
fn nothing_of_its_flow_overtakes_a_packet_whose_ports_are_hidden() {
    for (v6, spoil) in [(false, Spoil::Fragment), (true, Spoil::Fragment), (true, Spoil::Options)] {
        let plain = Recipe {
            flow: 3,
            v6,
            tcp: false,
            payload: 100,
            flags: 0,
            dont_fragment: true,
            skip: 0,
            spoil: Spoil::Nothing,
        };
        let packets = build(&[plain.clone(), Recipe { spoil, ..plain.clone() }, plain]);

        let (back, _) = there_and_back(&packets, 64);

        assert_eq!(back, packets, "{spoil:?}, IPv6: {v6}");
    }
}

#[test]
fn flags_that_belong_to_one_segment_stay_on_it() {
    let recipe = Recipe {
        flow: 0,
        v6: false,
        tcp: true,
        payload: 250,
        flags: tcp::flags::ACK | tcp::flags::CWR | tcp::flags::PSH | tcp::flags::FIN,
        dont_fragment: true,
        skip: 0,
        spoil: Spoil::Nothing,
    };
    let header = VnetHdr { gso_type: GsoType::TcpV4, gso_size: 100, ecn: true, ..VnetHdr::PLAIN };
    let packet = packet(&recipe, u32::MAX - 50, u16::MAX);
    let frame = [header.to_bytes().as_slice(), &packet].concat();

    let segments = apart(&frame);

    let flags: Vec<_> = segments.iter().map(|s| s[33]).collect();
    use tcp::flags::{ACK, CWR, FIN, PSH};
    assert_eq!(flags, [ACK | CWR, ACK, ACK | PSH | FIN]);
    let ids: Vec<_> = segments.iter().map(|s| ipv4::Packet::trusted(s).id()).collect();
    assert_eq!(ids, [u16::MAX, 0, 1]);
    let sequences: Vec<_> =
        segments.iter().map(|s| tcp::Segment::trusted(&s[20..]).sequence()).collect();
    assert_eq!(sequences, [u32::MAX - 50, 49, 149]);
    assert_eq!(segments.iter().map(Vec::len).collect::<Vec<_>>(), [152, 152, 102]);
}

#[test]
fn a_completed_udp_checksum_of_zero_is_sent_as_all_ones() {
    // A partial sum chosen so that the complement of everything is zero.
    let mut datagram = [0u8, 1, 0, 2, 0, 8, 0, 0];
    let partial = !Sum::default().bytes(&datagram).fold();
    datagram[6..8].copy_from_slice(&partial.to_be_bytes());
    let header = VnetHdr { needs_csum: true, csum_start: 0, csum_offset: 6, ..VnetHdr::PLAIN };

    complete_checksum(header, &mut datagram).unwrap();

    assert_eq!(datagram[6..8], [0xff, 0xff]);
    assert_eq!(vnet_hdr::LEN, header.to_bytes().len());
}
