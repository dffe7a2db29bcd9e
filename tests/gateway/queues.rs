//! Many queues: every flow in order, and where flows go.

use crate::ingress::udp;
use crate::pair::{PATIENCE, Pair, engines};
use rustix::thread::{CpuSet, Pid, sched_setaffinity};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use twill_perf::testbed::{Underlay, Wire};

const FLOWS: usize = 64;
const ECHO: u16 = 7100;

#[test]
fn flows_keep_their_order_while_cpus_are_taken_away() {
    for engine in engines() {
        for queues in [1, 2, 4, 8] {
            let Some(mut pair) = Pair::start("order", engine) else { return };
            pair.restart_with(&format!("queues = {queues}"));
            pair.assert_connected();
            println!("{engine}, {queues} queues");

            let counted = with_shaken_workers(&pair, || echo_numbered(&pair, 300));

            println!("{counted:?}");
            assert_eq!(
                (counted.reordered, counted.duplicates),
                (0, 0),
                "{engine}, {queues} queues"
            );
            let (sent, there, back) = (counted.sent, counted.there, counted.back);
            assert!(back > 0 && back <= there && there <= sent, "{counted:?}");
            pair.assert_books_balance();
        }
    }
}

#[derive(Debug, Default)]
struct Counted {
    sent: u64,
    there: u64,
    back: u64,
    reordered: u64,
    duplicates: u64,
}

/// Sends numbered datagrams of many flows from pod 0 to pod 1 and back, a few of each flow at a
/// time, and looks at the numbers at both ends.
fn echo_numbered(pair: &Pair, rounds: u32) -> Counted {
    let to = SocketAddr::from((pair.pods[1].address(), ECHO));
    let echo = pair.pods[1].enter(|| UdpSocket::bind(to).unwrap());
    echo.set_nonblocking(true).unwrap();
    let flows: Vec<_> = (0..FLOWS)
        .map(|_| {
            let flow = pair.pods[0].enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
            flow.set_nonblocking(true).unwrap();
            flow.connect(to).unwrap();
            flow
        })
        .collect();
    let mut counted = Counted::default();
    let (mut there, mut back) = (vec![None; FLOWS], vec![None; FLOWS]);
    let mut drain = |counted: &mut Counted| {
        let mut arrived = 0;
        let mut datagram = [0; 64];
        while let Ok((len, from)) = echo.recv_from(&mut datagram) {
            counted.there += 1;
            arrived += 1;
            note(&datagram, &mut there, counted);
            let _ = echo.send_to(&datagram[..len], from);
        }
        for flow in &flows {
            while flow.recv(&mut datagram).is_ok() {
                counted.back += 1;
                arrived += 1;
                note(&datagram, &mut back, counted);
            }
        }
        arrived
    };
    let mut datagram = [0; 64];
    for round in 0..rounds {
        for (number, flow) in flows.iter().enumerate() {
            for burst in 0..3 {
                datagram[..4].copy_from_slice(&(number as u32).to_be_bytes());
                datagram[4..8].copy_from_slice(&(round * 3 + burst).to_be_bytes());
                counted.sent += u64::from(flow.send(&datagram).is_ok());
            }
        }
        // Not far ahead of what arrives, so that little is lost; what is lost is not waited for.
        while drain(&mut counted) > 0 && counted.sent - counted.back > 8 * FLOWS as u64 {}
    }
    let mut last = Instant::now();
    while counted.back < counted.sent && last.elapsed() < Duration::from_millis(500) {
        if drain(&mut counted) > 0 {
            last = Instant::now();
        }
    }
    counted
}

fn note(datagram: &[u8], last: &mut [Option<u32>], counted: &mut Counted) {
    let word = |at: usize| u32::from_be_bytes(datagram[at..at + 4].try_into().unwrap());
    let (flow, number) = (word(0) as usize, word(4));
    match last[flow] {
        Some(before) if number == before => counted.duplicates += 1,
        Some(before) if number < before => counted.reordered += 1,
        _ => last[flow] = Some(number),
    }
}

