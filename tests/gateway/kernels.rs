//! Kernels and containers that offer less than this one, played by seccomp filters and by
//! `TWILL_AS_KERNEL`: system calls and their arguments are refused as an old kernel or a container's
//! profile does. What stands in memory (operations of io_uring, flags of its set-up) no filter
//! sees; there the variable has twill do without.
#![allow(unsafe_code, reason = "a filter is installed between fork and exec")]

use crate::with;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use twill_testbed::pair::{Pair, Prepare, Setup};

/// `io_uring_register`'s operations (include/uapi/linux/io_uring.h).
const REGISTER_PROBE: u64 = 8;
const REGISTER_PBUF_RING: u64 = 22;
/// `TUNSETOFFLOAD` and the bits of UDP super-packets (include/uapi/linux/if_tun.h).
const TUNSETOFFLOAD: u64 = 0x4004_54d0;
const TUN_F_USO: [u64; 2] = [0x20, 0x40];
/// One more than the newest system call that there is, with room for some years.
const NO_CALL: i64 = 520;

/// A container whose profile refuses io_uring, as docker's does.
fn io_uring_forbidden(command: &mut Command) {
    filter(command, &[refuse(libc::SYS_io_uring_setup, vec![], libc::EPERM)]);
}

/// A kernel without io_uring.
fn io_uring_unknown(command: &mut Command) {
    filter(command, &[refuse(libc::SYS_io_uring_setup, vec![], libc::ENOSYS)]);
}

/// A profile that allows io_uring, and refuses to list its operations.
fn operations_untold(command: &mut Command) {
    let probe = rule(&[equal(1, REGISTER_PROBE)]);
    filter(command, &[refuse(libc::SYS_io_uring_register, vec![probe], libc::EPERM)]);
}

/// A kernel before 5.19, as far as buffer rings go.
fn no_buffer_rings(command: &mut Command) {
    let rings = rule(&[equal(1, REGISTER_PBUF_RING)]);
    filter(command, &[refuse(libc::SYS_io_uring_register, vec![rings], libc::EINVAL)]);
}

fn no_udp_gro(command: &mut Command) {
    let gro = rule(&[equal(1, libc::SOL_UDP as u64), equal(2, libc::UDP_GRO as u64)]);
    filter(command, &[refuse(libc::SYS_setsockopt, vec![gro], libc::ENOPROTOOPT)]);
}

/// A profile that lets nobody choose CPUs, as systemd's `SystemCallFilter=~@resources` does.
fn no_affinity(command: &mut Command) {
    filter(command, &[refuse(libc::SYS_sched_setaffinity, vec![], libc::EPERM)]);
}

/// What the kernel says to those without `CAP_SYS_NICE`.
fn no_priorities(command: &mut Command) {
    let refused = [libc::SYS_setpriority, libc::SYS_sched_setscheduler];
    filter(command, &refused.map(|call| refuse(call, vec![], libc::EPERM)));
}

fn linux_5_10(command: &mut Command) {
    old(command, "5.10.0-28-amd64", libc::SYS_process_madvise, 12);
}

fn linux_5_15(command: &mut Command) {
    old(command, "5.15.0-91-generic", libc::SYS_process_mrelease, 19);
}

fn linux_6_1(command: &mut Command) {
    old(command, "6.1.0-18-amd64", libc::SYS_set_mempolicy_home_node, 25);
}

/// A kernel that has no system call beyond one, no `io_uring_register` operation beyond one, and
/// none of what came to TUN devices with 6.2.
fn old(command: &mut Command, release: &str, last_call: i64, last_register: u64) {
    let later_calls = (last_call + 1..NO_CALL).map(|call| refuse(call, vec![], libc::ENOSYS));
    let later_operations = condition(1, SeccompCmpOp::Gt, last_register);
    let uso = TUN_F_USO.map(|bit| {
        rule(&[equal(1, TUNSETOFFLOAD), condition(2, SeccompCmpOp::MaskedEq(bit), bit)])
    });
    let mut refusals: Vec<_> = later_calls.collect();
    let register = libc::SYS_io_uring_register;
    refusals.push(refuse(register, vec![rule(&[later_operations])], libc::EINVAL));
    refusals.push(refuse(libc::SYS_ioctl, uso.into(), libc::EINVAL));
    filter(command, &refusals);
    command.env("TWILL_AS_KERNEL", release);
}

