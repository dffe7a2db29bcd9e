//! What lies around a gateway: forwarding, filters, bridges, other gateways.

use super::Finding;
use crate::host::nic::{Nic, device_of};
use crate::socket;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
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
            Finding::note(HOST, format!("iptables does not tell its rules: {first}"))
        }
        None => Finding::note(HOST, "iptables is not there: flanneld needs it, or EnableNFTables"),
    });
    let nft = Command::new("nft").arg("--version").output();
    if nft.is_ok_and(|output| output.status.success()) {
        findings.push(Finding::ok(HOST, "nft is there"));
    }
    let any = socket::anywhere(SocketAddr::from(([0; 4], 0)));
    let uplink = socket::path_to(any).ok().and_then(|path| device_of(path.source));
    findings.push(
        match uplink.map(|name| Nic::read(Path::new("/sys"), Path::new("/proc"), &name)) {
            Some(Ok(nic)) => Finding::note(HOST, format!("pinning = \"nic\" would go by {nic}")),
            Some(Err(_)) | None => {
                Finding::note(HOST, "there is no network card with a default route")
            }
        },
    );
    findings.extend(gateways());
    findings
}

/// Reads kernel parameters; one that this kernel lacks needs no word.
fn sysctls(read: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(value) = read("net.ipv4.ip_forward") {
        findings.push(match value.as_str() {
            "0" => Finding::less(
                HOST,
                "net.ipv4.ip_forward = 0: packets of containers are not forwarded",
                "sysctl net.ipv4.ip_forward=1",
            ),
            _ => Finding::ok(HOST, format!("net.ipv4.ip_forward = {value}")),
        });
    }
    for name in ["net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter"] {
        let Some(value) = read(name) else { continue };
        findings.push(match value.as_str() {
            "1" => Finding::less(
                HOST,
                format!("{name} = 1: packets whose answer would leave elsewhere are dropped"),
                format!("sysctl {name}=2, if peers' networks are routed unevenly"),
            ),
            _ => Finding::ok(HOST, format!("{name} = {value}")),
        });
    }
    findings.push(match read("net.bridge.bridge-nf-call-iptables").as_deref() {
        Some("1") => Finding::ok(HOST, "br_netfilter filters what crosses bridges"),
        Some(_) => Finding::note(
            HOST,
            "br_netfilter is there and bridge-nf-call-iptables is 0: Kubernetes wants 1",
        ),
        None => Finding::note(
            HOST,
            "br_netfilter is not loaded: Kubernetes services of the same node need it",
        ),
    });
    findings
}

/// Reads `iptables -S FORWARD`.
fn forward_policy(rules: &str) -> Finding {
    let accepts = rules.lines().any(|line| line == "-P FORWARD ACCEPT");
    match accepts {
        true => Finding::ok(HOST, "iptables forwards by default"),
        false => Finding::less(
            HOST,
            "iptables does not forward by default, as docker leaves it",
            "twill flanneld adds its own rules; with twill run, accept the overlay's networks",
        ),
    }
}

/// Gateways that run already.
fn gateways() -> Vec<Finding> {
    let Ok(entries) = fs::read_dir("/run/twill") else { return Vec::new() };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|it| it == "sock"))
        .filter(|path| std::os::unix::net::UnixStream::connect(path).is_ok())
        .map(|path| Finding::note(HOST, format!("a gateway answers at {}", path.display())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn parameters_that_stop_packets_are_told_with_their_cure() {
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
        assert_eq!(verdicts(&closed), [Verdict::Less, Verdict::Less, Verdict::Note]);
        assert_eq!(closed[0].cure.as_deref(), Some("sysctl net.ipv4.ip_forward=1"));
        assert_eq!(verdicts(&open), [Verdict::Ok; 4]);
    }

    #[test]
    fn the_policy_of_the_forward_chain_is_its_first_rule() {
        assert_eq!(forward_policy("-P FORWARD ACCEPT\n").verdict, Verdict::Ok);
        let docker = "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n";
        assert_eq!(forward_policy(docker).verdict, Verdict::Less);
    }
}
