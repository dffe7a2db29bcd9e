//! Driven by a stock flanneld, whose `extension` backend runs commands: `twill run` carries the
//! packets, `twill peer` is what flanneld calls.

use serde_json::Value;
use std::fs;
use std::time::Duration;
use twill_testbed::{Background, Host, Testbed, TestbedError, Underlay};

/// What docs/COMPAT.md tells users to put into etcd.
const CONFIG: &str = include_str!("../../dist/flannel-extension.json");

#[test]
fn the_documented_commands_join_containers_of_two_hosts() {
    let Some(bed) = Testbed::for_test("extension") else { return };
    let hosts = bed.hosts(2, &Underlay::default()).unwrap();
    let gateways: Vec<_> = hosts.iter().map(|host| Gateway::start(&bed, host)).collect();
    let pods: Vec<_> = hosts.iter().map(|host| host.add_pod(1472).unwrap()).collect();

    for round in 0..2 {
        for (gateway, other) in gateways.iter().zip(hosts.iter().rev()) {
            // flanneld replays all additions whenever it starts.
            gateway.call("SubnetAddCommand", other).unwrap();
        }
        let answer = pods[0].run("ping", &["-c1", "-W2", &pods[1].address().to_string()]);
        assert!(answer.is_ok(), "round {round}: {answer:?}");
    }

    gateways[0].call("SubnetRemoveCommand", &hosts[1]).unwrap();
    gateways[0].call("SubnetRemoveCommand", &hosts[1]).unwrap();
    assert!(pods[0].run("ping", &["-c1", "-W1", &pods[1].address().to_string()]).is_err());
}

struct Gateway<'a> {
    host: &'a Host,
    config: Value,
    _process: Background,
}

impl<'a> Gateway<'a> {
    fn start(bed: &Testbed, host: &'a Host) -> Self {
        let file = bed.folder().join(format!("twill{}.toml", host.index()));
        let socket = bed.folder().join(format!("twill{}.sock", host.index()));
        let text = format!(
            "[interface]\nname = \"twill0\"\naddress = \"{0}/32\"\nlocal = \"{0}/24\"\n\
             listen = \"{1}:8285\"\nunderlay_mtu = 1500\nsocket = {2:?}\n",
            host.pod_network(),
            host.address(),
            socket.display().to_string()
        );
        fs::write(&file, text).unwrap();
        let twill = env!("CARGO_BIN_EXE_twill");
        let mut command = host.command(twill);
        command.arg("run").arg("--config").arg(&file);
        let mut process = host.spawn("twill", &mut command).unwrap();
        process.wait_until("its socket", Duration::from_secs(10), |_| socket.exists()).unwrap();
        process.wait_for("running", Duration::from_secs(10)).unwrap();
        // Where the program and its socket are is all that differs from the document.
        let here = CONFIG
            .replace("/usr/bin/twill peer", &format!("{twill} peer --socket {}", socket.display()));
        let config: Value = serde_json::from_str(&here).unwrap();
        assert_eq!(config["Backend"]["Type"], "extension");
        Self { host, config, _process: process }
    }

    /// As flanneld does since v0.28.2: words split at blanks, variables expanded, no shell.
    fn call(&self, name: &str, peer: &Host) -> Result<String, TestbedError> {
        let command = self.config["Backend"][name].as_str().unwrap();
        let words: Vec<_> = command
            .split_whitespace()
            .map(|word| match word {
                "$SUBNET" => format!("{}/24", peer.pod_network()),
                "$PUBLIC_IP" => peer.address().to_string(),
                word => word.to_owned(),
            })
            .collect();
        let args: Vec<_> = words[1..].iter().map(String::as_str).collect();
        self.host.run(&words[0], &args)
    }
}
