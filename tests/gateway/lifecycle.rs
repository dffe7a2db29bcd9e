//! Starting, stopping, dying, and the device being pulled away.

use crate::numbered::{Load, beside, echo_numbered, flood};
use crate::with;
use rustix::process::Signal;
use std::net::{SocketAddr, UdpSocket};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use twill_testbed::pair::{DEVICE, PATIENCE, Pair, Setup, output};
use twill_testbed::{Background, Pod, engines, process::cpu_seconds};

#[test]
fn a_stopped_gateway_leaves_nothing_behind() {
    for engine in engines() {
        let Some(mut pair) = Pair::start("stop", &with(engine)) else { return };
        pair.assert_connected();

        for (signals, index) in [(&[Signal::TERM][..], 0), (&[Signal::INT, Signal::INT], 1)] {
            for signal in signals {
                pair.gateways[index].process.signal(*signal).unwrap();
            }
            let (status, _) = end_of(&mut pair.gateways[index].process, "a stopped gateway");

            assert!(status.success(), "{engine}, {signals:?}: {status}");
            assert_nothing_left(&pair, index);
        }
    }
}

#[test]
fn a_gateway_that_is_stopped_under_load_ends_and_leaves_nothing_behind() {
    for engine in engines().into_iter().chain(["classic"]) {
        let Some(mut pair) = Pair::start("stop_under_load", &with(engine)) else { return };
        pair.assert_connected();
        let signals = [(Signal::TERM, 1), (Signal::INT, 2), (Signal::TERM, 2)];
        for (signal, times) in signals {
            let load = traffic(&pair.pods, 1, 20_000);
            let process = &mut pair.gateways[0].process;

            let (status, took) = beside(load, || {
                std::thread::sleep(Duration::from_millis(200));
                for _ in 0..times {
                    process.signal(signal).unwrap();
                }
                end_of(process, "a gateway that is stopped under load")
            });

            println!("{engine}: {times} x {signal:?}: {took:?}");
            assert!(status.success(), "{engine}, {signal:?}: {status}");
            assert_nothing_left(&pair, 0);
            pair.restart(0);
            pair.assert_connected();
        }
    }
}

