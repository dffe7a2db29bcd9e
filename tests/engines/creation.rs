//! Devices and sockets: what is granted, what is refused, and what the refusal says.

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use twill::engine::{self, Choice, EngineChoice, EngineKind};
use twill::socket::{self, SocketSpec};
use twill::tun::{self, Backpressure, Device, DeviceSpec};
use twill_datapath::offload::feature::{Feature, FeatureSet};
use twill_testbed::rig::PATIENCE;
use twill_testbed::{Namespace, Testbed, missing, within};

const SPEC: DeviceSpec<'_> =
    DeviceSpec { name: "tun0", queues: 1, vnet_hdr: true, offloads: FeatureSet::ALL };

#[test]
fn a_second_instance_on_the_same_device_fails_at_once_and_harms_nothing() {
    in_namespace("a_second_instance_on_the_same_device_fails_at_once", |_| {
        for queues in [1, 4] {
            let first = Device::create(&DeviceSpec { queues, ..SPEC }).unwrap();

            let error = Device::create(&DeviceSpec { queues, ..SPEC }).unwrap_err();

            assert!(error.is_busy(), "{error}");
            let message = error.to_string();
            assert!(
                message.contains("\"tun0\"") && message.contains("other instance"),
                "{message}"
            );
            assert!(interface_exists("tun0"));
            drop(first);
            within(PATIENCE, "the end of the device", || !interface_exists("tun0"));
        }
    });
}

#[test]
fn a_pattern_takes_the_first_free_number() {
    in_namespace("a_pattern_takes_the_first_free_number", |_| {
        let spec = DeviceSpec { name: "flannel%d", ..SPEC };

        let devices = [Device::create(&spec).unwrap(), Device::create(&spec).unwrap()];

        assert_eq!(devices.each_ref().map(|device| &*device.name), ["flannel0", "flannel1"]);
        assert!(devices.iter().all(|device| device.index > 0));
    });
}

#[test]
fn names_that_no_device_can_have_are_refused_with_the_reason() {
    in_namespace("names_that_no_device_can_have_are_refused", |_| {
        for name in ["sixteen-bytes-xx", "with/slash", "lo"] {
            let error = Device::create(&DeviceSpec { name, ..SPEC }).unwrap_err().to_string();

            assert!(error.contains(&format!("{name:?}")), "{error}");
        }
    });
}

#[test]
fn without_the_capability_the_error_names_it() {
    in_namespace("without_the_capability_the_error_names_it", |_| {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        sets.permitted.remove(CapabilitySet::NET_ADMIN);
        set_capabilities(None, sets).unwrap();

        let error = Device::create(&SPEC).unwrap_err().to_string();

        assert!(error.contains("CAP_NET_ADMIN") && error.contains("\"tun0\""), "{error}");
    });
}

#[test]
fn flows_are_spread_over_the_queues_and_each_stays_on_its_own() {
    in_namespace("flows_are_spread_over_the_queues", |namespace| {
        let device = Device::create(&DeviceSpec { queues: 4, ..SPEC }).unwrap();
        let inner = Ipv4Addr::new(10, 77, 0, 1);
        let netmask = Ipv4Addr::new(255, 255, 255, 0);
        tun::configure(device.queues[0].as_fd(), "tun0", 1400, Some((inner, netmask))).unwrap();
        namespace.ip("link set tun0 up").unwrap();
        let flows: Vec<_> = (0..64).map(|_| UdpSocket::bind((inner, 0)).unwrap()).collect();

        for _ in 0..5 {
            for flow in &flows {
                flow.send_to(&[1; 30], "10.77.0.2:9").unwrap();
            }
        }

        let mut queues_of = std::collections::BTreeMap::<u16, Vec<usize>>::new();
        for (number, queue) in device.queues.iter().enumerate() {
            let mut bytes = [0; 2000];
            while let Ok(len) = rustix::io::read(queue, &mut bytes) {
                assert_eq!(len, 10 + 28 + 30);
                let port = u16::from_be_bytes([bytes[30], bytes[31]]);
                queues_of.entry(port).or_default().push(number);
            }
        }
        assert_eq!(queues_of.len(), flows.len());
        assert!(queues_of.values().all(|queues| *queues == vec![queues[0]; 5]), "{queues_of:?}");
        let used: std::collections::BTreeSet<_> = queues_of.values().flatten().collect();
        assert!(used.len() > 1, "{used:?}");
    });
}

