//! `GET /metrics`, in Prometheus's text format.
//!
//! One page is made of one [`GatewayStatus`] and its [`Histograms`], so its numbers are consistent.
//! Histograms have classic buckets with fixed bounds, which can be summed over workers, gateways and
//! time; each bound has the histogram's own precision of 1 %.

use super::counter::Direction;
use super::http::Answer;
use super::instruments::{self, Instrument, PEER_RTT, Unit};
use super::observer::Observer;
use super::status::{GatewayStatus, Histograms, PeerStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::{Arc, OnceLock};
use twill_datapath::DropReason;

/// Prefix of all names.
const PREFIX: &str = "twill";
/// Peers that have series of their own; the numbers of the rest are summed under [`OTHERS`].
const MAX_PEERS: usize = 1024;
/// The label of the peers without series of their own. No peer has this name: names have no spaces.
const OTHERS: &str = "all others";
/// The text format that every Prometheus reads.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers for a gateway that may still be starting: 503 then.
pub(crate) fn page(observer: &OnceLock<Arc<Observer>>) -> Answer {
    match observer.get() {
        Some(observer) => {
            let body = render(observer.snapshot(), observer.histograms());
            Answer { status: 200, content_type: CONTENT_TYPE, body }
        }
        None => Answer::text(503, "the gateway is starting\n"),
    }
}

/// The page for one status, in the text format.
#[must_use]
pub(crate) fn render(snapshot: GatewayStatus, histograms: Histograms) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Exposition { snapshot, histograms }));
    let mut open_metrics = String::new();
    text::encode_registry(&mut open_metrics, &registry)
        .expect("a string takes all that is written");
    classic(&open_metrics)
}

/// OpenMetrics names a counter's family without `_total`; the older format, which `promtool check
/// metrics` reads, calls the family as its samples. And the encoder writes braces around no label.
fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 4096);
    let mut help = None;
    for line in open_metrics.lines() {
        if line.starts_with("# HELP ") {
            help = Some(line);
            continue;
        }
        let counter = line.strip_prefix("# TYPE ").and_then(|line| line.strip_suffix(" counter"));
        for line in help.take().into_iter().chain([line]) {
            match (counter, line.split_once('{')) {
                (Some(name), _) => text.push_str(&line.replacen(name, &format!("{name}_total"), 1)),
                (None, Some((name, rest))) if rest.starts_with('}') && !name.starts_with('#') => {
                    text.extend([name, &rest[1..]]);
                }
                _ => text.push_str(line),
            }
            text.push('\n');
        }
    }
    text
}

#[derive(Debug)]
struct Exposition {
    snapshot: GatewayStatus,
    histograms: Histograms,
}

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.about(&mut page)?;
        self.fast_path(&mut page)?;
        self.traffic(&mut page)?;
        self.events(&mut page)?;
        self.worker_histograms(&mut page)?;
        self.peers(&mut page)?;
        self.etcd(&mut page)?;
        self.kube(&mut page)
    }
}

/// A label's name and value.
type Label<'a> = (&'static str, &'a str);

impl Exposition {
    fn about(&self, page: &mut Page<'_>) -> fmt::Result {
        let GatewayStatus { about, offloads, .. } = &self.snapshot;
        page.gauge(
            "build_info",
            "Always 1; version, device and engine are labels",
            &[(
                vec![
                    ("version", about.version.as_str()),
                    ("device", &about.device),
                    ("engine", &about.engine),
                ],
                1.0,
            )],
        )?;
        page.gauge(
            "start_time_seconds",
            "Start time of the gateway, in seconds since 1970",
            &[(vec![], about.start_time_seconds)],
        )?;
        page.gauge(
            "engine_fallback",
            "1 if the preferred engine does not work and another one runs, else 0",
            &[(vec![], f64::from(about.engine_fallback))],
        )?;
        page.gauge(
            "workers",
            "Number of workers, each with its own queue",
            &[(vec![], about.queues as f64)],
        )?;
        let enabled: Vec<_> = offloads
            .iter()
            .map(|offload| (vec![("offload", offload.name.as_str())], f64::from(offload.on)))
            .collect();
        page.gauge("offload_enabled", "1 if the offload is in use, else 0", &enabled)
    }

