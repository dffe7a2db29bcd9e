//! Prometheus, HdrHistogram's file formats, and readers that mean no good.

use crate::{PROBED, TWILL, UNPROBED, with};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use twill_testbed::pair::{DEVICE, METRICS, PATIENCE, Pair, get};
use twill_testbed::within;

#[test]
fn promtool_finds_nothing_to_say_about_the_metrics() {
    let Some(pair) = Pair::start("promtool", &with(UNPROBED)) else { return };
    pair.send(100, 200);
    pair.status_when(1, "traffic", |status| status["ingress"]["packets_out"] == 100);

    let page = pair.page(1, "/metrics");

    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of Debian's package prometheus");
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    let counted = "twill_forwarded_packets_total{direction=\"ingress\"} 100\n";
    assert!(page.contains(counted), "{page}");
    assert!(page.contains("twill_ingress_latency_seconds_count 100\n"), "{page}");
    assert!(pair.page(1, "/healthz").contains("running"));
    assert!(pair.page(1, "/readyz").contains("ready"));
}

#[test]
fn the_status_of_a_loaded_gateway_fits_the_schema_that_the_program_prints() {
    let Some(pair) = Pair::start("schema", &with(PROBED)) else { return };
    pair.send(100, 200);
    // Probes are packets, too.
    pair.status_when(1, "traffic", |status| status["ingress"]["packets_out"].as_u64() >= Some(100));

    let schema = pair.twill(1, &["status", "--schema"]).unwrap();
    let schema = serde_json::from_str(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).expect("a valid schema");
    let mut status: Value =
        serde_json::from_str(&pair.twill(1, &["status", "--json"]).unwrap()).unwrap();

    let mistakes = |status: &Value| -> Vec<_> {
        validator.iter_errors(status).map(|it| it.to_string()).collect()
    };
    assert_eq!(mistakes(&status), Vec::<String>::new(), "{status:#}");
    status["peers"][0]["endpoint"] = 7.into();
    assert_eq!(mistakes(&status).len(), 1, "{status:#}");
}

#[test]
fn a_prometheus_reads_a_loaded_gateway_and_computes_quantiles() {
    let Some(pair) = Pair::start("prometheus", &with(UNPROBED)) else { return };
    let folder = pair.bed.folder().join("prometheus");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("prometheus.yml");
    let scrape = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: twill\n  \
         static_configs: [{{targets: ['{METRICS}']}}]\n"
    );
    fs::write(&file, scrape).unwrap();
    let listen = "127.0.0.1:9090";
    let mut command = pair.hosts[1].command("prometheus");
    command
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address={listen}"));
    let mut prometheus = pair.hosts[1].spawn("prometheus", &mut command).unwrap();
    prometheus.wait_for("Server is ready", PATIENCE).unwrap();
    let query = |expression: &str| -> Option<f64> {
        let path = format!("/api/v1/query?query={expression}");
        let answer: Value =
            serde_json::from_str(&pair.hosts[1].enter(|| get(listen, &path))).unwrap();
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    };

    let mut sent = 0;
    let quantile = "histogram_quantile(0.99,rate(twill_ingress_latency_seconds_bucket[10s]))";
    within(PATIENCE, "a quantile", || {
        pair.send(100, 200);
        sent += 100;
        query(quantile).is_some_and(|seconds| seconds > 0.0 && seconds < 60.0)
    });

    assert_eq!(query("up"), Some(1.0));
    assert_eq!(query("sum(abs(twill_imbalance_packets))"), Some(0.0));
    within(PATIENCE, "all packets", || {
        query("twill_forwarded_packets_total{direction=%22ingress%22}") == Some(f64::from(sent))
    });
}

#[test]
fn an_interval_log_holds_what_flowed_in_each_interval() {
    let Some(pair) = Pair::start("interval log", &with(PROBED)) else { return };
    let log = pair.bed.folder().join("twill.hlog");
    let words = ["hist", "--interval", "1", "--count", "3", "--hlog", log.to_str().unwrap()];
    let recorder =
        Command::new(TWILL).args(words).arg("--socket").arg(&pair.gateways[1].socket).spawn();
    let mut recorder = recorder.unwrap();

    within(PATIENCE, "the first reading", || log.exists());
    while recorder.try_wait().unwrap().is_none() {
        pair.send(10, 100);
    }
    let recorded = fs::read(&log).unwrap();

    let mut counts = BTreeMap::<_, Vec<u64>>::new();
    for entry in IntervalLogIterator::new(&recorded) {
        let Ok(LogEntry::Interval(interval)) = entry else { continue };
        let histogram = decode(interval.encoded_histogram());
        counts.entry(interval.tag().unwrap().to_string()).or_default().push(histogram.len());
    }
    assert_eq!(counts["ingress"].len(), 3, "{counts:?}");
    assert!(counts["ingress"].iter().all(|count| *count > 0), "{counts:?}");
    assert_eq!(counts["egress"].len(), 3);
    assert!(counts.contains_key("rtt:other"), "{counts:?}");
    let received = pair.status(1)["histograms"]["ingress"]["count"].as_u64().unwrap();
    assert!(counts["ingress"].iter().sum::<u64>() <= received);
    let text = pair.twill(1, &["hist", "ingress", "--hgrm"]).unwrap();
    assert!(text.contains("1.000000000000") && text.contains("#[Mean"), "{text}");
}

