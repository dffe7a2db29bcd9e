//! Probes at fixed times, alone or during other traffic.

use super::udp::{Sizes, UdpLoad, note_short_offer};
use super::watch::{Measured, Total, Watched, watch};
use super::{Course, Window, WorkloadError, tcp, udp};
use crate::measure::Meter;
use crate::sample::{Sample, histogram};
use crate::sys::{now_ns, real_time, sleep_until};
use hdrhistogram::Histogram;
use std::fmt;
use std::net::UdpSocket;
use std::num::NonZero;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Payload bytes of a probe.
const SIZE: usize = 64;
/// How long the probe waits awake before it is due: a halted virtual CPU wakes tens of microseconds
/// late.
const SPIN_NS: u64 = 60_000;
/// How long the last answers may take.
const GRACE: Duration = Duration::from_millis(500);
/// The load of which [`Beside::Share`] takes a share.
const LOAD: UdpLoad = UdpLoad { sizes: Sizes::Fixed(512), flows: 8, rate: None };

/// The background traffic while latency is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// Nothing.
    Nothing,
    /// UDP packets of 512 bytes at this percentage of the highest rate that the path delivers.
    Share(u8),
    /// One TCP stream as fast as it goes.
    Tcp,
}

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::Share(percent) => write!(f, "@{percent}"),
            Self::Tcp => f.write_str("+tcp"),
        }
    }
}

impl FromStr for Beside {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "" => Ok(Self::Nothing),
            "+tcp" => Ok(Self::Tcp),
            _ => {
                let percent = name.strip_prefix('@').ok_or(())?.parse().map_err(drop)?;
                if (1..=99).contains(&percent) { Ok(Self::Share(percent)) } else { Err(()) }
            }
        }
    }
}

/// An open-loop probe: it sends at fixed times, whether or not earlier probes were answered, and
/// measures from the moment at which a probe was due. A path that stalls delays every probe that
/// was due meanwhile (no coordinated omission).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    /// Probes per second.
    pub(crate) rate: u32,
}

impl Default for Probe {
    fn default() -> Self {
        Self { rate: 1000 }
    }
}

pub(super) fn run(
    course: Course<'_>,
    probe: &Probe,
    beside: Beside,
    window: &Window,
    meter: &mut Meter,
) -> Result<Sample, WorkloadError> {
    match beside {
        Beside::Nothing => Ok(probe.run(course, window, meter, Total::default)?.0),
        Beside::Tcp => {
            let (probed, _) =
                tcp::beside(course, 1, |received| probe.run(course, window, meter, received))?;
            let (mut sample, load) = probed?;
            sample.set("goodput", load.gbit());
            Ok(sample)
        }
        Beside::Share(percent) => {
            let short = Window { measure: window.measure / 4, ..*window };
            let flooded = udp::run(course, &LOAD, &short, &mut Meter::idle())?;
            let most = flooded.get("delivered").unwrap_or(0.0) * 1e3;
            let rate = ((most * f64::from(percent) / 100.0) as u64).max(1);
            let load = UdpLoad { rate: Some(rate), ..LOAD };
            let (probed, end) = udp::beside(course, &load, |totals| {
                probe.run(course, window, meter, || totals.so_far())
            })?;
            let (mut sample, load) = probed?;
            sample.set("offered", load.offered_kpps());
            sample.set("load_loss", end.loss());
            note_short_offer(&mut sample, rate);
            Ok(sample)
        }
    }
}

