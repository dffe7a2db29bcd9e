//! What running gateways say of themselves, in network namespaces with real traffic.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod delays;
mod exports;
mod gateways;
mod terminal;
