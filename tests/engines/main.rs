//! Engines on real TUN devices and sockets: one body per test, every engine.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod creation;
mod device;
mod faults;
mod queues;
mod steering;
mod traffic;
