//! Who should hold which subnet: leases and peers, before they become routes.
//!
//! A [`LeaseStore`] gets this node a subnet and says who holds the others: [`etcd`], or the nodes of
//! a Kubernetes cluster ([`kube`]). The [`Reconciler`] makes of peers, wherever they come from, what
//! workers look up.

mod clock;
pub mod etcd;
mod families;
mod go_json;
#[cfg(feature = "kube")]
pub mod kube;
mod network;
mod peers;
mod pool;
mod reconcile;
mod store;
#[cfg(feature = "etcd")]
mod tls;

pub use families::{Addresses, Both, Subnets};
pub use network::{Backend, BackendError, NetworkConfig, NetworkError};
pub(crate) use peers::reaches;
pub use peers::{InvalidPeers, PeerSet, PeerSpec, Site};
pub use pool::{Family, Pool};
pub use reconcile::{PeerDiff, Reconciler, TooManyPeers};
pub use store::{HostAddress, Joined, LeaseStore, Memory, MemoryError, NodeAddress};
