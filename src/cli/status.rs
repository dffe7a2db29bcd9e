//! `twill status`: a running gateway in the manner of `wg show`.

use super::show::{age, bytes, count, print, snapshot, time_ns};
use super::{GatewayArgs, Outcome};
use crate::telemetry::counter::Direction;
use crate::telemetry::histogram::Summary;
use crate::telemetry::status::{PeerStatus, GatewayStatus};
use clap::{Args, ValueEnum};
use std::fmt::{self, Write};

#[derive(Clone, Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// All numbers as JSON.
    #[arg(long, conflicts_with = "form")]
    json: bool,
    /// `dump`: one line for the gateway and one for each peer, fields separated by tabs.
    form: Option<Form>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    Dump,
}

pub(super) fn status(args: &StatusArgs) -> Outcome {
    let snapshot = snapshot(&args.gateway)?;
    let mut text = String::new();
    match args.form {
        _ if args.json => writeln!(text, "{:#}", serde_json::to_value(&snapshot)?)?,
        Some(Form::Dump) => dump(&snapshot, &mut text)?,
        None => describe(&snapshot, &mut text)?,
    }
    print(&text)
}

fn describe(snapshot: &GatewayStatus, out: &mut String) -> fmt::Result {
    let about = &snapshot.about;
    writeln!(out, "interface: {}", about.device)?;
    writeln!(out, "  listening: {}", about.listen)?;
    writeln!(out, "  mtu: {}", about.mtu)?;
    writeln!(out, "  up: {}", age(snapshot.uptime_seconds))?;
    let workers = if about.queues == 1 { "worker" } else { "workers" };
    let (engine, reason) = (&about.engine, &about.engine_reason);
    writeln!(out, "  engine: {engine}, {} {workers} ({reason})", about.queues)?;
    let on: Vec<_> =
        snapshot.offloads.iter().filter(|it| it.on).map(|it| it.name.as_str()).collect();
    writeln!(out, "  offloads: {}", if on.is_empty() { "none".to_owned() } else { on.join(", ") })?;
    for offload in snapshot.offloads.iter().filter(|offload| !offload.on) {
        writeln!(out, "    without {}: {}", offload.name, offload.reason)?;
    }
    for (name, books) in [("egress", &snapshot.egress), ("ingress", &snapshot.ingress)] {
        direction(out, name, books, snapshot.histograms.get(name))?;
    }
    queues(snapshot, out)?;
    if snapshot.imbalance != 0 {
        let off = snapshot.imbalance;
        writeln!(out, "  books: {off} packets neither forwarded nor dropped: a bug in twill")?;
    }
    if let Some(etcd) = &snapshot.etcd {
        let answers = if etcd.connected { "answers" } else { "does not answer" };
        writeln!(out, "  lease: {}, etcd {answers}", etcd.own)?;
    }
    for peer in &snapshot.peers {
        writeln!(out)?;
        describe_peer(peer, out)?;
    }
    Ok(())
}

fn direction(
    out: &mut String,
    name: &str,
    books: &Direction,
    latency: Option<&Summary>,
) -> fmt::Result {
    let (packets, dropped) = (books.packets_out, books.dropped());
    write!(out, "  {name}: {} packets, {}", count(packets as f64), bytes(books.bytes_out))?;
    if dropped > 0 {
        let reasons: Vec<_> =
            books.drops.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        write!(out, ", {dropped} dropped ({})", reasons.join(", "))?;
    }
    if let Some(latency) = latency.filter(|latency| latency.count > 0) {
        let (median, p99) = (time_ns(latency.p50), time_ns(latency.p99));
        write!(out, ", {median} median inside, {p99} for 99 %")?;
    }
    writeln!(out)
}

/// Packets that the kernel lost before twill could see them.
fn queues(snapshot: &GatewayStatus, out: &mut String) -> fmt::Result {
    let device = snapshot.tun.unwrap_or_default().egress;
    let socket = snapshot.counters.socket_overflows;
    if device > 0 || socket > 0 {
        let (name, listen) = (&snapshot.about.device, snapshot.about.listen);
        writeln!(out, "  lost in full queues: {device} at {name}, {socket} at UDP {listen}")?;
    }
    Ok(())
}

