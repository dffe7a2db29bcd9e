//! A gateway hands over to another process, which may fail at any moment.

use crate::numbered::{Load, beside, echo_numbered, hand_over_beside};
use crate::with;
use rustix::process::Signal;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use twill::control::handover::{self, Conversation, Step};
use twill::sys::steering;
use twill::tun;
use twill_testbed::engines;
use twill_testbed::pair::{DEVICE, PATIENCE, Pair, Setup};

const LOAD: Load<'_> = Load { flows: 8, rounds: 100, sizes: &[64, 1400, 300], window: 96 };
/// Datagrams of a load: three of each flow in each round.
const LOAD_DATAGRAMS: usize = 3 * LOAD.flows * LOAD.rounds as usize;
const HAND_OVERS: usize = 10;

#[test]
fn ten_hand_overs_under_load_lose_double_and_reorder_nothing_and_counters_continue() {
    for engine in engines().into_iter().chain(["classic"]) {
        let setup = Setup { lines: "queues = 2\nprobe_seconds = 0", ..with(engine) };
        let Some(mut pair) = Pair::start("hand_over", &setup) else { return };
        pair.assert_connected();
        let before = packets_out(&pair);
        let recorded = recorded(&pair);
        // The baseline measures no latency.
        let measures = engine != "classic";
        assert_eq!(recorded > 0, measures, "{engine}");
        let (done, sent) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let successors = Mutex::new(Vec::new());

        beside(
            |over| {
                for number in 0..HAND_OVERS {
                    // Spread over the load.
                    while sent.load(Ordering::Relaxed) < datagrams() * number / HAND_OVERS
                        && !over.load(Ordering::Relaxed)
                    {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    let away = engine != "classic" && number % 4 < 2;
                    let engine = if away { "epoll" } else { engine };
                    let mut successor = pair.successor(number % 2, engine, &[]);
                    successor.wait_for("running", PATIENCE).unwrap();
                    successors.lock().unwrap().push(successor);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            },
            || {
                let mut is_last = false;
                while !is_last {
                    is_last = done.load(Ordering::Relaxed) == HAND_OVERS
                        && sent.load(Ordering::Relaxed) + LOAD_DATAGRAMS >= datagrams();
                    let counted = echo_numbered(&pair, &LOAD);
                    counted.assert_in_order();
                    assert_eq!(counted.missing(), 0, "{engine}: {counted:?}");
                    sent.fetch_add(counted.sent as usize, Ordering::Relaxed);
                }
            },
        );

        let sent = sent.into_inner() as u64;
        println!("{engine}: {sent} datagrams and their echoes over {HAND_OVERS} hand-overs");
        assert!(packets_out(&pair) - before >= sent, "{engine}: counters continue");
        let now = self::recorded(&pair);
        assert!(
            now - recorded >= sent || !measures,
            "{engine}: {now} values after {recorded}, {sent} datagrams"
        );
        pair.assert_books_balance();
        for (number, successor) in successors.into_inner().unwrap().into_iter().enumerate() {
            let process = &mut pair.gateways[number % 2].process;
            let mut old = std::mem::replace(process, successor);
            assert!(old.finish(PATIENCE).unwrap().success(), "{}", old.log());
        }
        pair.assert_connected();
    }
}

/// Queues of successors, one after the other.
const QUEUES: [usize; 6] = [1, 4, 2, 3, 1, 4];

#[test]
fn hand_overs_to_other_numbers_of_queues_under_load_lose_double_and_reorder_nothing() {
    for engine in engines().into_iter().chain(["classic"]) {
        let setup = Setup { lines: "queues = 4\nprobe_seconds = 0", ..with(engine) };
        let Some(mut pair) = Pair::start("requeue", &setup) else { return };
        pair.assert_connected();
        let before = packets_out(&pair);
        let mut sent = 0;
        for (number, queues) in QUEUES.into_iter().enumerate() {
            let index = number % 2;
            let words = ["--queues", &queues.to_string()];
            sent += hand_over_beside(&mut pair, &LOAD, index, (engine, &words));
            let status = pair.status(index);
            assert_eq!(status["queues"], queues);
            assert_eq!(status["workers"].as_array().unwrap().len(), queues);
        }
        println!("{engine}: {sent} datagrams and their echoes, queues {QUEUES:?}");
        assert!(packets_out(&pair) - before >= sent, "{engine}: counters continue");
        pair.assert_books_balance();
        pair.assert_tcp_carries(4, 256 << 10);
    }
}

#[test]
fn a_device_that_was_created_for_one_queue_keeps_it() {
    let setup = Setup { lines: "queues = 1", ..with("epoll") };
    let Some(pair) = Pair::start("one_queue", &setup) else { return };
    pair.assert_connected();

    let mut successor = pair.successor(0, "epoll", &["--queues", "2"]);

    assert!(!successor.finish(PATIENCE).unwrap().success());
    let log = successor.log();
    assert!(log.contains("`queues` is 1 in the running gateway and 2 here"), "{log}");
    assert!(log.contains("its device was created for one queue"), "{log}");
    pair.assert_connected();
    pair.assert_books_balance();
}

#[test]
fn a_successor_that_cannot_serve_says_why_and_the_gateway_goes_on() {
    let setup = Setup { lines: "queues = 2", ..with("epoll") };
    let Some(pair) = Pair::start("hand_over_refused", &setup) else { return };
    pair.assert_connected();
    for (engine, more, reason) in [
        ("epoll", &["--source-ports", "fixed"][..], "`source_ports` is spread"),
        ("epoll", &["--queues", "3", "--offload", "gro=off"], "another setting of the offload gro"),
        ("epoll", &["--offload", "gro=off"], "another setting of the offload gro"),
        ("epoll", &["--offload", "tso=off"], "`tso` is on in the running gateway and off here"),
        ("classic", &[], "the engine classic"),
    ] {
        let mut successor = pair.successor(0, engine, more);

        let status = successor.finish(PATIENCE).unwrap();

        assert!(!status.success(), "{reason}");
        assert!(successor.log().contains(reason), "{reason}: {}", successor.log());
        pair.assert_connected();
    }
    pair.assert_books_balance();
}

#[test]
fn a_successor_with_another_file_has_its_routes_and_mtu_and_cannot_change_the_address() {
    let Some(mut pair) = Pair::start("hand_over_file", &with("epoll")) else { return };
    let config = pair.gateways[0].config.clone();
    let before = std::fs::read_to_string(&config).unwrap();
    let third =
        "[[peer]]\nname = \"third\"\nendpoint = \"192.0.2.77\"\nsubnets = \"10.77.0.0/16\"\n";
    let changed = before.replace("mtu = 1472", "mtu = 1300") + third;
    std::fs::write(&config, changed).unwrap();
    let mut successor = pair.successor(0, "epoll", &[]);
    successor.wait_for("running", PATIENCE).unwrap();
    pair.gateways[0].process = successor;
    let ip =
        |pair: &Pair, what| pair.hosts[0].run("ip", &["-o", what, "show", "dev", DEVICE]).unwrap();
    assert!(ip(&pair, "route").contains("10.77.0.0/16"), "{}", ip(&pair, "route"));
    assert!(ip(&pair, "link").contains("mtu 1300"), "{}", ip(&pair, "link"));

    std::fs::write(&config, &before).unwrap();
    let mut successor = pair.successor(0, "epoll", &[]);
    successor.wait_for("running", PATIENCE).unwrap();
    pair.gateways[0].process = successor;

    assert!(!ip(&pair, "route").contains("10.77.0.0/16"), "{}", ip(&pair, "route"));
    assert!(ip(&pair, "link").contains("mtu 1472"), "{}", ip(&pair, "link"));
    pair.assert_connected();
    std::fs::write(&config, before.replace(".0/32", ".9/32")).unwrap();
    let mut successor = pair.successor(0, "epoll", &[]);
    assert!(!successor.finish(PATIENCE).unwrap().success());
    assert!(successor.log().contains("`address` is "), "{}", successor.log());
    pair.assert_connected();
}

#[test]
fn a_successor_that_dies_at_any_step_leaves_the_gateway_carrying_packets() {
    for engine in engines() {
        let Some(pair) = Pair::start("hand_over_dies", &with(engine)) else { return };
        for steps in 0..5 {
            let before = packets_out(&pair);

            drop(successor_until(&pair, steps));

            pair.assert_connected();
            assert!(packets_out(&pair) > before, "{engine}, {steps} steps: counters continue");
            pair.assert_books_balance();
        }
        assert!(pair.gateways[0].process.log().contains("this gateway goes on"));
    }
}

#[test]
fn a_successor_that_dies_while_it_changes_the_queues_leaves_them_as_they_were() {
    for engine in engines() {
        let setup = Setup { lines: "queues = 3\nprobe_seconds = 0", ..with(engine) };
        let Some(mut pair) = Pair::start("requeue_dies", &setup) else { return };
        pair.assert_connected();

        let (talk, fds) = successor_until(&pair, 4).unwrap();
        let program = steering::to_first_queue().unwrap();
        // Of each worker a queue and two sockets.
        tun::steer(fds[0].as_fd(), Some(program.as_fd())).unwrap();
        tun::set_attached(fds[6].as_fd(), false).unwrap();
        drop((talk, fds));

        pair.gateways[0].process.wait_for("this gateway goes on", PATIENCE).unwrap();
        pair.assert_connected();
        let counted = echo_numbered(&pair, &Load { flows: 32, ..LOAD });
        counted.assert_in_order();
        assert_eq!(counted.missing(), 0, "{engine}: {counted:?}");
        let status = pair.status(0);
        let workers = status["workers"].as_array().unwrap().iter();
        let used = workers.filter(|worker| worker["egress"]["packets_in"].as_u64() > Some(10));
        assert_eq!(used.count(), 3, "{engine}: {status}");
        pair.assert_books_balance();
    }
}

#[test]
fn a_gateway_that_dies_while_it_hands_over_leaves_its_successor_carrying_packets() {
    for engine in engines() {
        let Some(mut pair) = Pair::start("hand_over_orphan", &with(engine)) else { return };
        for wait in [0, 1, 2, 5, 10, 20, 40, 80] {
            let mut successor = pair.successor(0, engine, &[]);
            successor.wait_for("taking over", PATIENCE).unwrap();
            std::thread::sleep(Duration::from_millis(wait));
            pair.gateways[0].process.signal(Signal::KILL).unwrap();

            successor.wait_for("running", PATIENCE).unwrap();

            pair.gateways[0].process = successor;
            pair.assert_connected();
            pair.assert_books_balance();
        }
    }
}

#[test]
fn two_successors_at_once_take_over_one_after_the_other() {
    let Some(mut pair) = Pair::start("hand_over_twice", &with("epoll")) else { return };
    pair.assert_connected();
    let before = packets_out(&pair);
    let mut successors = [0, 1].map(|_| pair.successor(0, "epoll", &[]));

    for successor in &mut successors {
        successor.wait_for("running", PATIENCE).unwrap();
    }

    assert!(pair.gateways[0].process.finish(PATIENCE).unwrap().success());
    let mut over = None;
    pair.eventually("the end of the first successor", |_| {
        over = successors.iter_mut().position(|successor| successor.ended().is_some());
        over.is_some()
    });
    let [one, other] = successors;
    let (mut first, last) = if over == Some(0) { (one, other) } else { (other, one) };
    assert!(first.finish(PATIENCE).unwrap().success());
    pair.gateways[0].process = last;
    pair.assert_connected();
    assert!(packets_out(&pair) > before, "counters continue");
}

#[test]
fn without_a_gateway_to_take_over_from_one_starts() {
    let Some(mut pair) = Pair::start("hand_over_from_none", &with("epoll")) else { return };
    pair.gateways[0].process.signal(Signal::KILL).unwrap();
    let mut successor = pair.successor(0, "epoll", &[]);

    successor.wait_for("running", PATIENCE).unwrap();

    pair.gateways[0].process = successor;
    pair.assert_connected();
}

/// Takes so many steps of a hand-over. Whoever drops what comes back is gone, with all that it had.
fn successor_until(pair: &Pair, steps: usize) -> Option<(Conversation, Vec<OwnedFd>)> {
    let stream = UnixStream::connect(&pair.gateways[0].socket).unwrap();
    if steps == 0 {
        return None;
    }
    let mut talk: Conversation = handover::ask(stream, PATIENCE).unwrap();
    if steps == 1 {
        return Some((talk, Vec::new()));
    }
    let (offer, fds) = talk.take().unwrap();
    assert_eq!(fds.len(), offer.descriptors());
    if steps >= 3 {
        talk.tell(&Step::Ready).unwrap();
    }
    if steps >= 4 {
        assert!(matches!(talk.told().unwrap(), Step::Go(_)));
    }
    Some((talk, fds))
}

/// Datagrams of each direction under which the hand-overs happen, at least.
fn datagrams() -> usize {
    std::env::var("TWILL_TEST_DATAGRAMS").map_or(0, |count| count.parse().unwrap())
}

/// Packets whose latency was recorded.
fn recorded(pair: &Pair) -> u64 {
    let counts = ["egress", "ingress"]
        .map(|name| pair.status(0)["histograms"][name]["count"].as_u64().unwrap());
    counts[0].min(counts[1])
}

fn packets_out(pair: &Pair) -> u64 {
    pair.status(0)["egress"]["packets_out"].as_u64().unwrap()
}