    fn fast_path(&self, page: &mut Page<'_>) -> fmt::Result {
        let fast = &self.snapshot.fast_path;
        page.gauge(
            "fast_path",
            "1 if the fast path carries packets, else 0",
            &[(vec![], f64::from(fast.on))],
        )?;
        page.gauge(
            "fast_path_kept",
            "1 if the fast path goes on when the gateway ends, else 0",
            &[(vec![], f64::from(fast.kept))],
        )?;
        let by_direction = |egress, ingress| {
            [(vec![("direction", "egress")], egress), (vec![("direction", "ingress")], ingress)]
        };
        page.counter(
            "fast_path_packets",
            "Inner packets that the fast path forwarded; part of forwarded_packets",
            &by_direction(fast.egress_packets, fast.ingress_packets),
        )?;
        page.counter(
            "fast_path_left_packets",
            "Inner packets that the fast path left to user space",
            &by_direction(fast.egress_left, fast.ingress_left),
        )
    }

    fn traffic(&self, page: &mut Page<'_>) -> fmt::Result {
        let by_direction = |number: fn(&Direction) -> u64| {
            self.directions().map(|(name, books)| (vec![("direction", name)], number(books)))
        };
        page.counter(
            "received_packets",
            "Inner packets received",
            &by_direction(|books| books.packets_in),
        )?;
        page.counter(
            "received_bytes",
            "Bytes of inner packets received",
            &by_direction(|books| books.bytes_in),
        )?;
        page.counter(
            "forwarded_packets",
            "Inner packets forwarded",
            &by_direction(|books| books.packets_out),
        )?;
        page.counter(
            "forwarded_bytes",
            "Bytes of inner packets forwarded",
            &by_direction(|books| books.bytes_out),
        )?;
        let mut drops = Vec::new();
        for (direction, books) in self.directions() {
            for reason in DropReason::ALL {
                let count = books.drops.get(reason.label()).copied().unwrap_or(0);
                drops.push((vec![("direction", direction), ("reason", reason.label())], count));
            }
        }
        page.counter("dropped_packets", "Inner packets dropped, by reason", &drops)?;
        page.gauge(
            "imbalance_packets",
            "Packets received minus packets forwarded and dropped; not 0 means a bug in twill",
            &self
                .directions()
                .map(|(name, books)| (vec![("direction", name)], books.imbalance as f64)),
        )?;
        let numbers: Vec<_> = (0..self.snapshot.workers.len()).map(|it| it.to_string()).collect();
        let mut forwarded = Vec::new();
        for (worker, number) in self.snapshot.workers.iter().zip(&numbers) {
            for (direction, books) in [("egress", &worker.egress), ("ingress", &worker.ingress)] {
                let labels = vec![("worker", number.as_str()), ("direction", direction)];
                forwarded.push((labels, books.packets_out));
            }
        }
        page.counter("worker_forwarded_packets", "Inner packets forwarded, by worker", &forwarded)
    }

