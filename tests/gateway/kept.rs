//! `keep_forwarding`: programs in the kernel carry packets while no gateway runs, and the next one goes on.

use crate::fast::carried;
use crate::numbered::{Load, beside, echo_between};
use crate::with;
use rustix::process::Signal;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use twill_testbed::pair::{DEVICE, PATIENCE, Pair, Setup};
use twill_testbed::{Background, within};

const KEPT: &str = "fast_path = \"bpf\"\nkeep_forwarding = true\nprobe_seconds = 0";
const LOAD: Load<'_> = Load { flows: 8, rounds: 50, sizes: &[64, 1400, 300], window: 96 };
/// Datagrams of one load.
const ROUND: u64 = 3 * LOAD.flows as u64 * LOAD.rounds as u64;
/// Datagrams that cross in all, unless `TWILL_TEST_DATAGRAMS` says otherwise.
const DATAGRAMS: u64 = 100_000;

fn kept() -> Setup<'static> {
    Setup { lines: KEPT, ..with("epoll") }
}

fn datagrams() -> u64 {
    std::env::var("TWILL_TEST_DATAGRAMS").map_or(DATAGRAMS, |count| count.parse().unwrap())
}

/// How many datagrams have crossed, while something else happens.
struct Crossed<'a> {
    sent: &'a AtomicU64,
    over: &'a AtomicBool,
}

impl Crossed<'_> {
    /// Waits until so many more have crossed.
    fn more(&self, count: u64) {
        let until = self.sent.load(Ordering::Relaxed) + count;
        while self.sent.load(Ordering::Relaxed) < until && !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// Sends numbered datagrams there and back until all have crossed and `other` is done; none may be lost,
/// doubled or reordered. Nobody asks the gateways, who may be away.
fn under_load<T: Send>(
    pair: &Pair,
    datagrams: u64,
    other: impl FnOnce(&Crossed<'_>) -> T + Send,
) -> T {
    let (sent, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut result = None;
    beside(
        |over| {
            result = Some(other(&Crossed { sent: &sent, over }));
            done.store(true, Ordering::Relaxed);
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
    for lines in [KEPT.to_owned(), format!("{KEPT}\nqueues = 2")] {
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
