//! The host around a gateway: forwarding, packet filters, bridges, other gateways.

use super::Finding;
use crate::config::load::SOCKET_FOLDER;
use crate::control;
use crate::host::nic::{Nic, device_of};
use crate::socket;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

const HOST: &str = "host";

pub(super) fn examine() -> Vec<Finding> {
    let sysctl = |name: &str| {
        let value = fs::read_to_string(Path::new("/proc/sys").join(name.replace('.', "/"))).ok()?;
        Some(value.trim().to_owned())
    };
    let mut findings = sysctls(sysctl);
    let forward = Command::new("iptables").args(["-w", "-S", "FORWARD"]).output().ok();
    findings.push(match forward {
        Some(output) if output.status.success() => {
            forward_policy(&String::from_utf8_lossy(&output.stdout))
        }
        Some(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let first = said.lines().next().unwrap_or_default();
            Finding::note(HOST, format!("cannot list iptables rules: {first}"))
        }
        None => {
            Finding::note(HOST, "iptables not found: twill flanneld needs it, or EnableNFTables")
        }
    });
    let nft = Command::new("nft").arg("--version").output();
    if nft.is_ok_and(|output| output.status.success()) {
        findings.push(Finding::ok(HOST, "nft found"));
    }
    let any = socket::anywhere(SocketAddr::from(([0; 4], 0)));
    let uplink = socket::path_to(any).ok().and_then(|path| device_of(path.source));
    findings.push(
        match uplink.map(|name| Nic::read(Path::new("/sys"), Path::new("/proc"), &name)) {
            Some(Ok(nic)) => Finding::note(HOST, format!("pinning = \"nic\" would use {nic}")),
            Some(Err(_)) | None => Finding::note(HOST, "no network card has a default route"),
        },
    );
    findings.extend(gateways());
    findings
}

/// Reads kernel parameters; skips those that this kernel lacks.
fn sysctls(read: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(value) = read("net.ipv4.ip_forward") {
        findings.push(match value.as_str() {
            "0" => Finding::warn(
                HOST,
                "net.ipv4.ip_forward = 0: the kernel does not forward packets of containers",
                "sysctl net.ipv4.ip_forward=1",
            ),
            _ => Finding::ok(HOST, format!("net.ipv4.ip_forward = {value}")),
        });
    }
    for name in ["net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter"] {
        let Some(value) = read(name) else { continue };
        findings.push(match value.as_str() {
            "1" => Finding::warn(
                HOST,
                format!("{name} = 1: the kernel drops packets whose reply would leave by another interface"),
                format!("sysctl {name}=2, if routes to peers are asymmetric"),
            ),
            _ => Finding::ok(HOST, format!("{name} = {value}")),
        });
    }
    findings.push(match read("net.bridge.bridge-nf-call-iptables").as_deref() {
        Some("1") => Finding::ok(HOST, "br_netfilter filters bridged packets"),
        Some(_) => {
            Finding::note(HOST, "net.bridge.bridge-nf-call-iptables = 0: Kubernetes needs 1")
        }
        None => Finding::note(
            HOST,
            "br_netfilter not loaded: Kubernetes needs it for services on the same node",
        ),
    });
    findings
}

/// Reads `iptables -S FORWARD`.
fn forward_policy(rules: &str) -> Finding {
    let accepts = rules.lines().any(|line| line == "-P FORWARD ACCEPT");
    match accepts {
        true => Finding::ok(HOST, "iptables FORWARD policy: ACCEPT"),
        false => Finding::warn(
            HOST,
            "iptables FORWARD policy: not ACCEPT, as docker sets it",
            "with twill run, accept the overlay networks in FORWARD; twill flanneld does it itself",
        ),
    }
}

/// Gateways that run already.
fn gateways() -> Vec<Finding> {
    let sockets = control::running(Path::new(SOCKET_FOLDER));
    let told = |path: PathBuf| Finding::note(HOST, format!("gateway at {}", path.display()));
    sockets.into_iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn parameters_that_stop_packets_are_warned_of_with_a_fix() {
        let closed = sysctls(|name| match name {
            "net.ipv4.ip_forward" => Some("0".to_owned()),
            "net.ipv4.conf.all.rp_filter" => Some("1".to_owned()),
            _ => None,
        });
        let open = sysctls(|name| match name {
            "net.ipv4.ip_forward" | "net.bridge.bridge-nf-call-iptables" => Some("1".to_owned()),
            _ => Some("0".to_owned()),
        });

        let verdicts = |all: &[Finding]| all.iter().map(|it| it.verdict).collect::<Vec<_>>();
        assert_eq!(verdicts(&closed), [Verdict::Warn, Verdict::Warn, Verdict::Note]);
        assert_eq!(closed[0].cure.as_deref(), Some("sysctl net.ipv4.ip_forward=1"));
        assert_eq!(verdicts(&open), [Verdict::Ok; 4]);
    }

    #[test]
    fn the_policy_of_the_forward_chain_is_its_first_rule() {
        assert_eq!(forward_policy("-P FORWARD ACCEPT\n").verdict, Verdict::Ok);
        let docker = "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n";
        assert_eq!(forward_policy(docker).verdict, Verdict::Warn);
    }
}
