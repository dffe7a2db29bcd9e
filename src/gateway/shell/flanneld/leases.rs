//! Peers that come from leases.

use crate::control::Response;
use crate::gateway::shell::clients::PeerChange;
use crate::gateway::shell::health::Health;
use crate::gateway::shell::tunnel::Tunnel;
use crate::gateway::shell::{PeerSource, news};
use crate::subnet::{Change, Leases, OwnLease, PeerSet, TooManyPeers};
use crate::telemetry::status::{EtcdStatus, IgnoredLeases};
use ipnet::{IpNet, Ipv4Net};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info};

/// How often it is said again that there are too many leases.
const REMINDER: Duration = Duration::from_secs(60);

/// The leases of a network, which others keep.
pub(super) struct LeaseSource {
    network: Ipv4Net,
    leases: watch::Receiver<Leases>,
    pace: Pace,
    /// When it was last said that there are more leases than a gateway can know.
    overfull: Option<Instant>,
    /// Whether `subnet.env` is there.
    written: bool,
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

impl LeaseSource {
    pub(super) fn new(
        network: Ipv4Net,
        leases: watch::Receiver<Leases>,
        health: Arc<Health>,
    ) -> Self {
        let pace = Pace::after(Duration::ZERO);
        Self { network, leases, pace, overfull: None, written: false, health }
    }

    /// Takes note of whether `subnet.env` is there.
    pub(super) fn set_written(&mut self, written: bool) {
        self.written = written;
        self.tell_readiness(OwnLease::Held);
    }

    fn tell_readiness(&self, own: OwnLease) {
        self.health.set_ready(self.written && own == OwnLease::Held);
    }

    /// Says, not too often, that the peers stay what they are. To end would end the whole network:
    /// every node sees the same leases.
    fn complain(&mut self, reason: TooManyPeers) {
        if self.overfull.is_none_or(|told| told.elapsed() >= REMINDER) {
            error!("{reason}: the peers stay what they are; remove leases of nodes that are gone");
            self.overfull = Some(Instant::now());
        }
    }
}

impl PeerSource for LeaseSource {
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
        self.tell_readiness(leases.own);
        tunnel.gateway.observer().set_etcd(status(&leases));
        let applied = tunnel.set_peers(PeerSet::clone(&leases.peers));
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
        let refusal = "peers of this gateway come from etcd".to_owned();
        // The client may have gone away.
        let _ = answer.send(Response::Error(refusal));
    }

    fn routes(&self, _: &Tunnel) -> Vec<IpNet> {
        vec![self.network.into()]
    }
}

fn tell(change: &Change) {
    for (what, subnets) in [("added", &change.changed), ("removed", &change.removed)] {
        let one = |subnet| info!("Subnet {what}: {subnet}");
        news::tell(subnets.iter(), one, |count| info!("Subnets {what}: {count}"));
    }
}

/// What `twill status` says of the leases.
pub(super) fn status(leases: &Leases) -> EtcdStatus {
    let counts = leases.counts;
    EtcdStatus {
        own: leases.own.name().to_owned(),
        connected: leases.connected,
        disconnects: leases.disconnects,
        failed_renewals: leases.failed_renewals,
        counts: IgnoredLeases {
            malformed: counts.malformed,
            foreign_backend: counts.foreign_backend,
            duplicate_public_ip: counts.duplicate_public_ip,
            out_of_place: counts.out_of_place,
        },
    }
}