    fn directions(&self) -> [(&'static str, &Direction); 2] {
        [("egress", &self.snapshot.egress), ("ingress", &self.snapshot.ingress)]
    }

    fn events(&self, page: &mut Page<'_>) -> fmt::Result {
        let counters = &self.snapshot.counters;
        for (name, help, value) in [
            ("syscalls", "System calls made by engines", counters.syscalls),
            (
                "ring_rearmed",
                "Multishot operations submitted again after the kernel ended them",
                counters.rearmed,
            ),
            ("ring_no_buffers", "io_uring receives that found no free buffer", counters.no_buffers),
            ("ring_overflows", "io_uring completion queue overflows", counters.cq_overflows),
            (
                "tun_down_reads",
                "Reads that failed because the TUN device was down",
                counters.tun_down,
            ),
            ("socket_errors", "Failed receives from the UDP socket", counters.socket_errors),
            (
                "socket_dropped_datagrams",
                "Datagrams dropped by the kernel because the socket's receive queue was full",
                counters.socket_overflows,
            ),
            (
                "gso_replayed_runs",
                "GSO sends that the kernel refused and twill repeated as plain datagrams",
                counters.gso_replays,
            ),
            (
                "send_buffer_growths",
                "Send buffers enlarged because neighbours that do not answer filled them",
                counters.buffer_growths,
            ),
            ("icmp_sent_packets", "ICMP errors sent to inner senders", counters.icmp_sent),
            (
                "icmp_limited_packets",
                "ICMP errors not sent because of the rate limit",
                counters.icmp_limited,
            ),
        ] {
            page.counter(name, help, &[(vec![], value)])?;
        }
        let demoted = counters.gso_demoted_peers as f64;
        page.gauge("gso_demoted_peers", "Peers for which GSO is disabled", &[(vec![], demoted)])?;
        let Some(tun) = self.snapshot.tun else { return Ok(()) };
        page.counter(
            "tun_dropped_packets",
            "Packets dropped by the kernel at the TUN device, before twill read them (egress) or after it wrote them (ingress)",
            &[
                (vec![("direction", "egress")], tun.egress),
                (vec![("direction", "ingress")], tun.ingress),
            ],
        )
    }

    fn worker_histograms(&self, page: &mut Page<'_>) -> fmt::Result {
        for instrument in instruments::WORKER {
            if let Some(values) = self.histograms.workers.get(instrument.short) {
                page.histogram(&instrument, &[(vec![], values)])?;
            }
        }
        Ok(())
    }

    fn peers(&self, page: &mut Page<'_>) -> fmt::Result {
        let all = &self.snapshot.peers;
        page.gauge("peers", "Number of peers", &[(vec![], all.len() as f64)])?;
        let (shown, rest) = all.split_at(all.len().min(MAX_PEERS));
        let both = |egress: fn(&PeerStatus) -> u64, ingress: fn(&PeerStatus) -> u64| {
            let mut series = Vec::new();
            for (direction, number) in [("egress", egress), ("ingress", ingress)] {
                for peer in shown {
                    let labels = vec![("peer", peer.name.as_str()), ("direction", direction)];
                    series.push((labels, number(peer)));
                }
                if !rest.is_empty() {
                    let labels = vec![("peer", OTHERS), ("direction", direction)];
                    series.push((labels, rest.iter().map(number).sum()));
                }
            }
            series
        };
        page.counter(
            "peer_forwarded_packets",
            "Inner packets sent to a peer or received from it",
            &both(|peer| peer.traffic.egress_packets, |peer| peer.traffic.ingress_packets),
        )?;
        page.counter(
            "peer_forwarded_bytes",
            "Bytes of inner packets sent to a peer or received from it",
            &both(|peer| peer.traffic.egress_bytes, |peer| peer.traffic.ingress_bytes),
        )?;
        page.counter(
            "peer_dropped_packets",
            "Inner packets to a peer that the kernel refused, or from a peer that were dropped",
            &both(|peer| peer.traffic.egress_drops, |peer| peer.traffic.ingress_drops),
        )?;
        let silence: Vec<_> = shown
            .iter()
            .filter_map(|peer| Some((vec![("peer", peer.name.as_str())], peer.last_seen_seconds?)))
            .collect();
        page.gauge(
            "peer_silence_seconds",
            "Time since the last datagram from a peer's address",
            &silence,
        )?;
        self.probes(page, shown)
    }

    fn probes(&self, page: &mut Page<'_>, shown: &[PeerStatus]) -> fmt::Result {
        let probed = |number: fn(&super::status::ProbeStatus) -> u64| -> Vec<_> {
            shown
                .iter()
                .filter_map(|peer| Some((vec![("peer", &*peer.name)], number(&peer.probe?))))
                .collect()
        };
        let sent = probed(|probe| probe.sent);
        if sent.is_empty() {
            return Ok(());
        }
        page.counter("peer_probes", "Probes sent through the tunnel to a peer", &sent)?;
        let lost = probed(|probe| probe.lost);
        page.counter(
            "peer_lost_probes",
            "Probes to a peer without an answer within 5 seconds",
            &lost,
        )?;
        let round_trips: Vec<_> = self
            .histograms
            .rtt
            .iter()
            .map(|(name, values)| (vec![("peer", name.as_str())], values))
            .collect();
        page.histogram(&PEER_RTT, &round_trips)
    }

    fn etcd(&self, page: &mut Page<'_>) -> fmt::Result {
        let Some(etcd) = &self.snapshot.etcd else { return Ok(()) };
        let connected = f64::from(etcd.connected);
        page.gauge("etcd_connected", "1 if etcd answers, else 0", &[(vec![], connected)])?;
        page.counter(
            "etcd_disconnects",
            "Times that etcd stopped answering",
            &[(vec![], etcd.disconnects)],
        )?;
        let held = f64::from(etcd.own == "held");
        page.gauge("lease_held", "1 if this node holds its lease, else 0", &[(vec![], held)])?;
        page.counter(
            "lease_failed_renewals",
            "Failed attempts to renew the lease",
            &[(vec![], etcd.failed_renewals)],
        )?;
        let counts = etcd.counts;
        page.counter(
            "ignored_leases",
            "Leases of other nodes that are ignored, by reason",
            &[
                (vec![("reason", "malformed")], counts.malformed),
                (vec![("reason", "foreign_backend")], counts.foreign_backend),
                (vec![("reason", "duplicate_public_ip")], counts.duplicate_public_ip),
                (vec![("reason", "out_of_place")], counts.out_of_place),
            ],
        )
    }

    fn kube(&self, page: &mut Page<'_>) -> fmt::Result {
        let Some(kube) = &self.snapshot.kube else { return Ok(()) };
        let connected = f64::from(kube.connected);
        let help = "1 if the Kubernetes API server answers, else 0";
        page.gauge("kube_connected", help, &[(vec![], connected)])?;
        page.counter(
            "kube_disconnects",
            "Times that the Kubernetes API server stopped answering",
            &[(vec![], kube.disconnects)],
        )?;
        let registered = f64::from(kube.own == "registered");
        let help = "1 if this node has its annotations, else 0";
        page.gauge("kube_registered", help, &[(vec![], registered)])?;
        page.counter(
            "kube_failed_writes",
            "Failed attempts to write this node's annotations",
            &[(vec![], kube.failed_writes)],
        )?;
        let help = "Nodes of the cluster that are ignored now";
        page.gauge("kube_ignored_nodes", help, &[(vec![], kube.ignored as f64)])
    }
}

/// Writes metric families.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counter(&mut self, name: &str, help: &str, series: &[(Vec<Label<'_>>, u64)]) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in series {
            let labels = labels.as_slice();
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(value, None)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, series: &[(Vec<Label<'_>>, f64)]) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            let labels = labels.as_slice();
            family.encode_family(&labels)?.encode_gauge(value)?;
        }
        Ok(())
    }

