//! Engines on real TUN devices and sockets: one body per test, every engine.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod creation;
mod device;
mod faults;
#[path = "../common/missing.rs"]
mod missing;
mod rig;
#[path = "../common/snmp.rs"]
mod snmp;
mod steering;
mod traffic;
#[path = "../common/wait.rs"]
mod wait;
