//! D1 to D25: what arrives from the underlay.

use super::*;
use twill_testbed::cases::{
    MARTIANS, OUT_OF_SCOPE, bad_datagrams, dropped, forwarded, fragments, mixed_train, packet,
    stamped, tiny_fragment, unjoinable,
};
use twill_testbed::packets::{one_hop_less, udp, with_header, with_id};

/// The discard service, which nobody runs: the kernel answers port unreachable.
const NOBODY: &str = "127.0.0.5:9";

#[test]
fn d1_to_d23_a_bad_datagram_costs_itself_and_is_counted_under_its_reason() {
    every_engine(STRICT, |rig| {
        for (case, datagram, reason) in bad_datagrams() {
            let books = dropped(reason, 1, datagram.len());
            rig.ingress(&case, &Datagram::from_a(&datagram), &[], books);
        }
        assert_delivers(rig);
    });
}

#[test]
fn d8_trailing_bytes_are_trimmed() {
    let datagram = [&packet()[..], b"junk behind it"].concat();
    let trimmed = Tally { bytes_in: datagram.len() as u64, ..forwarded(1, packet().len()) };

    every_engine(STRICT, |rig| {
        rig.ingress("D8", &Datagram::from_a(&datagram), &[one_hop_less(&packet())], trimmed);
    });
}

#[test]
fn d9_a_stranger_is_kept_out_unless_nothing_is_checked() {
    let stranger = Datagram { from: Sender::Stranger, ..Datagram::from_a(&packet()) };
    for check in [IngressCheck::Strict, IngressCheck::Peer] {
        every_engine(Plan { check, ..STRICT }, |rig| {
            let books = dropped(DropReason::UnknownPeer, 1, packet().len());
            rig.ingress("D9", &stranger, &[], books);
        });
    }
    every_engine(Plan { check: IngressCheck::Off, ..STRICT }, |rig| {
        let books = forwarded(1, packet().len());
        rig.ingress("D9", &stranger, &[one_hop_less(&packet())], books);
    });
}

#[test]
fn d10_to_d13_forged_addresses_pass_where_they_are_not_checked() {
    let forged = [udp(AT_B, HERE, 64, b""), udp(HERE, HERE, 64, b"")];
    let martians = MARTIANS.map(|source| udp(source, HERE, 64, b""));
    let out_of_scope = OUT_OF_SCOPE.map(|destination| udp(AT_A, destination, 64, b""));
    for check in [IngressCheck::Peer, IngressCheck::Off] {
        every_engine(Plan { check, ..STRICT }, |rig| {
            for packet in forged.iter().chain(&martians).chain(&out_of_scope) {
                let case = format!("{check}, {:?} to {:?}", &packet[12..16], &packet[16..20]);
                let books = forwarded(1, packet.len());
                rig.ingress(&case, &Datagram::from_a(packet), &[one_hop_less(packet)], books);
            }
        });
    }
}

#[test]
fn d10_a_peer_speaks_for_its_own_network_only() {
    let mine = Datagram { from: Sender::B, ..Datagram::from_a(&udp(AT_B, HERE, 64, b"")) };
    let others = Datagram { from: Sender::B, ..Datagram::from_a(&packet()) };

    every_engine(STRICT, |rig| {
        let (delivered, books) = (one_hop_less(&mine.bytes), forwarded(1, mine.bytes.len()));
        rig.ingress("D10, B as itself", &mine, &[delivered], books);
        let books = dropped(DropReason::SourceMismatch, 1, packet().len());
        rig.ingress("D10, B as A", &others, &[], books);
    });
}

#[test]
fn d14_a_peer_may_send_from_any_port() {
    let datagram = Datagram { from: Sender::AFromAnotherPort, ..Datagram::from_a(&packet()) };

    every_engine(STRICT, |rig| {
        let books = forwarded(1, packet().len());
        rig.ingress("D14", &datagram, &[one_hop_less(&packet())], books);
    });
}

#[test]
fn d15_the_last_hop_is_left_to_the_kernel_to_answer() {
    let last = udp(AT_A, HERE, 1, b"");

    every_engine(STRICT, |rig| {
        let books = forwarded(1, last.len());
        rig.ingress("D15", &Datagram::from_a(&last), std::slice::from_ref(&last), books);
    });
}

#[test]
fn d16_congestion_marks_are_carried_inwards_as_rfc_6040_says() {
    const CE: u8 = 3;
    // Figure 4: by inner codepoint, then outer Not-ECT, ECT(1), ECT(0), CE.
    let table = [
        [Some(0), Some(0), Some(0), None],
        [Some(1), Some(1), Some(1), Some(CE)],
        [Some(2), Some(1), Some(2), Some(CE)],
        [Some(CE); 4],
    ];
    let dscp = 0b1011_1000;
    let marked = |ecn| with_header(packet(), |header| header[1] = dscp | ecn);

    // `classic` asks the kernel for nothing but bytes and sender, as flannel does.
    every_engine_with_offloads(STRICT, |rig| {
        for (inner, row) in (0..).zip(table) {
            for (outer, expected) in (0..).zip(row) {
                let case = format!("D16, inner {inner:02b}, outer {outer:02b}");
                let packet = marked(inner);
                let datagram = Datagram { tos: outer, ..Datagram::from_a(&packet) };
                match expected {
                    Some(ecn) => {
                        let books = forwarded(1, packet.len());
                        rig.ingress(&case, &datagram, &[one_hop_less(&marked(ecn))], books);
                    }
                    None => {
                        let books = dropped(DropReason::Ecn, 1, packet.len());
                        rig.ingress(&case, &datagram, &[], books);
                    }
                }
            }
        }
    });
}