#[test]
fn a_reload_under_load_loses_nothing() {
    for engine in engines() {
        let setup = Setup { lines: "probe_seconds = 0", ..with(engine) };
        let Some(pair) = Pair::start("hangup", &setup) else { return };
        pair.assert_connected();
        let load = Load { flows: 16, rounds: 60, sizes: &[64, 1400, 300], window: 128 };
        let hang_up = |done: &AtomicBool| {
            while !done.load(Ordering::Relaxed) {
                for gateway in &pair.gateways {
                    gateway.process.signal(Signal::HUP).unwrap();
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        };

        let counted = beside(hang_up, || echo_numbered(&pair, &load));

        println!("{engine}: {counted:?}");
        counted.assert_in_order();
        counted.assert_accounted();
        assert_eq!(counted.lost.gateways, 0, "{counted:?}");
        pair.eventually("a reload", |pair| pair.logs().contains("reloaded"));
        pair.assert_books_balance();
    }
}

#[test]
fn a_second_instance_fails_at_once_and_harms_nothing() {
    for engine in engines() {
        let Some(pair) = Pair::start("second_instance", &with(engine)) else { return };
        let config = pair.gateways[0].config.to_str().unwrap().to_owned();
        let other = pair.bed.folder().join("second.sock");
        let renamed = pair.bed.folder().join("renamed.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&renamed, text.replace(DEVICE, "tw1")).unwrap();
        let elsewhere = pair.bed.folder().join("elsewhere.toml");
        std::fs::write(&elsewhere, text.replace(":8285\"", ":9285\"")).unwrap();
        let run = |config: &str, socket: &str| {
            let twill = env!("CARGO_BIN_EXE_twill");
            let args = ["run", "--engine", engine, "--config", config, "--socket", socket];
            output(pair.hosts[0].command(twill).args(args)).unwrap_err()
        };

        let same_socket = run(&config, pair.gateways[0].socket.to_str().unwrap());
        let same_device = run(elsewhere.to_str().unwrap(), other.to_str().unwrap());
        let same_port = run(renamed.to_str().unwrap(), other.to_str().unwrap());

        assert!(same_socket.contains("another gateway uses it"), "{same_socket}");
        assert!(same_device.contains("a device of that name exists"), "{same_device}");
        assert!(same_port.contains("another process has this port"), "{same_port}");
        assert!(!pair.hosts[0].run("ip", &["link"]).unwrap().contains("tw1"));
        pair.assert_connected();
    }
}

#[test]
fn of_two_that_start_at_the_same_moment_one_has_the_port() {
    for engine in engines() {
        let setup = Setup { lines: "queues = 4", ..with(engine) };
        let Some(mut pair) = Pair::start("race", &setup) else { return };
        pair.gateways[0].process.stop(PATIENCE).unwrap();
        let text = std::fs::read_to_string(&pair.gateways[0].config).unwrap();
        let file = |name: String| pair.bed.folder().join(name);
        for round in 0..4 {
            let mut both = [0, 1].map(|number| {
                let config = file(format!("race{number}.toml"));
                std::fs::write(&config, text.replace(DEVICE, &format!("race{number}"))).unwrap();
                let mut command = pair.hosts[0].command(env!("CARGO_BIN_EXE_twill"));
                command.args(["run", "--engine", engine, "--config"]).arg(config);
                command.arg("--socket").arg(file(format!("race{number}.sock")));
                pair.hosts[0].spawn(&format!("race{number}"), &mut command).unwrap()
            });

            let mut run = 0;
            for process in &mut both {
                match process.wait_for("running", PATIENCE) {
                    Ok(()) => run += 1,
                    Err(_) => {
                        let log = process.log();
                        assert_eq!(process.ended().and_then(|status| status.code()), Some(1));
                        assert!(log.contains("another process has this port"), "{log}");
                    }
                }
            }

            assert_eq!(run, 1, "{engine}, round {round}");
            let links = pair.hosts[0].run("ip", &["link"]).unwrap();
            assert_eq!(links.matches(": race").count(), 1, "{links}");
            for mut process in both {
                process.stop(PATIENCE).unwrap();
            }
        }
        pair.restart(0);
        pair.assert_connected();
    }
}

#[test]
fn a_killed_gateway_comes_back_under_load() {
    for engine in engines().into_iter().chain(["classic"]) {
        let Some(mut pair) = Pair::start("kill", &with(engine)) else { return };
        pair.assert_connected();
        let both_ways = [0, 1].map(|from| traffic(&pair.pods, from, 5_000));
        let kill = || {
            for _ in 0..3 {
                std::thread::sleep(Duration::from_millis(100));
                pair.gateways[0].process.signal(Signal::KILL).unwrap();
                end_of(&mut pair.gateways[0].process, "a killed gateway");
                pair.restart(0);

                pair.assert_connected();
                pair.eventually("the load again, both ways", |pair| {
                    let status = pair.status(0);
                    let carried = |way: &str| status[way]["packets_out"].as_u64().unwrap();
                    carried("egress") > 200 && carried("ingress") > 200
                });
            }
        };

        let [there, back] = both_ways;
        beside(there, || beside(back, kill));

        let routes = pair.hosts[0].run("ip", &["route"]).unwrap();
        assert_eq!(routes.matches(DEVICE).count(), 1, "{routes}");
        pair.assert_tcp_carries(1, 1 << 20);
        pair.assert_books_balance();
    }
}

#[test]
fn a_device_that_goes_down_costs_no_cpu_and_comes_back_with_its_routes() {
    const SECOND: Duration = Duration::from_secs(1);
    for engine in engines().into_iter().chain(["classic"]) {
        let Some(pair) = Pair::start("link_down", &with(engine)) else { return };
        pair.assert_connected();
        let routes = |pair: &Pair| pair.hosts[0].run("ip", &["route"]).unwrap();
        let before = routes(&pair);
        let pid = pair.gateways[0].process.pid();
        let loaded = |rate: u64| beside(traffic(&pair.pods, 1, rate), || cpu_share(pid, SECOND));
        let up = loaded(10_000);

        pair.hosts[0].ip(&format!("link set {DEVICE} down")).unwrap();
        let idle = cpu_share(pid, SECOND);
        // What others' packets cost is charged to whoever is running: not each time to this one.
        let trickle = (0..3).map(|_| loaded(100)).find(|share| *share < up / 2.0);
        let down = loaded(10_000);
        let refused = pair.drops(0, "ingress", "tun_down");
        assert!(pair.ping().is_err());
        pair.hosts[0].ip(&format!("link set {DEVICE} up")).unwrap();

        println!(
            "{engine}: {up:.3} up; {idle:.3}, {trickle:.3?}, {down:.3} down, {refused} refused"
        );
        assert!(idle < 0.05, "{engine}: {idle:.3} of a CPU");
        assert!(trickle.is_some(), "{engine}: 100 datagrams a second cost as much as thousands");
        // A loop that spins takes all of a CPU; the machine's other work decides what arrives.
        assert!(down < 2.0 * up + 0.15, "{engine}: {down:.3} of a CPU, {up:.3} while it was up");
        assert!(refused > 1000, "{}", pair.status(0));
        pair.eventually("the routes", |pair| routes(pair) == before);
        pair.assert_connected();
        pair.assert_books_balance();
    }
}

#[test]
fn a_gateway_whose_device_is_deleted_ends_with_an_error() {
    for engine in engines().into_iter().chain(["classic"]) {
        for loaded in [false, true] {
            let Some(mut pair) = Pair::start("link_deleted", &with(engine)) else { return };
            pair.assert_connected();
            // What an orderly end takes on this machine now.
            let began = Instant::now();
            pair.gateways[1].process.stop(PATIENCE).unwrap();
            let orderly = began.elapsed();
            pair.restart(1);
            pair.assert_connected();
            let load = traffic(&pair.pods, 1, 20_000);
            let mut delete = || {
                std::thread::sleep(Duration::from_millis(50));
                pair.hosts[0].ip(&format!("link delete {DEVICE}")).unwrap();
                end_of(&mut pair.gateways[0].process, "a gateway without its device")
            };

            let (status, took) = if loaded { beside(load, delete) } else { delete() };

            println!("{engine}: {took:?}, orderly {orderly:?}");
            assert_eq!(status.code(), Some(1), "{engine}");
            assert!(took < Duration::from_secs(1) + 10 * orderly, "{engine}: {took:?}");
            let log = pair.gateways[0].process.log();
            assert!(log.contains("the TUN device was deleted"), "{log}");
        }
    }
}

/// Datagrams of several sizes from one pod to the other, so many a second.
fn traffic(pods: &[Pod], from: usize, rate: u64) -> impl FnOnce(&AtomicBool) + Send + use<> {
    let to = SocketAddr::from((pods[1 - from].address(), 7009));
    let socket = pods[from].enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    move |done| {
        flood(&socket, to, &[64, 64, 1400, 500], rate, done);
    }
}

/// Waits until a gateway ends by itself; its status, and how long that took: most of it is the
/// kernel's, which takes devices away one after the other, so only a hang is a failure.
fn end_of(process: &mut Background, what: &str) -> (ExitStatus, Duration) {
    let began = Instant::now();
    loop {
        if let Some(status) = process.ended() {
            return (status, began.elapsed());
        }
        assert!(began.elapsed() < PATIENCE, "never ends: {what}\n{}", process.log());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn assert_nothing_left(pair: &Pair, index: usize) {
    let links = pair.hosts[index].run("ip", &["link"]).unwrap();
    let routes = pair.hosts[index].run("ip", &["route"]).unwrap();
    let sockets = pair.hosts[index].run("ss", &["-uln"]).unwrap();
    assert!(!links.contains(DEVICE), "{links}");
    assert!(!routes.contains(DEVICE), "{routes}");
    assert!(!sockets.contains(":8285"), "{sockets}");
    assert!(!pair.gateways[index].socket.exists());
}

/// Shares of a CPU that a process used while something went on for a time.
fn cpu_share(pid: u32, time: Duration) -> f64 {
    let (before, began) = (cpu_seconds(pid), Instant::now());
    std::thread::sleep(time);
    (cpu_seconds(pid) - before) / began.elapsed().as_secs_f64()
}
