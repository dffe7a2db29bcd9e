//! The status of a gateway: the format of `twill status --json` and of the control socket, and the
//! source of all other views.
//!
//! Every field has its meaning and unit here; the schema for programs, docs/status.schema.json, is made
//! from that.

use super::counter::{Counters, Direction};
use super::histogram::{Distribution, Summary};
use super::peers::PeerTraffic;
use ipnet::IpNet;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The status of a gateway. Counters start with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct GatewayStatus {
    /// What does not change while it runs.
    #[serde(flatten)]
    pub(crate) about: About,
    /// Seconds since its start.
    pub(crate) uptime_seconds: f64,
    /// Every offload, on or off now, and why.
    pub(crate) offloads: Vec<Offload>,
    /// Whether packets cross the gateway without leaving the kernel.
    #[serde(default)]
    pub(crate) fast_path: FastPathStatus,
    /// TUN to UDP, all workers.
    pub(crate) egress: Direction,
    /// UDP to TUN, all workers.
    pub(crate) ingress: Direction,
    /// Packets in minus packets out minus drops, both directions; not zero means a bug.
    pub(crate) imbalance: i64,
    /// Events, all workers.
    pub(crate) counters: Counters,
    /// Packets that the kernel dropped at the TUN device; none if they cannot be read.
    pub(crate) tun: Option<DeviceDrops>,
    /// Percentiles of every histogram; times in nanoseconds.
    pub(crate) histograms: BTreeMap<String, Summary>,
    /// Each worker on its own.
    pub(crate) workers: Vec<WorkerStatus>,
    /// Peers, by name.
    pub(crate) peers: Vec<PeerStatus>,
    /// etcd and this node's lease; only with `twill flanneld`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) etcd: Option<EtcdStatus>,
    /// The cluster and this node in it; only with `twill flanneld -kube-subnet-mgr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kube: Option<KubeStatus>,
    /// What the gateway lacks to be ready: addresses, routes, files. A sentence each.
    #[serde(default)]
    pub(crate) missing: Vec<String>,
}

/// What does not change while a gateway runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct About {
    /// twill's version.
    pub(crate) version: String,
    /// Name of the TUN device.
    pub(crate) device: String,
    /// MTU of the TUN device, bytes.
    pub(crate) mtu: u16,
    /// The address that it receives at.
    pub(crate) listen: SocketAddr,
    /// Workers.
    pub(crate) queues: usize,
    /// Name of the engine.
    pub(crate) engine: String,
    /// Why this engine is used.
    pub(crate) engine_reason: String,
    /// Whether the preferred engine does not work and another one runs.
    #[serde(default)]
    pub(crate) engine_fallback: bool,
    /// Whether packets wait when the device's queue is full (`IFF_BACKPRESSURE`).
    #[serde(default)]
    pub(crate) backpressure: Decision,
    /// When it started, seconds since 1970.
    pub(crate) start_time_seconds: f64,
}

/// Something that is on or off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Decision {
    /// Whether it is in use.
    pub(crate) on: bool,
    /// Why it is on or off.
    pub(crate) reason: String,
}

/// One offload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Offload {
    /// Its name.
    pub name: String,
    /// Whether it is in use.
    pub on: bool,
    /// Why it is on or off.
    pub reason: String,
}

/// The fast path: programs in the kernel that carry packets past the workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct FastPathStatus {
    /// Whether it is in use.
    pub(crate) on: bool,
    /// Why it is on or off.
    pub(crate) reason: String,
    /// Whether it stays in the kernel when the gateway ends, with the device, so that forwarding goes on.
    #[serde(default)]
    pub(crate) kept: bool,
    /// Packets that it has carried from the TUN device to peers; they are in `egress`, too.
    pub(crate) egress_packets: u64,
    /// Packets that it has carried from peers to the TUN device; they are in `ingress`, too.
    pub(crate) ingress_packets: u64,
    /// Packets to peers that it has left to user space.
    pub(crate) egress_left: u64,
    /// Packets from peers that it has left to user space.
    pub(crate) ingress_left: u64,
}

