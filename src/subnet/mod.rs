//! Who should hold which subnet: leases and peers, before they become routes.

mod peers;
mod reconcile;

pub use peers::{InvalidPeers, Peer, PeerSet};
pub use reconcile::{Change, Reconciler, TooManyPeers};
