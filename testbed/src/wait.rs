//! Waiting for what happens elsewhere.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// A limit as it is on this machine: `TWILL_TEST_PATIENCE` says how many times slower it is than one
/// that the limits are made for. `tests/kernels/all` measures that.
pub(super) fn patient(limit: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let factor = FACTOR.get_or_init(|| {
        let word = std::env::var("TWILL_TEST_PATIENCE").ok();
        word.and_then(|word| word.parse().ok()).map_or(1, |factor: u32| factor.clamp(1, 1000))
    });
    limit * *factor
}

/// Waits until `holds` says yes, on a slow machine longer than `limit` (`TWILL_TEST_PATIENCE`). `what` names the condition in the panic message.
///
/// # Panics
/// When it does not.
pub fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let limit = patient(limit);
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
