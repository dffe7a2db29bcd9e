//! Peers that come from leases.

use super::{Member, address_now};
use crate::config::flanneld::External;
use crate::control::{Response, handover};
use crate::gateway::shell::PeerSource;
use crate::gateway::shell::clients::PeerChange;
use crate::gateway::shell::handover::Bequest;
use crate::gateway::shell::health::{Health, Part};
use crate::gateway::shell::tunnel::Tunnel;
use crate::subnet::etcd::{Leases, OwnLease};
#[cfg(feature = "kube")]
use crate::subnet::kube::{Cluster, OwnNode};
use crate::subnet::{Memory, NetworkConfig, PeerDiff, PeerSet, TooManyPeers};
use crate::telemetry::news;
use crate::telemetry::observer::Observer;
#[cfg(feature = "kube")]
use crate::telemetry::status::KubeStatus;
use crate::telemetry::status::{EtcdStatus, IgnoredLeases};
use ipnet::IpNet;
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info};

/// How often it is said again that there are too many leases.
const REMINDER: Duration = Duration::from_secs(60);

/// What is known of a network's leases, wherever they are kept.
pub(super) trait Known: Clone {
    /// Where they are kept, for those who want to change them elsewhere.
    const KEPT_IN: &str;

    /// The peers.
    fn peers(&self) -> &PeerSet;

    /// Whether this node has its own.
    fn is_ours(&self) -> bool;

    /// What a successor goes on from.
    fn memory(&self) -> Option<Memory>;

    /// Shows how all is.
    fn show(&self, observer: &Observer);
}

impl Known for Leases {
    const KEPT_IN: &str = "etcd";

    fn peers(&self) -> &PeerSet {
        &self.peers
    }

    fn is_ours(&self) -> bool {
        self.own == OwnLease::Held
    }

    fn memory(&self) -> Option<Memory> {
        Leases::memory(self)
    }

    fn show(&self, observer: &Observer) {
        let counts = self.counts;
        observer.set_etcd(EtcdStatus {
            own: self.own.name().to_owned(),
            connected: self.connected,
            disconnects: self.disconnects,
            failed_renewals: self.failed_renewals,
            counts: IgnoredLeases {
                malformed: counts.malformed,
                foreign_backend: counts.foreign_backend,
                duplicate_public_ip: counts.duplicate_public_ip,
                out_of_place: counts.out_of_place,
            },
        });
    }
}

#[cfg(feature = "kube")]
impl Known for Cluster {
    const KEPT_IN: &str = "the nodes of the Kubernetes cluster";

    fn peers(&self) -> &PeerSet {
        &self.peers
    }

    fn is_ours(&self) -> bool {
        self.own == OwnNode::Registered
    }

    fn memory(&self) -> Option<Memory> {
        Cluster::memory(self)
    }

    fn show(&self, observer: &Observer) {
        observer.set_kube(KubeStatus {
            own: self.own.name().to_owned(),
            connected: self.connected,
            disconnects: self.disconnects,
            failed_writes: self.failed_writes,
            ignored: self.ignored,
        });
    }
}

/// The leases of a network, which others keep.
pub(super) struct LeaseSource<L> {
    /// The network's, as it was at the start.
    config: NetworkConfig,
    /// How the host's address is found.
    external: External,
    leases: watch::Receiver<L>,
    pace: Pace,
    /// When it was last said that there are more leases than a gateway can know.
    overfull: Option<Instant>,
    health: Arc<Health>,
}

/// When the leases are looked at next.
struct Pace {
    /// Whether there is something new.
    waiting: bool,
    next: Instant,
}

impl Pace {
    /// After something that took so long: with many thousand leases, changes that never end still
    /// leave nine tenths of a CPU to others.
    fn after(cost: Duration) -> Self {
        Self { waiting: false, next: Instant::now() + cost * 9 }
    }
}

impl<L: Known> LeaseSource<L> {
    pub(super) fn new(member: &Member, leases: watch::Receiver<L>, health: Arc<Health>) -> Self {
        let pace = Pace::after(Duration::ZERO);
        let (config, external) = (member.config.clone(), member.options.external.clone());
        let source = Self { config, external, leases, pace, overfull: None, health };
        source.tell_readiness(source.leases.borrow().is_ours());
        source
    }

    /// The status names the lease's state, so that no reason is needed.
    fn tell_readiness(&self, is_ours: bool) {
        self.health.set(Part::Lease, if is_ours { Ok(()) } else { Err(String::new()) });
    }

    /// Says, not too often, that the peers stay what they are. To end would end the whole network:
    /// every node sees the same leases.
    fn complain(&mut self, reason: TooManyPeers) {
        if self.overfull.is_none_or(|told| told.elapsed() >= REMINDER) {
            error!("{reason}: keeping the known peers; remove leases of nodes that are gone");
            self.overfull = Some(Instant::now());
        }
    }
}

impl<L: Known> PeerSource for LeaseSource<L> {
    type News = ();

    async fn news(&mut self) {
        if !self.pace.waiting && self.leases.changed().await.is_err() {
            // Nobody keeps the leases any more: the node ends.
            return std::future::pending().await;
        }
        self.pace.waiting = true;
        sleep_until(self.pace.next).await;
    }

    async fn apply(&mut self, tunnel: &mut Tunnel, (): ()) {
        let began = Instant::now();
        let leases = self.leases.borrow_and_update().clone();
        self.tell_readiness(leases.is_ours());
        leases.show(tunnel.gateway.observer());
        let applied = tunnel.set_peers(leases.peers().clone());
        self.pace = Pace::after(began.elapsed());
        match applied {
            Ok(change) => {
                self.overfull = None;
                tell(&change);
            }
            Err(reason) => self.complain(reason),
        }
    }

    async fn change(&mut self, _: &mut Tunnel, _: PeerChange, answer: oneshot::Sender<Response>) {
        let refusal = format!("peers of this gateway come from {}", L::KEPT_IN);
        // The client may have gone away.
        let _ = answer.send(Response::Error(refusal));
    }

    fn bequest(&self, peers: &PeerSet) -> Bequest {
        let memory = self.leases.borrow().memory();
        let node = memory.map(|memory| handover::Node {
            config: json!(self.config),
            // What the tunnel has is what it goes on with, also when leases are not in force yet.
            memory: json!(Memory { peers: peers.iter().cloned().collect(), ..memory }),
        });
        Bequest { peers: Vec::new(), routes: self.routes(peers), node }
    }

    fn routes(&self, _: &PeerSet) -> Vec<IpNet> {
        vec![self.config.network.into()]
    }

    async fn address_now(&mut self, tunnel: &Tunnel) -> Option<IpAddr> {
        address_now(&self.external, &tunnel.network).await
    }
}

fn tell(change: &PeerDiff) {
    for (what, subnets) in [("added", &change.changed), ("removed", &change.removed)] {
        let one = |subnet| info!("Subnet {what}: {subnet}");
        news::tell(subnets.iter(), one, |count| info!("Subnets {what}: {count}"));
    }
}
