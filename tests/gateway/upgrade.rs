//! `twill upgrade` starts a program in the place of a gateway.

use crate::fast::{by_workers, carried};
use crate::kept::{KEPT_AND_NOT, ROUND, datagrams, under_load};
use crate::numbered::{Load, lossless_beside};
use crate::with;
use rustix::process::{Pid, Signal, kill_process};
use twill_testbed::pair::{Gateway, PATIENCE, Pair, Setup};
use twill_testbed::{Background, within};

const LOAD: Load<'_> = Load { flows: 8, rounds: 100, sizes: &[64, 1400, 300], window: 96 };

#[test]
fn upgrades_under_load_lose_nothing_and_the_new_process_is_as_the_old_one_was() {
    let Some(mut pair) = Pair::start("upgrade", &with("epoll")) else { return };
    pair.assert_connected();
    let old = pair.gateways[0].process.pid();

    let three = || (0..3).map(|_| upgrade(&pair, &[])).collect::<Vec<_>>();
    let (said, _) = lossless_beside(&pair, &LOAD, "upgrade", three);

    let orphans: Vec<_> = said.iter().map(|said| Orphan::of(said.as_ref().unwrap())).collect();
    assert_eq!(said[0].as_ref().unwrap().split(' ').next_back(), Some(&*format!("{old}\n")));
    assert!(pair.gateways[0].process.finish(PATIENCE).unwrap().success());
    assert!(orphans[0].is_gone() && orphans[1].is_gone());
    // The last one has the first one's arguments and log.
    assert_eq!(pair.gateways[0].process.log().matches("taking over from twill").count(), 3);
    assert_eq!(pair.status(0)["engine"], "epoll");
    pair.assert_connected();
    orphans[2].end();
}

#[test]
fn an_upgrade_that_fails_says_why_and_the_gateway_goes_on() {
    let Some(pair) = Pair::start("upgrade_fails", &with("epoll")) else { return };
    pair.assert_connected();
    let old = pair.gateways[0].process.pid();
    let file = pair.gateways[0].config.display().to_string();
    fail(&pair, || pair.assert_connected());
    let said = upgrade(&pair, &["--", "run", "--config", &file, "--nonsense"]).unwrap_err();
    assert!(said.contains(&format!("process {old} goes on")), "{said}");
    let nobody = pair.hosts[0].run(env!("CARGO_BIN_EXE_twill"), &["upgrade", "no-such"]);
    assert!(nobody.unwrap_err().to_string().contains("is the gateway running?"));
    let elsewhere = std::process::Command::new(env!("CARGO_BIN_EXE_twill"))
        .args(["upgrade", "--socket"])
        .arg(&pair.gateways[0].socket)
        .output()
        .unwrap();
    let elsewhere = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
    assert!(elsewhere.contains("another network namespace"), "{elsewhere}");
    pair.assert_connected();
    pair.assert_books_balance();
}

#[test]
fn upgrades_under_load_leave_packets_in_the_kernel() {
    for lines in KEPT_AND_NOT {
        let Some(mut pair) = Pair::start("upgrade_fast", &Setup { lines, ..with("epoll") }) else {
            return;
        };
        pair.assert_connected();
        let before = (carried(&pair, 0), by_workers(&pair, 0));

        let orphans = under_load(&pair, datagrams(), |crossed| {
            let three = (0..3).map(|_| {
                let orphan = Orphan::of(&upgrade(&pair, &[]).unwrap());
                crossed.more(ROUND);
                orphan
            });
            three.collect::<Vec<_>>()
        });

        assert!(pair.gateways[0].process.finish(PATIENCE).unwrap().success());
        assert!(orphans[0].is_gone() && orphans[1].is_gone());
        assert_carried_in_kernel(&pair, before);
        orphans[2].end();
    }
}

#[test]
fn an_upgrade_that_fails_under_load_leaves_packets_in_the_kernel() {
    for lines in KEPT_AND_NOT {
        let setup = Setup { lines, ..with("epoll") };
        let Some(pair) = Pair::start("upgrade_fast_fails", &setup) else { return };
        pair.assert_connected();
        let before = (carried(&pair, 0), by_workers(&pair, 0));

        under_load(&pair, datagrams(), |crossed| fail(&pair, || crossed.more(2 * ROUND)));

        assert_carried_in_kernel(&pair, before);
    }
}

#[test]
fn the_arguments_of_the_new_process_can_be_others() {
    let Some(pair) = Pair::start("upgrade_with_arguments", &with("epoll")) else { return };
    let (config, socket) = (&pair.gateways[0].config, &pair.gateways[0].socket);
    let (config, socket) = (config.display().to_string(), socket.display().to_string());
    let run = ["--", "run", "--config", &config, "--socket", &socket, "--engine", "auto"];

    let orphan = Orphan::of(&upgrade(&pair, &run).unwrap());

    assert_ne!(pair.status(0)["engine_reason"], "as configured");
    assert_eq!(pair.status(1)["engine_reason"], "as configured");
    pair.assert_connected();
    orphan.end();
}

#[test]
fn a_process_that_is_to_wait_after_its_hand_over_ends_when_it_is_told_to() {
    let Some(mut pair) = Pair::start("hand_over_and_wait", &with("epoll")) else { return };
    let waiting = pair.successor(0, "epoll", &["--wait-after-hand-over"]);
    let mut first = std::mem::replace(&mut pair.gateways[0].process, waiting);
    pair.gateways[0].process.wait_for("running", PATIENCE).unwrap();
    assert!(first.finish(PATIENCE).unwrap().success());
    let mut last = pair.successor(0, "epoll", &[]);
    last.wait_for("running", PATIENCE).unwrap();

    let mut waiting = std::mem::replace(&mut pair.gateways[0].process, last);
    waiting.wait_for("waiting for SIGTERM", PATIENCE).unwrap();
    pair.assert_connected();
    assert!(waiting.ended().is_none());
    assert!(waiting.stop(PATIENCE).unwrap().success());

    pair.assert_connected();
}