fn describe_peer(peer: &PeerStatus, out: &mut String) -> fmt::Result {
    writeln!(out, "peer: {}", peer.name)?;
    writeln!(out, "  endpoint: {}", peer.endpoint)?;
    let subnets: Vec<_> = peer.subnets.iter().map(ToString::to_string).collect();
    writeln!(out, "  subnets: {}", subnets.join(", "))?;
    if let Some(seconds) = peer.last_seen_seconds {
        writeln!(out, "  last seen: {} ago", age(seconds))?;
    }
    let traffic = &peer.traffic;
    let (received, sent) = (bytes(traffic.ingress_bytes), bytes(traffic.egress_bytes));
    write!(out, "  transfer: {received} received, {sent} sent")?;
    if traffic.ingress_drops + traffic.egress_drops > 0 {
        let (received, sent) = (traffic.ingress_drops, traffic.egress_drops);
        write!(out, "; packets dropped: {received} of those received, {sent} to be sent")?;
    }
    writeln!(out)?;
    let Some(probe) = &peer.probe else { return Ok(()) };
    let (rtt, lost, sent) = (&probe.rtt, probe.lost, probe.sent);
    if rtt.count > 0 {
        let (median, p99) = (time_ns(rtt.p50), time_ns(rtt.p99));
        write!(out, "  round trip: {median} median, {p99} for 99 %, ")?;
    } else {
        write!(out, "  round trip: unknown, ")?;
    }
    writeln!(out, "{lost} of {sent} probes lost")
}

/// Field by field as docs/TELEMETRY.md lists them; `-` for what is not known.
fn dump(snapshot: &GatewayStatus, out: &mut String) -> fmt::Result {
    let about = &snapshot.about;
    writeln!(
        out,
        "{}\t{}\t{}\t{}\t{}\t{:.3}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
        about.device,
        about.listen,
        about.mtu,
        about.queues,
        about.engine,
        snapshot.uptime_seconds,
        snapshot.egress.packets_out,
        snapshot.egress.bytes_out,
        snapshot.egress.dropped(),
        snapshot.ingress.packets_out,
        snapshot.ingress.bytes_out,
        snapshot.ingress.dropped(),
        snapshot.imbalance,
    )?;
    let dash = || "-".to_owned();
    for peer in &snapshot.peers {
        let subnets: Vec<_> = peer.subnets.iter().map(ToString::to_string).collect();
        let traffic = &peer.traffic;
        let seen = peer.last_seen_seconds.map_or_else(dash, |seconds| format!("{seconds:.3}"));
        let rtt = peer.probe.map(|probe| probe.rtt).filter(|rtt| rtt.count > 0);
        let (p50, p99) =
            rtt.map_or((dash(), dash()), |it| (it.p50.to_string(), it.p99.to_string()));
        writeln!(
            out,
            "{}\t{}\t{}\t{seen}\t{}\t{}\t{}\t{}\t{}\t{}\t{p50}\t{p99}",
            peer.name.replace(['\t', '\n'], " "),
            peer.endpoint,
            subnets.join(","),
            traffic.egress_packets,
            traffic.egress_bytes,
            traffic.egress_drops,
            traffic.ingress_packets,
            traffic.ingress_bytes,
            traffic.ingress_drops,
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::status::tests::busy;

    #[test]
    fn people_see_what_matters() {
        let mut text = String::new();

        describe(&busy(), &mut text).unwrap();

        for line in [
            "interface: twill0",
            "  engine: uring, 2 workers (the kernel has all that it needs)",
            "  offloads: tso",
            "    without gso: switched off",
            "  egress: 7 packets, 7.00 KiB, 3 dropped (no_route 2, ttl 1), 12.3 µs median inside, \
             88.0 µs for 99 %",
            "  lost in full queues: 4 at twill0, 5 at UDP 0.0.0.0:8285",
            "peer: h2",
            "  last seen: 2s ago",
            "  transfer: 2.00 KiB received, 1.00 KiB sent",
            "  round trip: 150 µs median, 300 µs for 99 %, 1 of 9 probes lost",
        ] {
            assert!(text.lines().any(|it| it == line), "{line:?} is not in\n{text}");
        }
        assert!(!text.contains("a bug in twill"));
    }

    #[test]
    fn a_dump_has_the_same_fields_on_every_line_of_a_kind() {
        let mut snapshot = busy();
        let mut silent = snapshot.peers[0].clone();
        silent.name = "tab\there".to_owned();
        silent.last_seen_seconds = None;
        silent.probe = None;
        snapshot.peers.push(silent);
        let mut text = String::new();

        dump(&snapshot, &mut text).unwrap();

        let fields: Vec<_> = text.lines().map(|line| line.split('\t').count()).collect();
        assert_eq!(fields, [13, 12, 12]);
        assert!(text.contains("\t10.244.2.0/24\t-\t"));
    }
}