impl Probe {
    /// Probes through one window; also returns the background traffic, which `loaded` counts.
    fn run(
        &self,
        course: Course<'_>,
        window: &Window,
        meter: &mut Meter,
        loaded: impl Fn() -> Total,
    ) -> Result<(Sample, Watched), WorkloadError> {
        let (asking, answering) = sockets(course)?;
        let measured = Measured::default();
        let answered = AtomicU64::new(0);
        let (stop, ended) = (AtomicBool::new(false), AtomicBool::new(false));

        let (watched, asked, [arrived, heard], end_ns) = thread::scope(|scope| {
            let answers = scope.spawn(|| answer(&answering, &measured, &ended));
            let hearing = scope.spawn(|| hear(&asking, &measured, &answered, &ended));
            let sending = scope.spawn(|| self.ask(&asking, &measured, &stop));
            let watched = watch(window, meter, &measured, loaded);
            stop.store(true, Ordering::Relaxed);
            let asked = sending.join().expect("the probe does not panic");
            wait_for_answers(asked.count, &answered);
            let end_ns = now_ns();
            ended.store(true, Ordering::Relaxed);
            let seen = [answers, hearing].map(|side| side.join().expect("no side panics"));
            (watched, asked, seen, end_ns)
        });

        let answers = heard.times.len();
        if answers == 0 {
            return Err(WorkloadError::Silence("answers to latency probes".to_owned()));
        }
        let mut sample = Sample::new(watched.seconds);
        sample.bytes = watched.amount.bytes + answers * 2 * SIZE as u64;
        sample.packets = watched.amount.packets + answers * 2;
        let due = self.due(&asked, &measured);
        describe(&mut sample, asked, &due, [arrived, heard], end_ns);
        Ok((sample, watched))
    }

    /// Sends probes at fixed times until told to stop.
    fn ask(&self, socket: &UdpSocket, measured: &Measured, stop: &AtomicBool) -> Asked {
        // The default slack of 50 µs would be most of what is measured.
        let _ = rustix::thread::set_current_timer_slack(NonZero::new(1));
        let real_time = real_time();
        let mut lag = histogram();
        let mut count = 0;
        let start_ns = now_ns();
        while !stop.load(Ordering::Relaxed) {
            let due_ns = self.due_ns(start_ns, count);
            sleep_until(due_ns.saturating_sub(SPIN_NS));
            while now_ns() < due_ns {
                std::hint::spin_loop();
            }
            if measured.holds(due_ns) {
                lag.saturating_record(now_ns() - due_ns);
            }
            let mut message = [0; SIZE];
            message[..8].copy_from_slice(&due_ns.to_be_bytes());
            message[8..16].copy_from_slice(&count.to_be_bytes());
            // A refusal is a loss: the schedule does not wait for the path.
            let _ = socket.send(&message);
            count += 1;
        }
        Asked { start_ns, count, lag, real_time }
    }

    /// The probes of the measured time: number, and when it was due.
    fn due(&self, asked: &Asked, measured: &Measured) -> Vec<(u64, u64)> {
        let all = (0..asked.count).map(|number| (number, self.due_ns(asked.start_ns, number)));
        all.filter(|(_, due_ns)| measured.holds(*due_ns)).collect()
    }

    fn due_ns(&self, start_ns: u64, number: u64) -> u64 {
        start_ns + number * 1_000_000_000 / u64::from(self.rate)
    }
}

/// `seen` is by the answering side, then by the asking side.
fn describe(
    sample: &mut Sample,
    asked: Asked,
    due: &[(u64, u64)],
    [mut arrived, mut heard]: [Seen; 2],
    end_ns: u64,
) {
    arrived.charge_missing(due, end_ns);
    let lost = heard.charge_missing(due, end_ns);
    sample.set("loss", lost as f64 / due.len().max(1) as f64);
    if lost > 0 {
        sample.note(format!(
            "{lost} of {} probes without an answer: each is timed until the end of the run, so the \
             highest percentiles are lower bounds",
            due.len()
        ));
    }
    let late = |times: &Histogram<u64>| times.value_at_quantile(0.99);
    if late(&asked.lag) > late(&heard.times) / 2 {
        sample.note(format!(
            "the generator is the bottleneck: 1 % of probes left {:.0} µs late or more",
            late(&asked.lag) as f64 * 1e-3
        ));
    }
    if !asked.real_time {
        sample.note(
            "cannot set real-time priority for probes: the times include delays of the scheduler"
                .into(),
        );
    }
    sample.histogram("rtt", heard.times);
    sample.histogram("one_way", arrived.times);
    sample.histogram("lag", asked.lag);
}

struct Asked {
    start_ns: u64,
    count: u64,
    lag: Histogram<u64>,
    real_time: bool,
}

/// The probes that one side saw, and how long after they were due; those due in the measured time
/// are timed.
struct Seen {
    numbers: Vec<bool>,
    times: Histogram<u64>,
}

