//! The keys of leases, as the rest of this module needs them: a real etcd's, or a test's.

use super::lease::LeaseAttrs;
use crate::subnet::Subnets;
use std::time::Duration;

/// A lease's key as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// The revision that wrote it.
    pub revision: i64,
    /// The store's lease that it dies with; 0 for none: a reservation.
    pub lease: i64,
}

/// Which store answered, and how far it has come. Within one store, neither number goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// The cluster's identity.
    pub cluster: u64,
    /// Its term of leadership.
    pub term: u64,
    /// Its revision.
    pub revision: i64,
}

impl Position {
    /// Whether an answer that came later is of another store: one that was wiped, or restored.
    #[must_use]
    pub(crate) fn is_replaced_by(&self, later: &Self) -> bool {
        self.cluster != later.cluster || later.term < self.term || later.revision < self.revision
    }
}

/// All leases at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyList {
    /// The leases.
    pub entries: Vec<Entry>,
    /// When.
    pub at: Position,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A key was written.
    Put(Entry),
    /// A key is gone: removed, or expired.
    Delete {
        /// The key.
        key: Vec<u8>,
        /// The revision that removed it.
        revision: i64,
    },
}

impl Event {
    /// The revision of the change.
    #[must_use]
    pub fn revision(&self) -> i64 {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// What a key is kept by after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Granted {
    /// The store's lease; 0 for none.
    pub lease: i64,
    /// How long it lasts from now on; `None` for ever.
    pub ttl: Option<Duration>,
}

/// How long a written key is to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// As long as flannel's leases.
    Lease,
    /// For ever: a reservation stays one.
    Permanent,
}

/// The store did not do what it was asked: what was tried and what came back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {cause}")]
pub struct KeysError {
    /// What was tried.
    pub what: String,
    /// What came back.
    pub cause: String,
}

/// Why a watch ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The store no longer has the revision: list again.
    #[error("the watched revision has been compacted")]
    Compacted,
    /// The connection is gone.
    #[error(transparent)]
    Lost(#[from] KeysError),
}

/// The keys of all leases. No call waits for ever: each ends with an error after a bounded time.
#[expect(async_fn_in_trait, reason = "all of the control plane runs on one thread")]
pub trait Keys {
    /// Changes as they happen.
    type Watch: Watch;

    /// The next call gets a connection of its own: this host's address has changed.
    fn disconnect(&self);

    /// The text of the network's configuration.
    async fn config(&self) -> Result<String, KeysError>;

    /// All leases, in one request.
    async fn list(&self) -> Result<KeyList, KeysError>;

    /// One key's lease.
    async fn find(&self, key: &[u8]) -> Result<Option<Entry>, KeysError>;

    /// How long a store's lease still lasts; `None` when it does not exist.
    async fn ttl(&self, lease: i64) -> Result<Option<Duration>, KeysError>;

    /// Whether a store's lease is one that we asked for.
    fn asked_for(&self, lease: i64) -> bool;

    /// The key that a lease of these subnets has.
    fn key(&self, subnets: Subnets) -> Vec<u8>;

    /// Takes a key; `None` when somebody has it.
    async fn create(&self, key: &[u8], attrs: LeaseAttrs) -> Result<Option<Granted>, KeysError>;

    /// Writes the key of `known` again, with a new term; `None` when its value or store's lease is no
    /// longer that of `known`, and then nothing is written.
    async fn renew(
        &self,
        known: &Entry,
        attrs: LeaseAttrs,
        term: Term,
    ) -> Result<Option<Granted>, KeysError>;

    /// Removes a key unless it changed since; says whether it did.
    async fn remove(&self, known: &Entry) -> Result<bool, KeysError>;

    /// Watches all leases from a revision on.
    async fn watch(&self, from: i64) -> Result<Self::Watch, WatchError>;
}

/// A watch on leases.
#[expect(async_fn_in_trait, reason = "all of the control plane runs on one thread")]
pub trait Watch {
    /// The next changes, in order; may be none. Safe to be cancelled.
    async fn next(&mut self) -> Result<Vec<Event>, WatchError>;
}
