//! `keep_forwarding`: programs in the kernel carry packets while no gateway runs, and the next one goes on.

use crate::driver::has_program;
use crate::fast::{by_workers, carried};
use crate::numbered::{Load, Tell, beside, echo_between};
use crate::with;
use rustix::process::Signal;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use twill_testbed::pair::{DEVICE, PATIENCE, Pair, Setup};
use twill_testbed::{Background, within};

const KEPT: &str = "fast_path = \"bpf\"\nkeep_forwarding = true\nprobe_seconds = 0";
/// Programs that stay when their gateway ends, and programs that do not.
pub(crate) const KEPT_AND_NOT: [&str; 2] = [KEPT, "fast_path = \"bpf\"\nprobe_seconds = 0"];
const LOAD: Load<'_> = Load { flows: 8, rounds: 50, sizes: &[64, 1400, 300], window: 96 };
/// Datagrams of one load.
pub(crate) const ROUND: u64 = 3 * LOAD.flows as u64 * LOAD.rounds as u64;
/// Datagrams that cross in all, unless `TWILL_TEST_DATAGRAMS` says otherwise.
const DATAGRAMS: u64 = 100_000;

fn kept() -> Setup<'static> {
    Setup { lines: KEPT, ..with("epoll") }
}

pub(crate) fn datagrams() -> u64 {
    std::env::var("TWILL_TEST_DATAGRAMS").map_or(DATAGRAMS, |count| count.parse().unwrap())
}

/// How many datagrams have crossed, while something else happens.
pub(crate) struct Crossed<'a> {
    sent: &'a AtomicU64,
    over: &'a AtomicBool,
}

