//! Many queues: every flow in order, and where flows go.

use crate::capture::{Capture, Datagram, datagrams};
use crate::ingress::udp;
use crate::numbered::{ECHO, Load, beside, echo_numbered};
use crate::with;
use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_setaffinity};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use twill::sys::sockopt;
use twill_testbed::pair::{PATIENCE, Pair, Setup};
use twill_testbed::{Namespace, Underlay, Wire, engines, snmp};

const FLOWS: usize = 64;
const SMALL: Load<'_> = Load { flows: FLOWS, rounds: 20, sizes: &[64], window: 512 };

#[test]
fn flows_keep_their_order_while_cpus_are_taken_away() {
    for engine in engines() {
        for queues in [1, 2, 4, 8] {
            let lines = &format!("queues = {queues}\nprobe_seconds = 0");
            let setup = Setup { lines, ..with(engine) };
            let Some(pair) = Pair::start("order", &setup) else { return };
            pair.assert_connected();
            let load = Load { rounds: 60, sizes: &[64, 64, 1200, 500], ..SMALL };

            let counted = with_shaken_threads(&pair, || echo_numbered(&pair, &load));

            println!("{engine}, {queues} queues: {counted:?}");
            counted.assert_in_order();
            counted.assert_accounted();
            pair.assert_books_balance();
        }
    }
}

