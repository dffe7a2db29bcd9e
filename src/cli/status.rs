//! `twill status`: the state of running gateways, in the manner of `wg show`.

use super::show::{self, age, bytes, count, print, time_ns};
use super::{GatewayArgs, Outcome};
use crate::telemetry::counter::Direction;
use crate::telemetry::histogram::Summary;
use crate::telemetry::status::{FastPathStatus, GatewayStatus, PeerStatus};
use clap::{Args, ValueEnum};
use std::fmt::{self, Write};

#[derive(Clone, Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Print all numbers as JSON, one object per gateway
    #[arg(long, conflicts_with = "form")]
    json: bool,
    /// Print the JSON schema of --json
    #[arg(long, conflicts_with_all = ["json", "form"])]
    schema: bool,
    /// Print one line per gateway and per peer, separated by tabs
    form: Option<Form>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    Dump,
}

pub(super) fn status(args: &StatusArgs) -> Outcome {
    if args.schema {
        return print(&GatewayStatus::schema());
    }
    let (mut text, mut failed) = (String::new(), None);
    for socket in args.gateway.sockets()? {
        match show::status(&socket) {
            Ok(status) => append(args, &status, &mut text)?,
            // One gateway that does not answer hides no other one.
            Err(error) => failed = Some(error),
        }
    }
    print(&text)?;
    failed.map_or(Ok(()), Err)
}

fn append(args: &StatusArgs, status: &GatewayStatus, text: &mut String) -> Outcome {
    match args.form {
        _ if args.json => writeln!(text, "{:#}", serde_json::to_value(status)?)?,
        Some(Form::Dump) => dump(status, text)?,
        None => {
            if !text.is_empty() {
                text.push('\n');
            }
            describe(status, text)?;
        }
    }
    Ok(())
}

fn describe(status: &GatewayStatus, out: &mut String) -> fmt::Result {
    let about = &status.about;
    writeln!(out, "interface: {}", about.device)?;
    writeln!(out, "  listening: {}", about.listen)?;
    writeln!(out, "  mtu: {}", about.mtu)?;
    writeln!(out, "  up: {}", age(status.uptime_seconds))?;
    let workers = if about.queues == 1 { "worker" } else { "workers" };
    let (engine, reason) = (&about.engine, &about.engine_reason);
    writeln!(out, "  engine: {engine}, {} {workers} ({reason})", about.queues)?;
    let on: Vec<_> = status.offloads.iter().filter(|it| it.on).map(|it| it.name.as_str()).collect();
    writeln!(out, "  offloads: {}", if on.is_empty() { "none".to_owned() } else { on.join(", ") })?;
    for offload in status.offloads.iter().filter(|offload| !offload.on) {
        writeln!(out, "    without {}: {}", offload.name, offload.reason)?;
    }
    fast_path(&status.fast_path, out)?;
    let backpressure = &about.backpressure;
    let on = if backpressure.on { "on" } else { "off" };
    writeln!(out, "  backpressure: {on} ({})", backpressure.reason)?;
    for (name, books) in [("egress", &status.egress), ("ingress", &status.ingress)] {
        direction(out, name, books, status.histograms.get(name))?;
    }
    queues(status, out)?;
    if status.imbalance != 0 {
        let off = status.imbalance;
        writeln!(
            out,
            "  unaccounted for: {off} packets neither forwarded nor dropped, a bug in twill"
        )?;
    }
    if let Some(etcd) = &status.etcd {
        let answers = if etcd.connected { "answers" } else { "does not answer" };
        writeln!(out, "  lease: {}, etcd {answers}", etcd.own)?;
    }
    if let Some(kube) = &status.kube {
        let answers = if kube.connected { "answers" } else { "does not answer" };
        writeln!(out, "  node: {}, API server {answers}", kube.own)?;
    }
    for missing in &status.missing {
        writeln!(out, "  missing: {missing}")?;
    }
    for peer in &status.peers {
        writeln!(out)?;
        describe_peer(peer, out)?;
    }
    Ok(())
}

fn fast_path(fast: &FastPathStatus, out: &mut String) -> fmt::Result {
    if !fast.on {
        return writeln!(out, "  fast path: off ({})", fast.reason);
    }
    let [sent, received, left] =
        [fast.egress_packets, fast.ingress_packets, fast.egress_left + fast.ingress_left]
            .map(|packets| count(packets as f64));
    let reason = &fast.reason;
    writeln!(
        out,
        "  fast path: on ({reason}), {sent} packets sent, {received} received, {left} left to user space"
    )?;
    let then = if fast.kept { "goes on" } else { "ends" };
    writeln!(out, "    when the gateway ends: forwarding {then}")
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
        write!(out, ", latency {median} p50, {p99} p99")?;
    }
    writeln!(out)
}

