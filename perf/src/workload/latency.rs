use super::udp::{Sizes, UdpLoad};
use super::watch::{Total, watch};
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
/// A halted virtual CPU wakes tens of microseconds late: the last stretch is waited out awake.
const SPIN_NS: u64 = 60_000;
/// How long the last answers may take.
const GRACE: Duration = Duration::from_millis(500);
/// The load whose share [`Beside::Share`] means.
const LOAD: UdpLoad = UdpLoad { sizes: Sizes::Fixed(512), flows: 8, rate: None };

/// What else is on the path while its latency is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// Nothing.
    Nothing,
    /// UDP packets of 512 bytes at this percentage of what the path itself delivers at most.
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

/// An open-loop probe: it asks by the clock, whether or not earlier questions were answered, and
/// counts from the moment at which a question was due. A path that stalls is charged for every
/// question that had to wait (no coordinated omission).
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Questions per second.
    pub rate: u32,
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
        Beside::Nothing => probe.run(course, window, meter),
        Beside::Tcp => {
            let (sample, _) = tcp::beside(course, 1, |received| {
                let mut bytes = 0;
                let sample =
                    probe.run_beside(course, window, meter, || received().bytes, &mut bytes);
                sample.map(|mut sample| {
                    sample.set("goodput", bytes as f64 * 8e-9 / sample.seconds);
                    sample
                })
            })?;
            sample
        }
        Beside::Share(percent) => {
            let short = Window { measure: window.measure / 4, ..*window };
            let flooded = udp::run(course, &LOAD, &short, &mut Meter::idle())?;
            let most = flooded.get("delivered").unwrap_or(0.0) * 1e3;
            let rate = (most * f64::from(percent) / 100.0) as u64;
            let load = UdpLoad { rate: Some(rate.max(1)), ..LOAD };
            let (sample, end) = udp::beside(course, &load, |_| probe.run(course, window, meter))?;
            let mut sample = sample?;
            sample.set("offered", rate as f64 * 1e-3);
            sample.set("load_loss", end.loss());
            Ok(sample)
        }
    }
}

impl Probe {
    fn run(
        &self,
        course: Course<'_>,
        window: &Window,
        meter: &mut Meter,
    ) -> Result<Sample, WorkloadError> {
        self.run_beside(course, window, meter, || 0, &mut 0)
    }

    /// Probes through one window; `load_bytes` becomes what `loaded` grew by meanwhile.
    fn run_beside(
        &self,
        course: Course<'_>,
        window: &Window,
        meter: &mut Meter,
        loaded: impl Fn() -> u64,
        load_bytes: &mut u64,
    ) -> Result<Sample, WorkloadError> {
        let (asking, answering) = sockets(course)?;
        let answered = AtomicU64::new(0);
        let (stop, ended) = (AtomicBool::new(false), AtomicBool::new(false));

        let (watched, asked, times) = thread::scope(|scope| {
            scope.spawn(|| answer(&answering, &ended));
            let hearing = scope.spawn(|| hear(&asking, &answered, &ended));
            let sending = scope.spawn(|| self.ask(&asking, &stop));
            let watched = watch(window, meter, || Total {
                bytes: loaded(),
                packets: answered.load(Ordering::Relaxed),
                ..Total::default()
            });
            stop.store(true, Ordering::Relaxed);
            let asked = sending.join().expect("the probe does not panic");
            wait_for_answers(asked.count, &answered);
            ended.store(true, Ordering::Relaxed);
            (watched, asked, hearing.join().expect("the listener does not panic"))
        });

        let heard = times.rtt.len();
        if heard == 0 {
            return Err(WorkloadError::Silence("answers to latency probes".to_owned()));
        }
        *load_bytes = watched.amount.bytes;
        let mut sample = Sample::new(watched.seconds);
        sample.set("loss", 1.0 - heard as f64 / asked.count.max(1) as f64);
        sample.bytes = watched.amount.bytes + watched.amount.packets * 2 * SIZE as u64;
        sample.packets = watched.amount.packets * 2;
        let late = |times: &Histogram<u64>| times.value_at_quantile(0.99);
        if late(&asked.lag) > late(&times.rtt) / 2 {
            sample.note(format!(
                "the generator is the bottleneck: 1 % of probes left {:.0} µs late or more",
                late(&asked.lag) as f64 * 1e-3
            ));
        }
        if !asked.real_time {
            sample.note("probes without real-time priority: the scheduler's delays count".into());
        }
        sample.histogram("rtt", times.rtt);
        sample.histogram("one_way", times.one_way);
        sample.histogram("lag", asked.lag);
        Ok(sample)
    }

    /// Asks by the clock until told to stop.
    fn ask(&self, socket: &UdpSocket, stop: &AtomicBool) -> Asked {
        // The default slack of 50 µs would be most of what is measured.
        let _ = rustix::thread::set_current_timer_slack(NonZero::new(1));
        let real_time = real_time();
        let mut lag = histogram();
        let mut count = 0;
        let start_ns = now_ns();
        while !stop.load(Ordering::Relaxed) {
            let due_ns = start_ns + count * 1_000_000_000 / u64::from(self.rate);
            sleep_until(due_ns.saturating_sub(SPIN_NS));
            while now_ns() < due_ns {
                std::hint::spin_loop();
            }
            lag.saturating_record(now_ns() - due_ns);
            let mut message = [0; SIZE];
            message[..8].copy_from_slice(&due_ns.to_be_bytes());
            // A refusal is a loss: the schedule does not wait for the path.
            let _ = socket.send(&message);
            count += 1;
        }
        Asked { count, lag, real_time }
    }
}

struct Asked {
    count: u64,
    lag: Histogram<u64>,
    real_time: bool,
}

struct Times {
    rtt: Histogram<u64>,
    one_way: Histogram<u64>,
}

fn sockets(course: Course<'_>) -> Result<(UdpSocket, UdpSocket), WorkloadError> {
    let bind = |pod: &crate::testbed::Pod| {
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

/// Sends every probe back with the time at which it came.
fn answer(socket: &UdpSocket, ended: &AtomicBool) {
    real_time();
    let mut message = [0; SIZE];
    while !ended.load(Ordering::Relaxed) {
        if let Ok((SIZE, from)) = socket.recv_from(&mut message) {
            message[8..16].copy_from_slice(&now_ns().to_be_bytes());
            let _ = socket.send_to(&message, from);
        }
    }
}

fn hear(socket: &UdpSocket, answered: &AtomicU64, ended: &AtomicBool) -> Times {
    real_time();
    let mut times = Times { rtt: histogram(), one_way: histogram() };
    let mut message = [0; SIZE];
    while !ended.load(Ordering::Relaxed) {
        if let Ok(SIZE) = socket.recv(&mut message) {
            let now = now_ns();
            let time = |at: usize| {
                message[at..at + 8].iter().fold(0, |time, byte| time << 8 | u64::from(*byte))
            };
            times.rtt.saturating_record(now.saturating_sub(time(0)));
            times.one_way.saturating_record(time(8).saturating_sub(time(0)));
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
    times
}

fn wait_for_answers(asked: u64, answered: &AtomicU64) {
    let deadline_ns = now_ns() + GRACE.as_nanos() as u64;
    while answered.load(Ordering::Relaxed) < asked && now_ns() < deadline_ns {
        thread::sleep(Duration::from_millis(5));
    }
}
