//! Who should hold which subnet: leases and peers, before they become routes.
//!
//! [`acquire`] gets this node a subnet from a store of leases ([`Manager`]), the [`Keeper`] keeps it
//! and follows the others' leases ([`LeaseTable`]), and the [`Reconciler`] makes of peers, wherever
//! they come from, what workers look up.

mod acquire;
mod clock;
#[cfg(feature = "etcd")]
pub mod etcd;
mod go_json;
mod keeper;
#[cfg(feature = "kube")]
pub mod kube;
mod lease;
mod manager;
mod network;
mod peers;
mod reconcile;
mod renewal;
mod table;

pub use acquire::{AcquireError, Held, Step, acquire, plan};
pub use keeper::{Keeper, Keeping, Leases, OwnLease, Revoked};
pub use lease::{Holder, Lease, Malformed, Prefix, parse as parse_lease};
pub use manager::{
    Entry, Event, Granted, Manager, ManagerError, Position, Snapshot, Term, Watch, WatchError,
};
pub use network::{Backend, BackendError, NetworkConfig, NetworkError};
pub use peers::{InvalidPeers, Peer, PeerSet, Site};
pub use reconcile::{Change, Reconciler, TooManyPeers};
pub use renewal::Renewal;
pub use table::{Applied, Finding, LeaseCounts, LeaseTable, Own, OwnKey, Store};