/// Does something while the gateways' threads are driven from one set of CPUs to the next.
fn with_shaken_workers<T>(pair: &Pair, work: impl FnOnce() -> T) -> T {
    let cpus = std::thread::available_parallelism().unwrap().get();
    let threads: Vec<_> = pair
        .gateways
        .iter()
        .flat_map(|gateway| {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.process.pid())).unwrap();
            tasks.map(|task| task.unwrap().file_name().to_string_lossy().parse::<i32>().unwrap())
        })
        .collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0;
            while !done.load(Ordering::Relaxed) {
                for (index, thread) in threads.iter().enumerate() {
                    let mut set = CpuSet::new();
                    set.set((turn + index * index) % cpus);
                    // A thread may have ended.
                    let _ = sched_setaffinity(Pid::from_raw(*thread), &set);
                }
                turn += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}

#[test]
fn each_flow_has_one_source_port_and_goes_to_the_worker_that_the_port_names() {
    let underlay = Underlay { wire: Wire::Mtu, ..Underlay::default() };
    let Some(mut pair) = Pair::start_on("source ports", "uring", &underlay) else { return };
    pair.restart_with("queues = 4\nprobe_seconds = 0");
    pair.assert_connected();
    let file = pair.bed.folder().join("capture");
    let mut tcpdump = pair.hosts[0].command("tcpdump");
    tcpdump
        .args(["-i", "u0", "-n", "-U", "--immediate-mode", "-s", "128", "-B", "8192", "-w"])
        .arg(&file);
    tcpdump.args(["udp", "and", "src", "host", &pair.hosts[0].address().to_string()]);
    let mut tcpdump = pair.hosts[0].spawn("tcpdump", &mut tcpdump).unwrap();
    tcpdump.wait_for("listening on", PATIENCE).unwrap();
    let before = arrivals(&pair, 1);

    let counted = echo_numbered(&pair, 20);

    let mut ports: BTreeMap<u16, BTreeSet<u16>> = BTreeMap::new();
    pair.eventually("all datagrams in the capture", |_| {
        let all = captured(&std::fs::read(&file).unwrap());
        let inner: Vec<_> = all.iter().filter(|(_, _, to)| *to == ECHO).collect();
        ports.clear();
        for (outer, flow, _) in &inner {
            ports.entry(*flow).or_default().insert(*outer);
        }
        inner.len() as u64 >= counted.there
    });
    tcpdump.signal(rustix::process::Signal::TERM).unwrap();
    tcpdump.stop(PATIENCE).unwrap();
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
        if counted.there == counted.sent {
            assert_eq!(arrived, flows * counted.sent / FLOWS as u64, "worker {worker}");
        }
        assert!(arrived > 0, "worker {worker}");
    }
}

/// Datagrams that each worker of a gateway received.
fn arrivals(pair: &Pair, index: usize) -> Vec<u64> {
    let status = pair.status(index);
    let workers = status["workers"].as_array().unwrap();
    workers.iter().map(|worker| worker["ingress"]["packets_in"].as_u64().unwrap()).collect()
}

/// Outer source port, inner UDP source port and inner UDP destination port of each datagram in a
/// capture file (pcap, Ethernet) that carries IPv4 with UDP.
fn captured(pcap: &[u8]) -> Vec<(u16, u16, u16)> {
    const FRAME: usize = 14 + 20;
    let mut all = Vec::new();
    let mut rest = pcap.get(24..).unwrap_or_default();
    while let Some((head, more)) = rest.split_first_chunk::<16>() {
        let len = u32::from_ne_bytes(head[8..12].try_into().unwrap()) as usize;
        let Some(frame) = more.get(..len) else { break };
        rest = &more[len..];
        let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let inner = FRAME + 8;
        if frame.len() >= inner + 28 && frame[inner] == 0x45 && frame[inner + 9] == 17 {
            all.push((port(FRAME), port(inner + 20), port(inner + 22)));
        }
    }
    all
}

#[test]
fn a_peer_with_one_port_goes_to_one_worker_or_is_spread_by_inner_flow() {
    for (steering, spread) in [("peers", false), ("flows", true)] {
        let Some(mut pair) = Pair::start("one port", "uring") else { return };
        pair.restart_with(&format!("queues = 4\nprobe_seconds = 0\nsteering = {steering:?}"));
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
        for flow in 0..32u16 {
            let mut mine = BTreeSet::new();
            for _ in 0..3 {
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

        assert_eq!(used.len(), if spread { 4 } else { 1 }, "{steering}: {used:?}");
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
