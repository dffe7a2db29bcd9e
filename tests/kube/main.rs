//! `twill flanneld -kube-subnet-mgr` against a real kube-apiserver.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod addresses;
mod beside_flannel;
mod dual;
mod faults;
mod following;
mod hand_overs;
mod manifests;
mod moving;
mod nodes;
mod rights;
mod scale;
mod server;
mod without_loss;
