//! `twill hist`: the histograms of a running gateway, since its start or by interval.

use super::show::{histograms, print, time_ns};
use super::{GatewayArgs, Outcome, completion};
use crate::telemetry::histogram::Distribution;
use crate::telemetry::instruments::{PEER_RTT, Unit, WORKER};
use crate::telemetry::status::Histograms;
use clap::Args;
use clap_complete::ArgValueCandidates;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, LineWriter};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Nanoseconds of a microsecond, the unit of percentile files.
const MICROSECOND: f64 = 1e3;
/// Nanoseconds of a millisecond, the unit of the maxima in interval logs.
const MILLISECOND: f64 = 1e6;
/// Bytes of a line of an interval log, at most: a histogram with all steps in use, compressed.
const LINE: usize = 64 << 10;

#[derive(Clone, Debug, Args)]
pub(super) struct HistArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Print one histogram: egress, ingress, egress-batch, ingress-batch, send, write or rtt:PEER
    #[arg(add = ArgValueCandidates::new(completion::histograms))]
    name: Option<String>,
    /// Print the percentile distribution of NAME in HdrHistogram's .hgrm format
    #[arg(long, requires = "name", conflicts_with = "hlog")]
    hgrm: bool,
    /// Record one histogram per interval to FILE, in HdrHistogram's .hlog format
    #[arg(long, value_name = "FILE")]
    hlog: Option<PathBuf>,
    /// Print what an interval of this length adds [default: all since the start]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    interval: Option<u32>,
    /// Stop after this many intervals
    #[arg(long, requires = "interval", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

pub(super) fn hist(args: &HistArgs) -> Outcome {
    let socket = args.gateway.socket()?;
    if let Some(file) = &args.hlog {
        return record(args, &socket, file);
    }
    let Some(seconds) = args.interval else {
        return show(args, &read(args, &socket)?);
    };
    let mut before = read(args, &socket)?;
    for _ in 0..args.count.unwrap_or(1) {
        std::thread::sleep(Duration::from_secs(seconds.into()));
        let now = read(args, &socket)?;
        show(args, &since(&now, &before))?;
        before = now;
    }
    Ok(())
}

/// Histograms with their names.
type Named = Vec<(String, Distribution)>;

/// The histograms that the arguments select.
fn read(args: &HistArgs, socket: &Path) -> Result<Named, Box<dyn std::error::Error>> {
    choose(histograms(socket)?, args.name.as_deref()).map_err(Into::into)
}

fn choose(all: Histograms, name: Option<&str>) -> Result<Named, String> {
    let Histograms { mut workers, rtt } = all;
    let in_order =
        WORKER.iter().filter_map(|it| Some((it.short.to_owned(), workers.remove(it.short)?)));
    let peers =
        rtt.into_iter().map(|(peer, values)| (format!("{}:{peer}", PEER_RTT.short), values));
    let all: Named = in_order.chain(peers).collect();
    let Some(name) = name else { return Ok(all) };
    let names: Vec<_> = all.iter().map(|(name, _)| name.clone()).collect();
    let one: Named = all.into_iter().filter(|(other, _)| other == name).collect();
    if one.is_empty() {
        return Err(format!("unknown histogram {name:?}: choose one of {}", names.join(", ")));
    }
    Ok(one)
}

/// What a later reading has more than an earlier one; all of it if the gateway restarted between.
fn since(now: &Named, before: &Named) -> Named {
    let earlier = |name: &str| before.iter().find(|(other, _)| other == name).map(|(_, it)| it);
    now.iter()
        .map(|(name, values)| {
            let interval = match earlier(name) {
                Some(earlier) if earlier.count() <= values.count() => values.since(earlier),
                _ => values.clone(),
            };
            (name.clone(), interval)
        })
        .collect()
}

fn show(args: &HistArgs, shown: &Named) -> Outcome {
    let mut text = String::new();
    match shown.as_slice() {
        [(name, values)] if args.hgrm => hgrm(values, unit(name), &mut text)?,
        _ => table(shown, &mut text)?,
    }
    print(&text)
}

fn unit(name: &str) -> Unit {
    let worker = WORKER.iter().find(|instrument| instrument.short == name);
    worker.map_or(PEER_RTT.unit, |instrument| instrument.unit)
}