/// Packets that the kernel dropped because twill did not read its queues in time.
fn queues(status: &GatewayStatus, out: &mut String) -> fmt::Result {
    let device = status.tun.unwrap_or_default().egress;
    let socket = status.counters.socket_overflows;
    if device > 0 || socket > 0 {
        let (name, listen) = (&status.about.device, status.about.listen);
        writeln!(
            out,
            "  queue overflows: {device} packets at {name}, {socket} datagrams at UDP {listen}"
        )?;
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
    if let Some(silence) = peer.silence() {
        writeln!(out, "  silent: {silence}")?;
    }
    let traffic = &peer.traffic;
    let (received, sent) = (bytes(traffic.ingress_bytes), bytes(traffic.egress_bytes));
    write!(out, "  transfer: {received} received, {sent} sent")?;
    if traffic.ingress_drops + traffic.egress_drops > 0 {
        let (received, sent) = (traffic.ingress_drops, traffic.egress_drops);
        write!(out, "; packets dropped: {received} received, {sent} to be sent")?;
    }
    writeln!(out)?;
    let Some(probe) = &peer.probe else { return Ok(()) };
    let (rtt, lost, sent) = (&probe.rtt, probe.lost, probe.sent);
    if rtt.count > 0 {
        let (median, p99) = (time_ns(rtt.p50), time_ns(rtt.p99));
        write!(out, "  round trip: {median} p50, {p99} p99, ")?;
    } else {
        write!(out, "  round trip: no answer yet, ")?;
    }
    writeln!(out, "{lost} of {sent} probes lost")
}

/// Field by field as docs/TELEMETRY.md lists them; `-` for what is not known.
fn dump(status: &GatewayStatus, out: &mut String) -> fmt::Result {
    let about = &status.about;
    writeln!(
        out,
        "{}\t{}\t{}\t{}\t{}\t{:.3}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
        about.device,
        about.listen,
        about.mtu,
        about.queues,
        about.engine,
        status.uptime_seconds,
        status.egress.packets_out,
        status.egress.bytes_out,
        status.egress.dropped(),
        status.ingress.packets_out,
        status.ingress.bytes_out,
        status.ingress.dropped(),
        status.imbalance,
    )?;
    let dash = || "-".to_owned();
    for peer in &status.peers {
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
    fn the_status_shows_latencies_drops_and_probes() {
        let mut text = String::new();

        describe(&busy(), &mut text).unwrap();

        for line in [
            "interface: twill0",
            "  engine: uring, 2 workers (the kernel has all that it needs)",
            "  offloads: tso",
            "    without gso: switched off",
            "  fast path: on (the kernel takes the programs), 90 packets sent, 80 received, 30 left to \
             user space",
            "    when the gateway ends: forwarding goes on",
            "  backpressure: off (IFF_BACKPRESSURE needs Linux 7.3)",
            "  egress: 7 packets, 7.00 KiB, 3 dropped (no_route 2, ttl 1), latency 12.3 µs p50, \
             88.0 µs p99",
            "  queue overflows: 4 packets at twill0, 5 datagrams at UDP 0.0.0.0:8285",
            "peer: h2",
            "  last seen: 2s ago",
            "  transfer: 2.00 KiB received, 1.00 KiB sent",
            "  round trip: 150 µs p50, 300 µs p99, 1 of 9 probes lost",
        ] {
            assert!(text.lines().any(|it| it == line), "{line:?} is not in\n{text}");
        }
        assert!(!text.contains("a bug in twill"));
    }

    #[test]
    fn a_silent_peer_is_called_silent() {
        let mut status = busy();
        status.peers[0].last_seen_seconds = Some(19.2);
        status.peers[0].probe.as_mut().unwrap().last_lost = true;
        let mut text = String::new();

        describe(&status, &mut text).unwrap();

        assert!(text.contains("\n  silent: no traffic for 19 s, last probe lost\n"), "{text}");
    }

    #[test]
    fn a_dump_has_the_same_fields_on_every_line_of_a_kind() {
        let mut status = busy();
        let mut silent = status.peers[0].clone();
        silent.name = "tab\there".to_owned();
        silent.last_seen_seconds = None;
        silent.probe = None;
        status.peers.push(silent);
        let mut text = String::new();

        dump(&status, &mut text).unwrap();

        let fields: Vec<_> = text.lines().map(|line| line.split('\t').count()).collect();
        assert_eq!(fields, [13, 12, 12]);
        assert!(text.contains("\t10.244.2.0/24\t-\t"));
    }
}
