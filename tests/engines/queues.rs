//! What the kernel does when a queue of a device goes or comes, and with what care it does no harm.

use super::creation::in_namespace;
use rustix::io::read;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use twill::sys::steering;
use twill::tun::{self, Device, DeviceSpec};
use twill_datapath::offload::feature::FeatureSet;
use twill_testbed::Namespace;
use twill_testbed::rig::{BEYOND, INNER, MTU};

const FLOWS: u16 = 64;
const FIRST_PORT: u16 = 20_000;

#[test]
fn a_queue_that_goes_takes_its_packets_along_and_flows_pass_those_that_wait_elsewhere() {
    in_namespace("queue_goes", |namespace| {
        let mut queues = queues_of(namespace, 3);
        let send = sender();

        send(0);
        let discarded = queues.pop().unwrap();
        drop(discarded);
        send(1);

        // The first queue's worker may well be the first to read.
        let (first, second) = (packets(&queues[0]), packets(&queues[1]));
        let arrived = |number| move |(_, sent): &&(u16, u8)| *sent == number;
        let came = first.iter().chain(&second).filter(arrived(0)).count();
        let overtaking = first.iter().filter(arrived(1));
        let overtaking = overtaking.filter(|(flow, _)| second.contains(&(*flow, 0))).count();
        println!(
            "of {FLOWS} packets, {} were discarded with their queue; of {FLOWS} flows, {overtaking} passed \
             their own packets that wait in another queue",
            usize::from(FLOWS) - came
        );
        assert!(came < FLOWS.into(), "nothing was discarded");
        assert!(overtaking > 0, "no flow has moved");
        let all = first.iter().chain(&second).filter(arrived(1)).count();
        assert_eq!(all, usize::from(FLOWS), "what is sent later arrives");
    });
}

#[test]
fn a_queue_from_which_packets_are_led_away_and_that_was_read_goes_and_comes_without_harm() {
    in_namespace("queue_led_away", |namespace| {
        let mut queues = queues_of(namespace, 3);
        let send = sender();
        let (to_first, by_flow) =
            (steering::to_first_queue().unwrap(), steering::by_flow().unwrap());
        let mut arrived = Vec::new();
        for (number, wanted) in [2, 1, 3].into_iter().enumerate() {
            let number = 3 * number as u8;
            send(number);
            tun::steer(queues[0].as_fd(), Some(to_first.as_fd())).unwrap();
            steering::wait_for_readers().unwrap();
            send(number + 1);
            for queue in &queues[1..] {
                arrived.extend(packets(queue));
            }
            while queues.len() > wanted {
                let queue = queues.pop().unwrap();
                tun::set_attached(queue.as_fd(), false).unwrap();
            }
            while queues.len() < wanted {
                queues.push(tun::add_queue("tun0", queues[0].as_fd()).unwrap());
            }
            tun::steer(queues[0].as_fd(), Some(by_flow.as_fd())).unwrap();
            steering::wait_for_readers().unwrap();
            send(number + 2);
            // The first queue has what waited there and its own flows' packets: it goes first.
            let waiting: Vec<_> = queues.iter().map(packets).collect();
            assert!(waiting.iter().all(|packets| !packets.is_empty()), "{wanted}: {waiting:?}");
            arrived.extend(waiting.into_iter().flatten());
        }

        for flow in 0..FLOWS {
            let numbers = arrived.iter().filter(|(of, _)| *of == flow).map(|(_, number)| *number);
            assert_eq!(numbers.collect::<Vec<_>>(), (0..9).collect::<Vec<_>>(), "flow {flow}");
        }
    });
}

#[test]
fn a_program_keeps_each_flow_of_either_family_on_one_of_all_queues() {
    const QUEUES: usize = 4;
    in_namespace("by_flow", |namespace| {
        let queues = queues_of(namespace, QUEUES);
        namespace.ip("address add fd00:77::1/64 dev tun0 nodad").unwrap();
        let program = steering::by_flow().unwrap();
        tun::steer(queues[0].as_fd(), Some(program.as_fd())).unwrap();
        for (from, to) in [("10.77.0.1", "10.77.0.2:9"), ("fd00:77::1", "[fd00:77::2]:9")] {
            let mut of_flow = BTreeMap::new();
            for flow in 0..FLOWS {
                let ip: IpAddr = from.parse().unwrap();
                let socket = UdpSocket::bind((ip, FIRST_PORT + flow)).unwrap();
                for _ in 0..3 {
                    socket.send_to(&[1], to).unwrap();
                }
                let waiting = queues.iter().map(udp_packets).collect::<Vec<_>>();
                assert_eq!(waiting.iter().sum::<usize>(), 3, "{from}, {flow}: {waiting:?}");
                let queue = waiting.iter().position(|packets| *packets == 3);
                *of_flow.entry(queue.expect("one queue has all")).or_insert(0) += 1;
            }
            assert_eq!(of_flow.len(), QUEUES, "{from}: {of_flow:?}");
        }
    });
}

#[test]
fn a_device_that_was_created_for_one_queue_takes_no_other() {
    in_namespace("one_queue", |_| {
        let spec =
            DeviceSpec { name: "tun0", queues: 1, vnet_hdr: false, offloads: FeatureSet::NONE };
        let device = Device::create(&spec).unwrap();

        assert!(!tun::has_room_for_queues(device.queues[0].as_fd()));
        // `tun_set_iff` compares IFF_MULTI_QUEUE with the device's, which has as many queues for
        // sending as it was created for.
        assert!(tun::add_queue("tun0", device.queues[0].as_fd()).is_err());
        let several = Device::create(&DeviceSpec { name: "tun1", queues: 2, ..spec }).unwrap();
        assert!(tun::has_room_for_queues(several.queues[0].as_fd()));
    });
}

/// The queues of a device that is up.
fn queues_of(namespace: &Namespace, count: usize) -> Vec<OwnedFd> {
    let spec =
        DeviceSpec { name: "tun0", queues: count, vnet_hdr: false, offloads: FeatureSet::NONE };
    let queues = Device::create(&spec).unwrap().queues;
    let netmask = Ipv4Addr::new(255, 255, 255, 0);
    tun::configure(queues[0].as_fd(), "tun0", MTU, Some((INNER, netmask))).unwrap();
    namespace.ip("link set tun0 up").unwrap();
    queues
}

/// Sends a packet with a number by each of all flows.
fn sender() -> impl Fn(u8) {
    let flows: Vec<_> =
        (0..FLOWS).map(|flow| UdpSocket::bind((INNER, FIRST_PORT + flow)).unwrap()).collect();
    move |number| {
        for flow in &flows {
            flow.send_to(&[number], (BEYOND, 9)).unwrap();
        }
    }
}

/// How many UDP packets wait in a queue, of either family.
fn udp_packets(queue: &OwnedFd) -> usize {
    let mut room = [0; 2048];
    let mut packets = 0;
    while read(queue, &mut room).is_ok() {
        let protocol = if room[0] >> 4 == 4 { room[9] } else { room[6] };
        packets += usize::from(i32::from(protocol) == libc::IPPROTO_UDP);
    }
    packets
}

/// What waits in a queue: the flow and number of each packet.
fn packets(queue: &OwnedFd) -> Vec<(u16, u8)> {
    let mut room = [0; 2048];
    let mut packets = Vec::new();
    while let Ok(len) = read(queue, &mut room) {
        // IPv4 without options, UDP, one byte.
        if len == 29 && room[9] == libc::IPPROTO_UDP as u8 {
            packets.push((u16::from_be_bytes([room[20], room[21]]) - FIRST_PORT, room[28]));
        }
    }
    packets
}
