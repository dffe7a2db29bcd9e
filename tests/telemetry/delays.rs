//! Known delay in, same delay out.

use crate::{PROBED, UNPROBED, with};
use rustix::process::Signal;
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use twill_testbed::pair::{PATIENCE, Pair, Setup};
use twill_testbed::{Host, engines, within};

/// Histograms tell values apart to 1 %.
const PRECISION: f64 = 0.01;

#[test]
fn time_that_datagrams_wait_for_a_stalled_gateway_is_ingress_latency() {
    let Some(pair) = Pair::start("stalled gateway", &with(UNPROBED)) else { return };
    pair.send(1, 100);
    pair.status_when(1, "traffic", |status| status["ingress"]["packets_out"] == 1);

    let begin = Instant::now();
    pair.gateways[1].process.freeze().unwrap();
    pair.send(10, 100);
    let sent = Instant::now();
    thread::sleep(Duration::from_millis(400));
    let stalled_ns = sent.elapsed().as_nanos() as f64;
    pair.gateways[1].process.signal(Signal::CONT).unwrap();
    let status = pair.status_when(1, "the rest", |status| status["ingress"]["packets_out"] == 11);

    let latency = &status["histograms"]["ingress"];
    let (p90, max) = (latency["p90"].as_f64().unwrap(), latency["max"].as_f64().unwrap());
    assert!(p90 >= stalled_ns * (1.0 - PRECISION), "{latency}: ten of eleven waited {stalled_ns}");
    assert!(max <= begin.elapsed().as_nanos() as f64 * (1.0 + PRECISION), "{latency}");
    let near = pair.status(0);
    let near_max = near["histograms"]["egress"]["max"].as_f64().unwrap();
    assert!(near_max < stalled_ns, "the near gateway did not stall: {}", near["histograms"]);
}

#[test]
fn every_engine_says_how_long_packets_stayed() {
    for engine in engines().into_iter().chain(["classic"]) {
        let begin = Instant::now();
        let setup = Setup { engine, ..with(UNPROBED) };
        let Some(pair) = Pair::start("engines", &setup) else { return };

        pair.send(20, 100);
        let far = pair.status_when(1, "traffic", |it| it["ingress"]["packets_out"] == 20);
        let near = pair.status(0);

        // flannel's own loop, which classic is, asks for no receive timestamps.
        let directions = if engine == "classic" { 1 } else { 2 };
        for (status, direction) in [(near, "egress"), (far, "ingress")].iter().take(directions) {
            let latency = &status["histograms"][direction];
            assert_eq!(latency["count"], 20, "{engine}: {latency}");
            assert!(latency["min"].as_u64() > Some(0), "{engine}: {latency}");
            let max = latency["max"].as_f64().unwrap();
            assert!(max <= begin.elapsed().as_nanos() as f64, "{engine}: {latency}");
        }
    }
}

#[test]
fn time_that_a_full_socket_takes_is_egress_latency() {
    const DATAGRAMS: usize = 50;
    const MBIT: usize = 4;
    let lines = "probe_seconds = 0\nsocket_buffer = 4608\n\
                 offload = { gso = false, tso = false, uso = false }";
    let setup = Setup { engine: "epoll", ..with(lines) };
    let Some(pair) = Pair::start("full socket", &setup) else { return };
    // A slow wire with a long queue: datagrams stay in the account of their socket.
    let device = pair.hosts[0].underlay_device();
    let shape = format!("qdisc add dev {device} root tbf rate {MBIT}mbit burst 3000 limit 9000000");
    pair.hosts[0].run("tc", &shape.split(' ').collect::<Vec<_>>()).unwrap();

    let begin = Instant::now();
    pair.send(DATAGRAMS, 1300);
    let status = pair.status_when(0, "all datagrams", |status| {
        let books = &status["egress"];
        books["packets_in"].as_u64() >= Some(DATAGRAMS as u64)
    });

    let whole_ns = begin.elapsed().as_nanos() as f64;
    let on_the_wire_ns = (DATAGRAMS * (1300 + 28 + 28 + 14) * 8 / MBIT * 1000) as f64;
    let latency = &status["histograms"]["egress"];
    let max = latency["max"].as_f64().unwrap();
    // Most of them leave in one batch, whose end is when the wire has taken nearly all.
    assert!(max >= on_the_wire_ns / 4.0, "{latency}: the wire takes {on_the_wire_ns}");
    assert!(max <= whole_ns * (1.0 + PRECISION), "{latency}");
}

