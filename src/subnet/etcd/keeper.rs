//! Keeping our lease and following the others': the loop around the pure parts.
//!
//! ```text
//!  list ──> watch from revision + 1 ──> changes ──> LeaseTable ──> published, at most ten times a second
//!    ^            │ lost, compacted                    │
//!    └─ backoff ──┘                      own key: renew, adopt, report, or end
//! ```
//! Nothing here is needed for forwarding: while the store is away, the peers stay what they are.

mod kept;
mod own_key;

pub use self::kept::Kept;
use super::acquire::Held;
use super::finding::LeaseCounts;
use super::keys::{Entry, Event, Granted, Keys, KeysError, Position, Term, Watch, WatchError};
use super::renewal::Renewal;
use super::table::{Applied, Continuity, LeaseTable, Own, OwnKey};
use crate::subnet::clock::boot_ns;
use crate::subnet::{HostAddress, PeerSet, Subnets};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

/// Pause after the first failure of a watch; it doubles up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long a watch must live for its end to be a new failure: one that a server cancels at once is
/// not opened ten times a second.
const LIVED: Duration = Duration::from_secs(5);
/// The least time between two publications.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);
/// How often the clock that counts suspended time is looked at; timers of the runtime do not.
const CLOCK_CHECK: Duration = Duration::from_secs(10);
/// How long peers that a wiped store lacks are kept: their nodes, if they still run, renew within a
/// lease's time.
const UNCONFIRMED: Duration = Duration::from_secs(24 * 3600);
/// Findings that are logged one by one; of more at a time only the number.
const NAMED_FINDINGS: usize = 16;

/// What is known of the leases now.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    /// The peers.
    pub peers: Arc<PeerSet>,
    /// How our own lease is.
    pub own: OwnLease,
    /// Whether the store answers.
    pub connected: bool,
    /// How often it stopped answering.
    pub disconnects: u64,
    /// Attempts to renew that failed.
    pub failed_renewals: u64,
    /// Leases that are not followed.
    pub counts: LeaseCounts,
    /// What a keeper in another process goes on from.
    pub kept: Option<Arc<Kept>>,
}

/// How our own lease is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum OwnLease {
    /// It is ours.
    #[default]
    Held,
    /// It could not be renewed in time; another node may take the subnet.
    Expired,
    /// Another node has it.
    Stolen,
}

impl OwnLease {
    /// The state in a word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Expired => "expired",
            Self::Stolen => "stolen",
        }
    }
}

/// Somebody removed our lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Lease has been revoked. Shutting down daemon.")]
pub struct Revoked;

/// What a keeper is to keep.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// The whole overlay, of each family.
    pub networks: Subnets,
    /// Our lease.
    pub held: Held,
    /// This host's addresses.
    pub local: Vec<IpAddr>,
    /// How long before its end it is renewed.
    pub margin: Duration,
    /// The peers' port.
    pub port: u16,
}

/// Keeps a lease and follows the others.
pub struct Keeper<K: Keys> {
    keys: K,
    /// Where the host is, if somebody says so.
    host: Option<watch::Receiver<HostAddress>>,
    table: LeaseTable,
    port: u16,
    /// Our key as we last saw or wrote it.
    entry: Entry,
    /// How long our lease was granted for, and when that was asked for.
    granted: (Granted, u64),
    renewal: Renewal,
    clock_checked: Instant,
    /// Our key is not expected in the store: it was wiped.
    replaced: bool,
    forget_at: Option<Instant>,
    backoff: Duration,
    watched_since: Option<Instant>,
    /// Why the store was no help, as it was logged last.
    told: Option<String>,
    leases: Leases,
    /// How often somebody else wrote our key with our PublicIP.
    shared: u64,
    publish: watch::Sender<Leases>,
    dirty: bool,
    published: Instant,
}

