//! Peers that come from leases.

use super::Member;
use super::address::Address;
use crate::config::flanneld::External;
use crate::control::{Response, handover};
use crate::gateway::shell::clients::PeerChange;
use crate::gateway::shell::handover::Bequest;
use crate::gateway::shell::health::{Health, Part};
use crate::gateway::shell::tunnel::Tunnel;
use crate::gateway::shell::{PeerSource, ServeError};
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
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

/// How often it is said again that there are too many leases.
const REMINDER: Duration = Duration::from_secs(60);

/// What is known of a network's leases, wherever they are kept.
pub(super) trait Known: Clone {
    /// Where they are kept, for those who want to change them elsewhere.
    const KEPT_IN: &str;
    /// The server that says what they are.
    const SERVER: &str;

    /// The peers.
    fn peers(&self) -> &PeerSet;

    /// Whether this node has its own.
    fn is_ours(&self) -> bool;

    /// Whether the server answers.
    fn is_connected(&self) -> bool;

    /// What a successor goes on from.
    fn memory(&self) -> Option<Memory>;

    /// Shows how all is.
    fn show(&self, observer: &Observer);
}

impl Known for Leases {
    const KEPT_IN: &str = "etcd";
    const SERVER: &str = "etcd";

    fn peers(&self) -> &PeerSet {
        &self.peers
    }

    fn is_ours(&self) -> bool {
        self.own == OwnLease::Held
    }

    fn is_connected(&self) -> bool {
        self.connected
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
    const SERVER: &str = "the API server";

    fn peers(&self) -> &PeerSet {
        &self.peers
    }

    fn is_ours(&self) -> bool {
        self.own == OwnNode::Registered
    }

    fn is_connected(&self) -> bool {
        self.connected
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
    address: Address,
    leases: watch::Receiver<L>,
    pace: Pace,
    silence: Silence,
    /// When it was last said that there are more leases than a gateway can know.
    overfull: Option<Instant>,
    health: Arc<Health>,
}

/// For how long the server has not answered.
struct Silence {
    /// How long it may last before the node is not ready; none for as long as it likes.
    allowed: Option<Duration>,
    since: Option<Instant>,
    /// Whether it has been said that it lasts too long.
    told: bool,
}

impl Silence {
    fn new(allowed: Option<Duration>) -> Self {
        Self { allowed, since: None, told: false }
    }

    fn note(&mut self, is_connected: bool) {
        if is_connected {
            *self = Self::new(self.allowed);
        } else {
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// When it will have lasted too long, unless that was said.
    fn due(&self) -> Option<Instant> {
        Some(self.since? + self.allowed?).filter(|_| !self.told)
    }

    /// The time that it may last, once it has lasted longer.
    fn too_long(&self) -> Option<Duration> {
        self.allowed.filter(|allowed| self.since.is_some_and(|since| since.elapsed() >= *allowed))
    }
}

/// What a source learns.
pub(super) enum News {
    /// Leases have changed, or how all is.
    Leases,
    /// The server has not answered for longer than is allowed.
    Silence,
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
    pub(super) fn new(
        member: &Member,
        leases: watch::Receiver<L>,
        health: Arc<Health>,
        address: Address,
    ) -> Self {
        let pace = Pace::after(Duration::ZERO);
        let (config, external) = (member.config.clone(), member.options.external.clone());
        let silence = Silence::new(member.options.silence);
        let mut source =
            Self { config, external, address, leases, pace, silence, overfull: None, health };
        let now = source.leases.borrow().clone();
        source.tell_readiness(&now);
        source
    }

    /// Waits for a change, and until it is time to look at it.
    async fn change_is_due(&mut self) {
        if !self.pace.waiting && self.leases.changed().await.is_err() {
            // Nobody keeps the leases any more: the node ends.
            return std::future::pending().await;
        }
        self.pace.waiting = true;
        sleep_until(self.pace.next).await;
    }

    /// The status names the lease's state, so that no reason is needed.
    fn tell_readiness(&mut self, leases: &L) {
        self.health.set(Part::Lease, if leases.is_ours() { Ok(()) } else { Err(String::new()) });
        self.silence.note(leases.is_connected());
        self.tell_silence();
    }

    fn tell_silence(&mut self) {
        let Some(allowed) = self.silence.too_long() else {
            return self.health.set(Part::Store, Ok(()));
        };
        let reason = format!("{} has not answered for {} s", L::SERVER, allowed.as_secs());
        if !std::mem::replace(&mut self.silence.told, true) {
            warn!("{reason} (TWILL_UNREADY_AFTER_SECONDS): reporting not ready, still forwarding");
        }
        self.health.set(Part::Store, Err(reason));
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
    type News = News;

    async fn news(&mut self) -> News {
        let due = self.silence.due();
        tokio::select! {
            () = self.change_is_due() => News::Leases,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => News::Silence,
        }
    }

    async fn apply(&mut self, tunnel: &mut Tunnel, news: News) {
        if matches!(news, News::Silence) {
            return self.tell_silence();
        }
        let began = Instant::now();
        let leases = self.leases.borrow_and_update().clone();
        self.tell_readiness(&leases);
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
            memory: json!(Memory {
                peers: peers.iter().cloned().collect(),
                given: self.address.host.borrow().given,
                ..memory
            }),
        });
        Bequest { peers: Vec::new(), routes: self.routes(peers), node }
    }

    fn routes(&self, _: &PeerSet) -> Vec<IpNet> {
        self.config.networks().iter().collect()
    }

    async fn follow_address(&mut self, tunnel: &mut Tunnel) -> Result<bool, ServeError> {
        self.address.follow(&self.external, &self.config, tunnel).await
    }
}

fn tell(change: &PeerDiff) {
    for (what, subnets) in [("added", &change.changed), ("removed", &change.removed)] {
        let one = |subnet| info!("Subnet {what}: {subnet}");
        news::tell(subnets.iter(), one, |count| info!("Subnets {what}: {count}"));
    }
}
