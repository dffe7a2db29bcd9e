//! A time that goes on while the host sleeps, and that all processes share.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since boot, suspended time included.
pub(super) fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