impl<K: Keys> Keeper<K> {
    /// A keeper, and where it publishes what it learns.
    #[must_use]
    pub fn new(keys: K, keeping: Keeping) -> (Self, watch::Receiver<Leases>) {
        let Keeping { networks, held, local, margin, port } = keeping;
        let Held { subnets, key, attrs, granted, asked_ns } = held;
        let entry = Entry {
            key: key.clone(),
            value: attrs.value().into(),
            revision: 0,
            lease: granted.lease,
        };
        let leases = Leases { connected: true, ..Leases::default() };
        let (publish, mut published) = watch::channel(leases.clone());
        let mut keeper = Self {
            keys,
            host: None,
            table: LeaseTable::new(Own { networks, subnets, key, attrs, local }),
            port,
            entry,
            granted: (granted, asked_ns),
            renewal: Renewal::new(margin, granted.ttl, asked_ns),
            clock_checked: Instant::now(),
            replaced: false,
            forget_at: None,
            backoff: BACKOFF.0,
            watched_since: None,
            told: None,
            leases,
            shared: 0,
            publish,
            dirty: false,
            published: Instant::now() - PUBLISH_INTERVAL,
        };
        keeper.leases.kept = Some(Arc::new(keeper.kept()));
        keeper.publish.send_replace(keeper.leases.clone());
        // What is there at the start is no news.
        published.mark_unchanged();
        (keeper, published)
    }

    /// Runs until our lease is revoked.
    pub async fn run(mut self) -> Revoked {
        let mut watch = None;
        let mut reconnect_at = Instant::now();
        loop {
            let outcome = tokio::select! {
                biased;
                () = sleep_until(self.clock_check()) => {
                    self.look_at_clock().await
                }
                () = sleep_until(self.published + PUBLISH_INTERVAL), if self.dirty => {
                    self.publish_now();
                    Ok(())
                }
                () = sleep_until(reconnect_at), if watch.is_none() => {
                    self.reconnect().await.map(|opened| watch = Some(opened))
                }
                host = HostAddress::next(&mut self.host) => {
                    self.move_to(host);
                    watch = None;
                    reconnect_at = Instant::now();
                    Ok(())
                }
                changes = next(&mut watch) => match changes {
                    Ok(events) => self.follow(&events).await,
                    Err(lost) => Err(lost.into()),
                }
            };
            match outcome {
                Ok(()) => {}
                Err(Interruption::Revoked(revoked)) => return revoked,
                Err(Interruption::Watch(lost)) => {
                    watch = None;
                    reconnect_at = Instant::now() + self.lost(&lost);
                }
            }
        }
    }

    /// Makes the table current and watches from there.
    async fn reconnect(&mut self) -> Result<K::Watch, Interruption> {
        // A watch from the last revision would not tell everything: a store that was restored can
        // have passed it already, and a compaction right at a deletion can lose the deletion (etcd
        // issues 18089, 19179).
        let list = self.keys.list().await.map_err(WatchError::from)?;
        self.saw(list.at);
        let applied = self.table.listed(&list);
        self.apply(applied).await?;
        let watch = self.keys.watch(self.table.next_revision()).await?;
        if !self.leases.connected && self.backoff < BACKOFF.1 {
            info!("etcd answers again");
        }
        self.set_connected(true);
        self.watched_since = Some(Instant::now());
        Ok(watch)
    }

    fn saw(&mut self, at: Position) {
        if self.table.saw(at) == Continuity::Same {
            return;
        }
        warn!("etcd was wiped or restored; known peers are kept for up to 24 h");
        self.replaced = true;
        self.forget_at = Some(Instant::now() + UNCONFIRMED);
    }

    /// Notes the end of a watch and says how long to wait.
    fn lost(&mut self, error: &WatchError) -> Duration {
        match error {
            WatchError::Compacted => {
                self.tell(
                    "Watch of subnet leases failed because etcd index outside history window",
                );
            }
            WatchError::Lost(cause) => {
                self.tell(&format!(
                    "Watch subnets: {cause}; still forwarding with the known leases"
                ));
                self.leases.disconnects += u64::from(self.leases.connected);
                self.set_connected(false);
            }
        }
        if self.watched_since.is_some_and(|since| since.elapsed() >= LIVED) {
            self.proven();
        }
        self.watched_since = None;
        let pause = self.backoff;
        self.backoff = (pause * 2).min(BACKOFF.1);
        pause
    }

    /// Logs why the store is no help, when that is news.
    fn tell(&mut self, reason: &str) {
        if self.told.as_deref() != Some(reason) {
            error!("{reason}");
            self.told = Some(reason.to_owned());
        }
    }

    /// The watch was good for something: what fails from here on is another failure.
    fn proven(&mut self) {
        self.backoff = BACKOFF.0;
        self.told = None;
    }

