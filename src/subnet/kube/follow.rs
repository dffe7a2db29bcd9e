//! Keeping this node's annotations and following the other nodes.
//!
//! ```text
//!  list in full ──> watch metadata ──> NodeTable ──> published, at most ten times a second
//!    ^     new, or without a network: read in full      │
//!    └──── gone revision, another store       own node: written again, followed, or the end
//! ```
//! Nothing here is needed for forwarding: while the API server is away, the peers stay what they are.

mod kept;
mod own;

use super::client::CallError;
use super::cluster::{Cluster, OwnNode};
use super::join::{JoinError, Member, Registration};
use super::nodes::{NodeEvent, NodeWatch, Nodes, WatchEnd};
use super::table::{Need, NodeTable, Own};
use crate::subnet::{HostAddress, PeerSet, Subnets};
use rand::RngExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

/// Pause after the first failure; it doubles up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long a watch must have lived for its end to be no failure.
const LIVED: Duration = Duration::from_secs(5);
/// The least time between two publications.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);
/// How often our own node is read, in case that a change of it was missed.
const OWN_CHECK: Duration = Duration::from_secs(60);
/// The least time between two looks at our own node, which others may write often.
const OWN_PAUSE: Duration = Duration::from_secs(1);
/// Pause after the first failure to read or write our own node; it doubles up to the second.
const OWN_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// Seconds between two lists of a node that may list but not watch, at random, so that not all nodes
/// list at once.
const POLL_SECONDS: std::ops::Range<u64> = 10..20;
/// How long nodes are peers still that a wiped or restored store does not know.
const LOST_DATA: Duration = Duration::from_secs(24 * 3600);
/// Findings that are logged one by one; of more at a time only the number.
const NAMED_FINDINGS: usize = 16;

/// Why following ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FollowEnd {
    /// Our node has another pod network: it was made again.
    #[error(
        "node {node:?} was created again with pod network {now} instead of {before}: ending, so \
         that a new start takes the new one"
    )]
    Moved {
        /// The node.
        node: String,
        /// What it had.
        before: Subnets,
        /// What it has.
        now: Subnets,
    },
    /// It cannot be part of the network any more.
    #[error(transparent)]
    Join(#[from] JoinError),
}

/// Follows the nodes of a cluster.
pub struct Follower {
    nodes: Nodes,
    member: Member,
    /// Where the host is, if somebody says so.
    host: Option<watch::Receiver<HostAddress>>,
    joined: Registration,
    port: u16,
    table: NodeTable,
    /// The peers of the follower before this one, until the nodes are listed.
    inherited: Option<Arc<PeerSet>>,
    /// When peers are forgotten that a store lacks which does not have its former data.
    forget_at: Option<Instant>,
    /// The revision up to which changes are known; empty if a new list is needed.
    revision: String,
    backoff: Duration,
    watched_since: Instant,
    cluster: Cluster,
    publish: watch::Sender<Cluster>,
    dirty: bool,
    published: Instant,
    own_due: Instant,
    /// When our own node was looked at last.
    own_seen: Instant,
    own_retry: Duration,
    /// What was last told of the API server, and of our own node.
    told: Option<String>,
    own_told: Option<String>,
}

impl Follower {
    /// A follower, and where it publishes what it learns.
    #[must_use]
    pub fn new(
        nodes: Nodes,
        member: Member,
        joined: Registration,
        port: u16,
    ) -> (Self, watch::Receiver<Cluster>) {
        let cluster = Cluster { connected: true, ..Cluster::default() };
        let (publish, mut published) = watch::channel(cluster.clone());
        let mut follower = Self {
            nodes,
            table: NodeTable::new(member.annotations.clone()),
            inherited: None,
            forget_at: None,
            member,
            host: None,
            joined,
            port,
            revision: String::new(),
            backoff: BACKOFF.0,
            watched_since: Instant::now(),
            cluster,
            publish,
            dirty: false,
            published: Instant::now() - PUBLISH_INTERVAL,
            own_due: Instant::now() + OWN_CHECK,
            own_seen: Instant::now() - OWN_PAUSE,
            own_retry: OWN_RETRY.0,
            told: None,
            own_told: None,
        };
        follower.cluster.kept = Some(Arc::new(follower.kept()));
        follower.publish.send_replace(follower.cluster.clone());
        // What is there at the start is no news.
        published.mark_unchanged();
        (follower, published)
    }

