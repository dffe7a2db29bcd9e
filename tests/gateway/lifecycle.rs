//! Starting, stopping, dying, and the device being pulled away.

use crate::pair::{DEVICE, PATIENCE, Pair, engines, output};
use rustix::process::Signal;
use std::time::{Duration, Instant};

#[test]
fn a_stopped_gateway_leaves_nothing_behind() {
    for engine in engines() {
        let Some(mut pair) = Pair::start("stop", engine) else { return };
        pair.assert_connected();

        for (signal, index) in [(Signal::TERM, 0), (Signal::INT, 1)] {
            pair.gateways[index].process.signal(signal).unwrap();
            pair.gateways[index]
                .process
                .stop(PATIENCE)
                .map(|status| assert!(status.success()))
                .unwrap();
            let links = pair.hosts[index].run("ip", &["link"]).unwrap();
            let routes = pair.hosts[index].run("ip", &["route"]).unwrap();
            let sockets = pair.hosts[index].run("ss", &["-uln"]).unwrap();

            assert!(!links.contains(DEVICE), "{links}");
            assert!(!routes.contains(DEVICE), "{routes}");
            assert!(!sockets.contains(":8285"), "{sockets}");
            assert!(!pair.gateways[index].socket.exists());
        }
    }
}

#[test]
fn a_second_instance_fails_at_once_and_harms_nothing() {
    for engine in engines() {
        let Some(pair) = Pair::start("second_instance", engine) else { return };
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

        assert!(same_socket.contains("another gateway answers there"), "{same_socket}");
        assert!(same_device.contains("a device of that name exists"), "{same_device}");
        assert!(same_port.contains("another process has this port"), "{same_port}");
        assert!(!pair.hosts[0].run("ip", &["link"]).unwrap().contains("tw1"));
        pair.assert_connected();
    }
}

#[test]
fn a_killed_gateway_comes_back_under_load() {
    for engine in engines() {
        let Some(mut pair) = Pair::start("kill", engine) else { return };
        pair.assert_connected();
        for _ in 0..3 {
            pair.gateways[0].process.signal(Signal::KILL).unwrap();
            pair.gateways[0].process.stop(PATIENCE).unwrap();
            pair.restart(0);

            pair.assert_connected();
        }
        pair.assert_tcp_carries(1, 1 << 20);
        pair.assert_books_balance();
    }
}

#[test]
fn a_device_that_goes_down_costs_no_cpu_and_comes_back_with_its_routes() {
    for engine in engines() {
        let Some(pair) = Pair::start("link_down", engine) else { return };
        pair.assert_connected();

        pair.hosts[0].ip(&format!("link set {DEVICE} down")).unwrap();
        let pid = pair.gateways[0].process.pid();
        let before = cpu_ticks(pid);
        let flood = pair.pods[1].enter(|| flood(pair.pods[0].address(), 2000));
        std::thread::sleep(Duration::from_secs(1));
        let spent = cpu_ticks(pid) - before;
        assert!(pair.ping().is_err());
        pair.hosts[0].ip(&format!("link set {DEVICE} up")).unwrap();

        assert!(flood > 0);
        // A loop that spins takes all 100 ticks of the second.
        assert!(spent < 30, "{engine}: {spent} ticks of CPU while the device was down");
        assert!(pair.drops(0, "ingress", "tun_down") > 0, "{}", pair.status(0));
        pair.assert_connected();
        pair.assert_books_balance();
    }
}

#[test]
fn a_gateway_whose_device_is_deleted_ends_with_an_error() {
    for engine in engines().into_iter().chain(["classic"]) {
        let Some(mut pair) = Pair::start("link_deleted", engine) else { return };
        pair.assert_connected();

        pair.hosts[0].ip(&format!("link delete {DEVICE}")).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while pair.gateways[0].process.ended().is_none() {
            assert!(Instant::now() < deadline, "{engine} lives on without its device");
            std::thread::sleep(Duration::from_millis(20));
        }

        assert!(!pair.gateways[0].process.ended().unwrap().success());
        let log = pair.gateways[0].process.log();
        assert!(log.contains("the TUN device was deleted"), "{log}");
    }
}

#[test]
fn without_the_means_the_error_names_them_and_nothing_is_left() {
    let Some(pair) = Pair::start("limits", engines()[0]) else { return };
    let host = &pair.hosts[0];
    let twill = env!("CARGO_BIN_EXE_twill");
    let config = pair.bed.folder().join("limited.toml");
    let text = std::fs::read_to_string(&pair.gateways[0].config).unwrap();
    std::fs::write(&config, text.replace(DEVICE, "tw9").replace(":8285\"", ":9285\"")).unwrap();
    let config = config.to_str().unwrap();
    let socket = pair.bed.folder().join("limited.sock");
    let socket = socket.to_str().unwrap();
    let run = ["run", "--config", config, "--socket", socket];

    let files = format!("ulimit -n 9; exec {twill} {}", run.join(" "));
    let few_files = output(host.command("sh").args(["-c", &files])).unwrap_err();
    let mut bare = host.command("setpriv");
    bare.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin", twill]).args(run);
    let no_capability = output(&mut bare).unwrap_err();

    assert_eq!(few_files.lines().count(), 1, "{few_files}");
    assert!(few_files.contains("Too many open files"), "{few_files}");
    assert!(no_capability.contains("CAP_NET_ADMIN"), "{no_capability}");
    assert!(!host.run("ip", &["link"]).unwrap().contains("tw9"));
    pair.assert_connected();
}

/// Sends datagrams as fast as one thread does; how many were taken.
fn flood(to: std::net::Ipv4Addr, count: usize) -> usize {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    (0..count).filter(|_| socket.send_to(&[0; 64], (to, 7009)).is_ok()).count()
}

/// CPU time that a process has used, ticks of 10 ms: fields 14 and 15 of `/proc/PID/stat`.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<_> = after_name.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
