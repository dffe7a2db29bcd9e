//! Numbered UDP packets: a generator, a sink, and the count of what is lost on the way.

use super::pace::Pace;
use super::sequence::Flow;
use super::tcp::busy_share;
use super::watch::{Measured, Total, watch};
use super::{Course, Window, WorkloadError};
use crate::measure::Meter;
use crate::metric::format;
use crate::sample::{Sample, Series, histogram};
use crate::sys::{BATCH, ReceiveBatch, now_ns, send_batch};
use hdrhistogram::Histogram;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::thread::set_current_timer_slack;
use std::fmt;
use std::net::UdpSocket;
use std::num::NonZero;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Packets of one flow that leave together when there are several flows.
const BURST: usize = 2;
/// Receive buffer of the sink, bytes: it must not be what loses packets.
const SINK_BUFFER: usize = 32 << 20;
/// How long the sink waits for one more packet after the sender ended.
const QUIET: Duration = Duration::from_millis(200);
/// What the generator writes at the front of each payload, bytes: flow, number, time.
const HEADER: usize = 20;
/// The largest payload that fits a packet of 1450 bytes, VXLAN's.
const MAX_SIZE: u16 = 1422;

/// A rate counts as offered if this share of it was.
pub(super) const KEPT: f64 = 0.98;

/// Payload sizes of a stream of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// All alike, bytes.
    Fixed(u16),
    /// Seven of 64, four of 512, one of 1400 bytes, the proportions of the simple IMIX.
    Mix,
}

/// The order in which [`Sizes::Mix`] sends its sizes.
const MIX: [u16; 12] = [64, 512, 64, 64, 512, 64, 1400, 64, 512, 64, 64, 512];

impl Sizes {
    fn size(self, index: u64) -> usize {
        match self {
            Self::Fixed(size) => size.into(),
            Self::Mix => MIX[(index % MIX.len() as u64) as usize].into(),
        }
    }
}

/// A stream of numbered packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpLoad {
    /// Payload sizes.
    pub(crate) sizes: Sizes,
    /// Flows, each with a source port of its own.
    pub(crate) flows: u16,
    /// Packets per second over all flows, at fixed times; as fast as possible if not set.
    pub(crate) rate: Option<u64>,
}

impl fmt::Display for UdpLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sizes {
            Sizes::Fixed(size) => write!(f, "{size}")?,
            Sizes::Mix => f.write_str("mix")?,
        }
        if self.flows > 1 {
            write!(f, "x{}", self.flows)?;
        }
        match self.rate {
            Some(rate) => write!(f, "@{rate}"),
            None => Ok(()),
        }
    }
}

impl FromStr for UdpLoad {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let (name, rate) = match name.split_once('@') {
            Some((name, rate)) => (name, Some(rate.parse().map_err(drop)?)),
            None => (name, None),
        };
        // The last x: "mix" ends with one itself.
        let (sizes, flows) = match name.strip_prefix("mix") {
            Some("") => ("mix", 1),
            Some(rest) => ("mix", rest.strip_prefix('x').ok_or(())?.parse().map_err(drop)?),
            None => match name.split_once('x') {
                Some((sizes, flows)) => (sizes, flows.parse().map_err(drop)?),
                None => (name, 1),
            },
        };
        let sizes = match sizes {
            "mix" => Sizes::Mix,
            size => Sizes::Fixed(size.parse().map_err(drop)?),
        };
        let fits = match sizes {
            Sizes::Fixed(size) => (HEADER as u16..=MAX_SIZE).contains(&size),
            Sizes::Mix => true,
        };
        if !fits || !(1..=1024).contains(&flows) || rate == Some(0) {
            return Err(());
        }
        Ok(Self { sizes, flows, rate })
    }
}

pub(super) fn run(
    course: Course<'_>,
    load: &UdpLoad,
    window: &Window,
    meter: &mut Meter,
) -> Result<Sample, WorkloadError> {
    let (watched, end) = meter.account(|meter| {
        beside(course, load, |totals| watch(window, meter, &totals.measured, || totals.so_far()))
    })?;

    if end.received() == 0 {
        return Err(WorkloadError::Silence(format!("UDP packets (udp-{load})")));
    }
    let mut sample = Sample::new(watched.seconds);
    sample.set("delivered", watched.kpps());
    sample.set("goodput", watched.gbit());
    sample.set("offered", watched.offered_kpps());
    end.describe(&mut sample);
    sample.bytes = watched.amount.bytes;
    sample.packets = watched.amount.packets;
    sample.series = Some(Series::per_step(
        "delivered",
        watched.series.iter().map(|(_, packets)| packets * 1e-3).collect(),
    ));
    match load.rate {
        Some(rate) => note_short_offer(&mut sample, rate),
        None => note_path_not_full(&mut sample),
    }
    Ok(sample)
}