#[test]
fn where_io_uring_is_refused_the_gateway_works_by_epoll_and_says_why() {
    let cases: [(&str, Prepare, &str, &str); 4] = [
        (
            "io_uring forbidden",
            io_uring_forbidden,
            "io_uring is not available: Operation not permitted (os error 1)",
            "a seccomp profile that allows io_uring_setup",
        ),
        (
            "io_uring unknown",
            io_uring_unknown,
            "io_uring is not available: Function not implemented (os error 38)",
            "CONFIG_IO_URING",
        ),
        (
            "operations untold",
            operations_untold,
            "no multishot recvmsg (Linux 6.0; Operation not permitted (os error 1)), multishot \
             read (Linux 6.7; Operation not permitted (os error 1))",
            "",
        ),
        (
            "no buffer rings",
            no_buffer_rings,
            "no buffer rings (Linux 5.19; Invalid argument (os error 22))",
            "",
        ),
    ];
    for (name, prepare, why, cure) in cases {
        println!("{name}");
        let Some(pair) = start(name, "auto", prepare) else { return };

        pair.assert_carries();

        assert_fallback(&pair, "epoll", why);
        let doctor = doctor(&pair);
        let uring = about(&doctor, "engines", "uring does not work here: ");
        assert!(uring["what"].as_str().unwrap().contains(why), "{uring}");
        assert!(uring["cure"].as_str().unwrap().contains(cure), "{uring}");
        about(&doctor, "engines", "epoll works: ");
    }
}

#[test]
fn an_engine_that_is_asked_for_by_name_and_refused_ends_the_start_with_its_own_error() {
    let Some(pair) = start("named engine", "epoll", io_uring_forbidden) else { return };
    for engine in ["uring", "tokio-uring"] {
        let error = start_second(&pair, &["--engine", engine]);

        let expected = format!(
            "twill: engine {engine}: io_uring is not available: Operation not permitted (os \
             error 1)"
        );
        assert_eq!(error.lines().last(), Some(&*expected), "{error}");
        assert!(!error.contains("instead"), "{error}");
    }
}

#[test]
fn old_kernels_get_the_engine_that_they_can_carry() {
    let cases: [(&str, Prepare, &str); 3] = [
        (
            "5.10",
            linux_5_10,
            "no multishot poll (Linux 5.13), buffer rings (Linux 5.19), multishot recvmsg (Linux \
             6.0), deferred work (Linux 6.1), multishot read (Linux 6.7)",
        ),
        (
            "5.15",
            linux_5_15,
            "no buffer rings (Linux 5.19), multishot recvmsg (Linux 6.0), deferred work (Linux \
             6.1), multishot read (Linux 6.7)",
        ),
        ("6.1", linux_6_1, "no multishot read (Linux 6.7)"),
    ];
    for (name, prepare, missing) in cases {
        println!("Linux {name}");
        let Some(pair) = start(&format!("Linux {name}"), "auto", prepare) else { return };

        pair.assert_carries();

        assert_fallback(&pair, "epoll", missing);
        assert_off(&pair, &["uso", "coalesce-udp"]);
        let doctor = doctor(&pair);
        let uring = about(&doctor, "engines", "uring does not work here: ");
        assert_eq!(uring["cure"], "use Linux 6.7 or later");
        about(&doctor, "engines", "tokio-uring works: ");
        about(&doctor, "engines", "tokio-uring reads one frame at a time: ");
    }
}