#[test]
fn the_next_pod_takes_over_from_another_pid_namespace_and_the_old_one_waits_for_its_end() {
    let Some(mut pair) = Pair::start("hand_over_pods", &with("epoll")) else { return };
    pair.gateways[0].process.stop(PATIENCE).unwrap();
    let mut pods = vec![pod(&pair)];
    pods[0].wait_for("running", PATIENCE).unwrap();
    pair.assert_connected();
    for _ in 0..2 {
        let mut next = pod(&pair);
        next.wait_for("running", PATIENCE).unwrap();
        let mut last = pods.pop().unwrap();
        last.wait_for("waiting for SIGTERM", PATIENCE).unwrap();
        pair.assert_connected();
        // What the kubelet does with a pod that was replaced.
        kill_process(first_process(&last), Signal::TERM).unwrap();
        assert!(last.finish(PATIENCE).unwrap().success(), "{}", last.log());
        pair.assert_connected();
        pods.push(next);
    }
    pair.assert_books_balance();
    kill_process(first_process(&pods[0]), Signal::TERM).unwrap();
    assert!(pods[0].finish(PATIENCE).unwrap().success());
}

/// A gateway as a container runtime starts it: process 1 of its own PID namespace.
fn pod(pair: &Pair) -> Background {
    let Gateway { config, socket, .. } = &pair.gateways[0];
    let mut command = pair.hosts[0].command("unshare");
    command.args(["--pid", "--fork", "--kill-child", env!("CARGO_BIN_EXE_twill"), "run"]);
    command.arg("--config").arg(config).arg("--socket").arg(socket);
    command.envs([("TWILL_TAKE_OVER", "true"), ("TWILL_WAIT_AFTER_HAND_OVER", "true")]);
    pair.hosts[0].spawn("pod", &mut command).unwrap()
}

/// The process that `unshare` started.
fn first_process(pod: &Background) -> Pid {
    let children = format!("/proc/{0}/task/{0}/children", pod.pid());
    let children = std::fs::read_to_string(children).unwrap();
    Pid::from_raw(children.trim().parse().unwrap()).unwrap()
}

/// Programs of gateway 0 have carried all datagrams since, counters go on, and so does the gateway. `before` is
/// what programs and workers had carried.
fn assert_carried_in_kernel(pair: &Pair, (before, workers): ([u64; 2], u64)) {
    let now = carried(pair, 0);
    for way in 0..2 {
        assert!(now[way] - before[way] >= datagrams(), "counters go on: {before:?} {now:?}");
    }
    assert_eq!(by_workers(pair, 0), workers, "no packet has crossed by user space");
    pair.assert_connected();
    pair.assert_books_balance();
}

/// Upgrades gateway 0 with configurations that cannot be: each upgrade says why not, and that the old process
/// goes on. Does something after each.
fn fail(pair: &Pair, then: impl Fn()) {
    let Gateway { config, process, .. } = &pair.gateways[0];
    let text = std::fs::read_to_string(config).unwrap();
    for (change, reason) in [
        ("mtu = \"large\"", "expected a whole number"),
        ("listen = \"192.0.2.1:9999\"", "`listen` is 192.0.2.1:8285 in the running gateway"),
    ] {
        let (name, _) = change.split_once(" =").unwrap();
        let lines = text.lines().map(|line| if line.starts_with(name) { change } else { line });
        std::fs::write(config, lines.collect::<Vec<_>>().join("\n")).unwrap();

        let said = upgrade(pair, &[]).unwrap_err();

        assert!(said.contains(reason), "{reason}: {said}");
        assert!(said.contains(&format!("process {} goes on", process.pid())), "{said}");
        then();
    }
    std::fs::write(config, &text).unwrap();
}

/// Runs `twill upgrade` for gateway 0 on its host.
fn upgrade(pair: &Pair, args: &[&str]) -> Result<String, String> {
    let socket = pair.gateways[0].socket.display().to_string();
    let all = [&["upgrade", "--socket", &socket], args].concat();
    let said = pair.hosts[0].run(env!("CARGO_BIN_EXE_twill"), &all);
    said.map_err(|error| error.to_string())
}

/// A gateway that is nobody's child. It ends with the test at the latest.
struct Orphan(Pid);

impl Orphan {
    /// The one that a `twill upgrade` named.
    fn of(said: &str) -> Self {
        let pid = said.strip_prefix("process ").and_then(|rest| rest.split(' ').next()).unwrap();
        Self(Pid::from_raw(pid.parse().unwrap()).unwrap())
    }

    fn is_gone(&self) -> bool {
        // A zombie waits for the first process to look.
        let state = std::fs::read_to_string(format!("/proc/{}/stat", self.0.as_raw_nonzero()));
        state.map_or(true, |state| state.contains(") Z "))
    }

    fn end(&self) {
        kill_process(self.0, Signal::TERM).unwrap();
        within(PATIENCE, "the end of the last gateway", || self.is_gone());
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        if !self.is_gone() {
            let _ = kill_process(self.0, Signal::KILL);
        }
    }
}
