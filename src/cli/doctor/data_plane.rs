//! What a gateway's workers stand on: kernel, privileges, TUN device, engines, sockets.

use super::super::show::bytes;
use super::{Finding, engines};
use crate::config::file::Interface;
use crate::engine::{Choice, EngineChoice};
use crate::gateway::expected_offloads;
use crate::socket::{self, Originator, SocketSpec};
use crate::sys::{affinity, kernel, sockopt};
use crate::tun;
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use twill_datapath::offload::feature::{Feature, FeatureSet};

const KERNEL: &str = "kernel";
const TUN: &str = "TUN device";
const SOCKETS: &str = "UDP sockets";
pub(super) const PLAN: &str = "what twill will do";

/// Numbers of capabilities (include/uapi/linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

pub(super) fn examine() -> Vec<Finding> {
    let mut findings = machine();
    let device = tun::throw_away();
    findings.push(match &device {
        Ok(device) => Finding::ok(TUN, format!("can be created and grants {}", device.granted)),
        Err(error) => Finding::fails(
            TUN,
            error.to_string(),
            "load the module tun, run as root or with CAP_NET_ADMIN, and give a container \
             /dev/net/tun (docker: --cap-add NET_ADMIN --device /dev/net/tun)",
        ),
    });
    // Without a device, engines have nothing to read.
    if let Ok(device) = &device {
        findings.extend(engines::examine(&tun::reads_without_waiting(device)));
    }
    findings.extend(sockets());
    if let Ok(device) = device {
        findings.extend(plan(device.granted));
    }
    findings
}

fn machine() -> Vec<Finding> {
    let release = kernel::release();
    let policy = socket::gso_policy(&release, false);
    let mut findings = vec![match kernel::taken_for() {
        None => Finding::ok(KERNEL, format!("Linux {release}")),
        Some(_) => Finding::note(KERNEL, format!("taken for Linux {release} ({})", kernel::AS)),
    }];
    if !policy.on {
        findings.push(Finding::less(KERNEL, policy.reason, "update the kernel"));
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    findings.extend(privileges(&status));
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.map_or("no limit".to_owned(), |limit| limit.to_string());
    let cpus = affinity::allowed_cpus().map_or(1, |cpus| cpus.len());
    let what = format!("{cpus} CPUs may be used, open files: {limit}");
    findings.push(Finding::ok(KERNEL, what));
    findings
}

/// Reads /proc/PID/status.
fn privileges(status: &str) -> Vec<Finding> {
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(str::trim).unwrap_or_default()
    };
    let effective = u64::from_str_radix(field("CapEff"), 16).unwrap_or(0);
    let has = |capability: u32| effective & (1 << capability) != 0;
    let mut findings = Vec::new();
    findings.push(match has(CAP_NET_ADMIN) {
        true => Finding::ok(KERNEL, "CAP_NET_ADMIN is there"),
        false => Finding::fails(
            KERNEL,
            "CAP_NET_ADMIN is missing: no TUN device, address or route",
            "run as root, or give it (docker: --cap-add NET_ADMIN)",
        ),
    });
    findings.push(match has(CAP_NET_RAW) {
        true => Finding::ok(KERNEL, "CAP_NET_RAW is there"),
        false => Finding::less(
            KERNEL,
            "CAP_NET_RAW is missing: no ICMP errors for containers, no probes of peers",
            "give it (docker: --cap-add NET_RAW)",
        ),
    });
    let seccomp = match field("Seccomp") {
        "0" | "" => Finding::ok(KERNEL, "no seccomp filter"),
        "1" => Finding::note(KERNEL, "seccomp in strict mode"),
        _ => Finding::note(KERNEL, "a seccomp filter is in force; it may refuse io_uring"),
    };
    findings.push(seccomp);
    findings
}

fn sockets() -> Vec<Finding> {
    let wanted = Interface::default().socket_buffer;
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let spec = |gro| SocketSpec { listen, shared: true, gro, buffer: wanted };
    let mut findings = Vec::new();
    let opened = match socket::open(&spec(true)) {
        Ok(opened) => {
            findings.push(Finding::ok(SOCKETS, "UDP_GRO: several datagrams per receive"));
            opened
        }
        Err(error) => {
            findings.push(Finding::less(SOCKETS, error.to_string(), "Linux 5.0, offload gro=off"));
            match socket::open(&spec(false)) {
                Ok(opened) => opened,
                Err(error) => {
                    findings.push(Finding::fails(SOCKETS, error.to_string(), "Linux 4.18"));
                    return findings;
                }
            }
        }
    };
    // Any size will do, as nothing is sent.
    let segment = sockopt::set_int(opened.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 1000);
    let most = socket::max_run(&kernel::release());
    findings.push(match segment {
        Ok(()) => Finding::ok(SOCKETS, format!("UDP_SEGMENT: up to {most} datagrams per send")),
        Err(error) => {
            Finding::less(SOCKETS, format!("UDP_SEGMENT is refused: {error}"), "Linux 4.18")
        }
    });
    let granted = sockopt::int(opened.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF).unwrap_or(0);
    // The kernel tells twice what was asked for, to cover its own books.
    let granted = granted as u64 / 2;
    let what = format!("{} of receive buffer", bytes(granted));
    findings.push(if granted >= u64::from(wanted) {
        Finding::ok(SOCKETS, what)
    } else {
        let cure = format!("sysctl net.core.rmem_max={wanted} net.core.wmem_max={wanted}");
        Finding::less(SOCKETS, format!("{what}, less than the {}", bytes(wanted.into())), cure)
    });
    findings.push(match Originator::open() {
        Ok(_) => Finding::ok(SOCKETS, "ICMP errors reach containers by a raw socket"),
        Err(error) => Finding::less(
            SOCKETS,
            format!("no raw socket for ICMP errors: {error}"),
            "CAP_NET_RAW; without it set accept_local on the device",
        ),
    });
    findings
}

fn plan(granted: FeatureSet) -> Vec<Finding> {
    let choice = Choice::new(EngineChoice::Auto);
    let mut findings = engines::choice(&choice);
    let joined = match tun::joined() {
        Ok(joined) => joined,
        Err(error) => {
            let what = format!("joined packets could not be tried: {error}");
            findings.push(Finding::less(PLAN, what, "see the TUN device above"));
            return findings;
        }
    };
    for offload in expected_offloads(choice.kind(), granted, &joined) {
        findings.push(if offload.on {
            Finding::ok(PLAN, format!("{} on: {}", offload.name, offload.reason))
        } else {
            let since = match offload.name.as_str() {
                name if name == Feature::Uso.name() || name == Feature::CoalesceUdp.name() => {
                    "Linux 6.2 or later"
                }
                _ => "a later kernel",
            };
            Finding::less(PLAN, format!("{} off: {}", offload.name, offload.reason), since)
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn privileges_are_read_from_the_process_status() {
        let root = "Name:\ttwill\nCapEff:\t000001ffffffffff\nSeccomp:\t0\n";
        let container = "CapEff:\t00000000a80425fb\nSeccomp:\t2\nSeccomp_filters:\t1\n";

        let verdicts = |status| privileges(status).iter().map(|it| it.verdict).collect::<Vec<_>>();

        assert_eq!(verdicts(root), [Verdict::Ok; 3]);
        assert_eq!(verdicts(container), [Verdict::Fails, Verdict::Ok, Verdict::Note]);
        assert_eq!(verdicts(""), [Verdict::Fails, Verdict::Less, Verdict::Ok]);
    }
}