fn decode(encoded: &str) -> Histogram<u64> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
    Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap()
}

#[test]
fn the_books_balance_in_every_reading_of_a_loaded_gateway() {
    let Some(pair) = Pair::start("balance", &with(UNPROBED)) else { return };

    std::thread::scope(|scope| {
        let load = scope.spawn(|| (0..20).for_each(|_| pair.send(500, 100)));
        let mut readings = 0;
        while !load.is_finished() || readings < 5 {
            let status = pair.status(readings % 2);
            assert_eq!(status["imbalance"], 0, "{status:#}");
            assert_eq!(status["workers"][0]["egress"]["imbalance"], 0);
            readings += 1;
        }
    });

    let seen = |near: &Value| {
        let egress = &near["egress"];
        let read = egress["packets_in"].as_u64().unwrap() - own_packets(egress);
        read + near["tun"]["egress"].as_u64().unwrap()
    };
    // The last of them may still wait in the device.
    let near = pair.status_when(0, "all of them", |near| seen(near) == 10_000);
    let egress = &near["egress"];
    let peer = &near["peers"][0];
    assert_eq!(peer["egress_packets"], egress["packets_out"]);
    assert_eq!(peer["egress_bytes"], near["egress"]["bytes_out"]);
    assert_eq!(peer["ingress_packets"], near["ingress"]["packets_out"]);
    assert_eq!(near["histograms"]["egress"]["count"], near["egress"]["packets_out"]);
}

/// What the kernel itself sends when a device comes up: IPv6, which this overlay does not carry.
fn own_packets(egress: &Value) -> u64 {
    egress["drops"]["family"].as_u64().unwrap_or(0)
}

#[test]
fn hostile_readers_hold_up_neither_packets_nor_each_other_for_long() {
    let Some(pair) = Pair::start("hostile readers", &with(UNPROBED)) else { return };
    pair.round_trip().expect("a round trip");

    // More silent, half-spoken and deaf clients than are served at a time.
    let socket = &pair.gateways[1].socket;
    let mut clients: Vec<_> = (0..40).map(|_| UnixStream::connect(socket).unwrap()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let words: &[u8] = match number % 3 {
            0 => b"",
            1 => b"{\"version\":1,\"request\":",
            _ => b"{\"version\":1,\"request\":\"histograms\"}\n",
        };
        // The gateway may have hung up already.
        let _ = client.write_all(words);
    }
    let web: Vec<_> = (0..40)
        .map(|_| {
            let mut client = pair.hosts[1].enter(|| TcpStream::connect(METRICS).unwrap());
            client.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n").unwrap();
            client
        })
        .collect();
    let lost = (0..50).filter(|_| pair.round_trip().is_none()).count();
    let status = pair.status(1);

    assert_eq!(lost, 0, "packets flow meanwhile");
    assert_eq!(status["imbalance"], 0);
    drop((clients, web));
    assert!(pair.page(1, "/metrics").contains("twill_build_info"));
}

#[test]
fn a_dump_has_one_line_for_the_gateway_and_one_for_each_peer() {
    let Some(pair) = Pair::start("dump", &with(UNPROBED)) else { return };
    pair.send(3, 100);
    pair.status_when(1, "traffic", |status| status["ingress"]["packets_out"] == 3);

    let dump = pair.twill(1, &["status", "dump"]).unwrap();

    let lines: Vec<Vec<_>> = dump.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines.len(), 2, "{dump}");
    assert_eq!(lines[0][..2], [DEVICE, "192.0.2.2:8285"]);
    assert_eq!(lines[1][..3], ["other", "192.0.2.1:8285", "10.244.1.0/24"]);
    assert_eq!(lines[1][7], lines[0][9], "packets that came from the one peer there is");
}