    /// Runs until our node cannot be followed any more.
    pub async fn run(mut self) -> FollowEnd {
        let mut watch = None;
        let mut reconnect_at = Instant::now();
        loop {
            let outcome = tokio::select! {
                biased;
                () = sleep_until(self.published + PUBLISH_INTERVAL), if self.dirty => {
                    self.publish_now();
                    Ok(())
                }
                () = sleep_until(self.own_due), if watch.is_some() => {
                    self.check_own().await
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
                event = next(&mut watch) => match event {
                    Ok(event) => self.follow(event).await,
                    Err(end) => Err(end.into()),
                }
            };
            match outcome {
                Ok(()) => {}
                Err(Interruption::End(end)) => return end,
                Err(Interruption::Watch(end)) => {
                    watch = None;
                    reconnect_at = Instant::now() + self.lost(&end);
                }
            }
        }
    }

    /// Makes the table current and watches from there.
    async fn reconnect(&mut self) -> Result<NodeWatch, Interruption> {
        // A store that was wiped or restored answers a watch from our revision with silence.
        if !self.revision.is_empty() && self.is_another_store().await? {
            warn!(
                "the API server's data were wiped or restored: listing all nodes again; nodes that \
                 are missing stay peers for 24 h"
            );
            self.revision.clear();
            self.forget_at = Some(Instant::now() + LOST_DATA);
        }
        if self.revision.is_empty() || self.inherited.is_some() {
            let list = self.nodes.list().await?;
            match self.forget_at {
                // A predecessor's store, if it is the same, knows what has gone since.
                Some(at) if self.revision.is_empty() && at > Instant::now() => {
                    self.publish_now();
                    self.table.listed_after_loss(&list.nodes, self.cluster.peers.iter());
                }
                _ => self.table.listed(&list.nodes),
            }
            self.inherited = None;
            self.dirty = true;
            self.revision = list.revision;
            let own = list.nodes.iter().find(|node| node.metadata.name == self.member.name);
            self.follow_own(own).await?;
        }
        let watch = self.nodes.watch(&self.revision).await?;
        self.answered();
        self.told = None;
        self.watched_since = Instant::now();
        Ok(watch)
    }

    /// Whether the API server's data are not those that we know: its revision is older, or our own
    /// node is another one.
    async fn is_another_store(&self) -> Result<bool, CallError> {
        let now = self.nodes.revision().await?;
        if is_behind(&now, &self.revision) {
            return Ok(true);
        }
        if self.cluster.own == OwnNode::Gone || self.joined.uid.is_empty() {
            return Ok(false);
        }
        match self.nodes.get(&self.member.name).await {
            Ok(node) => Ok(node.is_none_or(|node| node.metadata.uid != self.joined.uid)),
            Err(error) if is_of_one_call(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Stops serving nodes that a wiped or restored store did not get back in time.
    fn forget_lost(&mut self) {
        if self.forget_at.is_some_and(|at| at <= Instant::now()) {
            self.forget_at = None;
            self.dirty |= self.table.forget_lost();
        }
    }

    fn answered(&mut self) {
        if !self.cluster.connected {
            info!("the API server answers again");
        }
        self.set_connected(true);
    }

    async fn follow(&mut self, event: NodeEvent) -> Result<(), Interruption> {
        self.backoff = BACKOFF.0;
        match &event {
            NodeEvent::Seen(object) => {
                let name = &object.metadata.name;
                if self.table.seen(&object.metadata) == Need::Node {
                    self.read(name).await?;
                }
                if *name == self.member.name {
                    self.check_own_soon();
                }
                self.dirty = true;
            }
            NodeEvent::Gone(object) => {
                self.table.gone(&object.metadata);
                if object.metadata.name == self.member.name {
                    self.check_own_soon();
                }
                self.dirty = true;
            }
            NodeEvent::Bookmark(_) => {}
        }
        // Only now: if the node could not be read, the watch begins again before this event.
        event.revision().clone_into(&mut self.revision);
        Ok(())
    }

    /// Reads a node that is new or had no network. A node that cannot be read, for a missing right,
    /// comes with the next list.
    async fn read(&mut self, name: &str) -> Result<(), Interruption> {
        match self.nodes.get(name).await {
            Ok(Some(node)) => self.table.read(&node),
            Ok(None) => {}
            Err(error) => {
                if is_of_one_call(&error) {
                    self.revision.clear();
                }
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Notes the end of a watch and says how long to wait.
    fn lost(&mut self, end: &WatchEnd) -> Duration {
        match end {
            WatchEnd::Ended => {
                if self.watched_since.elapsed() >= LIVED {
                    return Duration::ZERO;
                }
            }
            WatchEnd::Expired => self.revision.clear(),
            WatchEnd::Call(error) if error.code() == Some(410) => self.revision.clear(),
            // Only a list says what has changed.
            WatchEnd::Forbidden(error) => {
                self.revision.clear();
                self.answered();
                self.tell(&format!("{error}; listing all nodes every 10 to 20 s instead"));
                return Duration::from_secs(rand::rng().random_range(POLL_SECONDS));
            }
            WatchEnd::Refused(_) | WatchEnd::Lost(_) | WatchEnd::Call(_) => {
                self.tell(&format!("{end}; keeping the known peers"));
                self.set_connected(false);
            }
        }
        let pause = self.backoff;
        self.backoff = (pause * 2).min(BACKOFF.1);
        pause
    }

    /// Logs why the API server is no help, when it is news.
    fn tell(&mut self, reason: &str) {
        if self.told.as_deref() != Some(reason) {
            warn!("{reason}");
            self.told = Some(reason.to_owned());
        }
    }

    fn set_connected(&mut self, connected: bool) {
        if self.cluster.connected && !connected {
            self.cluster.disconnects += 1;
        }
        self.dirty |= self.cluster.connected != connected;
        self.cluster.connected = connected;
    }

    fn set_own(&mut self, own: OwnNode) {
        self.dirty |= self.cluster.own != own;
        self.cluster.own = own;
    }

    fn publish_now(&mut self) {
        let own = Own {
            name: self.member.name.clone(),
            networks: self.member.networks,
            subnets: self.joined.subnets,
            public_ip: self.joined.public_ip,
            local: self.member.host.local.clone(),
        };
        let found = self.table.peers(&own, self.port);
        for finding in found.news.iter().take(NAMED_FINDINGS) {
            error!("{finding}");
        }
        if let Some(more @ 1..) = found.news.len().checked_sub(NAMED_FINDINGS) {
            error!("{more} more problems with nodes not shown");
        }
        self.cluster.ignored = self.table.findings().count() as u64;
        self.cluster.peers = match &self.inherited {
            Some(inherited) => Arc::clone(inherited),
            None => Arc::new(found.peers),
        };
        self.cluster.kept = Some(Arc::new(self.kept()));
        self.publish.send_replace(self.cluster.clone());
        self.dirty = false;
        self.published = Instant::now();
    }
}

enum Interruption {
    Watch(WatchEnd),
    End(FollowEnd),
}

impl From<WatchEnd> for Interruption {
    fn from(end: WatchEnd) -> Self {
        Self::Watch(end)
    }
}

impl From<CallError> for Interruption {
    fn from(error: CallError) -> Self {
        Self::Watch(error.into())
    }
}

impl From<FollowEnd> for Interruption {
    fn from(end: FollowEnd) -> Self {
        Self::End(end)
    }
}

/// Whether the server answered, and only this call did not succeed: a right is missing, for example.
/// Without a valid token no call does.
fn is_of_one_call(error: &CallError) -> bool {
    matches!(error, CallError::Refused { .. } | CallError::Garbled { .. })
        && error.code() != Some(401)
}

async fn next(watch: &mut Option<NodeWatch>) -> Result<NodeEvent, WatchEnd> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

/// Whether a revision is older than another. They are numbers in every API server that there is; one
/// that is not cannot be compared, and a watch from it will say so.
fn is_behind(now: &str, known: &str) -> bool {
    match (now.parse::<u64>(), known.parse::<u64>()) {
        (Ok(now), Ok(known)) => now < known,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_compared_as_numbers() {
        assert!(is_behind("9", "10"));
        assert!(!is_behind("10", "10"));
        assert!(!is_behind("11", "10"));
        assert!(!is_behind("opaque", "10"));
    }
}