    fn histogram(
        &mut self,
        instrument: &Instrument,
        series: &[(Vec<Label<'_>>, &super::histogram::Distribution)],
    ) -> fmt::Result {
        let (name, scale) = match instrument.unit {
            Unit::Time => (format!("{}_seconds", instrument.name), 1e9),
            Unit::Count => (instrument.name.to_owned(), 1.0),
        };
        let mut family =
            self.0.encode_descriptor(&name, instrument.help, None, MetricType::Histogram)?;
        for (labels, values) in series {
            let mut below = 0;
            let mut buckets = Vec::with_capacity(instrument.buckets.len() + 1);
            for bound in instrument.buckets {
                let up_to = values.histogram.count_between(0, *bound);
                buckets.push((*bound as f64 / scale, up_to - below));
                below = up_to;
            }
            buckets.push((f64::INFINITY, values.count() - below));
            let labels = labels.as_slice();
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                values.sum as f64 / scale,
                values.count(),
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::histogram::Distribution;
    use super::super::instruments::EGRESS_LATENCY;
    use super::super::status::tests::busy;
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn names_and_types_are_those_of_the_text_format() {
        let page = render(snapshot(1), histograms());

        assert!(page.contains("# TYPE twill_dropped_packets_total counter\n"));
        assert!(page.contains("# HELP twill_dropped_packets_total Inner packets dropped"));
        let series = "twill_dropped_packets_total{direction=\"egress\",reason=\"ttl\"} 1\n";
        assert!(page.contains(series), "{page}");
        assert!(page.contains("\ntwill_peers 1.0\n"), "no braces without labels");
        assert!(!page.contains("_total_total") && !page.contains("# EOF"));
    }

    #[test]
    fn buckets_are_cumulative_and_in_seconds() {
        let page = render(snapshot(1), histograms());

        for line in [
            "twill_egress_latency_seconds_bucket{le=\"0.000001\"} 0\n",
            "twill_egress_latency_seconds_bucket{le=\"0.00001\"} 2\n",
            "twill_egress_latency_seconds_bucket{le=\"1.0\"} 2\n",
            "twill_egress_latency_seconds_bucket{le=\"5.0\"} 3\n",
            "twill_egress_latency_seconds_bucket{le=\"+Inf\"} 4\n",
            "twill_egress_latency_seconds_count 4\n",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn peers_beyond_the_limit_are_summed() {
        let page = render(snapshot(MAX_PEERS + 3), histograms());

        let family = "twill_peer_forwarded_packets_total{peer=";
        let series: Vec<_> = page.lines().filter(|line| line.starts_with(family)).collect();
        assert_eq!(series.len(), 2 * (MAX_PEERS + 1));
        assert!(series[MAX_PEERS].contains("peer=\"all others\",direction=\"egress\"} 3"));
    }

    #[test]
    fn a_peers_name_cannot_break_the_page() {
        let mut snapshot = snapshot(1);
        snapshot.peers[0].name = "a\"} 1\nx\\{}".to_owned();

        let page = render(snapshot, histograms());

        assert!(page.contains(r#"{peer="a\"} 1\nx\\{}",direction="egress"} 1"#), "{page}");
    }

    #[test]
    fn the_dashboard_and_the_alerts_ask_only_for_metrics_that_exist() {
        let page = render(busy(), histograms());
        let names = regex::Regex::new("twill_[a-z_]+").unwrap();
        for (file, least) in [
            (include_str!("../../dist/grafana-dashboard.json"), 30),
            (include_str!("../../dist/alerts.yml"), 12),
        ] {
            let asked: BTreeSet<_> = names.find_iter(file).map(|found| found.as_str()).collect();
            for name in &asked {
                let sample = page.lines().any(|line| {
                    let rest = line.strip_prefix(name);
                    rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                });
                assert!(sample, "{name} is no metric");
            }
            assert!(asked.len() >= least, "only {asked:?}");
        }
    }

    #[test]
    fn the_documentation_lists_every_metric_and_reason() {
        let documentation = include_str!("../../docs/TELEMETRY.md");
        let page = render(busy(), histograms());

        let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        for name in families.filter_map(|line| line.split(' ').next()) {
            assert!(documentation.contains(&format!("`{name}`")), "{name} is not documented");
        }
        for reason in DropReason::ALL {
            let row = format!("| `{}` | {} |", reason.label(), reason.description());
            assert!(documentation.contains(&row), "the documentation lacks {row}");
        }
    }

    fn snapshot(peers: usize) -> GatewayStatus {
        let mut snapshot = busy();
        let known = snapshot.peers.remove(0);
        let peer = |number| PeerStatus { name: format!("p{number:05}"), ..known.clone() };
        snapshot.peers = (0..peers).map(peer).collect();
        snapshot
    }

    fn histograms() -> Histograms {
        let mut latency = Distribution::new(EGRESS_LATENCY.layout);
        latency.record(5_000, 2);
        latency.record(3_000_000_000, 1);
        latency.record(30_000_000_000, 1);
        let empty =
            instruments::WORKER.map(|it| (it.short.to_owned(), Distribution::new(it.layout)));
        let mut workers = BTreeMap::from(empty);
        workers.insert("egress".to_owned(), latency);
        let rtt = BTreeMap::from([("h2".to_owned(), Distribution::new(PEER_RTT.layout))]);
        Histograms { workers, rtt }
    }
}