#[test]
fn the_device_has_the_offloads_that_were_asked_for_and_no_others() {
    in_namespace("the_device_has_the_offloads_that_were_asked_for", |namespace| {
        for offloads in [
            FeatureSet::ALL,
            FeatureSet::NONE,
            FeatureSet::ALL.with(Feature::Uso, false),
            FeatureSet::ALL.with(Feature::Tso, false),
        ] {
            let device = Device::create(&DeviceSpec { offloads, queues: 2, ..SPEC }).unwrap();

            let features = namespace.run("ethtool", &["-k", "tun0"]).unwrap();

            let is_on = |name: &str| features.contains(&format!("{name}: on"));
            let offloads = if drives_uso(namespace) { offloads } else { without_uso(offloads) };
            assert_eq!(device.granted, offloads);
            assert_eq!(is_on("tx-tcp-segmentation"), offloads.has(Feature::Tso), "{features}");
            assert_eq!(is_on("tx-tcp6-segmentation"), offloads.has(Feature::Tso), "{features}");
            assert_eq!(is_on("tx-udp-segmentation"), offloads.has(Feature::Uso), "{features}");
            drop(device);
            within(PATIENCE, "the end of the device", || !interface_exists("tun0"));
        }
    });
}

#[test]
fn a_device_has_backpressure_where_the_driver_knows_it_and_works_without() {
    in_namespace("a_device_has_backpressure", |namespace| {
        for queues in [1, 4] {
            let device = Device::create(&DeviceSpec { queues, ..SPEC }).unwrap();

            let found: Vec<_> =
                device.queues.iter().map(|queue| Backpressure::of(queue.as_fd())).collect();

            let expected = match release() >= (7, 3) {
                true => Backpressure::On,
                false => Backpressure::KernelLacks,
            };
            assert_eq!(found, vec![expected; queues]);
            namespace.ip("link set tun0 up").unwrap();
            drop(device);
            within(PATIENCE, "the end of the device", || !interface_exists("tun0"));
        }
    });
}

#[test]
fn a_full_queue_stops_the_sender_where_the_device_has_backpressure_and_drops_elsewhere() {
    in_namespace("a_full_queue_stops_the_sender", |namespace| {
        let device = Device::create(&SPEC).unwrap();
        let queue = device.queues[0].as_fd();
        let inner = Ipv4Addr::new(10, 77, 0, 1);
        tun::configure(queue, "tun0", 1400, Some((inner, Ipv4Addr::new(255, 255, 255, 0))))
            .unwrap();
        namespace.ip("link set tun0 txqueuelen 64 up").unwrap();
        // One that drops nothing by itself, whatever the host's default is.
        namespace.run("tc", &words("qdisc replace dev tun0 root pfifo limit 10000")).unwrap();
        let sender = UdpSocket::bind((inner, 0)).unwrap();
        sender.set_nonblocking(true).unwrap();
        let send = |number: u32| sender.send_to(&number.to_be_bytes(), "10.77.0.2:9");
        let most = 5000;

        // Nobody reads.
        let sent = (0..most).take_while(|number| send(*number).is_ok()).count() as u32;
        let waiting = received(queue);
        let dropped = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let dropped = dropped.lines().find_map(|line| line.trim().strip_prefix("tun0:")).unwrap();
        let dropped: u32 = dropped.split_whitespace().nth(11).unwrap().parse().unwrap();

        let backpressure = Backpressure::of(queue);
        if !backpressure.is_on() {
            assert_eq!((sent, waiting.len() as u32 + dropped), (most, most));
            assert!(dropped > 0 && waiting.is_sorted(), "{dropped} {waiting:?}");
            missing::leave_out("backpressure of a full queue", &backpressure.reason());
            return;
        }
        assert!(sent > 64 && sent < most, "{sent}: the sender was never stopped");
        let mut all = waiting;
        within(PATIENCE, "the packets that wait behind the queue", || {
            all.extend(received(queue));
            all.len() as u32 >= sent
        });
        assert_eq!((all, dropped), ((0..sent).collect(), 0));
        send(sent).unwrap();
        within(PATIENCE, "the next packet", || received(queue) == [sent]);
    });
}