/// Does something while this thread and the gateways' are driven from one CPU to the next.
fn with_shaken_threads<T>(pair: &Pair, work: impl FnOnce() -> T) -> T {
    let allowed = sched_getaffinity(None).unwrap();
    let cpus: Vec<_> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    let gateways = pair
        .gateways
        .iter()
        .flat_map(|gateway| threads(gateway.process.pid()).into_keys().collect::<Vec<_>>());
    let threads: Vec<_> = gateways.chain([gettid().as_raw_nonzero().get()]).collect();
    let shake = |done: &AtomicBool| {
        for turn in 0.. {
            if done.load(Ordering::Relaxed) {
                return;
            }
            for (index, thread) in threads.iter().enumerate() {
                let mut set = CpuSet::new();
                set.set(cpus[(turn + index * index) % cpus.len()]);
                // A thread may have ended.
                let _ = sched_setaffinity(Pid::from_raw(*thread), &set);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let result = beside(shake, work);
    sched_setaffinity(None, &allowed).unwrap();
    result
}

/// Number and name of a process's threads.
fn threads(pid: u32) -> BTreeMap<i32, String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let tasks = tasks.filter_map(|task| {
        let task = task.unwrap();
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        Some((task.file_name().to_str()?.parse().ok()?, name.trim().to_owned()))
    });
    tasks.collect()
}

#[test]
fn tcp_over_many_queues_has_nothing_to_send_again() {
    for engine in engines() {
        let underlay = Underlay { wire: Wire::Mtu, ..Underlay::default() };
        let lines = "queues = 8";
        let setup = Setup { underlay, lines, ..with(engine) };
        let Some(pair) = Pair::start("tcp queues", &setup) else { return };
        pair.assert_connected();
        let before = [0, 1].map(|index| tcp_segments(&pair.pods[index]));

        pair.assert_tcp_carries(8, 1 << 20);

        let after = [0, 1].map(|index| tcp_segments(&pair.pods[index]));
        let sent: u64 = (0..2).map(|index| after[index].0 - before[index].0).sum();
        let again: u64 = (0..2).map(|index| after[index].1 - before[index].1).sum();
        println!("{engine}: {again} of {sent} segments sent again");
        // TCP takes packets out of order for loss: flows that wander between queues have it send
        // several percent again.
        assert!(again * 100 <= sent, "{engine}: {again} of {sent} segments sent again");
        pair.assert_books_balance();
    }
}

/// TCP segments that a namespace has sent, and sent again (`OutSegs` and `RetransSegs`).
fn tcp_segments(namespace: &Namespace) -> (u64, u64) {
    namespace.enter(|| (snmp::counter("Tcp", "OutSegs"), snmp::counter("Tcp", "RetransSegs")))
}

#[test]
fn each_flow_has_one_source_port_and_goes_to_the_worker_that_the_port_names() {
    for engine in engines() {
        let underlay = Underlay { wire: Wire::Mtu, ..Underlay::default() };
        let lines = "queues = 4\nprobe_seconds = 0";
        let setup = Setup { underlay, lines, ..with(engine) };
        let Some(pair) = Pair::start("source ports", &setup) else { return };
        pair.assert_connected();
        let capture = Capture::start(&pair, 0);
        let before = arrivals(&pair, 1);

        let counted = echo_numbered(&pair, &SMALL);

        let mut ports: BTreeMap<u16, BTreeSet<u16>> = BTreeMap::new();
        pair.eventually("all datagrams in the capture", |_| {
            let pcap = capture.so_far();
            ports.clear();
            let mut seen = 0;
            for (outer, flow) in datagrams(&pcap).iter().filter_map(to_echo) {
                ports.entry(flow).or_default().insert(outer);
                seen += 1;
            }
            seen >= counted.there
        });
        capture.finish();
        counted.assert_in_order();
        counted.assert_accounted();
        assert_eq!(ports.len(), FLOWS);
        assert!(ports.values().all(|ports| ports.len() == 1), "{ports:?}");
        let workers: BTreeMap<u16, u64> =
            ports.values().flatten().fold(BTreeMap::new(), |mut workers, port| {
                *workers.entry(port & 0xff).or_default() += 1;
                workers
            });
        assert_eq!(workers.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3], "{ports:?}");
        // Every flow sent as many datagrams, so every worker got its share.
        let after = arrivals(&pair, 1);
        for (worker, flows) in workers {
            let arrived = after[usize::from(worker)] - before[usize::from(worker)];
            let expected = flows * counted.sent / FLOWS as u64;
            let lost = counted.sent - counted.there;
            assert!((expected - lost..=expected).contains(&arrived), "{worker}: {arrived}");
        }
    }
}

/// Outer and inner source port of a datagram that carries one to the port of echoes.
fn to_echo(datagram: &Datagram<'_>) -> Option<(u16, u16)> {
    let inner = datagram.inner;
    let port = |at: usize| u16::from_be_bytes([inner[at], inner[at + 1]]);
    let is_udp = inner.len() >= 28 && inner[0] == 0x45 && inner[9] == 17;
    (is_udp && port(22) == ECHO).then(|| (datagram.source_port, port(20)))
}

/// Datagrams that each worker of a gateway received.
fn arrivals(pair: &Pair, index: usize) -> Vec<u64> {
    let status = pair.status(index);
    let workers = status["workers"].as_array().unwrap();
    workers.iter().map(|worker| worker["ingress"]["packets_in"].as_u64().unwrap()).collect()
}

#[test]
fn a_run_stays_one_train_with_many_queues() {
    const DATAGRAMS: u64 = 20;
    for engine in engines() {
        let lines = "queues = 4\nprobe_seconds = 0";
        let setup = Setup { lines, ..with(engine) };
        let Some(pair) = Pair::start("one train", &setup) else { return };
        pair.assert_connected();
        let to = SocketAddr::from((pair.pods[1].address(), ECHO));
        let receiver = pair.pods[1].enter(|| UdpSocket::bind(to).unwrap());
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let offloads = pair.status(0)["offloads"].as_array().unwrap().clone();
        let has_uso =
            offloads.iter().any(|offload| offload["name"] == "uso" && offload["on"] == true);
        for flow in 0..16 {
            let sender =
                pair.pods[0].enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
            sockopt::set_int(sender.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 1000).unwrap();
            let (runs, before) = (in_histogram(&pair, 0, "send").0, arrivals(&pair, 1));
            let trains = in_histogram(&pair, 1, "ingress-batch").1;
            let frames = in_histogram(&pair, 1, "write").0;

            sender.send_to(&[7; 1000 * DATAGRAMS as usize], to).unwrap();

            for _ in 0..DATAGRAMS {
                assert_eq!(receiver.recv(&mut [0; 2000]).unwrap(), 1000);
            }
            pair.eventually("the turn's numbers", |pair| {
                arrivals(pair, 1).iter().sum::<u64>() == before.iter().sum::<u64>() + DATAGRAMS
            });
            let after = arrivals(&pair, 1);
            let workers = after.iter().zip(&before).filter(|(after, before)| after > before);
            assert_eq!(workers.count(), 1, "{engine}, flow {flow}: {before:?} {after:?}");
            let runs = in_histogram(&pair, 0, "send").0 - runs;
            let trains = in_histogram(&pair, 1, "ingress-batch").1 - trains;
            let frames = in_histogram(&pair, 1, "write").0 - frames;
            // Before Linux 6.2 the driver takes UDP super-packets apart.
            if has_uso {
                assert_eq!((runs, trains, frames), (1, 1, 1), "{engine}, flow {flow}");
            }
        }
        pair.assert_books_balance();
    }
}

/// How many values a histogram of a gateway's workers holds, and their sum.
fn in_histogram(pair: &Pair, index: usize, name: &str) -> (u64, u64) {
    let histogram = &pair.status(index)["histograms"][name];
    let (count, mean) = (histogram["count"].as_u64().unwrap(), histogram["mean"].as_f64().unwrap());
    (count, (count as f64 * mean).round() as u64)
}

#[test]
fn fragments_of_one_address_pair_leave_from_one_port() {
    for engine in engines() {
        let lines = "queues = 4\nprobe_seconds = 0";
        let underlay = Underlay { wire: Wire::Mtu, ..Underlay::default() };
        let setup = Setup { underlay, lines, ..with(engine) };
        let Some(pair) = Pair::start("fragment ports", &setup) else { return };
        pair.assert_connected();
        let capture = Capture::start(&pair, 0);
        let load = Load { flows: 16, rounds: 4, sizes: &[4000], window: 64 };

        let counted = echo_numbered(&pair, &load);

        counted.assert_in_order();
        counted.assert_fragments_accounted();
        let pcap = capture.finish();
        let all = datagrams(&pcap);
        let fragments = all.iter().filter(|datagram| is_fragment(datagram.inner));
        let ports: Vec<_> = fragments.map(|datagram| datagram.source_port).collect();
        // Three of each datagram.
        assert!(ports.len() as u64 >= 3 * counted.there, "{} of {counted:?}", ports.len());
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 1, "{engine}");
        pair.assert_books_balance();
    }
}