#[test]
fn d17_a_wrong_header_checksum_stays_wrong_and_alone() {
    let mut wrong = packet();
    wrong[10] ^= 0x40;
    // One hop less is 256 more in the checksum (RFC 1141), whatever that is.
    let mut passed_on = wrong.clone();
    passed_on[8] -= 1;
    let (sum, carry) = u16::from_be_bytes([wrong[10], wrong[11]]).overflowing_add(0x0100);
    passed_on[10..12].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    let train = [packet(), wrong, packet()];
    let delivered = [one_hop_less(&train[0]), passed_on, one_hop_less(&train[2])];

    every_engine(STRICT, |rig| {
        let books = forwarded(3, train.concat().len());
        let frames = rig.ingress("D17", &Datagram::run(&train), &delivered, books);
        assert_all_single(&frames, "D17");
    });
}

#[test]
fn d18_fragments_are_delivered_in_order_and_alone() {
    let (fragments, tiny) = (fragments(), tiny_fragment());
    let delivered = fragments.each_ref().map(|fragment| one_hop_less(fragment));

    every_engine(STRICT, |rig| {
        let books = forwarded(3, fragments.concat().len());
        let frames = rig.ingress("D18", &Datagram::run(&fragments), &delivered, books);
        assert_all_single(&frames, "D18");
        let (delivered, books) = (one_hop_less(&tiny), forwarded(1, tiny.len()));
        rig.ingress("D18, tiny", &Datagram::from_a(&tiny), &[delivered], books);
    });
}