/// The numbers in the UDP packets that wait in a queue.
fn received(queue: BorrowedFd<'_>) -> Vec<u32> {
    let mut bytes = [0; 2000];
    let packets = std::iter::repeat_with(|| rustix::io::read(queue, &mut bytes).map(|_| bytes));
    // Behind the virtio header and the headers of IPv4 and UDP.
    let number = |bytes: [u8; 2000]| u32::from_be_bytes(bytes[38..42].try_into().unwrap());
    packets.take_while(Result::is_ok).flatten().map(number).collect()
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// The first two numbers of the kernel's release.
fn release() -> (u32, u32) {
    let release = twill::sys::kernel::release();
    let mut numbers = release.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[test]
fn configuring_sets_mtu_and_address_and_leaves_the_device_down_and_open() {
    in_namespace("configuring_sets_mtu_and_address", |namespace| {
        // Also where the host would give every device a link-local address.
        namespace.sysctl("net.ipv6.conf.default.addr_gen_mode", "0").unwrap();
        let device = Device::create(&SPEC).unwrap();
        let (address, netmask) = (Ipv4Addr::new(10, 5, 52, 1), Ipv4Addr::new(255, 255, 255, 0));

        tun::configure(device.queues[0].as_fd(), "tun0", 1472, Some((address, netmask))).unwrap();

        let shown = namespace.run("ip", &["address", "show", "tun0"]).unwrap();
        assert!(shown.contains("mtu 1472") && shown.contains("inet 10.5.52.1/24"), "{shown}");
        assert!(shown.contains("state DOWN"), "{shown}");
        namespace.ip("link set tun0 up").unwrap();
        let shown = namespace.run("ip", &["address", "show", "tun0"]).unwrap();
        assert!(shown.contains("LOWER_UP") && !shown.contains("inet6"), "{shown}");
    });
}

#[test]
fn a_port_that_anybody_has_is_refused_with_a_cure_shared_or_not() {
    in_namespace("a_port_that_anybody_has_is_refused", |_| {
        for (shared, listen) in [(false, "127.0.0.1:8285"), (true, "127.0.0.1:8286")] {
            let listen = listen.parse().unwrap();
            let spec = SocketSpec { listen, shared, gro: true, buffer: 1 << 16 };
            let _first = socket::open_first(&spec).unwrap();

            let refused = [
                socket::check_free(listen).unwrap_err(),
                socket::open_first(&spec).unwrap_err(),
                socket::open(&SocketSpec { shared: false, ..spec }).unwrap_err(),
            ];

            for error in refused {
                assert!(error.is_in_use());
                let message = error.to_string();
                assert!(message.contains(&listen.to_string()), "{message}");
                assert!(message.contains("another process"), "{message}");
            }
        }
        // A child that another test is just starting may still hold a copy of the socket.
        within(PATIENCE, "a free port", || {
            socket::check_free("127.0.0.1:8285".parse().unwrap()).is_ok()
        });
    });
}

#[test]
fn the_sockets_of_one_gateway_share_a_port() {
    in_namespace("the_sockets_of_one_gateway_share_a_port", |_| {
        let listen: SocketAddr = "127.0.0.1:8285".parse().unwrap();
        let spec = SocketSpec { listen, shared: true, gro: false, buffer: 1 << 16 };
        let first = socket::open_first(&spec).unwrap();
        let others = (1..4).map(|_| socket::open(&spec).unwrap());
        let group: Vec<_> = std::iter::once(first).chain(others).map(UdpSocket::from).collect();
        for _ in 0..100 {
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            sender.send_to(b"x", listen).unwrap();
        }

        let mut received = [0; 4];
        within(PATIENCE, "all datagrams", || {
            // Loopback delivers in a softirq, which a busy machine may put off.
            for (count, socket) in received.iter_mut().zip(&group) {
                let arrivals = std::iter::repeat_with(|| socket.recv(&mut [0; 9]));
                *count += arrivals.take_while(Result::is_ok).count();
            }
            received.iter().sum::<usize>() >= 100
        });

        assert_eq!(received.iter().sum::<usize>(), 100);
        assert!(received.iter().filter(|count| **count > 0).count() > 1, "{received:?}");
    });
}

#[test]
fn an_address_that_the_host_does_not_have_is_refused_with_a_cure() {
    in_namespace("an_address_that_the_host_does_not_have_is_refused", |_| {
        let listen = "192.0.2.77:8285".parse().unwrap();

        let spec = SocketSpec { listen, shared: false, gro: false, buffer: 1 << 16 };
        let error = socket::open(&spec).unwrap_err();

        assert!(!error.is_in_use());
        assert!(error.to_string().contains("no interface of this host"), "{error}");
    });
}

#[test]
fn socket_buffers_are_as_asked_for_whatever_the_system_allows_by_default() {
    in_namespace("socket_buffers_are_as_asked_for", |_| {
        let listen = "127.0.0.1:0".parse().unwrap();
        let buffer = 16 << 20;

        let socket =
            socket::open(&SocketSpec { listen, shared: false, gro: true, buffer }).unwrap();

        for option in [libc::SO_RCVBUF, libc::SO_SNDBUF] {
            let size = twill::sys::sockopt::int(socket.as_fd(), libc::SOL_SOCKET, option).unwrap();
            assert_eq!(size, 2 * buffer as i32);
        }
    });
}

#[test]
fn probing_reads_a_real_device_and_leaves_nothing_behind() {
    in_namespace("probing_reads_a_real_device_and_leaves_nothing_behind", |namespace| {
        for kind in [EngineKind::Epoll, EngineKind::Classic] {
            engine::probe(kind).unwrap();
        }
        let choice = Choice::new(EngineChoice::Auto);
        let super_packets = tun::probe_super_packets().unwrap();

        let reason = choice.reason();
        let best = if choice.is_fallback() { EngineKind::Epoll } else { EngineKind::Uring };
        assert_eq!(choice.kind(), best, "{reason}");
        assert!(!choice.is_fallback() || !missing::must_have_io_uring(), "{reason}");
        super_packets.tcp.unwrap();
        let device = Device::create(&SPEC).unwrap();
        assert_eq!(super_packets.udp.is_ok(), drives_uso(namespace), "{:?}", super_packets.udp);
        drop(device);
        within(PATIENCE, "the end of the device", || !interface_exists("twillprobe0"));
    });
}

pub(crate) fn in_namespace(test: &str, body: impl FnOnce(&Namespace) + Send) {
    let Some(testbed) = Testbed::for_test(test) else { return };
    let namespace = testbed.namespace("host").unwrap();
    namespace.enter(|| body(&namespace));
}

/// Whether the driver of `tun0` knows UDP super-packets, by the kernel's own word: Linux 6.2.
fn drives_uso(namespace: &Namespace) -> bool {
    let features = namespace.run("ethtool", &["-k", "tun0"]).unwrap();
    assert!(features.contains("tx-udp-segmentation:"), "{features}");
    !features.contains("tx-udp-segmentation: off [fixed]")
}

fn without_uso(offloads: FeatureSet) -> FeatureSet {
    offloads.with(Feature::Uso, false).with(Feature::CoalesceUdp, false)
}

fn interface_exists(name: &str) -> bool {
    // /sys shows the namespace that mounted it, /proc that of the thread that looks.
    let devices = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    devices.lines().any(|line| line.trim_start().starts_with(&format!("{name}:")))
}