#[test]
fn a_probe_measures_the_latency_of_its_path() {
    let one_way = Duration::from_millis(40);
    let relay = |port| SocketAddr::from(([192, 0, 2, 3], port));
    let endpoints = [relay(7001), relay(7002)];
    let setup = Setup { hosts: 3, endpoints, ..with(PROBED) };
    let Some(pair) = Pair::start("probe", &setup) else { return };
    let to = |host: &Host| SocketAddr::from((host.address(), 8285));
    let _relays = [
        Relay::start(&pair.hosts[2], relay(7001), to(&pair.hosts[1]), one_way),
        Relay::start(&pair.hosts[2], relay(7002), to(&pair.hosts[0]), one_way),
    ];

    let status = pair.status_when(0, "answers to probes", |status| {
        status["peers"][0]["probe"]["rtt"]["count"].as_u64() >= Some(3)
    });

    let rtt = &status["peers"][0]["probe"]["rtt"];
    let both_ways_ns = 2.0 * one_way.as_nanos() as f64;
    let min = rtt["min"].as_f64().unwrap();
    assert!(min >= both_ways_ns * (1.0 - PRECISION), "{rtt}");
    // The fastest of several measurements on either side have met no disturbance to speak of.
    let fastest = (0..5).filter_map(|_| pair.round_trip()).min().unwrap().as_nanos() as f64;
    let difference = (min - fastest).abs();
    assert!(difference < both_ways_ns / 2.0, "a packet took {fastest}, a probe {rtt}");
    let inside = status["histograms"]["egress"]["p50"].as_f64().unwrap();
    assert!(inside < both_ways_ns / 10.0, "it is the path, not twill: {}", status["histograms"]);
}

#[test]
fn searching_for_the_address_of_a_healthy_peer_loses_no_probe() {
    // Nobody has the first address of the network.
    let setup = Setup { device: 9, ..with(PROBED) };
    let Some(pair) = Pair::start("second address", &setup) else { return };

    // The gateway that started last: its peer was there from the beginning.
    let first = pair.status_when(1, "an answer", |status| {
        status["peers"][0]["probe"]["rtt"]["count"].as_u64() > Some(0)
    });
    let later = pair.status_when(1, "more of them", |status| {
        status["peers"][0]["probe"]["rtt"]["count"].as_u64() > Some(6)
    });

    assert!(first["uptime_seconds"].as_f64() < Some(5.0), "the first probe is answered: {first}");
    assert_eq!(later["peers"][0]["probe"]["lost"], 0, "{later}");
    assert!(pair.page(1, "/metrics").contains("twill_peer_lost_probes_total{peer=\"other\"} 0\n"));
}

#[test]
fn a_probe_that_nobody_answers_is_lost() {
    let nobody = SocketAddr::from(([192, 0, 2, 99], 8285));
    let setup = Setup { endpoints: [nobody, nobody], ..with(PROBED) };
    let Some(pair) = Pair::start("lost probe", &setup) else { return };

    let status = pair.status_when(0, "a lost probe", |status| {
        status["peers"][0]["probe"]["lost"].as_u64() > Some(0)
    });

    assert_eq!(status["peers"][0]["probe"]["rtt"]["count"], 0);
    assert!(pair.twill(0, &["status"]).unwrap().contains("round trip: no answer yet"));
}

/// Passes datagrams on, each after a delay.
struct Relay {
    stop: mpsc::Sender<()>,
}

impl Relay {
    fn start(host: &Host, listen: SocketAddr, to: SocketAddr, delay: Duration) -> Self {
        let socket = host.enter(|| UdpSocket::bind(listen).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (stop, stopped) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Err(mpsc::TryRecvError::Empty) = stopped.try_recv() {
                let Ok(len) = socket.recv(&mut buffer) else { continue };
                let (sender, datagram) = (socket.try_clone().unwrap(), buffer[..len].to_vec());
                thread::spawn(move || {
                    thread::sleep(delay);
                    let _ = sender.send_to(&datagram, to);
                });
            }
        });
        Self { stop }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.stop.send(());
    }
}

#[test]
fn a_log_names_a_reason_once_and_not_every_packet() {
    let Some(pair) = Pair::start("drop log", &with(UNPROBED)) else { return };
    let nowhere = SocketAddr::from(([10, 244, 99, 9], 9));
    pair.hosts[0].ip("route add 10.244.99.0/24 dev tw0").unwrap();

    pair.pods[0].enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..500 {
            // What the gateway answers may come back as an error.
            let _ = socket.send_to(b"x", nowhere);
        }
    });
    within(PATIENCE, "the drops", || {
        let dropped = pair.status(0)["egress"]["drops"]["no_route"].as_u64();
        dropped >= Some(250)
    });

    let told = |log: &str| log.lines().filter(|line| line.contains("no_route")).count();
    within(PATIENCE, "a log line", || told(&pair.gateways[0].process.log()) > 0);
    thread::sleep(Duration::from_secs(3));
    let log = pair.gateways[0].process.log();
    assert_eq!(told(&log), 1, "{log}");
    assert!(log.contains("twill peer list --device tw0"), "with where to look: {log}");
    assert!(PATIENCE < Duration::from_secs(60), "or a reminder would be due");
}
