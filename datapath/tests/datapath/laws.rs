//! Laws over generated input, valid and mangled.

use crate::harness::*;
use proptest::collection::vec;
use proptest::prelude::*;
use twill_datapath::IngressCheck;

fn arb_address() -> impl Strategy<Value = [u8; 4]> {
    prop_oneof![
        6 => (0u8..4, any::<u8>()).prop_map(|(subnet, host)| [10, 10, subnet, host]),
        1 => any::<[u8; 4]>(),
        1 => Just([255; 4]),
        1 => Just([224, 0, 0, 1]),
    ]
}

/// A packet that is valid but for its addresses, of any length up to a little over the MTU.
fn arb_packet() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![4 => 0usize..80, 1 => 1400usize..1460];
    let v4 = (arb_address(), arb_address(), prop_oneof![Just(64u8), 0u8..3], payload.clone())
        .prop_map(|(from, to, ttl, len)| udp(from, to, ttl, &vec![7; len]));
    let v6 = (0u8..4, 0u8..4, prop_oneof![Just(64u8), 0u8..3], payload).prop_map(
        |(from, to, hops, len)| {
            udp6(&format!("fd00:a:{from}::5"), &format!("fd00:a:{to}::7"), hops, &vec![7; len])
        },
    );
    prop_oneof![4 => v4, 1 => v6]
}

/// A packet with some bytes changed, and perhaps cut or extended.
fn arb_mangled() -> impl Strategy<Value = Vec<u8>> {
    let edits = vec((0usize..60, any::<u8>()), 0..4);
    (arb_packet(), edits, prop_oneof![3 => Just(None), 1 => (0usize..1600).prop_map(Some)])
        .prop_map(|(mut packet, edits, len)| {
            for (at, value) in edits {
                if let Some(byte) = packet.get_mut(at) {
                    *byte = value;
                }
            }
            if let Some(len) = len {
                packet.resize(len, 0xee);
            }
            packet
        })
}

fn arb_check() -> impl Strategy<Value = IngressCheck> {
    prop_oneof![
        2 => Just(IngressCheck::Strict),
        1 => Just(IngressCheck::Peer),
        1 => Just(IngressCheck::Off),
    ]
}

fn arb_setup() -> impl Strategy<Value = Setup> {
    (arb_check(), any::<bool>(), any::<bool>(), any::<bool>(), prop_oneof![1usize..5, Just(256)])
        .prop_map(|(check, vnet_hdr, coalesce, dual_stack, batch)| {
            let setup = if dual_stack { Setup::dual_stack() } else { Setup::default() };
            Setup { check, vnet_hdr, coalesce, batch, ..setup }
        })
}

/// Packets of a few flows, interleaved: by flow, length of the data, and whether it is pushed, or
/// for UDP a fragment.
fn arb_flows() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let marked = prop::bool::weighted(0.3);
    let step = (0u8..6, prop_oneof![3 => Just(200usize), 1 => 1usize..200], marked);
    vec(step, 1..40).prop_map(|steps| {
        let mut sequences = [0u32; 6];
        let packet = |(flow, len, marked): (u8, usize, bool)| {
            let from = [10, 10, 1, flow];
            let sequence = sequences[usize::from(flow)];
            sequences[usize::from(flow)] += len as u32;
            let data = vec![flow ^ sequence as u8; len];
            if flow < 3 {
                tcp(from, HERE, 64, sequence, ACK | if marked { PSH } else { 0 }, &data)
            } else {
                let more_fragments = if marked { 0x20 } else { 0 };
                with_header(udp(from, HERE, 64, &data), |header| header[6] |= more_fragments)
            }
        };
        steps.into_iter().map(packet).collect()
    })
}

/// The packets of one sender, without the identification, which means nothing as DF is set.
fn of_flow(packets: &[Vec<u8>], flow: u8) -> Vec<Vec<u8>> {
    let of_flow = packets.iter().filter(|packet| packet[15] == flow);
    of_flow.cloned().map(without_meaningless_id).collect()
}

