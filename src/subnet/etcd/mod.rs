//! Leases in etcd v3, by flannel's schema.
//!
//! ```text
//!  EtcdStore ──> acquire ──> Keeper ──> Leases
//!                   │           │
//!                 Keys: list, watch, transactions on the keys of leases
//! ```
//! What is pure or runs on [`Keys`] alone is here; [`client`] is the real server.

mod acquire;
#[cfg(feature = "etcd")]
pub mod client;
mod finding;
mod keeper;
mod keys;
mod lease;
mod renewal;
#[cfg(feature = "etcd")]
mod store;
mod table;

pub use acquire::{AcquireError, Held, Step, acquire, plan};
pub use finding::{Finding, LeaseCounts};
pub use keeper::{Keeper, Keeping, Kept, Leases, OwnLease, Revoked};
pub use keys::{
    Entry, Event, Granted, KeyList, Keys, KeysError, Position, Term, Watch, WatchError,
};
pub use lease::{Lease, LeaseAttrs, Malformed, Prefix, parse as parse_lease};
pub use renewal::Renewal;
#[cfg(feature = "etcd")]
pub use store::{EtcdStore, StoreError};
pub use table::{Applied, Continuity, LeaseTable, Own, OwnKey};