/// Notes that the generator could not keep its schedule.
pub(super) fn note_short_offer(sample: &mut Sample, rate: u64) {
    let (offered, wanted) = (sample.get("offered").unwrap_or(0.0), rate as f64 * 1e-3);
    if offered < KEPT * wanted {
        sample.note(format!(
            "the generator is the bottleneck: it offered {} of {} kpps",
            format(offered),
            format(wanted)
        ));
    }
}

/// Notes that everything arrived: the path might carry more.
fn note_path_not_full(sample: &mut Sample) {
    let lost = sample.get("loss").unwrap_or(1.0);
    if lost < 0.001 {
        sample.note(
            "the generator is the bottleneck: the path carried everything that it sent".to_owned(),
        );
    }
}

/// The running totals of generator and sink, and the time whose packets are timed.
#[derive(Debug, Default)]
pub(super) struct Totals {
    sent: AtomicU64,
    packets: AtomicU64,
    bytes: AtomicU64,
    pub(super) measured: Measured,
}

impl Totals {
    pub(super) fn so_far(&self) -> Total {
        Total {
            bytes: self.bytes.load(Ordering::Relaxed),
            packets: self.packets.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        }
    }
}

/// How a load ended: all packets of the whole run, the warm-up included; times are only of those
/// that were due in the measured time.
#[derive(Debug)]
pub(super) struct End {
    sent: Vec<u64>,
    flows: Vec<Flow>,
    one_way: Histogram<u64>,
    generator_busy: f64,
}

impl End {
    pub(super) fn received(&self) -> u64 {
        self.flows.iter().map(Flow::unique).sum()
    }

    /// Packets that never arrived, over all flows.
    fn lost(&self) -> u64 {
        let pairs = self.sent.iter().zip(&self.flows);
        pairs.map(|(sent, flow)| sent.saturating_sub(flow.unique())).sum()
    }

    /// The share of packets that never arrived.
    pub(super) fn loss(&self) -> f64 {
        self.lost() as f64 / self.sent.iter().sum::<u64>().max(1) as f64
    }

    fn describe(self, sample: &mut Sample) {
        let received = self.received().max(1) as f64;
        let sum = |count: fn(&Flow) -> u64| self.flows.iter().map(count).sum::<u64>() as f64;
        sample.set("loss", self.loss());
        sample.set("lost", self.lost() as f64);
        sample.set("duplicates", sum(Flow::duplicates));
        sample.set("reordered", sum(Flow::reordered) / received);
        let worst =
            self.sent.iter().zip(&self.flows).map(|(sent, flow)| {
                sent.saturating_sub(flow.unique()) as f64 / (*sent).max(1) as f64
            });
        sample.set("loss_worst_flow", worst.fold(0.0, f64::max));
        sample.set("generator_busy", self.generator_busy);
        sample.histogram("one_way", self.one_way);
    }
}

/// Keeps a load going while `body` runs.
pub(super) fn beside<T>(
    course: Course<'_>,
    load: &UdpLoad,
    body: impl FnOnce(&Totals) -> T,
) -> Result<(T, End), WorkloadError> {
    let (sink, sources) = sockets(course, load.flows)?;
    let totals = Totals::default();
    let (stop, ended) = (AtomicBool::new(false), AtomicBool::new(false));

    thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&sink, load.flows, &totals, &ended));
        let sender = scope.spawn(|| {
            // The default slack of 50 µs would be part of every time.
            let _ = set_current_timer_slack(NonZero::new(1));
            let mut sent = Vec::new();
            let busy = busy_share(|| sent = send(&sources, load, &totals, &stop));
            (sent, busy)
        });
        let result = body(&totals);
        stop.store(true, Ordering::Relaxed);
        let (sent, generator_busy) = sender.join().expect("the sender does not panic");
        ended.store(true, Ordering::Relaxed);
        let (flows, one_way) = receiver.join().expect("the sink does not panic");
        Ok((result, End { sent, flows, one_way, generator_busy }))
    })
}