fn table(shown: &Named, out: &mut String) -> fmt::Result {
    let width = shown.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(13);
    writeln!(
        out,
        "{:width$} {:>12} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "histogram", "values", "mean", "p50", "p90", "p99", "p99.9", "max"
    )?;
    for (name, values) in shown {
        let all = values.summary();
        write!(out, "{name:width$} {:>12}", all.count)?;
        if all.count == 0 {
            writeln!(out, "{}", format!("{:>10}", "-").repeat(6))?;
            continue;
        }
        match unit(name) {
            Unit::Time => write!(out, " {:>9}", time_ns(all.mean as u64))?,
            Unit::Count => write!(out, " {:>9.1}", all.mean)?,
        }
        for value in [all.p50, all.p90, all.p99, all.p999, all.max] {
            match unit(name) {
                Unit::Time => write!(out, " {:>9}", time_ns(value))?,
                Unit::Count => write!(out, " {value:>9}")?,
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

/// The form of `outputPercentileDistribution` of HdrHistogram's Java library, with 5 steps per half
/// distance; times in microseconds.
fn hgrm(values: &Distribution, unit: Unit, out: &mut String) -> fmt::Result {
    let scale = if unit == Unit::Time { MICROSECOND } else { 1.0 };
    let histogram = &values.histogram;
    writeln!(
        out,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    let mut total = 0;
    for step in histogram.iter_quantiles(5) {
        total += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value = step.value_iterated_to() as f64 / scale;
        write!(out, "{value:12.3} {quantile:2.12} {total:10}")?;
        match quantile {
            1.0 => writeln!(out)?,
            _ => writeln!(out, " {:14.2}", 1.0 / (1.0 - quantile))?,
        }
    }
    let (mean, deviation) = (histogram.mean() / scale, histogram.stdev() / scale);
    let max = histogram.max() as f64 / scale;
    writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]")?;
    writeln!(out, "#[Max     = {max:12.3}, Total count    = {total:12}]")?;
    let (buckets, steps) = (histogram.buckets(), histogram.distinct_values());
    writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {steps:12}]")
}

fn record(args: &HistArgs, socket: &Path, path: &Path) -> Outcome {
    let cannot = |error: io::Error| format!("cannot write {}: {error}", path.display());
    let every = Duration::from_secs(args.interval.unwrap_or(1).into());
    let start = SystemTime::now();
    let began = Instant::now();
    // Read first: an existing file stays as it is when no gateway answers.
    let mut before = read(args, socket)?;
    let mut at = began.elapsed();
    // Every line is one write, so a log that is cut off by a signal is whole up to its last line.
    let mut file = LineWriter::with_capacity(LINE, File::create(path).map_err(cannot)?);
    let mut serializer = V2DeflateSerializer::new();
    let mut intervals = 0;
    let mut builder = IntervalLogWriterBuilder::new();
    builder
        .add_comment(&format!("[twill {} histograms, nanoseconds]", env!("CARGO_PKG_VERSION")))
        .with_start_time(start)
        .with_base_time(start)
        .with_max_value_divisor(MILLISECOND);
    let mut log = builder.begin_log_with(&mut file, &mut serializer).map_err(cannot)?;
    while args.count.is_none_or(|count| intervals < count) {
        std::thread::sleep(every);
        let (now, now_at) = (read(args, socket)?, began.elapsed());
        for (name, values) in since(&now, &before) {
            let tag = name.replace([',', ' '], "_");
            log.write_histogram(&values.histogram, at, now_at - at, Tag::new(&tag))
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
        (before, at) = (now, now_at);
        intervals += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::instruments::{EGRESS_LATENCY, SEND_DATAGRAMS};
    use std::collections::BTreeMap;

    #[test]
    fn a_log_is_not_emptied_when_no_gateway_answers() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("f.hlog");
        std::fs::write(&log, "precious").unwrap();
        let socket = Some(folder.path().join("none.sock"));
        let args = HistArgs {
            gateway: GatewayArgs { socket, device: None },
            name: None,
            hgrm: false,
            hlog: Some(log.clone()),
            interval: None,
            count: Some(1),
        };

        assert!(hist(&args).is_err());

        assert_eq!(std::fs::read_to_string(log).unwrap(), "precious");
    }

    #[test]
    fn histograms_stand_in_the_order_of_their_definition() {
        let all = choose(two(), None).unwrap();

        let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["egress", "send", "rtt:b"]);
        assert_eq!(choose(two(), Some("rtt:b")).unwrap().len(), 1);
        let mistake = choose(two(), Some("rtt")).unwrap_err();
        assert!(mistake.contains("egress, send, rtt:b"), "{mistake}");
    }

    #[test]
    fn the_table_has_times_and_counts_in_their_units() {
        let mut text = String::new();

        table(&choose(two(), None).unwrap(), &mut text).unwrap();

        let lines: Vec<Vec<_>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..4], ["egress", "100", "10.0", "\u{b5}s"]);
        assert_eq!(lines[2], ["send", "10", "7.0", "7", "7", "7", "7", "7"]);
        assert_eq!(lines[3], ["rtt:b", "0", "-", "-", "-", "-", "-", "-"]);
        assert!(text.lines().all(|line| line.chars().count() <= 90), "{text}");
    }

    #[test]
    fn a_percentile_file_ends_with_all_values() {
        let mut text = String::new();
        let (_, values) = choose(two(), Some("egress")).unwrap().remove(0);

        hgrm(&values, Unit::Time, &mut text).unwrap();

        assert!(text.starts_with("       Value     Percentile TotalCount 1/(1-Percentile)\n\n"));
        let last = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
        let fields: Vec<_> = last.split_whitespace().collect();
        assert_eq!(fields, ["10.047", "1.000000000000", "100"], "microseconds");
    }

    #[test]
    fn a_gateway_that_was_restarted_begins_again() {
        let before = choose(two(), Some("send")).unwrap();
        let mut fewer = Distribution::new(SEND_DATAGRAMS.layout);
        fewer.record(3, 1);

        let interval = since(&vec![("send".to_owned(), fewer.clone())], &before);

        assert_eq!(interval[0].1, fewer);
        assert_eq!(since(&before, &before)[0].1.count(), 0);
    }

    fn two() -> Histograms {
        let mut egress = Distribution::new(EGRESS_LATENCY.layout);
        egress.record(10_000, 100);
        let mut send = Distribution::new(SEND_DATAGRAMS.layout);
        send.record(7, 10);
        Histograms {
            workers: BTreeMap::from([("egress".to_owned(), egress), ("send".to_owned(), send)]),
            rtt: BTreeMap::from([("b".to_owned(), Distribution::new(PEER_RTT.layout))]),
        }
    }
}
