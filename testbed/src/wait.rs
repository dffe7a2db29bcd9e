//! Waiting for what happens elsewhere.

use std::thread;
use std::time::{Duration, Instant};

/// Waits until `holds` says yes. `what` names the condition in the panic message.
///
/// # Panics
/// When it does not.
pub fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