/// More fragments follow, or some were before.
fn is_fragment(packet: &[u8]) -> bool {
    packet.len() > 20 && (packet[6] & 0x3f, packet[7]) != (0, 0)
}

#[test]
fn pinning_binds_each_worker_to_a_cpu_of_its_own() {
    let allowed = sched_getaffinity(None).unwrap();
    let cpus: Vec<_> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    for engine in engines() {
        for (pinning, pinned) in [("cpus", true), ("nic", true), ("none", false)] {
            let queues = 4;
            let lines = &format!("queues = {queues}\npinning = {pinning:?}");
            let setup = Setup { lines, ..with(engine) };
            let Some(pair) = Pair::start("pinning", &setup) else { return };

            let bound = bound_workers(pair.gateways[0].process.pid());

            let expected = (0..queues).map(|worker| {
                let own = vec![cpus[worker % cpus.len()]];
                (worker, if pinned { own } else { cpus.clone() })
            });
            // A veth device has no interrupts whose CPUs would come first.
            assert_eq!(bound, expected.collect(), "{engine}, pinning {pinning}");
            pair.assert_connected();
        }
    }
}

#[test]
fn scheduling_is_for_workers_alone() {
    let own = std::process::id();
    let normal = nice_and_policy(own, own as i32);
    let cases = [
        ("normal", normal),
        ("nice:-15", (-15, libc::SCHED_OTHER)),
        ("realtime", (0, libc::SCHED_RR)),
    ];
    for (scheduling, expected) in cases {
        let lines = &format!("queues = 2\nscheduling = {scheduling:?}");
        let setup = Setup { lines, ..with(engines()[0]) };
        let Some(pair) = Pair::start("scheduling", &setup) else { return };

        let pid = pair.gateways[0].process.pid();
        let (workers, others): (Vec<_>, Vec<_>) =
            threads(pid).into_iter().partition(|(_, name)| name.starts_with("twill-"));

        let of = |(thread, _): &(i32, String)| nice_and_policy(pid, *thread);
        assert_eq!(workers.iter().map(of).collect::<Vec<_>>(), [expected; 2], "{scheduling}");
        assert!(!others.is_empty() && others.iter().all(|it| of(it) == normal), "{scheduling}");
        pair.assert_connected();
    }
}

