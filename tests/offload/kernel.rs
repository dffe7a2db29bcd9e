//! The kernel as the oracle: what is written to one TUN device as a super-packet is forwarded, and
//! comes out of another that takes no super-packets as the packets that the kernel makes of it.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use twill::tun::{Device, DeviceSpec};
use twill_datapath::batch::FrameKind;
use twill_datapath::offload::feature::FeatureSet;
use twill_datapath::offload::vnet_hdr::VnetHdr;
use twill_testbed::packets::{
    ACK, CWR, DESTINATION_V4, ECE, FIN, PSH, Recipe, TIMESTAMPS, behind_options, coalesce, cut,
    one_hop_less,
};
use twill_testbed::{Namespace, Testbed};

/// The flags of segments that the kernel takes as one super-packet.
const ALL: u8 = FIN | PSH | ACK | ECE | CWR;
/// UDP port of the packet that follows what is to be read.
const MARKER: u16 = 9;
/// Long enough for a busy machine; forwarding takes microseconds.
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

#[test]
fn tcp_is_cut_as_the_kernel_cuts_it() {
    let Some(router) = Router::start("split_tcp") else { return };

    for v6 in [false, true] {
        for (gso_size, payload) in SIZES {
            for flags in [ACK, ACK | PSH, ACK | FIN | PSH, ACK | CWR, ACK | ECE, ALL] {
                for timestamps in [None, TIMESTAMPS] {
                    let recipe = Recipe { flags, timestamps, ..Recipe::tcp(v6, payload) };
                    router.assert_cut_alike(&recipe, gso_size);
                }
            }
        }
    }
}

#[test]
fn tcp_numbers_wrap_as_the_kernel_wraps_them() {
    let Some(router) = Router::start("split_wrap") else { return };

    for dont_fragment in [false, true] {
        let last =
            Recipe { sequence: u32::MAX - 700, id: u16::MAX - 1, ..Recipe::tcp(false, 6000) };
        router.assert_cut_alike(&Recipe { dont_fragment, ..last }, 536);
    }
}

#[test]
fn udp_is_cut_as_the_kernel_cuts_it() {
    let Some(router) = Router::start("split_udp") else { return };

    for v6 in [false, true] {
        for (gso_size, payload) in SIZES {
            for traffic_class in [0, 0b1011_1001] {
                let recipe = Recipe { traffic_class, ..Recipe::udp(v6, payload) };
                router.assert_cut_alike(&recipe, gso_size);
            }
        }
    }
}

#[test]
fn what_lies_behind_ipv6_options_is_cut_as_the_kernel_cuts_it() {
    let Some(router) = Router::start("split_options") else { return };

    for recipe in [Recipe::tcp(true, 10_000), Recipe::udp(true, 10_000)] {
        let (header, packet) = recipe.aggregate(1400);
        let (header, packet) = behind_options(header, packet);
        router.assert_same_segments(header, packet, &format!("options and {recipe:?}"));
    }
}

#[test]
fn the_kernel_makes_of_a_coalesced_batch_what_arrived() {
    let Some(router) = Router::start("coalesce") else { return };
    let kinds = [(true, false), (true, true), (false, false), (false, true)];
    let mut packets = Vec::new();
    for index in 0..30u16 {
        for (kind, (tcp, v6)) in kinds.into_iter().enumerate() {
            let payload = if index == 29 { 333 } else { 1000 };
            packets.push(Recipe {
                tcp,
                ports: [4000 + kind as u16; 2],
                sequence: u32::from(index) * 1000,
                id: index,
                flags: if index == 29 { ACK | PSH } else { ACK },
                ..Recipe::tcp(v6, payload)
            });
        }
    }
    let packets: Vec<_> = packets.iter().map(Recipe::packet).collect();

    let frames = coalesce(&packets);
    for (_, frame) in &frames {
        router.write(frame);
    }
    let came = router.read_to_marker();

    let joined = |kind| frames.iter().filter(|(other, _)| *other == kind).count();
    assert_eq!((frames.len(), joined(FrameKind::Tcp), joined(FrameKind::Udp)), (4, 2, 2));
    let expected: Vec<_> = packets.iter().map(|packet| one_hop_less(packet)).collect();
    assert!(by_flow(&came) == by_flow(&expected), "the kernel made other packets of the batch");
}

#[test]
fn the_kernel_leaves_packets_alone_that_may_not_be_joined() {
    let Some(router) = Router::start("coalesce_alone") else { return };
    // A gap in the stream, a flag that ends it, a longer datagram after a shorter one.
    let recipes = [
        Recipe { sequence: 0, ..Recipe::tcp(false, 500) },
        Recipe { sequence: 900, ..Recipe::tcp(false, 500) },
        Recipe { sequence: 1400, flags: ACK | FIN, ..Recipe::tcp(false, 500) },
        Recipe { sequence: 1900, ..Recipe::tcp(false, 500) },
        Recipe { ports: [5000; 2], id: 1, ..Recipe::udp(false, 100) },
        Recipe { ports: [5000; 2], id: 2, ..Recipe::udp(false, 101) },
    ];
    let packets: Vec<_> = recipes.iter().map(Recipe::packet).collect();

    for (_, frame) in coalesce(&packets) {
        router.write(&frame);
    }
    let came = router.read_to_marker();

    let expected: Vec<_> = packets.iter().map(|packet| one_hop_less(packet)).collect();
    assert!(by_flow(&came) == by_flow(&expected), "the kernel made other packets of the batch");
}

