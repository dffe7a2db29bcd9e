//! What goes from a keeper to its successor in another process, which needs no store to go on.

use super::{Keeper, Keeping, Leases, OwnLease, PUBLISH_INTERVAL};
use crate::subnet::PeerSpec;
use crate::subnet::clock::boot_ns;
use crate::subnet::etcd::acquire::Held;
use crate::subnet::etcd::keys::{Keys, Position};
use crate::subnet::etcd::lease::LeaseAttrs;
use crate::subnet::etcd::table::{LeaseTable, Own};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// What a keeper in another process goes on from, besides the peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Our lease, and when it was asked for last: the time since boot is the same for all processes.
    pub held: Held,
    /// What our key says if that is not what it should: this host has another address.
    #[serde(default)]
    pub former: Option<LeaseAttrs>,
    /// How our lease is.
    #[serde(default)]
    pub own: OwnLease,
    /// Where the store was.
    #[serde(default)]
    pub at: Position,
    /// Whether our key is not expected in the store: it was wiped.
    #[serde(default)]
    pub replaced: bool,
    /// Peers that a wiped store lacks.
    #[serde(default)]
    pub unconfirmed: Vec<IpNet>,
    /// When they are forgotten, in nanoseconds since boot.
    #[serde(default)]
    pub forget_at_ns: Option<u64>,
    /// How often the store stopped answering.
    #[serde(default)]
    pub disconnects: u64,
    /// Attempts to renew that failed.
    #[serde(default)]
    pub failed_renewals: u64,
}

impl<K: Keys> Keeper<K> {
    /// A keeper that goes on where another one stopped, with the peers of that one until the store
    /// shows its leases.
    #[must_use]
    pub fn resume(
        keys: K,
        keeping: Keeping,
        kept: &Kept,
        peers: &[PeerSpec],
    ) -> (Self, watch::Receiver<Leases>) {
        let (mut keeper, published) = Self::new(keys, keeping);
        let own = keeper.table.own().clone();
        keeper.table = LeaseTable::resume(own, kept.at, peers, &kept.unconfirmed);
        keeper.table.set_former(kept.former);
        keeper.replaced = kept.replaced;
        let now_ns = boot_ns();
        let left = |at_ns: u64| Duration::from_nanos(at_ns.saturating_sub(now_ns));
        keeper.forget_at = kept.forget_at_ns.map(|at_ns| Instant::now() + left(at_ns));
        keeper.leases.own = kept.own;
        keeper.leases.disconnects = kept.disconnects;
        keeper.leases.failed_renewals = kept.failed_renewals;
        keeper.publish_now();
        keeper.published = Instant::now() - PUBLISH_INTERVAL;
        (keeper, published)
    }

    pub(super) fn kept(&self) -> Kept {
        let Own { subnets, key, attrs, .. } = self.table.own().clone();
        let (granted, asked_ns) = self.granted;
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        let ns = |left: Duration| u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
        Kept {
            held: Held { subnets, key, attrs, granted, asked_ns },
            former: self.table.former(),
            own: self.leases.own,
            at: self.table.position(),
            replaced: self.replaced,
            unconfirmed: self.table.unconfirmed(),
            forget_at_ns: self.forget_at.map(|at| boot_ns().saturating_add(ns(left(at)))),
            disconnects: self.leases.disconnects,
            failed_renewals: self.leases.failed_renewals,
        }
    }
}