impl Seen {
    fn new() -> Self {
        Self { numbers: Vec::new(), times: histogram() }
    }

    /// Counts a probe; returns whether it was the first of its number.
    fn saw(&mut self, message: &[u8; SIZE], measured: &Measured) -> bool {
        let now = now_ns();
        let field = |at: usize| {
            message[at..at + 8].iter().fold(0, |field, byte| field << 8 | u64::from(*byte))
        };
        let (due_ns, number) = (field(0), field(8) as usize);
        if number >= self.numbers.len() {
            self.numbers.resize(number + 1, false);
        }
        if std::mem::replace(&mut self.numbers[number], true) {
            return false;
        }
        if measured.holds(due_ns) {
            self.times.saturating_record(now.saturating_sub(due_ns));
        }
        true
    }

    /// Times probes that never came until the end of the run: without them, a path that loses its
    /// slow packets would look fast. Returns how many there are.
    fn charge_missing(&mut self, due: &[(u64, u64)], end_ns: u64) -> usize {
        let seen = |number: u64| self.numbers.get(number as usize) == Some(&true);
        let missing: Vec<_> = due.iter().filter(|(number, _)| !seen(*number)).collect();
        for (_, due_ns) in &missing {
            self.times.saturating_record(end_ns.saturating_sub(*due_ns));
        }
        missing.len()
    }
}

fn sockets(course: Course<'_>) -> Result<(UdpSocket, UdpSocket), WorkloadError> {
    let bind = |pod: &twill_testbed::Pod| {
        let socket = pod.enter(|| UdpSocket::bind((pod.address(), 0)))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(socket)
    };
    let answering =
        bind(course.to).map_err(WorkloadError::socket("binding the answering socket"))?;
    let asking = bind(course.from).map_err(WorkloadError::socket("binding the asking socket"))?;
    answering
        .local_addr()
        .and_then(|address| asking.connect(address))
        .map_err(WorkloadError::socket("connecting the asking socket"))?;
    Ok((asking, answering))
}

/// Sends every probe back.
fn answer(socket: &UdpSocket, measured: &Measured, ended: &AtomicBool) -> Seen {
    real_time();
    let mut seen = Seen::new();
    let mut message = [0; SIZE];
    while !ended.load(Ordering::Relaxed) {
        if let Ok((SIZE, from)) = socket.recv_from(&mut message) {
            seen.saw(&message, measured);
            let _ = socket.send_to(&message, from);
        }
    }
    seen
}

fn hear(socket: &UdpSocket, measured: &Measured, answered: &AtomicU64, ended: &AtomicBool) -> Seen {
    real_time();
    let mut seen = Seen::new();
    let mut message = [0; SIZE];
    while !ended.load(Ordering::Relaxed) {
        if let Ok(SIZE) = socket.recv(&mut message)
            && seen.saw(&message, measured)
        {
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
    seen
}

fn wait_for_answers(asked: u64, answered: &AtomicU64) {
    let deadline_ns = now_ns() + GRACE.as_nanos() as u64;
    while answered.load(Ordering::Relaxed) < asked && now_ns() < deadline_ns {
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_probe_waits_until_the_end_and_a_duplicate_counts_once() {
        let measured = Measured::default();
        measured.begin(0, u64::MAX);
        let probe = |number: u64, due_ns: u64| {
            let mut message = [0; SIZE];
            message[..8].copy_from_slice(&due_ns.to_be_bytes());
            message[8..16].copy_from_slice(&number.to_be_bytes());
            message
        };
        let due_ns = now_ns();
        let mut seen = Seen::new();

        assert!(seen.saw(&probe(2, due_ns), &measured) && !seen.saw(&probe(2, due_ns), &measured));
        let due = [(1, due_ns), (2, due_ns), (3, due_ns)];
        let lost = seen.charge_missing(&due, due_ns + 5_000_000_000);

        assert_eq!((lost, seen.times.len()), (2, 3));
        assert!(seen.times.value_at_quantile(0.3) < 1_000_000_000);
        assert!(seen.times.value_at_quantile(0.5) >= 4_990_000_000);
    }
}