#[test]
fn tokio_uring_carries_traffic_on_old_kernels() {
    let kernels: [(&str, Prepare); 3] =
        [("5.10", linux_5_10), ("5.15", linux_5_15), ("6.1", linux_6_1)];
    for (name, prepare) in kernels {
        println!("Linux {name}");
        let test = format!("tokio-uring on {name}");
        let Some(pair) = start(&test, "tokio-uring", prepare) else { return };

        pair.assert_carries();

        let status = pair.status(0);
        assert_eq!(status["engine"], "tokio-uring");
        assert_eq!(status["engine_fallback"], false);
        assert_off(&pair, &["uso", "coalesce-udp"]);
    }
}

#[test]
fn a_kernel_that_corrupts_gso_sends_sends_datagrams_one_by_one_and_says_so() {
    let corrupts: Prepare = |command| {
        command.env("TWILL_AS_KERNEL", "7.0.3");
    };
    let Some(pair) = start("Linux 7.0.3", "auto", corrupts) else { return };

    pair.assert_carries();

    assert_off(&pair, &["gso"]);
    let log = pair.gateways[0].process.log();
    assert_eq!(
        log.matches("kernel 7.0.3 corrupts GSO sends of equal datagrams").count(),
        1,
        "{log}"
    );
}

#[test]
fn sockets_that_refuse_trains_receive_datagrams_one_by_one() {
    for engine in ["auto", "epoll"] {
        let Some(pair) = start("no UDP_GRO", engine, no_udp_gro) else { return };

        pair.assert_carries();

        assert_off(&pair, &["gro"]);
        let log = pair.gateways[0].process.log();
        let refused = "the kernel refuses it: Protocol not available (os error 92)";
        assert_eq!(log.matches(refused).count(), 1, "{log}");
    }
}

#[test]
fn a_cpu_that_a_worker_cannot_have_ends_the_start() {
    let Some(pair) = start("no affinity", "epoll", no_affinity) else { return };

    let error = start_second(&pair, &["--pinning", "cpus"]);

    let told = error.lines().last().unwrap();
    assert!(told.starts_with("twill: binding worker 0 to CPU "), "{error}");
    assert!(told.ends_with(": allow sched_setaffinity, or set pinning = \"none\""), "{error}");
}

#[test]
fn a_priority_that_a_worker_cannot_have_ends_the_start() {
    let Some(pair) = start("no priorities", "epoll", no_priorities) else { return };
    for scheduling in ["nice:-15", "realtime"] {
        let error = start_second(&pair, &["--scheduling", scheduling]);

        let told = error.lines().last().unwrap();
        let expected = format!("twill: giving worker 0 the scheduling {scheduling}: ");
        assert!(told.starts_with(&expected), "{error}");
        assert!(told.contains("grant CAP_SYS_NICE") && told.ends_with("\"normal\""), "{error}");
    }
}

fn start(test: &str, engine: &str, prepare: Prepare) -> Option<Pair> {
    Pair::start(test, &Setup { prepare, ..with(engine) })
}

/// Starts another gateway beside the first, which is to fail; returns what it says.
fn start_second(pair: &Pair, words: &[&str]) -> String {
    let config = pair.bed.folder().join("second.toml");
    let text = std::fs::read_to_string(&pair.gateways[0].config).unwrap();
    let text = text.replace("\"tw0\"", "\"tw9\"").replace(":8285\"\nmtu", ":9285\"\nmtu");
    std::fs::write(&config, text).unwrap();
    let socket = pair.bed.folder().join("second.sock");
    let (config, socket) = (config.to_str().unwrap(), socket.to_str().unwrap());
    let run: &[&str] = &["run", "--config", config, "--socket", socket];
    pair.twill_there(0, &[run, words].concat()).unwrap_err()
}