/// Packets that the kernel dropped at the TUN device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct DeviceDrops {
    /// Before twill read them: the queue was full, or the device had no reader.
    pub(crate) egress: u64,
    /// After twill wrote them.
    pub(crate) ingress: u64,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct WorkerStatus {
    /// TUN to UDP.
    pub(crate) egress: Direction,
    /// UDP to TUN.
    pub(crate) ingress: Direction,
    /// Events.
    pub(crate) counters: Counters,
    /// Percentiles of its histograms.
    pub(crate) histograms: BTreeMap<String, Summary>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct PeerStatus {
    /// Its name.
    pub(crate) name: String,
    /// Its UDP address.
    pub(crate) endpoint: SocketAddr,
    /// The inner networks behind it.
    #[schemars(with = "Vec<String>")]
    pub(crate) subnets: Vec<IpNet>,
    /// Seconds since a datagram last came from its address.
    pub(crate) last_seen_seconds: Option<f64>,
    /// Traffic.
    #[serde(flatten)]
    pub(crate) traffic: PeerTraffic,
    /// Probes through the tunnel; none if it is not probed.
    pub(crate) probe: Option<ProbeStatus>,
}

impl GatewayStatus {
    /// The JSON schema of a status.
    #[must_use]
    pub(crate) fn schema() -> String {
        let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
        let mut schema = generator.into_root_schema_for::<Self>();
        schema.insert("title".to_owned(), "twill status --json".into());
        format!("{:#}\n", schema.to_value())
    }
}

impl PeerStatus {
    /// How the peer is silent, for people; none if it is not.
    #[must_use]
    pub(crate) fn silence(&self) -> Option<String> {
        let is_lost = self.probe.is_some_and(|probe| probe.last_lost);
        match self.last_seen_seconds {
            _ if !is_lost => None,
            None => Some("no traffic yet, last probe lost".to_owned()),
            Some(seconds) => Some(format!("no traffic for {seconds:.0} s, last probe lost")),
        }
    }
}

/// Probes of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ProbeStatus {
    /// Probes sent.
    pub(crate) sent: u64,
    /// Probes without an answer in time.
    pub(crate) lost: u64,
    /// Whether the last probe was lost, and nothing came from the peer since it was sent.
    #[serde(default)]
    pub(crate) last_lost: bool,
    /// Round trips, nanoseconds.
    pub(crate) rtt: Summary,
}

/// The state of the Kubernetes API server and of this node in its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct KubeStatus {
    /// State of this node's annotations: registered, gone or unregistered.
    pub(crate) own: String,
    /// Whether the API server answers.
    pub(crate) connected: bool,
    /// Times that it stopped answering.
    pub(crate) disconnects: u64,
    /// Failed attempts to write this node's annotations.
    pub(crate) failed_writes: u64,
    /// Nodes that are ignored now.
    pub(crate) ignored: u64,
}

/// The state of etcd and of this node's lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct EtcdStatus {
    /// State of this node's lease: held, expired or stolen.
    pub(crate) own: String,
    /// Whether etcd answers.
    pub(crate) connected: bool,
    /// Times that it stopped answering.
    pub(crate) disconnects: u64,
    /// Failed attempts to renew the lease.
    pub(crate) failed_renewals: u64,
    /// Ignored leases since the start.
    pub(crate) counts: IgnoredLeases,
}

/// Ignored leases, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct IgnoredLeases {
    /// Invalid keys or values.
    pub(crate) malformed: u64,
    /// Leases of another backend.
    pub(crate) foreign_backend: u64,
    /// Leases with the PublicIP of another lease.
    pub(crate) duplicate_public_ip: u64,
    /// Leases outside the network, or overlapping this node's subnet.
    pub(crate) out_of_place: u64,
}