#[test]
fn d19_what_may_not_be_joined_is_passed_on_byte_for_byte() {
    let stamps = [stamped(1, 0), stamped(2, 100), stamped(3, 200)];
    let thrice = |(name, packet): (&'static str, Vec<u8>)| (name, [(); 3].map(|()| packet.clone()));
    let mut trains: Vec<_> = unjoinable().into_iter().map(thrice).collect();
    trains.push(("timestamps", stamps));

    every_engine(STRICT, |rig| {
        for (name, train) in &trains {
            let case = format!("D19, {name}");
            let delivered = train.each_ref().map(|packet| one_hop_less(packet));
            let books = forwarded(3, train.concat().len());
            let frames = rig.ingress(&case, &Datagram::run(train), &delivered, books);
            assert_all_single(&frames, &case);
        }
    });
}

#[test]
fn d20_trains_of_every_length_arrive_whole_and_in_order() {
    every_engine(STRICT, |rig| {
        for count in 1..=64u8 {
            let mut train: Vec<_> = (1..count)
                .map(|number| with_id(udp(AT_A, HERE, 64, &[number; 100]), number.into()))
                .collect();
            train.push(udp(AT_A, HERE, 64, &[count; 3]));
            let delivered: Vec<_> = train.iter().map(|packet| one_hop_less(packet)).collect();
            let (case, before) = (format!("D20, {count}"), rig.instruments.recorders()[3].read());

            let books = forwarded(count.into(), train.concat().len());
            let frames = rig.ingress(&case, &Datagram::run(&train), &delivered, books);

            if rig.has_offloads() {
                let received = rig.instruments.recorders()[3].read().since(&before);
                assert_eq!((received.count(), received.summary().max), (1, 1), "{case}");
                assert_eq!(frames.len(), 1, "{case}: not joined again");
            }
        }
    });
}

#[test]
fn d20_one_bad_segment_costs_itself_only() {
    let mut train: Vec<_> = (0..9).map(|number| udp(AT_A, HERE, 64, &[number; 40])).collect();
    train[4][0] = 0x95;
    let datagram = Datagram::run(&train);
    train.remove(4);
    let delivered: Vec<_> = train.iter().map(|packet| one_hop_less(packet)).collect();
    let mut books = forwarded(8, train.concat().len());
    books.packets_in += 1;
    books.bytes_in = datagram.bytes.len() as u64;
    books.drop(DropReason::Version, 1);

    every_engine(STRICT, |rig| {
        rig.ingress("D20", &datagram, &delivered, books);
    });
}

#[test]
fn d21_what_came_without_all_of_its_control_data_is_dropped() {
    let more = [libc::IP_PKTINFO, libc::IP_RECVTTL, libc::IP_RECVORIGDSTADDR];
    let train = [packet(), packet(), packet()];

    // `classic` needs no control data.
    every_engine_with_offloads(STRICT, |rig| {
        let ask = |rig: &Rig, value| {
            for option in more {
                sockopt::set_int(rig.udp.as_fd(), libc::IPPROTO_IP, option, value).unwrap();
            }
        };
        ask(rig, 1);
        let books = dropped(DropReason::ControlTruncated, 1, packet().len());
        rig.ingress("D21", &Datagram::from_a(&packet()), &[], books);
        let books = dropped(DropReason::ControlTruncated, 3, train.concat().len());
        rig.ingress("D21, train", &Datagram::run(&train), &[], books);

        ask(rig, 0);
        assert_delivers(rig);
    });
}

#[test]
fn d22_a_datagram_that_the_buffer_cut_is_dropped() {
    let plan = Plan { gro: false, ..STRICT };
    let longer = udp(AT_A, HERE, 64, &[7; 3000]);

    every_engine(plan, |rig| {
        rig.send(&Datagram::from_a(&longer));
        rig.turns("D22", |_, ingress| ingress.packets_in == 1);

        // A slot is as long as the MTU, and some bytes more where those come for nothing.
        let kept = rig.worker.pipeline.ingress.tally.bytes_in as usize;
        assert!((usize::from(MTU)..usize::from(MTU) + 64).contains(&kept), "{kept}");
        assert!(rig.written().is_empty(), "a cut packet was written");
        rig.assert_nothing_sent("D22");
        let books = dropped(DropReason::MessageTruncated, 1, kept);
        rig.close_books("D22", Tally::default(), books);
        assert_delivers(rig);
    });
}

#[test]
fn d22_a_packet_longer_than_the_mtu_is_delivered_where_the_buffer_has_room() {
    let longest = udp(AT_A, HERE, 64, &vec![0; usize::from(MTU) - 28]);
    let longer = udp(AT_A, HERE, 64, &vec![0; usize::from(MTU) - 27]);

    every_engine(STRICT, |rig| {
        let (delivered, books) = (one_hop_less(&longest), forwarded(1, longest.len()));
        rig.ingress("D22, longest", &Datagram::from_a(&longest), &[delivered], books);
        let (delivered, books) = if rig.has_offloads() {
            (vec![one_hop_less(&longer)], forwarded(1, longer.len()))
        } else {
            (vec![], dropped(DropReason::MessageTruncated, 1, longest.len()))
        };
        rig.ingress("D22, longer", &Datagram::from_a(&longer), &delivered, books);
    });
}

#[test]
fn d23_a_mixed_train_loses_its_ipv6_only() {
    let train = mixed_train();
    let delivered = [one_hop_less(&train[0]), one_hop_less(&train[2])];
    let mut books = forwarded(2, 96);
    books.packets_in += 1;
    books.bytes_in += 48;
    books.drop(DropReason::Family, 1);

    every_engine(STRICT, |rig| {
        rig.ingress("D23", &Datagram::run(&train), &delivered, books);
    });
}

#[test]
fn d24_garbage_from_a_stranger_takes_nothing_from_good_traffic() {
    let garbage = [1, 20, 600, 1400]
        .map(|len| Datagram { from: Sender::Stranger, ..Datagram::from_a(&vec![0x45; len]) });
    let datagrams = [&garbage[..], &[Datagram::from_a(&packet())], &garbage[..]].concat();
    let mut books = forwarded(1, packet().len());
    books.packets_in += 8;
    books.bytes_in += 2 * (1 + 20 + 600 + 1400);
    books.drop(DropReason::UnknownPeer, 8);

    every_engine(STRICT, |rig| {
        for _ in 0..50 {
            rig.ingress_of("D24", &datagrams, &[one_hop_less(&packet())], books);
        }
    });
}

#[test]
fn d25_a_peer_whose_port_is_closed_harms_nobody() {
    let (to_b, to_a) = (udp(HERE, AT_B, 64, b"lost"), udp(HERE, AT_A, 64, b"arrives"));

    every_engine(STRICT, |rig| {
        let mut overlay = overlay(&rig.a, &rig.b);
        overlay.peers[1].endpoint = NOBODY.parse().unwrap();
        rig.views.store(Arc::new(View::new(overlay)));
        for _ in 0..50 {
            let frame = rig.plain(&to_b);
            rig.egress("D25, B", &frame, &[], &[], forwarded(1, to_b.len()));
        }
        let (frame, sent) = (rig.plain(&to_a), (Sender::A, one_hop_less(&to_a)));
        rig.egress("D25, A", &frame, &[sent], &[], forwarded(1, to_a.len()));
        assert_delivers(rig);
    });
}

/// The engine goes on: a packet that breaks no rule arrives.
#[track_caller]
fn assert_delivers(rig: &mut Rig) {
    let (delivered, books) = (one_hop_less(&packet()), forwarded(1, packet().len()));
    rig.ingress("good", &Datagram::from_a(&packet()), &[delivered], books);
}

#[track_caller]
fn assert_all_single(frames: &[(VnetHdr, Vec<u8>)], case: &str) {
    assert!(frames.iter().all(|(header, _)| *header == VnetHdr::PLAIN), "{case}: joined");
}
