//! What goes from a follower to its successor in another process, which needs no API server to go on.

use super::{Follower, Member, Nodes};
use crate::subnet::PeerSet;
use crate::subnet::clock::boot_ns;
use crate::subnet::kube::cluster::{Cluster, Kept};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

impl Follower {
    /// A follower that goes on where another one stopped, with the peers of that one until the API
    /// server shows the nodes.
    #[must_use]
    pub fn resume(
        nodes: Nodes,
        member: Member,
        kept: Kept,
        peers: PeerSet,
        port: u16,
    ) -> (Self, watch::Receiver<Cluster>) {
        let (mut follower, published) = Self::new(nodes, member, kept.joined, port);
        follower.table.lose(kept.lost.iter().filter_map(|name| peers.find(name)));
        follower.inherited = Some(Arc::new(peers));
        follower.revision = kept.revision;
        let left = |at_ns: u64| Duration::from_nanos(at_ns.saturating_sub(boot_ns()));
        follower.forget_at = kept.forget_at_ns.map(|at_ns| Instant::now() + left(at_ns));
        follower.cluster.own = kept.own;
        follower.cluster.disconnects = kept.disconnects;
        follower.cluster.failed_writes = kept.failed_writes;
        follower.publish_now();
        (follower, published)
    }

    pub(super) fn kept(&self) -> Kept {
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        let ns = |left: Duration| u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
        Kept {
            node: self.member.name.clone(),
            public_ip: self.member.host.public_ip,
            joined: self.joined.clone(),
            own: self.cluster.own,
            revision: self.revision.clone(),
            lost: self.table.lost().cloned().collect(),
            forget_at_ns: self.forget_at.map(|at| boot_ns().saturating_add(ns(left(at)))),
            disconnects: self.cluster.disconnects,
            failed_writes: self.cluster.failed_writes,
        }
    }
}
