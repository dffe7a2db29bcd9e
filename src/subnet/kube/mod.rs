//! Leases in the nodes of a Kubernetes cluster: flannel's `kube-subnet-mgr`.
//!
//! A node's subnet is its pod network, which the cluster's controller manager gives; its address is
//! an annotation, which the node's own flannel writes. There are no keys, leases or revisions:
//! [`table::NodeTable`] knows nodes by name and uid.
//!
//! ```text
//!  Access ──> Nodes ──> Member::join ──> Follower ──> Cluster
//!  address,   calls     our own node     the others   peers, and how all is
//!  TLS, token
//! ```

mod access;
mod address;
pub mod annotations;
pub mod api;
mod client;
mod cluster;
mod follow;
mod join;
mod kubeconfig;
mod nodes;
mod store;
pub mod table;
mod token;

pub use access::{Access, AccessError, Options};
pub use address::AddressSource;
pub use client::CallError;
pub use cluster::{Cluster, Kept, OwnNode};
pub use follow::{FollowEnd, Follower};
pub use join::{JoinError, Member, Registration};
pub use kubeconfig::KubeconfigError;
pub use nodes::{NodeEvent, NodeList, NodeWatch, Nodes, WatchEnd};
pub use store::{KubeStore, Membership, NodeName, StoreError};
pub use token::TokenError;
