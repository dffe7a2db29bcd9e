//! What is known to be wrong with a path is what the harness reports.

use crate::faulty::{Faults, template};
use crate::turn;
use std::path::PathBuf;
use std::time::Duration;
use twill_perf::path::{Path, PathSpec, Setting};
use twill_perf::sample::Sample;
use twill_perf::workload::{Window, Workload};
use twill_testbed::{Underlay, Wire};

fn build(spec: &PathSpec, underlay: Underlay) -> Path {
    let setting = Setting {
        underlay,
        hosts: 2,
        twill: PathBuf::from("none"),
        gateway_cpus: None,
        worker_share: None,
    };
    Path::build(spec, &setting).expect("the path stands")
}

/// Builds a path, runs one workload over it, and returns its numbers.
fn measure(spec: &PathSpec, underlay: Underlay, workload: &str, seconds: f64) -> Sample {
    let path = build(spec, underlay);
    let workload: Workload = workload.parse().expect("a workload");
    let window = Window::of(Duration::from_secs_f64(seconds));
    path.run(&workload, &window, false).expect("traffic crosses")
}

/// As [`measure`], with the gateways' system calls counted.
fn count_calls(spec: &PathSpec, workload: &str) -> Sample {
    let path = build(spec, Underlay::default());
    let workload: Workload = workload.parse().expect("a workload");
    path.run(&workload, &Window::of(Duration::from_secs(2)), true).expect("traffic crosses")
}

fn faulty(faults: Faults) -> PathSpec {
    PathSpec::External(template("faulty", faults).parse().expect("a template"))
}

fn number(sample: &Sample, key: &str) -> f64 {
    sample.get(key).unwrap_or_else(|| panic!("no {key} in {:?}", sample.values))
}

fn is_bottleneck(sample: &Sample) -> bool {
    sample.notes.iter().any(|note| note.contains("the generator is the bottleneck"))
}

#[test]
fn five_percent_injected_loss_is_five_percent_reported() {
    let Some(_turn) = turn("injected loss") else { return };
    let underlay = Underlay { loss: 0.05, ..Underlay::default() };

    let sample = measure(&PathSpec::HostGw, underlay, "udp-512@8000", 3.0);

    let sent = number(&sample, "lost") / number(&sample, "loss");
    let deviation = (0.05 * 0.95 / sent).sqrt();
    let (loss, offered) = (number(&sample, "loss"), number(&sample, "offered"));
    assert!((loss - 0.05).abs() < 6.0 * deviation, "{loss} of {sent}");
    assert!((7.8..8.2).contains(&offered), "{offered} kpps");
    assert_eq!(number(&sample, "duplicates"), 0.0);
}

#[test]
fn a_clean_path_loses_and_reorders_nothing() {
    let Some(_turn) = turn("clean path") else { return };

    let sample = measure(&PathSpec::HostGw, Underlay::default(), "udp-512x16@8000", 2.0);

    for key in ["loss", "lost", "duplicates", "reordered", "loss_worst_flow"] {
        assert_eq!(number(&sample, key), 0.0, "{key}");
    }
}

#[test]
fn paths_stand_below_the_least_mtu_of_ipv6() {
    let Some(_turn) = turn("small MTU") else { return };

    for path in [PathSpec::Veth, PathSpec::HostGw, PathSpec::Vxlan, faulty(Faults::default())] {
        let path = build(&path, Underlay { mtu: 1000, ..Underlay::default() });
        assert!(path.ping(2).is_ok(), "{}", path.name());
    }
}

#[test]
fn a_rate_limit_is_the_goodput_less_the_headers() {
    let Some(_turn) = turn("rate limit") else { return };
    let underlay = Underlay { rate_mbit: Some(100), wire: Wire::Mtu, ..Underlay::default() };

    let sample = measure(&PathSpec::HostGw, underlay, "tcp-1", 2.0);

    // Of each 1514 bytes on the wire, 1448 are payload.
    let limit = 0.1 * 1448.0 / 1514.0;
    let goodput = number(&sample, "goodput");
    assert!((0.9 * limit..1.02 * limit).contains(&goodput), "{goodput} of {limit} Gbit/s");
}