    async fn follow(&mut self, events: &[Event]) -> Result<(), Interruption> {
        if !events.is_empty() {
            self.proven();
        }
        let applied = self.table.changed(events);
        self.apply(applied).await
    }

    async fn apply(&mut self, applied: Applied) -> Result<(), Interruption> {
        for finding in applied.findings.iter().take(NAMED_FINDINGS) {
            warn!("{finding}");
        }
        if let Some(more @ 1..) = applied.findings.len().checked_sub(NAMED_FINDINGS) {
            warn!("{more} more lease problems not shown");
        }
        self.dirty |= applied.peers_changed || !applied.findings.is_empty();
        match applied.own {
            None => Ok(()),
            Some(own) => self.take_note(own).await,
        }
    }

    async fn look_at_clock(&mut self) -> Result<(), Interruption> {
        self.clock_checked = Instant::now();
        if self.forget_at.is_some_and(|at| at <= Instant::now()) {
            self.forget_at = None;
            self.dirty |= self.table.forget_unconfirmed();
        }
        if self.leases.own == OwnLease::Stolen {
            return Ok(());
        }
        if self.renewal.due_in(boot_ns()) == Some(Duration::ZERO) {
            self.renew().await?;
        }
        if self.renewal.is_expired(boot_ns()) && self.leases.own == OwnLease::Held {
            error!("lease expired: still forwarding, reporting not ready");
            self.set_own(OwnLease::Expired);
        }
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), Interruption> {
        let attrs = self.table.own().attrs;
        let asked_ns = boot_ns();
        match self.keys.renew(&self.entry, attrs, Term::Lease).await {
            Ok(Some(granted)) => {
                self.renewed(granted, asked_ns);
                info!("Lease renewed, new expiration: in {:?}", granted.ttl.unwrap_or_default());
                Ok(())
            }
            Ok(None) => self.look_at_own_key().await,
            Err(cause) => {
                self.renewal_failed(&cause);
                Ok(())
            }
        }
    }

    /// The lease is ours, for a time that counts from when it was asked for.
    fn renewed(&mut self, granted: Granted, asked_ns: u64) {
        self.granted = (granted, asked_ns);
        self.table.set_former(None);
        self.dirty = true;
        self.entry.lease = granted.lease;
        self.entry.value = self.table.own().attrs.value().into();
        self.renewal.granted(granted.ttl, asked_ns);
        self.set_own(OwnLease::Held);
    }

    fn renewal_failed(&mut self, cause: &KeysError) {
        error!("Error renewing lease (trying again in 1 min): {cause}");
        self.leases.failed_renewals += 1;
        self.dirty = true;
        self.renewal.failed(boot_ns());
    }

    fn set_connected(&mut self, connected: bool) {
        self.dirty |= self.leases.connected != connected;
        self.leases.connected = connected;
    }

    fn set_own(&mut self, own: OwnLease) {
        self.dirty |= self.leases.own != own;
        self.leases.own = own;
    }

    fn publish_now(&mut self) {
        self.leases.peers = Arc::new(self.table.peers(self.port));
        self.leases.counts = self.table.counts();
        self.leases.counts.duplicate_public_ip += self.shared;
        self.leases.kept = Some(Arc::new(self.kept()));
        self.publish.send_replace(self.leases.clone());
        self.dirty = false;
        self.published = Instant::now();
    }

    /// When to look at the clock again.
    fn clock_check(&self) -> Instant {
        let check = self.clock_checked + CLOCK_CHECK;
        if self.leases.own == OwnLease::Stolen {
            return check;
        }
        match self.renewal.due_in(boot_ns()) {
            Some(due) => check.min(Instant::now() + due),
            None => check,
        }
    }
}

/// What ends a watch, or everything.
enum Interruption {
    Watch(WatchError),
    Revoked(Revoked),
}

impl From<WatchError> for Interruption {
    fn from(error: WatchError) -> Self {
        Self::Watch(error)
    }
}

impl From<Revoked> for Interruption {
    fn from(revoked: Revoked) -> Self {
        Self::Revoked(revoked)
    }
}

/// The watch's next changes; pends while there is no watch.
async fn next<W: Watch>(watch: &mut Option<W>) -> Result<Vec<Event>, WatchError> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
