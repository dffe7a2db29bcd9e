//! Waiting for what happens elsewhere.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// How many times slower this machine is than one that limits and loads are made for, by
/// `TWILL_TEST_PATIENCE`. `tests/kernels/all` measures that.
#[must_use]
pub fn slowness() -> u32 {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    *FACTOR.get_or_init(|| {
        let word = std::env::var("TWILL_TEST_PATIENCE").ok();
        word.and_then(|word| word.parse().ok()).map_or(1, |factor: u32| factor.clamp(1, 1000))
    })
}

/// A limit as it is on this machine.
pub(super) fn patient(limit: Duration) -> Duration {
    limit * slowness()
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