/// A thread's nice value and its policy (proc(5)).
fn nice_and_policy(pid: u32, thread: i32) -> (i32, i32) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[16].parse().unwrap(), fields[38].parse().unwrap())
}

/// The CPUs that each worker of a gateway may use.
fn bound_workers(pid: u32) -> BTreeMap<usize, Vec<usize>> {
    let workers = threads(pid).into_iter().filter_map(|(thread, name)| {
        let worker = name.strip_prefix("twill-")?.parse().ok()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap();
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        Some((worker, numbers(list.unwrap().trim())))
    });
    workers.collect()
}

/// Numbers and ranges of them, separated by commas.
fn numbers(list: &str) -> Vec<usize> {
    let ranges = list.split(',').flat_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse().unwrap()..=last.parse().unwrap()
    });
    ranges.collect()
}

#[test]
fn a_peer_with_one_port_goes_to_one_worker_or_is_spread_by_inner_flow() {
    let steerings = [("peers", false), ("flows", true)];
    for (engine, (steering, spread)) in
        engines().into_iter().flat_map(|engine| steerings.map(|steering| (engine, steering)))
    {
        let lines = &format!("queues = 4\nprobe_seconds = 0\nsteering = {steering:?}");
        let setup = Setup { lines, ..with(engine) };
        let Some(mut pair) = Pair::start("one port", &setup) else { return };
        pair.assert_connected();
        let gro = pair.status(0)["offloads"].as_array().unwrap().clone();
        let gro = gro.iter().find(|offload| offload["name"] == "gro").unwrap();
        assert_eq!(gro["on"], !spread, "{gro}");
        // A flannel in place of the other gateway: it sends from the port on which it listens.
        pair.gateways[1].process.stop(PATIENCE).unwrap();
        let host = SocketAddr::from((pair.hosts[1].address(), 8285));
        let socket = pair.hosts[1].enter(|| UdpSocket::bind(host).unwrap());
        let gateway = SocketAddr::from((pair.hosts[0].address(), 8285));
        let (here, there) = (pair.pods[0].address(), pair.pods[1].address());

        let mut used = BTreeSet::new();
        for flow in 0..16u16 {
            let mut mine = BTreeSet::new();
            for _ in 0..2 {
                let before = arrivals(&pair, 0);
                socket.send_to(&udp_flow(there, here, 20_000 + flow), gateway).unwrap();
                let mut worker = None;
                pair.eventually("the packet at a worker", |pair| {
                    let after = arrivals(pair, 0);
                    worker = (0..4).find(|worker| after[*worker] > before[*worker]);
                    worker.is_some()
                });
                mine.extend(worker);
            }
            assert_eq!(mine.len(), 1, "flow {flow} stays with one worker");
            used.extend(mine);
        }

        assert_eq!(used.len(), if spread { 4 } else { 1 }, "{engine}, {steering}: {used:?}");
    }
}

/// A UDP packet with a source port of its own.
fn udp_flow(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut packet = udp(from, to, 64);
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    // No checksum, which IPv4 allows.
    packet[26..28].fill(0);
    packet
}