#[test]
fn added_delay_moves_the_percentiles_by_just_that() {
    let Some(_turn) = turn("delay") else { return };

    let plain = measure(&faulty(Faults::default()), Underlay::default(), "latency", 2.0);
    let delayed = measure(
        &faulty(Faults { delay_ms: 20, ..Faults::default() }),
        Underlay::default(),
        "latency",
        2.0,
    );

    // Each gateway delays what it sends: once on the way, once on the way back.
    for (key, added_us) in [("rtt_p50", 40e3), ("one_way_p50", 20e3)] {
        let shift = number(&delayed, key) - number(&plain, key);
        assert!((shift - added_us).abs() < 0.1 * added_us, "{key} moved by {shift} µs");
    }
}

#[test]
fn a_stall_is_charged_to_every_probe_that_it_held_up() {
    let Some(_turn) = turn("stall") else { return };

    let faults = Faults { stall_ms: 300, ..Faults::default() };
    let sample = measure(&faulty(faults), Underlay::default(), "latency", 4.0);

    // 30 % of all probes meet the stall of one gateway or the other: with coordinated omission it
    // would be one probe a second.
    let waited = number(&sample, "rtt_p90");
    assert!(waited > 100e3, "p90 {waited} µs");
}

#[test]
fn a_duplicating_gateway_is_caught() {
    let Some(_turn) = turn("duplicates") else { return };

    let faults = Faults { duplicate: 10, ..Faults::default() };
    let sample = measure(&faulty(faults), Underlay::default(), "udp-512@4000", 2.0);

    let sent = number(&sample, "offered") * 1e3 * sample.seconds;
    let duplicates = number(&sample, "duplicates");
    // The warm-up's packets, a tenth, are in the books, too.
    assert!((0.1 * sent..0.12 * sent).contains(&duplicates), "{duplicates} of {sent}");
    let delivered = number(&sample, "delivered") * 1e3 * sample.seconds;
    assert!(delivered < 1.01 * sent, "{delivered} of {sent}: duplicates count once");
    assert_eq!(number(&sample, "reordered"), 0.0);
}

#[test]
fn a_reordering_gateway_is_caught() {
    let Some(_turn) = turn("reordering") else { return };

    let faults = Faults { reorder: 10, ..Faults::default() };
    let sample = measure(&faulty(faults), Underlay::default(), "udp-512@4000", 2.0);

    let reordered = number(&sample, "reordered");
    assert!((0.095..0.105).contains(&reordered), "{reordered}");
    assert_eq!(number(&sample, "duplicates"), 0.0);
}

#[test]
fn a_generator_that_cannot_keep_up_is_said_to_be_the_bottleneck() {
    let Some(_turn) = turn("bottleneck") else { return };

    let beyond = measure(&PathSpec::Veth, Underlay::default(), "udp-64@50000000", 1.0);
    let within = measure(&PathSpec::Veth, Underlay::default(), "udp-64@2000", 1.0);

    assert!(is_bottleneck(&beyond), "{:?}", beyond.notes);
    assert!(!is_bottleneck(&within), "{:?}", within.notes);
}

#[test]
fn a_path_that_takes_everything_has_no_higher_rate_than_the_generator_offered() {
    let Some(_turn) = turn("search") else { return };

    let sample = measure(&PathSpec::Veth, Underlay::default(), "ndr-64", 1.0);

    let (found, offered) = (number(&sample, "loss_free"), number(&sample, "offered"));
    assert!(0.0 < found && found <= 1.001 * offered, "{found} of {offered} kpps offered");
    assert!(is_bottleneck(&sample), "{:?}", sample.notes);
}

