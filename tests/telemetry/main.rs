//! What running gateways say of themselves, in network namespaces with real traffic.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod alerts;
mod dashboard;
mod delays;
mod exports;
mod several;
mod terminal;

use twill_testbed::pair::Setup;

const TWILL: &str = env!("CARGO_BIN_EXE_twill");
/// Setting: the gateways send packets of their own.
const PROBED: &str = "probe_seconds = 1";
/// Setting: every packet is the test's.
const UNPROBED: &str = "probe_seconds = 0";

/// Gateways with these lines of configuration.
fn with(lines: &str) -> Setup<'_> {
    Setup { lines, ..Setup::new(TWILL) }
}
