//! Why the number of a device's queues stays as it is: what the kernel does when one goes.

use super::creation::in_namespace;
use rustix::io::read;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use twill::tun::{self, Device, DeviceSpec};
use twill_datapath::offload::feature::FeatureSet;
use twill_testbed::rig::{BEYOND, INNER, MTU};

const FLOWS: u16 = 64;
const FIRST_PORT: u16 = 20_000;

#[test]
fn a_queue_that_goes_takes_its_packets_along_and_flows_pass_those_that_wait_elsewhere() {
    in_namespace("queue_goes", |namespace| {
        let device = Device::create(&DeviceSpec {
            name: "tun0",
            queues: 3,
            vnet_hdr: false,
            offloads: FeatureSet::NONE,
        });
        let mut queues = device.unwrap().queues;
        let netmask = Ipv4Addr::new(255, 255, 255, 0);
        tun::configure(queues[0].as_fd(), "tun0", MTU, Some((INNER, netmask))).unwrap();
        namespace.ip("link set tun0 up").unwrap();
        let flows: Vec<_> =
            (0..FLOWS).map(|flow| UdpSocket::bind((INNER, FIRST_PORT + flow)).unwrap()).collect();
        let send = |number: u8| {
            for flow in &flows {
                flow.send_to(&[number], (BEYOND, 9)).unwrap();
            }
        };

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