/// All histograms of a gateway, since its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Histograms {
    /// Merged over workers, by short name.
    pub(crate) workers: BTreeMap<String, Distribution>,
    /// Round trips by peer's name.
    pub(crate) rtt: BTreeMap<String, Distribution>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::Value;

    /// A gateway with every kind of number.
    pub(crate) fn busy() -> GatewayStatus {
        let latency =
            |p50, p99| Summary { count: 9, mean: 1.5, p50, p99, p999: p99, ..Summary::default() };
        let direction = Direction {
            packets_in: 10,
            bytes_in: 10 << 10,
            packets_out: 7,
            bytes_out: 7 << 10,
            drops: [("ttl".to_owned(), 1), ("no_route".to_owned(), 2)].into(),
            imbalance: 0,
        };
        let counters = Counters { socket_overflows: 5, syscalls: 100, ..Counters::default() };
        let histograms = BTreeMap::from([
            ("egress".to_owned(), latency(12_345, 88_000)),
            ("ingress".to_owned(), latency(20_000, 99_000)),
        ]);
        let worker = WorkerStatus {
            egress: direction.clone(),
            ingress: direction.clone(),
            counters: counters.clone(),
            histograms: histograms.clone(),
        };
        let offload = |name: &str, on, reason: &str| Offload {
            name: name.to_owned(),
            on,
            reason: reason.to_owned(),
        };
        GatewayStatus {
            about: About {
                version: "1.2.3".to_owned(),
                device: "twill0".to_owned(),
                mtu: 1472,
                listen: "0.0.0.0:8285".parse().unwrap(),
                queues: 2,
                engine: "uring".to_owned(),
                engine_reason: "the kernel has all that it needs".to_owned(),
                engine_fallback: false,
                backpressure: Decision {
                    on: false,
                    reason: "IFF_BACKPRESSURE needs Linux 7.3".to_owned(),
                },
                start_time_seconds: 1.7e9,
            },
            uptime_seconds: 3700.0,
            offloads: vec![offload("tso", true, ""), offload("gso", false, "switched off")],
            fast_path: FastPathStatus {
                on: true,
                reason: "the kernel takes the programs".to_owned(),
                kept: true,
                egress_packets: 90,
                ingress_packets: 80,
                egress_left: 10,
                ingress_left: 20,
            },
            egress: direction.clone(),
            ingress: direction,
            imbalance: 0,
            counters,
            tun: Some(DeviceDrops { egress: 4, ingress: 0 }),
            histograms,
            workers: vec![worker.clone(), worker],
            peers: vec![PeerStatus {
                name: "h2".to_owned(),
                endpoint: "192.0.2.2:8285".parse().unwrap(),
                subnets: vec!["10.244.2.0/24".parse().unwrap()],
                last_seen_seconds: Some(2.25),
                traffic: PeerTraffic {
                    egress_packets: 1,
                    egress_bytes: 1 << 10,
                    ingress_packets: 2,
                    ingress_bytes: 2 << 10,
                    ..PeerTraffic::default()
                },
                probe: Some(ProbeStatus {
                    sent: 9,
                    lost: 1,
                    last_lost: false,
                    rtt: latency(150_000, 300_000),
                }),
            }],
            etcd: Some(EtcdStatus {
                own: "held".to_owned(),
                connected: true,
                ..EtcdStatus::default()
            }),
            kube: Some(KubeStatus {
                own: "registered".to_owned(),
                connected: true,
                ..KubeStatus::default()
            }),
            missing: vec!["cannot add address 10.10.1.0/32".to_owned()],
        }
    }

    #[test]
    fn a_status_is_read_as_it_was_written() {
        let text = serde_json::to_string(&busy()).unwrap();

        assert_eq!(serde_json::from_str::<GatewayStatus>(&text).unwrap(), busy());
    }

    #[test]
    fn the_schema_is_the_one_that_is_checked_in() {
        assert_eq!(
            GatewayStatus::schema(),
            include_str!("../../docs/status.schema.json"),
            "write it again: twill status --schema > docs/status.schema.json"
        );
    }

    #[test]
    fn a_status_fits_its_schema_which_names_all_of_its_fields() {
        let mut schema = serde_json::from_str(&GatewayStatus::schema()).unwrap();
        let mut status = serde_json::to_value(busy()).unwrap();
        assert!(jsonschema::is_valid(&schema, &status));

        close(&mut schema);
        assert!(jsonschema::is_valid(&schema, &status));
        status["peers"][0]["surprise"] = 1.into();
        assert!(!jsonschema::is_valid(&schema, &status));
    }

    /// Makes a schema refuse fields that it does not name.
    fn close(schema: &mut Value) {
        if let Some(fields) = schema.as_object_mut()
            && fields.contains_key("properties")
        {
            fields.insert("unevaluatedProperties".to_owned(), false.into());
        }
        match schema {
            Value::Object(fields) => fields.values_mut().for_each(close),
            Value::Array(items) => items.iter_mut().for_each(close),
            _ => {}
        }
    }
}