/// Status, log, gauge and doctor agree about the engine and why it is not another.
fn assert_fallback(pair: &Pair, engine: &str, why: &str) {
    for index in 0..2 {
        let status = pair.status(index);
        let reason = status["engine_reason"].as_str().unwrap();
        assert_eq!(status["engine"], engine, "{reason}");
        assert_eq!(status["engine_fallback"], true);
        assert!(reason.starts_with("uring does not work here: "), "{reason}");
        assert!(reason.contains(why), "{reason}");

        let log = pair.gateways[index].process.log();
        let told: Vec<_> = log.lines().filter(|line| line.contains("does not work")).collect();
        assert_eq!(told.len(), 1, "{log}");
        assert!(told[0].contains("WARN") && told[0].contains(reason), "{}", told[0]);
        assert!(told[0].contains(&format!("using {engine} instead")), "{}", told[0]);
    }
    let gauge = pair.metric(0, "twill_engine_fallback");
    assert_eq!(gauge.as_deref(), Some("1.0"));

    let status = pair.status(0);
    let expected = format!("engine {engine}: {}", status["engine_reason"].as_str().unwrap());
    let doctor = doctor(pair);
    let plan = about(&doctor, "plan", &format!("engine {engine}: "));
    assert_eq!(plan["what"], expected);
}

/// These offloads are off, and no others.
fn assert_off(pair: &Pair, names: &[&str]) {
    let status = pair.status(0);
    let offloads = status["offloads"].as_array().unwrap();
    let off = offloads.iter().filter(|offload| offload["on"] == false);
    let off: Vec<_> = off.map(|offload| offload["name"].as_str().unwrap()).collect();
    assert_eq!(off, names, "{status:#}");
}

/// What `twill doctor` says where the first gateway runs.
fn doctor(pair: &Pair) -> Vec<Value> {
    let text = pair.twill_there(0, &["doctor", "--json"]).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The one finding that begins so.
fn about<'a>(doctor: &'a [Value], area: &str, begin: &str) -> &'a Value {
    let begins =
        |it: &&Value| it["area"] == area && it["what"].as_str().unwrap().starts_with(begin);
    let found: Vec<_> = doctor.iter().filter(begins).collect();
    assert_eq!(found.len(), 1, "{begin:?} in {area}: {doctor:#?}");
    found[0]
}

/// A system call, when it is meant, and the errno that it ends with.
type Refusal = (i64, Vec<SeccompRule>, i32);

/// Without rules, the call is always refused.
fn refuse(call: i64, rules: Vec<SeccompRule>, errno: i32) -> Refusal {
    (call, rules, errno)
}

fn rule(conditions: &[SeccompCondition]) -> SeccompRule {
    SeccompRule::new(conditions.to_vec()).unwrap()
}

fn equal(argument: u8, value: u64) -> SeccompCondition {
    condition(argument, SeccompCmpOp::Eq, value)
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> SeccompCondition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value).unwrap()
}

/// Has the command run under filters: one for each errno, as a filter knows one only.
fn filter(command: &mut Command, refusals: &[Refusal]) {
    let mut by_errno = BTreeMap::<i32, BTreeMap<i64, Vec<SeccompRule>>>::new();
    for (call, rules, errno) in refusals {
        by_errno.entry(*errno).or_default().insert(*call, rules.clone());
    }
    let programs: Vec<BpfProgram> = by_errno
        .into_iter()
        .map(|(errno, calls)| {
            let refusal = SeccompAction::Errno(errno as u32);
            let architecture = std::env::consts::ARCH.try_into().unwrap();
            let filter =
                SeccompFilter::new(calls, SeccompAction::Allow, refusal, architecture).unwrap();
            filter.try_into().unwrap()
        })
        .collect();
    let install = move || {
        for program in &programs {
            apply_filter(program).map_err(|_| io::Error::last_os_error())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls and nothing else: the programs
    // are built before, and `apply_filter` allocates nothing.
    unsafe { command.pre_exec(install) };
}
