//! Waiting for what happens elsewhere.

use std::thread;
use std::time::{Duration, Instant};

/// Waits until something holds; panics with `what` when it does not within the limit.
pub(crate) fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
