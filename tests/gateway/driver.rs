//! `fast_path = "xdp"`: the underlay's driver runs a program that unwraps datagrams before its GRO.

use crate::fast::{carried, finish_packets};
use crate::numbered::{Load, lossless_beside};
use crate::with;
use twill_testbed::pair::{DEVICE, PATIENCE, Pair, Setup};
use twill_testbed::{Background, Underlay, Wire};

const LOAD: Load<'_> = Load { flows: 8, rounds: 100, sizes: &[64, 1400, 300], window: 96 };

fn started(test: &str, underlay: Underlay) -> Option<Pair> {
    Pair::start(test, &Setup { lines: "fast_path = \"xdp\"", underlay, ..with("auto") })
}

/// Whether the underlay's driver of a host runs a program.
pub(crate) fn has_program(pair: &Pair, index: usize) -> bool {
    let link = pair.hosts[index].run("ip", &["-d", "link", "show", "u0"]).unwrap();
    link.contains("prog/xdp")
}

/// Packets that went through the pair of links, as those do that a driver did not unwrap.
fn late(pair: &Pair, index: usize) -> u64 {
    let path = format!("/sys/class/net/{DEVICE}-in/statistics/tx_packets");
    pair.hosts[index].run("cat", &[&path]).unwrap().trim().parse().unwrap()
}

#[test]
fn packets_of_each_size_are_unwrapped_in_the_driver_and_joined_behind_it() {
    for mtu in [1500, 9000] {
        let underlay = Underlay { wire: Wire::Mtu, mtu, ..Underlay::default() };
        let Some(pair) = started("driver", underlay) else { return };
        assert!(
            has_program(&pair, 0) && has_program(&pair, 1),
            "{}",
            pair.gateways[0].process.log()
        );

        pair.assert_carries();
        pair.assert_tcp_carries(8, 4 << 20);

        for index in 0..2 {
            let ([sent, received], late) = (carried(&pair, index), late(&pair, index));
            assert!(sent > 1000 && received > 1000, "{mtu}: {:?}", pair.status(index));
            assert!(late < received / 20, "{mtu}: {late} of {received} passed the driver by");
        }
        pair.assert_books_balance();
    }
}

#[test]
fn a_peer_in_user_space_sends_checksums_which_the_program_behind_the_driver_takes() {
    let Some(mut pair) = started("driver_mixed", Underlay::default()) else { return };
    finish_packets(&pair);
    let config = &pair.gateways[1].config;
    let text = std::fs::read_to_string(config).unwrap().replace("\"xdp\"", "\"off\"");
    std::fs::write(config, text).unwrap();
    pair.gateways[1].process.stop(PATIENCE).unwrap();
    pair.restart(1);

    pair.assert_carries();

    assert!(carried(&pair, 0)[0] > 1000, "{:?}", pair.status(0));
    pair.assert_books_balance();
}

#[test]
fn an_upgrade_hands_the_driver_s_program_over_and_the_end_removes_it() {
    let underlay = Underlay { wire: Wire::Mtu, ..Underlay::default() };
    let Some(mut pair) = started("driver_upgrade", underlay) else { return };
    pair.assert_connected();

    let (successors, _) = lossless_beside(&pair, &LOAD, "hand-over", || {
        let take_over = |_| {
            let mut next = pair.successor(0, "auto", &[]);
            next.wait_for("running", PATIENCE).unwrap();
            next
        };
        (0..3).map(take_over).collect::<Vec<Background>>()
    });

    assert!(has_program(&pair, 0));
    let log = successors[2].log();
    assert!(log.contains("the driver of u0 unwraps datagrams"), "{log}");
    for mut successor in successors {
        if successor.ended().is_none() {
            successor.stop(PATIENCE).unwrap();
        }
    }
    assert!(!has_program(&pair, 0));
    assert!(pair.gateways[0].process.finish(PATIENCE).unwrap().success());
}

#[test]
fn a_driver_with_a_program_of_somebody_else_s_keeps_it_and_packets_take_the_other_way() {
    let underlay = Underlay { wire: Wire::Mtu, ..Underlay::default() };
    let Some(mut pair) = started("driver_taken", underlay) else { return };
    pair.assert_connected();
    let config = pair.bed.folder().join("second.toml");
    let text = std::fs::read_to_string(&pair.gateways[0].config).unwrap();
    let text =
        text.replace(&format!("{DEVICE:?}"), "\"tw9\"").replace(":8285\"\nmtu", ":9285\"\nmtu");
    std::fs::write(&config, text).unwrap();
    let socket = pair.bed.folder().join("second.sock");
    let mut command = pair.hosts[0].command(env!("CARGO_BIN_EXE_twill"));
    command.arg("run").arg("--config").arg(&config).arg("--socket").arg(&socket);

    let mut second = pair.hosts[0].spawn("second", &mut command).unwrap();

    second.wait_for("another XDP program is there", PATIENCE).unwrap();
    second.wait_for("running", PATIENCE).unwrap();
    // The second's program behind the driver is before the first's, whose packets they are.
    pair.assert_connected();
    pair.assert_tcp_carries(2, 1 << 20);
    pair.gateways[0].process.stop(PATIENCE).unwrap();
    second.wait_for("the driver of u0 unwraps datagrams", PATIENCE).unwrap();
    second.stop(PATIENCE).unwrap();
    assert!(!has_program(&pair, 0));
}

#[test]
fn a_change_from_the_driver_s_program_and_back_loses_nothing() {
    let lines = "fast_path = \"xdp\"\nkeep_forwarding = true\nprobe_seconds = 0";
    let underlay = Underlay { wire: Wire::Mtu, ..Underlay::default() };
    let Some(mut pair) = Pair::start("driver_change", &Setup { lines, underlay, ..with("auto") })
    else {
        return;
    };
    pair.assert_connected();
    let mut is_early = true;

    let (last, _) = lossless_beside(&pair, &LOAD, "change", || {
        let mut last: Option<Background> = None;
        for _ in 0..4 {
            let (from, to) = if is_early { ("\"xdp\"", "\"bpf\"") } else { ("\"bpf\"", "\"xdp\"") };
            let text = std::fs::read_to_string(&pair.gateways[0].config).unwrap();
            std::fs::write(&pair.gateways[0].config, text.replace(from, to)).unwrap();
            is_early = !is_early;
            let mut next = pair.successor(0, "auto", &[]);
            next.wait_for("running", PATIENCE).unwrap();
            last = Some(next);
            pair.eventually("the program", |pair| has_program(pair, 0) == is_early);
        }
        last.unwrap()
    });

    pair.gateways[0].process = last;
    pair.assert_connected();
    pair.assert_books_balance();
}
