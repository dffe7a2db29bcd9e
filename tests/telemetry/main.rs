//! What running gateways say of themselves, in network namespaces with real traffic.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod delays;
#[path = "../common/engines.rs"]
mod engines;
mod exports;
mod gateways;
#[path = "../common/missing.rs"]
mod missing;
mod several;
mod terminal;
#[path = "../common/wait.rs"]
mod wait;
