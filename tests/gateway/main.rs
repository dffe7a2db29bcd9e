//! The standalone daemon on real hosts: two of them with a pod each, real traffic, real faults.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod between;
mod busy;
mod capture;
mod completion;
mod crafted;
mod dead;
mod driver;
mod families;
mod fast;
mod faults;
mod forged;
mod guide;
mod handover;
mod host;
mod ingress;
mod kept;
mod kernels;
mod lifecycle;
mod limits;
mod modules;
mod names;
mod narrow;
mod numbered;
mod order;
mod peers;
mod privileges;
mod queues;
mod reload;
mod silence;
mod traffic;
mod upgrade;

use twill_testbed::pair::Setup;

/// Gateways of this build that run an engine.
fn with(engine: &str) -> Setup<'_> {
    Setup { engine, ..Setup::new(env!("CARGO_BIN_EXE_twill")) }
}