/// Segment size and payload, bytes: even, with a short last segment, with one of a single byte,
/// tiny, and as much as IP carries.
const SIZES: [(u16, usize); 8] = [
    (8, 64),
    (8, 803),
    (536, 5360),
    (536, 5361),
    (1448, 1449),
    (1448, 10_000),
    (1448, 45 * 1448),
    (1200, 40_000),
];

/// A namespace that forwards from a device with offloads to one without.
struct Router {
    offloaded: Device,
    plain: Device,
    _namespace: Namespace,
    _testbed: Testbed,
}

impl Router {
    fn start(test: &str) -> Option<Self> {
        let testbed = Testbed::for_test(test)?;
        let namespace = testbed.namespace("router").unwrap();
        let create = |name, vnet_hdr, offloads| {
            let spec = DeviceSpec { name, queues: 1, vnet_hdr, offloads };
            namespace.enter(|| Device::create(&spec)).unwrap()
        };
        let offloaded = create("offloaded", true, FeatureSet::ALL);
        let plain = create("plain", false, FeatureSet::NONE);
        for key in ["ipv4.ip_forward", "ipv6.conf.all.forwarding"] {
            namespace.sysctl(&format!("net.{key}"), "1").unwrap();
        }
        for device in ["all", "default", "offloaded", "plain"] {
            namespace.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0").unwrap();
        }
        for device in ["offloaded", "plain"] {
            let key = format!("net.ipv6.conf.{device}.addr_gen_mode");
            namespace.sysctl(&key, "1").unwrap();
            namespace.ip(&format!("link set {device} mtu 9000 txqueuelen 10000 up")).unwrap();
        }
        namespace
            .ip("route add 10.1.0.0/16 dev offloaded
                 route add 10.2.0.0/16 dev plain
                 route add fd00:1::/64 dev offloaded
                 route add fd00:2::/64 dev plain")
            .unwrap();
        Some(Self { offloaded, plain, _namespace: namespace, _testbed: testbed })
    }

    fn assert_cut_alike(&self, recipe: &Recipe, gso_size: u16) {
        let (header, packet) = recipe.aggregate(gso_size);
        self.assert_same_segments(header, packet, &format!("{gso_size} bytes of {recipe:?}"));
    }

    fn assert_same_segments(&self, header: VnetHdr, packet: Vec<u8>, what: &str) {
        self.write(&[header.to_bytes().as_slice(), &packet].concat());
        let kernel = self.read_to_marker();

        let ours = cut(header, &one_hop_less(&packet));

        assert_eq!(kernel.len(), ours.len(), "segments of {what}");
        for (index, (kernel, ours)) in kernel.iter().zip(&ours).enumerate() {
            assert_eq!(kernel, ours, "segment {index} of {what}");
        }
    }

    fn write(&self, frame: &[u8]) {
        let written = rustix::io::write(&self.offloaded.queues[0], frame).unwrap();
        assert_eq!(written, frame.len());
    }

    /// What was forwarded so far.
    fn read_to_marker(&self) -> Vec<Vec<u8>> {
        let marker = Recipe { ports: [MARKER; 2], ..Recipe::udp(false, 4) }.packet();
        self.write(&[VnetHdr::PLAIN.to_bytes().as_slice(), &marker].concat());
        let marker = one_hop_less(&marker);
        let mut packets = Vec::new();
        loop {
            let packet = self.read();
            if packet == marker {
                return packets;
            }
            packets.push(packet);
        }
    }

    fn read(&self) -> Vec<u8> {
        let queue = &self.plain.queues[0];
        let mut room = vec![0; 1 << 16];
        loop {
            let mut ready = [PollFd::from_borrowed_fd(queue.as_fd(), PollFlags::IN)];
            assert_eq!(poll(&mut ready, Some(&PATIENCE)).unwrap(), 1, "a packet in time");
            let len = rustix::io::read(queue, &mut room).unwrap();
            // The kernel's own multicast is not of the test.
            let ours = room[16..20] == DESTINATION_V4.octets() || room[24..28] == [0xfd, 0, 0, 2];
            if ours {
                return room[..len].to_vec();
            }
        }
    }
}

/// Version, protocol, source port.
type Flow = (u8, u8, [u8; 2]);

/// Packets by flow, in order.
fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<Flow, Vec<&[u8]>> {
    let mut flows = BTreeMap::<_, Vec<_>>::new();
    for packet in packets {
        let (protocol, ports) = if packet[0] >> 4 == 4 { (packet[9], 20) } else { (packet[6], 40) };
        let flow = (packet[0] >> 4, protocol, [packet[ports], packet[ports + 1]]);
        flows.entry(flow).or_default().push(packet.as_slice());
    }
    flows
}
