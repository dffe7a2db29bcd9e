//! The standalone daemon on real hosts: two of them with a pod each, real traffic, real faults.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod capture;
mod faults;
mod ingress;
mod kernels;
mod lifecycle;
mod limits;
mod numbered;
mod pair;
mod peers;
mod queues;
mod traffic;
