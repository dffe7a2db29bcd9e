//! What a gateway's workers need: kernel, privileges, TUN device, engines, sockets.

use super::super::show::bytes;
use super::{Finding, engines};
use crate::config::FastPath;
use crate::config::file::Interface;
use crate::engine::{Choice, EngineChoice};
use crate::gateway::{expected_fast_path, expected_offloads};
use crate::socket::{self, Originator, SocketSpec};
use crate::sys::{affinity, kernel, sockopt};
use crate::tun::{self, Backpressure};
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use twill_datapath::offload::feature::{Feature, FeatureSet};

const KERNEL: &str = "kernel";
const TUN: &str = "TUN device";
const SOCKETS: &str = "UDP sockets";
pub(super) const PLAN: &str = "plan";

/// Numbers of capabilities (include/uapi/linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

pub(super) fn examine() -> Vec<Finding> {
    let mut findings = machine();
    let device = tun::throw_away();
    findings.push(match &device {
        Ok(device) => Finding::ok(TUN, format!("created; supports {}", device.granted)),
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
        findings.push(backpressure(Backpressure::of(device.queues[0].as_fd())));
    }
    findings
}

fn machine() -> Vec<Finding> {
    let release = kernel::release();
    let policy = socket::gso_policy(&release, false);
    let mut findings = vec![match kernel::taken_for() {
        None => Finding::ok(KERNEL, format!("Linux {release}")),
        Some(_) => Finding::note(KERNEL, format!("treated as Linux {release} ({})", kernel::AS)),
    }];
    if !policy.on {
        findings.push(Finding::warn(KERNEL, policy.reason, "update the kernel"));
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    findings.extend(privileges(&status));
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.map_or("no limit".to_owned(), |limit| limit.to_string());
    let cpus = affinity::allowed_cpus().map_or(1, |cpus| cpus.len());
    let what = format!("{cpus} CPUs available, open files: {limit}");
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
        true => Finding::ok(KERNEL, "CAP_NET_ADMIN granted"),
        false => Finding::fails(
            KERNEL,
            "CAP_NET_ADMIN missing: cannot create the TUN device, addresses or routes",
            "run as root, or grant it (docker: --cap-add NET_ADMIN)",
        ),
    });
    findings.push(match has(CAP_NET_RAW) {
        true => Finding::ok(KERNEL, "CAP_NET_RAW granted"),
        false => Finding::warn(
            KERNEL,
            "CAP_NET_RAW missing: cannot send ICMP errors to containers or probe peers",
            "grant it (docker: --cap-add NET_RAW)",
        ),
    });
    let seccomp = match field("Seccomp") {
        "0" | "" => Finding::ok(KERNEL, "no seccomp filter"),
        "1" => Finding::note(KERNEL, "seccomp in strict mode"),
        _ => Finding::note(KERNEL, "seccomp filter active; it may refuse io_uring"),
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
            findings.push(Finding::ok(SOCKETS, "UDP_GRO works: several datagrams per receive"));
            opened
        }
        Err(error) => {
            findings.push(Finding::warn(SOCKETS, error.to_string(), "use Linux 5.0 or later"));
            match socket::open(&spec(false)) {
                Ok(opened) => opened,
                Err(error) => {
                    findings.push(Finding::fails(
                        SOCKETS,
                        error.to_string(),
                        "use Linux 4.18 or later",
                    ));
                    return findings;
                }
            }
        }
    };
    // Any size works: nothing is sent.
    let segment = sockopt::set_int(opened.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 1000);
    let most = socket::max_run(&kernel::release());
    findings.push(match segment {
        Ok(()) => {
            Finding::ok(SOCKETS, format!("UDP_SEGMENT works: up to {most} datagrams per send"))
        }
        Err(error) => Finding::warn(
            SOCKETS,
            format!("UDP_SEGMENT refused: {error}"),
            "use Linux 4.18 or later",
        ),
    });
    let granted = sockopt::int(opened.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF).unwrap_or(0);
    // The kernel returns twice the requested size, for its own bookkeeping.
    let granted = granted as u64 / 2;
    let what = format!("receive buffer: {}", bytes(granted));
    findings.push(if granted >= u64::from(wanted) {
        Finding::ok(SOCKETS, what)
    } else {
        let cure = format!("sysctl net.core.rmem_max={wanted} net.core.wmem_max={wanted}");
        Finding::warn(SOCKETS, format!("{what} instead of {}", bytes(wanted.into())), cure)
    });
    findings.push(match Originator::open() {
        Ok(_) => Finding::ok(SOCKETS, "raw socket for ICMP errors works"),
        Err(error) => Finding::warn(
            SOCKETS,
            format!("cannot open a raw socket for ICMP errors: {error}"),
            "grant CAP_NET_RAW, or set accept_local on the device",
        ),
    });
    findings
}

fn plan(granted: FeatureSet) -> Vec<Finding> {
    let choice = Choice::new(EngineChoice::Auto);
    let mut findings = engines::choice(&choice);
    let coalesced = match tun::probe_super_packets() {
        Ok(coalesced) => coalesced,
        Err(error) => {
            let what = format!("cannot try coalesced packets: {error}");
            findings.push(Finding::warn(PLAN, what, "fix the TUN device above"));
            return findings;
        }
    };
    for offload in expected_offloads(choice.kind(), granted, &coalesced) {
        findings.push(if offload.on {
            Finding::ok(PLAN, format!("{} on: {}", offload.name, offload.reason))
        } else {
            let since = match offload.name.as_str() {
                name if name == Feature::Uso.name() || name == Feature::CoalesceUdp.name() => {
                    "use Linux 6.2 or later"
                }
                _ => "use a later kernel",
            };
            Finding::warn(PLAN, format!("{} off: {}", offload.name, offload.reason), since)
        });
    }
    findings
        .extend([FastPath::Auto, FastPath::Xdp, FastPath::Bareudp, FastPath::Fou].map(fast_path));
    findings
}

/// What becomes of packets that find the device's queue full.
fn backpressure(found: Backpressure) -> Finding {
    match found {
        Backpressure::On => Finding::ok(PLAN, format!("backpressure on: {}", found.reason())),
        _ => Finding::note(PLAN, format!("backpressure off: {}", found.reason())),
    }
}

/// What a value of `fast_path` would do toward the default route.
fn fast_path(wanted: FastPath) -> Finding {
    let to = socket::anywhere(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    match expected_fast_path(wanted, to) {
        Ok(_) if wanted.is_device() => {
            Finding::ok(PLAN, format!("fast path possible with fast_path = \"{wanted}\""))
        }
        Ok(reason) => {
            Finding::ok(PLAN, format!("fast path possible with fast_path = \"{wanted}\": {reason}"))
        }
        Err(reason) => {
            Finding::note(PLAN, format!("fast path not possible with \"{wanted}\": {reason}"))
        }
    }
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
        assert_eq!(verdicts(""), [Verdict::Fails, Verdict::Warn, Verdict::Ok]);
    }
}
