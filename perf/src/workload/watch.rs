//! The measured time, and what passes in it.

use crate::measure::Meter;
use crate::sys::now_ns;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Length of one step of a time series, seconds.
pub(crate) const STEP_SECONDS: f64 = 0.1;
const STEP: Duration = Duration::from_millis(100);

/// How long traffic runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Before the measured time, so that windows open and caches fill.
    pub(crate) warm_up: Duration,
    /// The measured time.
    pub(crate) measure: Duration,
}

impl Window {
    /// A measured time with a tenth of it, 100 to 500 ms, to warm up.
    #[must_use]
    pub fn of(measure: Duration) -> Self {
        let warm_up = (measure / 10).clamp(Duration::from_millis(100), Duration::from_millis(500));
        Self { warm_up, measure }
    }
}

/// The measured time, shared with threads that time packets: a packet that is due outside is not
/// timed.
#[derive(Debug)]
pub(crate) struct Measured {
    start_ns: AtomicU64,
    end_ns: AtomicU64,
}

impl Default for Measured {
    /// Not begun.
    fn default() -> Self {
        Self { start_ns: AtomicU64::new(u64::MAX), end_ns: AtomicU64::new(u64::MAX) }
    }
}

impl Measured {
    pub(super) fn begin(&self, start_ns: u64, end_ns: u64) {
        self.end_ns.store(end_ns, Ordering::Relaxed);
        self.start_ns.store(start_ns, Ordering::Release);
    }

    /// Whether it has begun and includes this moment.
    pub(crate) fn holds(&self, due_ns: u64) -> bool {
        due_ns >= self.start_ns.load(Ordering::Acquire)
            && due_ns < self.end_ns.load(Ordering::Relaxed)
    }
}

/// Running totals: payload bytes and packets that arrived, packets that were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Total {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) sent: u64,
}

/// What passed in the measured time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watched {
    pub(crate) seconds: f64,
    pub(crate) amount: Total,
    /// Bytes and packets per second in each [`STEP`].
    pub(crate) series: Vec<(f64, f64)>,
}

impl Watched {
    /// Payload, Gbit/s.
    pub(crate) fn gbit(&self) -> f64 {
        self.amount.bytes as f64 * 8e-9 / self.seconds
    }

    /// Thousand packets per second.
    pub(crate) fn kpps(&self) -> f64 {
        self.amount.packets as f64 * 1e-3 / self.seconds
    }

    /// Thousand packets per second that were sent.
    pub(crate) fn offered_kpps(&self) -> f64 {
        self.amount.sent as f64 * 1e-3 / self.seconds
    }
}

/// Watches a running total through one window, and says when it begins.
pub(crate) fn watch(
    window: &Window,
    meter: &mut Meter,
    measured: &Measured,
    total: impl Fn() -> Total,
) -> Watched {
    thread::sleep(window.warm_up);
    meter.begin();
    let first = total();
    let start_ns = now_ns();
    let end_ns = start_ns + window.measure.as_nanos() as u64;
    measured.begin(start_ns, end_ns);

    let mut series = Vec::new();
    let (mut last, mut last_ns) = (first, start_ns);
    while last_ns < end_ns {
        let left = Duration::from_nanos(end_ns - last_ns);
        thread::sleep(STEP.min(left));
        let (now, at_ns) = (total(), now_ns());
        let seconds = (at_ns - last_ns) as f64 * 1e-9;
        series.push((
            (now.bytes - last.bytes) as f64 / seconds,
            (now.packets - last.packets) as f64 / seconds,
        ));
        (last, last_ns) = (now, at_ns);
    }
    meter.end();

    let amount = Total {
        bytes: last.bytes - first.bytes,
        packets: last.packets - first.packets,
        sent: last.sent - first.sent,
    };
    Watched { seconds: (last_ns - start_ns) as f64 * 1e-9, amount, series }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measured_time_holds_neither_the_warm_up_nor_what_comes_after() {
        let measured = Measured::default();
        assert!(!measured.holds(0) && !measured.holds(100));

        measured.begin(100, 200);

        assert_eq!(
            [99, 100, 199, 200].map(|due_ns| measured.holds(due_ns)),
            [false, true, true, false]
        );
    }
}
