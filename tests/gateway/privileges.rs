//! A gateway without root: the capabilities that its unit grants are enough, and each is needed.

use crate::with;
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use twill_testbed::pair::{PATIENCE, Pair, Setup, output};
use twill_testbed::privileges::{NOBODY, of_unit, script};
use twill_testbed::{Testbed, engines};

const TWILL: &str = env!("CARGO_BIN_EXE_twill");
const UNIT: &str = "dist/twill.service";

#[test]
fn nobody_runs_a_gateway_with_the_capabilities_of_its_unit() {
    let folder = tempfile::tempdir().unwrap();
    let twill = script(folder.path(), TWILL, &of_unit(UNIT), &["--socket"]);
    for engine in engines() {
        let Some(pair) = Pair::start("nobody", &Setup { twill: &twill, ..with(engine) }) else {
            return;
        };
        let status = format!("/proc/{}/status", pair.gateways[0].process.pid());
        let status = fs::read_to_string(status).unwrap();
        assert!(status.contains(&format!("Uid:\t{NOBODY}\t{NOBODY}")), "{status}");

        pair.assert_connected();
        pair.assert_tcp_carries(2, 1 << 20);
        let config = &pair.gateways[0].config;
        let text = fs::read_to_string(config).unwrap();
        fs::write(config, text.replace("\"other\"", "\"renamed\"")).unwrap();
        pair.gateways[0].process.signal(Signal::HUP).unwrap();
        pair.eventually("the reload", |pair| pair.status(0)["peers"][0]["name"] == "renamed");

        pair.assert_connected();
        assert!(!pair.logs().contains("WARN"), "{engine}: {}", pair.logs());
    }
}

#[test]
fn without_one_of_its_capabilities_a_gateway_names_it() {
    let Some(bed) = Testbed::for_test("a capability less") else { return };
    let host = bed.namespace("host").unwrap();
    host.ip("link set lo up").unwrap();
    let capabilities = of_unit(UNIT);
    let needs = [
        ("net_admin", "", "CAP_NET_ADMIN"),
        ("net_raw", "", "CAP_NET_RAW"),
        ("net_bind_service", "listen = \"127.0.0.1:53\"", "CAP_NET_BIND_SERVICE"),
        ("chown", "socket_group = \"daemon\"", "CAP_CHOWN"),
    ];
    let mut tried: Vec<_> = needs.iter().map(|(capability, ..)| (*capability).to_owned()).collect();
    let mut granted = capabilities.clone();
    tried.sort();
    granted.sort();
    assert_eq!(tried, granted, "{UNIT}");
    for (missing, line, named) in needs {
        let folder = bed.folder().join(missing);
        fs::create_dir(&folder).unwrap();
        let rest: Vec<_> = capabilities.iter().filter(|name| *name != missing).cloned().collect();
        let twill = script(&folder, TWILL, &rest, &["--socket"]);
        let config = configuration(&folder, line);
        let mut command = host.command(&twill);
        command.args(["run", "--config", &config, "--socket"]).arg(folder.join("run/twill.sock"));
        let mut process = host.spawn("limited", &mut command).unwrap();

        // It may end with that line.
        let _ = process.wait_until(named, PATIENCE, |process| process.log().contains(named));

        assert!(process.log().contains(named), "{missing}: {}", process.log());
    }
}

#[test]
fn every_thread_of_a_running_gateway_has_a_filter_of_system_calls() {
    for engine in engines() {
        let Some(pair) = Pair::start("seccomp", &with(engine)) else { return };
        let folder = format!("/proc/{}/task", pair.gateways[0].process.pid());
        let filtered = || {
            let tasks = fs::read_dir(&folder).unwrap().filter_map(Result::ok);
            let statuses =
                tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
            statuses.filter(|status| status.contains("Seccomp:\t2")).count()
                == fs::read_dir(&folder).unwrap().count()
        };
        pair.eventually("a filter", |_| filtered());

        pair.assert_connected();
        pair.assert_tcp_carries(2, 1 << 20);
    }
}

fn configuration(folder: &Path, line: &str) -> String {
    let config = folder.join("twill.toml");
    let listen = if line.contains("listen") { "" } else { "listen = \"127.0.0.1:8285\"" };
    let text =
        format!("[interface]\nname = \"tw0\"\naddress = \"10.9.0.1/24\"\n{line}\n{listen}\n");
    fs::write(&config, text).unwrap();
    fs::create_dir(folder.join("run")).unwrap();
    let config = config.to_str().unwrap().to_owned();
    let check = output(std::process::Command::new(TWILL).args(["check", &config]));
    assert!(check.is_ok(), "{check:?}");
    config
}
