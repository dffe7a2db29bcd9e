//! What the generators need from the kernel and no crate offers safely, one system call each; and
//! the clock.

mod mmsg;
mod priority;

pub(crate) use mmsg::{BATCH, ReceiveBatch, send_batch};
pub(crate) use priority::real_time;

use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds of the monotonic clock, which all namespaces and processes share.
pub(crate) fn now_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// CPU time of the calling thread, nanoseconds.
pub(crate) fn thread_cpu_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::ThreadCPUTime))
}

/// Sleeps until the monotonic clock shows `at_ns`; returns at once if it already does.
pub(crate) fn sleep_until(at_ns: u64) {
    let at = Timespec {
        tv_sec: (at_ns / 1_000_000_000) as i64,
        tv_nsec: (at_ns % 1_000_000_000) as i64,
    };
    // A signal ends the sleep early; the caller looks at the clock anyway.
    let _ = clock_nanosleep_absolute(ClockId::Monotonic, &at);
}

fn nanoseconds(time: Timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
