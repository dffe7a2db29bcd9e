//! The standalone daemon on real hosts: two of them with a pod each, real traffic, real faults.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod capture;
#[path = "../common/engines.rs"]
mod engines;
mod faults;
mod ingress;
mod kernels;
mod lifecycle;
mod limits;
#[path = "../common/missing.rs"]
mod missing;
mod numbered;
mod pair;
mod peers;
#[path = "../common/process.rs"]
mod process;
mod queues;
#[path = "../common/snmp.rs"]
mod snmp;
mod traffic;