proptest! {
    #[test]
    fn joined_frames_hold_every_flows_packets_in_order(
        packets in arb_flows(), batch in prop_oneof![1usize..9, Just(256)],
    ) {
        let mut joining =
            Setup { vnet_hdr: true, coalesce: true, batch, ..Setup::default() }.host();

        let written: Vec<_> = packets
            .chunk_by(|one, other| one.len() == other.len())
            .flat_map(|train| joining.arrive(&Arrival::train(A, train)))
            .flat_map(|frame| apart(&frame, 64))
            .collect();

        let plain: Vec<_> = packets.iter().map(|packet| one_hop_less(packet)).collect();
        for flow in 0..6 {
            prop_assert_eq!(of_flow(&written, flow), of_flow(&plain, flow));
        }
        prop_assert_eq!(joining.ingress.tally, forwarded(packets.len() as u64, packets.concat().len()));
    }

    #[test]
    fn a_super_packets_segments_all_leave_or_all_drop(
        to in arb_address(), ttl in prop_oneof![Just(64u8), 0u8..3],
        gso_size in 1usize..2000, len in 0usize..9000,
        batch in prop_oneof![1usize..9, Just(256)],
    ) {
        let frame = tso(gso_size, &tcp(HERE, to, ttl, 1, ACK, &vec![7; len]));
        let mut host = Setup { vnet_hdr: true, batch, ..Setup::default() }.host();

        let sent = host.transmit(&frame);

        let segments = len.div_ceil(gso_size).max(1);
        let books = host.egress.tally;
        prop_assert_eq!(books.packets_in, segments as u64);
        prop_assert_eq!(books.bytes_in, (len + segments * 52) as u64);
        prop_assert_eq!(books.imbalance(), 0);
        prop_assert!(books.packets_out == 0 || books.dropped() == 0);
        prop_assert_eq!(sent.datagrams.len() as u64, books.packets_out);
        let bytes: usize = sent.datagrams.iter().map(|(_, datagram)| datagram.len()).sum();
        prop_assert_eq!(bytes as u64, books.bytes_out);
    }

    #[test]
    fn ingress_books_balance_whatever_arrives(
        setup in arb_setup(),
        datagrams in vec(prop_oneof![arb_packet(), arb_mangled()], 1..12),
        segment in prop_oneof![Just(None), (0u16..3000).prop_map(Some)],
        from in prop_oneof![Just(A), Just(B), Just("203.0.113.1:53")],
        tos in any::<u8>(),
    ) {
        let mut host = setup.host();
        let bytes: usize = datagrams.iter().map(Vec::len).sum();

        match segment {
            Some(segment) => {
                let arrival = Arrival::datagram(from, &datagrams.concat());
                host.arrive(&Arrival { segment, tos, ..arrival });
            }
            None => for datagram in &datagrams {
                host.arrive(&Arrival { tos, ..Arrival::datagram(from, datagram) });
            },
        }

        let books = host.ingress.tally;
        prop_assert_eq!(books.imbalance(), 0, "{:?}", books);
        prop_assert_eq!(books.bytes_in, bytes as u64);
        prop_assert!(books.packets_in >= 1);
        prop_assert!(books.bytes_out <= books.bytes_in);
    }

    #[test]
    fn egress_books_balance_whatever_the_device_hands_out(
        setup in arb_setup(),
        frames in vec((prop_oneof![arb_packet(), arb_mangled()], any::<[u8; 10]>(), any::<bool>()), 1..12),
    ) {
        let with_headers = setup.vnet_hdr;
        let mut host = setup.host();
        let mut left = 0;

        for (packet, header, mangle) in &frames {
            let header = if *mangle { *header } else { [0; 10] };
            let header = if with_headers { &header[..] } else { &[] };
            left += host.transmit(&[header, packet].concat()).datagrams.len() as u64;
        }

        let books = host.egress.tally;
        prop_assert_eq!(books.imbalance(), 0, "{:?}", books);
        prop_assert_eq!(books.packets_out, left);
        prop_assert!(books.packets_in >= frames.len() as u64);
    }

    #[test]
    fn a_packet_between_two_hosts_loses_two_hops_and_nothing_else(
        packet in arb_packet(), from_a in any::<bool>(),
    ) {
        // The far side of the tunnel: peer A's view of the same overlay.
        let mut far = Setup::dual_stack();
        std::mem::swap(&mut far.overlay.local, &mut far.overlay.peers[0].subnets);
        far.overlay.addresses = vec!["10.10.1.0".parse().unwrap()];
        let mut near = Setup::dual_stack().host();
        let mut far = far.host();
        let (sender, receiver) = if from_a { (&mut far, &mut near) } else { (&mut near, &mut far) };

        let sent = sender.transmit(&packet);
        for (_, datagram) in &sent.datagrams {
            let written = receiver.receive(A, datagram);

            let hops = if packet[0] >> 4 == 4 { 8 } else { 7 };
            for delivered in written {
                // The last hop is not taken but left to the kernel.
                prop_assert_eq!(delivered[hops], (packet[hops] - 2).max(1));
                let mut expected = packet.clone();
                expected[hops] = delivered[hops];
                if packet[0] >> 4 == 4 {
                    fix_checksum(&mut expected);
                }
                prop_assert_eq!(delivered, expected);
            }
        }
        prop_assert_eq!(sender.egress.tally.imbalance(), 0);
        prop_assert_eq!(receiver.ingress.tally.imbalance(), 0);
        prop_assert_eq!(receiver.ingress.tally.packets_in, sender.egress.tally.packets_out);
    }
}