/// One receiving socket, and one connected to it for each flow.
fn sockets(course: Course<'_>, flows: u16) -> Result<(UdpSocket, Vec<UdpSocket>), WorkloadError> {
    let sink = course
        .to
        .enter(|| UdpSocket::bind((course.to.address(), 0)))
        .map_err(WorkloadError::socket("binding the sink"))?;
    sink.set_read_timeout(Some(QUIET)).map_err(WorkloadError::socket("setting a time-out"))?;
    force_receive_buffer(&sink)?;
    let address = sink.local_addr().map_err(WorkloadError::socket("reading the sink's address"))?;
    let sources = course
        .from
        .enter(|| {
            (0..flows)
                .map(|_| {
                    let source = UdpSocket::bind((course.from.address(), 0))?;
                    source.connect(address)?;
                    Ok(source)
                })
                .collect::<Result<Vec<_>, _>>()
        })
        .map_err(WorkloadError::socket("making the flows' sockets"))?;
    Ok((sink, sources))
}

/// Sets the buffer of the sink beyond the system's limit, as root may.
fn force_receive_buffer(socket: &UdpSocket) -> Result<(), WorkloadError> {
    set_socket_recv_buffer_size_force(socket, SINK_BUFFER)
        .map_err(|errno| WorkloadError::socket("setting the sink's receive buffer")(errno.into()))
}

/// Sends until told to stop; returns the packets sent by flow.
fn send(sources: &[UdpSocket], load: &UdpLoad, totals: &Totals, stop: &AtomicBool) -> Vec<u64> {
    let mut sent = vec![0u64; sources.len()];
    let burst = if sources.len() == 1 { BATCH } else { BURST };
    let mut payloads = vec![[0u8; MAX_SIZE as usize]; burst];
    let mut pace = Pace::start(load.rate, burst);
    let (mut flow, mut all) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let due = pace.wait();
        let mut messages = [&[][..]; BATCH];
        for (index, payload) in payloads[..due].iter_mut().enumerate() {
            payload[..4].copy_from_slice(&(flow as u32).to_be_bytes());
            payload[4..12].copy_from_slice(&(sent[flow] + index as u64).to_be_bytes());
            payload[12..HEADER].copy_from_slice(&pace.scheduled_ns(index).to_be_bytes());
        }
        for (index, payload) in payloads[..due].iter().enumerate() {
            messages[index] = &payload[..load.sizes.size(all + index as u64)];
        }
        // A refusal (ENOBUFS) sends nothing: the numbers stay, and the packets are tried again.
        let left = send_batch(&sources[flow], &messages[..due]).unwrap_or(0);
        sent[flow] += left as u64;
        all += left as u64;
        pace.sent(left);
        totals.sent.store(all, Ordering::Relaxed);
        flow = (flow + 1) % sources.len();
    }
    sent
}

/// Receives until the sender ended and nothing more comes.
fn receive(
    sink: &UdpSocket,
    flows: u16,
    totals: &Totals,
    ended: &AtomicBool,
) -> (Vec<Flow>, Histogram<u64>) {
    let mut books = vec![Flow::default(); flows.into()];
    let mut one_way = histogram();
    let mut batch = ReceiveBatch::new();
    let (mut packets, mut bytes) = (0, 0);
    loop {
        let count = match batch.receive(sink) {
            Ok(count) => count,
            Err(_) if ended.load(Ordering::Relaxed) => return (books, one_way),
            Err(_) => continue,
        };
        let now = now_ns();
        for message in batch.messages(count) {
            let Some((flow, number, scheduled_ns)) = read_header(message) else { continue };
            let Some(book) = books.get_mut(flow) else { continue };
            if totals.measured.holds(scheduled_ns) {
                one_way.saturating_record(now.saturating_sub(scheduled_ns));
            }
            if book.saw(number) {
                bytes += message.len() as u64;
                packets += 1;
            }
        }
        totals.bytes.store(bytes, Ordering::Relaxed);
        totals.packets.store(packets, Ordering::Relaxed);
    }
}

fn read_header(message: &[u8]) -> Option<(usize, u64, u64)> {
    let flow = u32::from_be_bytes(message.get(..4)?.try_into().ok()?);
    let number = u64::from_be_bytes(message.get(4..12)?.try_into().ok()?);
    let scheduled_ns = u64::from_be_bytes(message.get(12..HEADER)?.try_into().ok()?);
    Some((flow as usize, number, scheduled_ns))
}