impl Crossed<'_> {
    /// Waits until so many more have crossed.
    pub(crate) fn more(&self, count: u64) {
        let until = self.sent.load(Ordering::Relaxed) + count;
        while self.sent.load(Ordering::Relaxed) < until && !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// Sends numbered datagrams there and back until all have crossed and `other` is done; none may be lost,
/// doubled or reordered. Nobody asks the gateways, who may be away.
pub(crate) fn under_load<T: Send>(
    pair: &Pair,
    datagrams: u64,
    other: impl FnOnce(&Crossed<'_>) -> T + Send,
) -> T {
    let (sent, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut result = None;
    beside(
        |over| {
            let _tell = Tell(&done);
            result = Some(other(&Crossed { sent: &sent, over }));
        },
        || {
            let mut is_last = false;
            while !is_last {
                is_last = done.load(Ordering::Relaxed)
                    && sent.load(Ordering::Relaxed) + ROUND >= datagrams;
                let counted = echo_between(&pair.pods, &LOAD, || 0);
                counted.assert_in_order();
                assert_eq!(counted.missing(), 0, "{counted:?} after {sent:?}");
                sent.fetch_add(counted.sent, Ordering::Relaxed);
            }
        },
    );
    println!("{} datagrams and their echoes", sent.into_inner());
    result.unwrap()
}

/// Waits for the end of a process that somebody else waits for, too.
fn await_end(pid: u32) {
    within(PATIENCE, "the end of a gateway", || {
        let state = fs::read_to_string(format!("/proc/{pid}/stat"));
        state.map_or(true, |state| state.contains(") Z "))
    });
}

/// The names of what a gateway has left.
fn names(pair: &Pair, index: usize) -> Vec<String> {
    let folder = pair.bpf_file_system(index).join("twill").join(DEVICE);
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Looks whether gateway 0 says that forwarding goes on when it ends.
fn assert_says(pair: &Pair, kept: bool) {
    let fast = &pair.status(0)["fast_path"];
    assert_eq!((&fast["on"], &fast["kept"]), (&true.into(), &kept.into()), "{fast}");
    let socket = pair.gateways[0].socket.display().to_string();
    let text = pair.twill_there(0, &["status", "--socket", &socket]).unwrap();
    let then = if kept { "goes on" } else { "ends" };
    assert!(text.contains(&format!("when the gateway ends: forwarding {then}\n")), "{text}");
}

fn ip(pair: &Pair, what: &[&str]) -> String {
    pair.hosts[0].run("ip", what).unwrap()
}

/// Name and number of each link, which a new one of the same name would not have.
fn links(pair: &Pair) -> Vec<String> {
    let all = ip(pair, &["-o", "link"]);
    all.lines().map(|line| line.split(": <").next().unwrap().to_owned()).collect()
}

#[test]
fn packets_cross_without_a_gateway_and_the_next_one_goes_on() {
    for lines in [KEPT.to_owned(), format!("{KEPT}\nqueues = 2"), KEPT.replace("bpf", "xdp")] {
        let Some(mut pair) = Pair::start("kept", &Setup { lines: &lines, ..kept() }) else {
            return;
        };
        pair.assert_connected();
        let (before, there) = (carried(&pair, 0), (names(&pair, 0), links(&pair)));

        let last = under_load(&pair, datagrams(), |crossed| {
            let mut last: Option<Background> = None;
            for (signal, away) in [(Signal::KILL, 5000), (Signal::TERM, 5000), (Signal::KILL, 0)] {
                let process = last.as_ref().unwrap_or(&pair.gateways[0].process);
                process.signal(signal).unwrap();
                await_end(process.pid());
                crossed.more(away);
                last = Some(pair.start_again(0));
                crossed.more(2 * ROUND);
            }
            last.unwrap()
        });

        pair.gateways[0].process = last;
        let now = carried(&pair, 0);
        assert!(now[0] - before[0] >= datagrams(), "counters continue: {before:?} {now:?}");
        assert_eq!((names(&pair, 0), links(&pair)), there);
        pair.assert_connected();
        pair.assert_books_balance();
    }
}

#[test]
fn programs_of_another_version_take_the_place_of_the_old_ones_in_one_step() {
    let Some(mut pair) = Pair::start("kept_version", &kept()) else { return };
    pair.assert_connected();
    let config = pair.gateways[0].config.clone();
    let text = fs::read_to_string(&config).unwrap();
    let version = |check: &str| {
        let line = format!("[interface]\ningress_check = {check:?}");
        fs::write(&config, text.replace("[interface]", &line)).unwrap();
    };

    let last = under_load(&pair, ROUND, |crossed| {
        let mut last: Option<Background> = None;
        for (check, takes_over) in
            [("peer", false), ("strict", true), ("off", true), ("strict", false)]
        {
            version(check);
            let process = last.as_ref().unwrap_or(&pair.gateways[0].process);
            let pid = process.pid();
            last = Some(if takes_over {
                let mut successor = pair.successor(0, "epoll", &[]);
                successor.wait_for("running", PATIENCE).unwrap();
                await_end(pid);
                successor
            } else {
                process.signal(Signal::KILL).unwrap();
                await_end(pid);
                crossed.more(ROUND);
                pair.start_again(0)
            });
            crossed.more(2 * ROUND);
        }
        last.unwrap()
    });

    pair.gateways[0].process = last;
    pair.assert_connected();
    pair.assert_books_balance();
    // What comes from a stranger is dropped again: the programs have the last file's rules.
    assert!(carried(&pair, 0)[1] > 0);
}

#[test]
fn hand_overs_leave_packets_in_the_kernel() {
    for lines in KEPT_AND_NOT {
        let Some(mut pair) = Pair::start("kept_hand_over", &Setup { lines, ..kept() }) else {
            return;
        };
        pair.assert_connected();
        assert_says(&pair, lines == KEPT);
        let (before, total) = (by_workers(&pair, 0), carried(&pair, 0)[0]);
        let there = links(&pair);

        let mut processes = under_load(&pair, datagrams(), |crossed| {
            let mut processes = Vec::new();
            for _ in 0..6 {
                let mut successor = pair.successor(0, "epoll", &[]);
                successor.wait_for("running", PATIENCE).unwrap();
                processes.push(successor);
                crossed.more(ROUND);
            }
            processes
        });

        pair.gateways[0].process = processes.pop().unwrap();
        for process in &mut processes {
            assert!(process.finish(PATIENCE).unwrap().success(), "{}", process.log());
        }
        assert!(carried(&pair, 0)[0] - total >= datagrams(), "{}", pair.status(0)["fast_path"]);
        assert_eq!(by_workers(&pair, 0), before, "no packet has crossed by user space");
        assert_eq!(links(&pair), there);
        assert_says(&pair, lines == KEPT);
        pair.assert_books_balance();
        pair.gateways[0].process.stop(PATIENCE).unwrap();
        assert_eq!(links(&pair).len() == there.len(), lines == KEPT);
    }
}

#[test]
fn a_gateway_that_does_not_keep_removes_what_was_kept_and_others_programs_stay() {
    let Some(mut pair) = Pair::start("kept_no_more", &kept()) else { return };
    pair.assert_connected();
    let host = &pair.hosts[0];
    host.run("tc", &["qdisc", "add", "dev", "u0", "clsact"]).unwrap();
    let (source, object) = (pair.bed.folder().join("other.c"), pair.bed.folder().join("other.o"));
    let program = "__attribute__((section(\"classifier\"))) int other(void *skb) { return -1; }\n";
    fs::write(&source, program).unwrap();
    let mut clang = std::process::Command::new("clang");
    clang.args(["-O2", "-target", "bpf", "-c"]).arg(&source).arg("-o").arg(&object);
    assert!(clang.status().unwrap().success());
    let object = object.to_str().unwrap();
    let others = ["filter", "add", "dev", "u0", "ingress", "bpf", "da", "obj", object];
    host.run("tc", &[&others[..], &["sec", "classifier"]].concat()).unwrap();
    let filters =
        |pair: &Pair| pair.hosts[0].run("tc", &["filter", "show", "dev", "u0", "ingress"]).unwrap();
    let there = filters(&pair);
    assert!(there.contains("other"), "{there}");

    pair.gateways[0].process.signal(Signal::KILL).unwrap();
    pair.gateways[0].process.finish(PATIENCE).unwrap();
    pair.assert_connected();
    let config = pair.gateways[0].config.clone();
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("keep_forwarding = true", "keep_forwarding = false")).unwrap();
    pair.restart(0);
    pair.assert_connected();

    assert_says(&pair, false);
    assert_eq!(names(&pair, 0), [""; 0]);
    assert!(links(&pair).iter().any(|link| link.contains(DEVICE)));
    pair.gateways[0].process.signal(Signal::KILL).unwrap();
    pair.gateways[0].process.finish(PATIENCE).unwrap();
    within(PATIENCE, "the end of the device", || !ip(&pair, &["link"]).contains(" tw0:"));
    assert_eq!(filters(&pair), there);
}

#[test]
fn down_removes_a_gateway_that_has_ended_and_refuses_one_that_runs() {
    let lines = KEPT.replace("bpf", "xdp");
    let Some(mut pair) = Pair::start("kept_down", &Setup { lines: &lines, ..kept() }) else {
        return;
    };
    pair.assert_connected();
    let socket = pair.gateways[0].socket.display().to_string();
    let down = |more: &[&str]| {
        let args = [&["down", DEVICE, "--socket", &socket], more].concat();
        pair.twill_there(0, &args)
    };

    let runs = down(&[]).unwrap_err();
    let pid = pair.gateways[0].process.pid();
    assert!(runs.contains(&format!("runs (process {pid})")) && runs.contains("--stop"), "{runs}");
    pair.assert_connected();
    let said = down(&["--stop"]).unwrap();

    assert_eq!(said, "tw0: removed programs and their links, the device\n");
    assert!(!ip(&pair, &["link"]).contains(DEVICE), "{}", ip(&pair, &["link"]));
    assert!(!pair.bpf_file_system(0).join("twill").exists());
    let none = down(&[]).unwrap_err();
    assert!(none.contains("no gateway has left a device \"tw0\" here"), "{none}");
    pair.gateways[0].process.finish(PATIENCE).unwrap();
    pair.restart(0);
    pair.assert_connected();
    pair.gateways[0].process.signal(Signal::KILL).unwrap();
    pair.gateways[0].process.finish(PATIENCE).unwrap();
    assert!(has_program(&pair, 0));
    let socket = pair.gateways[0].socket.display().to_string();
    pair.twill_there(0, &["down", DEVICE, "--socket", &socket]).unwrap();
    assert!(!ip(&pair, &["link"]).contains(DEVICE));
    assert!(!has_program(&pair, 0));
}