#[test]
fn lost_probes_are_not_left_out_of_the_percentiles() {
    let Some(_turn) = turn("lost probes") else { return };
    let underlay = Underlay { loss: 0.05, ..Underlay::default() };

    let sample = measure(&PathSpec::HostGw, underlay, "latency", 3.0);

    // Lost on the way or on the way back: 10 % of probes wait until the end.
    let (loss, waited) = (number(&sample, "loss"), number(&sample, "rtt_p99"));
    assert!((0.06..0.14).contains(&loss), "{loss}");
    assert!(waited > 1e6, "p99 {waited} µs");
    assert!(number(&sample, "rtt_p50") < 1e5, "{:?}", sample.values);
    assert!(sample.notes.iter().any(|note| note.contains("without an answer")), "{sample:?}");
}

#[test]
fn what_is_beside_the_probes_counts_in_packets_and_offer() {
    let Some(_turn) = turn("load beside") else { return };

    let sample = measure(&PathSpec::HostGw, Underlay::default(), "latency@50", 2.0);

    let load = number(&sample, "offered") * 1e3 * sample.seconds;
    let probes = 2.0 * 1000.0 * sample.seconds;
    let packets = sample.packets as f64;
    assert!((0.9..1.1).contains(&(packets / (load + probes))), "{packets} of {load} + {probes}");
}

#[test]
fn the_witness_omits_the_same_from_bytes_and_from_cost() {
    let Some(_turn) = turn("iperf3") else { return };
    let wire = Underlay { rate_mbit: Some(400), ..Underlay::default() };

    let sample = measure(&PathSpec::HostGw, wire, "iperf3", 2.0);

    // Its packets are what passed while its bytes were counted; a second more would be half more.
    let (bytes, seconds) = (sample.bytes as f64, sample.seconds);
    assert!((1.9..2.1).contains(&seconds), "{seconds}");
    let data = bytes / 1448.0;
    let packets = sample.packets as f64;
    assert!((data..1.3 * data).contains(&packets), "{packets} packets, {data} with data");
}

#[test]
fn a_slow_gateway_is_not_blamed_on_the_generator() {
    let Some(_turn) = turn("slow gateway") else { return };

    let slow = Faults { work_us: 200, ..Faults::default() };
    let sample = measure(&faulty(slow), Underlay::default(), "udp-512", 1.5);

    assert!(!is_bottleneck(&sample), "{:?}", sample.notes);
    assert!(number(&sample, "loss") > 0.2, "{:?}", sample.values);
    assert!(number(&sample, "gateway_cpu") > 0.3, "{:?}", sample.values);
}

#[test]
fn packets_that_a_slow_gateway_loses_are_found_where_it_lost_them() {
    let Some(_turn) = turn("losses") else { return };

    let slow = Faults { work_us: 100, ..Faults::default() };
    let sample = measure(&faulty(slow), Underlay::default(), "udp-512", 1.0);

    let lost = number(&sample, "lost");
    let places = ["drops_tun", "drops_socket", "drops_device", "drops_sink", "drops_backlog"];
    let found: f64 = places.iter().map(|key| number(&sample, key)).sum();
    assert!(lost > 1000.0, "{:?}", sample.values);
    // The backlog is that of the whole machine, and a device may drop a packet that is no payload.
    assert!((0.99..1.02).contains(&(found / lost)), "{found} of {lost}: {:?}", sample.values);
}

#[test]
fn system_calls_of_all_threads_count_once() {
    let Some(_turn) = turn("system calls") else { return };

    let sample = count_calls(&faulty(Faults::default()), "udp-512@2000");

    // Read and send on one side, receive and write on the other; a futex to wake the sender.
    let calls = number(&sample, "calls_per_packet");
    assert!((3.9..8.0).contains(&calls), "{calls}");
}

#[test]
fn every_workload_brings_its_headline_over_a_real_path() {
    let Some(_turn) = turn("all workloads") else { return };

    for name in [
        "tcp-1",
        "tcp-4",
        "udp-64",
        "udp-mixx8",
        "udp-1400@2000",
        "rr",
        "latency@50",
        "latency+tcp",
        "ndr-512",
    ] {
        let sample = measure(&PathSpec::Vxlan, Underlay::default(), name, 0.5);
        let workload: Workload = name.parse().unwrap();
        assert!(number(&sample, workload.headline()) > 0.0, "{name}: {:?}", sample.values);
    }
}
