//! The load of a soak: numbered datagrams of several flows and one TCP stream, both ways between two
//! pods. Sinks check every byte.

use super::judge::TrafficSample;
use crate::sys::{BATCH, ReceiveBatch, now_ns, sleep_until};
use crate::workload::sequence::Flow;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;
use twill_testbed::{Pod, TestbedError};

/// Flows of datagrams in each direction.
const FLOWS: usize = 8;
/// Payloads, bytes, in turn.
const SIZES: [usize; 4] = [64, 1400, 300, 1200];
/// Datagrams of a flow that leave together.
const BURST: u64 = 4;
/// A burst of one flow leaves every so many nanoseconds: 2000 datagrams a second in each direction. A
/// machine that cannot carry them gets fewer, at the least this share.
const BURST_NS: u64 = 2_000_000;
const LEAST: u64 = 32;
/// A chunk of the stream, bytes, and how many bursts it is apart from the next: 13 Mbit/s.
const CHUNK: usize = 16 << 10;
const CHUNK_BURSTS: u64 = 5;
/// How long a socket call waits before the thread looks whether it is to end.
const WAIT: Duration = Duration::from_millis(100);
/// Receive buffer of a sink, bytes: it must not be what loses datagrams.
const SINK_BUFFER: usize = 16 << 20;
/// What is in front of a payload: flow and number.
const HEADER: usize = 12;

/// A running load.
#[derive(Debug)]
pub(super) struct Load {
    directions: [Direction; 2],
    senders_end: AtomicBool,
    sinks_end: AtomicBool,
    /// What does not come now may be lost.
    may_lose: AtomicBool,
    /// What comes now may come after a later one.
    may_reorder: AtomicBool,
    /// Nanoseconds from one burst to the next.
    burst_ns: AtomicU64,
    /// Why a stream ended.
    broken: Mutex<Option<String>>,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            directions: Default::default(),
            senders_end: AtomicBool::new(false),
            sinks_end: AtomicBool::new(false),
            may_lose: AtomicBool::new(false),
            may_reorder: AtomicBool::new(false),
            burst_ns: AtomicU64::new(BURST_NS),
            broken: Mutex::new(None),
        }
    }
}

#[derive(Debug, Default)]
struct Direction {
    /// Datagrams that left, by flow.
    sent: [AtomicU64; FLOWS],
    /// One more than the highest number that arrived, by flow.
    next: [AtomicU64; FLOWS],
    datagrams: AtomicU64,
    duplicates: AtomicU64,
    reordered_in_faults: AtomicU64,
    reordered: AtomicU64,
    changed: AtomicU64,
    lost_in_faults: AtomicU64,
    lost: AtomicU64,
    stream_bytes: AtomicU64,
    stream_changed: AtomicU64,
}

/// How far a load is, to see later whether it got further.
#[derive(Debug)]
pub(super) struct Mark {
    sent: [[u64; FLOWS]; 2],
    stream_bytes: [u64; 2],
}

impl Load {
    /// Starts the threads of both directions in a scope.
    ///
    /// # Errors
    /// When a socket cannot be made or the stream not connected.
    pub(super) fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        pods: &'scope [Pod; 2],
    ) -> Result<Vec<ScopedJoinHandle<'scope, ()>>, TestbedError> {
        let mut threads = Vec::new();
        for (index, direction) in self.directions.iter().enumerate() {
            let (from, to) = (&pods[index], &pods[1 - index]);
            let (sink, sources) = datagram_sockets(from, to)
                .map_err(TestbedError::io("making the load's sockets".to_owned()))?;
            let (out, into) = stream_sockets(from, to)
                .map_err(TestbedError::io("connecting the load's stream".to_owned()))?;
            threads.push(scope.spawn(move || self.receive(direction, &sink)));
            threads.push(scope.spawn(move || self.send(direction, &sources)));
            threads.push(scope.spawn(move || self.read(direction, into)));
            threads.push(scope.spawn(move || self.write(out)));
        }
        Ok(threads)
    }

    /// Sends half as fast if this machine's queues overflow, and else a little faster, up to full speed.
    pub(super) fn adapt(&self, overflows: bool) {
        let now = self.burst_ns.load(Relaxed);
        let next = if overflows { now * 2 } else { now - now / 16 };
        self.burst_ns.store(next.clamp(BURST_NS, BURST_NS * LEAST), Relaxed);
    }

    /// Says whether datagrams may be lost from now on.
    pub(super) fn may_lose(&self, may: bool) {
        self.may_lose.store(may, Relaxed);
    }

    /// Says whether datagrams may come in another order from now on.
    pub(super) fn may_reorder(&self, may: bool) {
        self.may_reorder.store(may, Relaxed);
    }

    /// Whether datagrams may be lost.
    pub(super) fn is_losing(&self) -> bool {
        self.may_lose.load(Relaxed)
    }

    /// Notes how far the load is.
    pub(super) fn mark(&self) -> Mark {
        let sent = |direction: &Direction| direction.sent.each_ref().map(|sent| sent.load(Relaxed));
        Mark {
            sent: self.directions.each_ref().map(sent),
            stream_bytes: self.directions.each_ref().map(|it| it.stream_bytes.load(Relaxed)),
        }
    }

    /// What has not come since a mark: nothing if a datagram sent after it has arrived of every flow, and
    /// bytes of every stream.
    pub(super) fn silent_since(&self, mark: &Mark) -> Option<String> {
        for (index, direction) in self.directions.iter().enumerate() {
            let way = format!("from pod {index} to pod {}", 1 - index);
            let silent = (0..FLOWS)
                .filter(|flow| direction.next[*flow].load(Relaxed) <= mark.sent[index][*flow])
                .count();
            if silent > 0 {
                return Some(format!("{silent} of {FLOWS} flows {way}"));
            }
            if direction.stream_bytes.load(Relaxed) <= mark.stream_bytes[index] {
                return Some(format!("the stream {way}"));
            }
        }
        None
    }

    /// What the sinks have seen so far.
    pub(super) fn sample(&self) -> TrafficSample {
        let mut all = TrafficSample::default();
        for direction in &self.directions {
            all.datagrams += direction.datagrams.load(Relaxed);
            all.stream_bytes += direction.stream_bytes.load(Relaxed);
            all.duplicates += direction.duplicates.load(Relaxed);
            all.reordered_in_faults += direction.reordered_in_faults.load(Relaxed);
            all.reordered += direction.reordered.load(Relaxed);
            all.changed += direction.changed.load(Relaxed);
            all.lost_in_faults += direction.lost_in_faults.load(Relaxed);
            all.lost += direction.lost.load(Relaxed);
            all.stream_changed += direction.stream_changed.load(Relaxed);
        }
        all
    }

    /// Why a stream ended that should not have.
    pub(super) fn broken(&self) -> Option<String> {
        self.broken.lock().ok()?.clone()
    }

    /// Ends the senders; the sinks go on.
    pub(super) fn end_senders(&self) {
        self.senders_end.store(true, Relaxed);
    }

    /// Datagrams that left and neither came nor were missed yet.
    pub(super) fn under_way(&self) -> u64 {
        let flows = |direction: &Direction| -> u64 {
            let pairs = direction.sent.iter().zip(&direction.next);
            pairs.map(|(sent, next)| sent.load(Relaxed).saturating_sub(next.load(Relaxed))).sum()
        };
        self.directions.iter().map(flows).sum()
    }

    /// What has not come by now, after the senders' end, is lost.
    pub(super) fn count_missing(&self) {
        self.directions[0].lost.fetch_add(self.under_way(), Relaxed);
    }

    /// Ends all threads soon.
    pub(super) fn end(&self) {
        self.end_senders();
        self.sinks_end.store(true, Relaxed);
    }

    fn send(&self, direction: &Direction, sources: &[UdpSocket]) {
        let mut payload = [0; 1472];
        let mut due = now_ns();
        for flow in (0..FLOWS).cycle() {
            if self.senders_end.load(Relaxed) {
                return;
            }
            let sent = direction.sent[flow].load(Relaxed);
            for number in sent..sent + BURST {
                let payload = fill(&mut payload, flow, number);
                // An error that an earlier datagram met (ICMP) is told here; this one did not leave.
                if sources[flow].send(payload).is_err() {
                    break;
                }
                direction.sent[flow].store(number + 1, Relaxed);
            }
            // What was missed during a pause of this process is not made up for.
            due = (due + self.burst_ns.load(Relaxed)).max(now_ns().saturating_sub(10 * BURST_NS));
            sleep_until(due);
        }
    }

    fn receive(&self, direction: &Direction, sink: &UdpSocket) {
        let mut batch = ReceiveBatch::new();
        let mut flows: [Flow; FLOWS] = std::array::from_fn(|_| Flow::default());
        let mut expected = [0; 1472];
        while !self.sinks_end.load(Relaxed) {
            let Ok(count) = batch.receive(sink) else { continue };
            for payload in batch.messages(count.min(BATCH)) {
                let Some((flow, number)) = read_header(payload) else {
                    direction.changed.fetch_add(1, Relaxed);
                    continue;
                };
                if payload != fill(&mut expected, flow, number) {
                    direction.changed.fetch_add(1, Relaxed);
                    continue;
                }
                let next = direction.next[flow].load(Relaxed);
                let missed = number.saturating_sub(next);
                let may_lose = self.may_lose.load(Relaxed);
                let lost = if may_lose { &direction.lost_in_faults } else { &direction.lost };
                lost.fetch_add(missed, Relaxed);
                direction.next[flow].store(next.max(number + 1), Relaxed);
                let before = flows[flow].reordered();
                flows[flow].saw(number);
                let late = flows[flow].reordered() - before;
                let may_reorder = self.may_reorder.load(Relaxed);
                let reordered =
                    if may_reorder { &direction.reordered_in_faults } else { &direction.reordered };
                reordered.fetch_add(late, Relaxed);
                direction.datagrams.fetch_add(1, Relaxed);
            }
            direction.duplicates.store(flows.iter().map(Flow::duplicates).sum(), Relaxed);
        }
    }

    fn write(&self, mut stream: TcpStream) {
        let mut position = 0u64;
        let mut due = now_ns();
        while !self.senders_end.load(Relaxed) {
            let chunk: Vec<_> = (position..position + CHUNK as u64).map(stream_byte).collect();
            match stream.write(&chunk) {
                Ok(written) => position += written as u64,
                Err(error) if is_pause(&error) => continue,
                Err(error) => return self.breaks(&error),
            }
            due = (due + CHUNK_BURSTS * self.burst_ns.load(Relaxed)).max(now_ns());
            sleep_until(due);
        }
        let _ = stream.shutdown(Shutdown::Write);
    }

    fn read(&self, direction: &Direction, mut stream: TcpStream) {
        let mut room = vec![0; CHUNK];
        let mut position = 0u64;
        while !self.sinks_end.load(Relaxed) {
            match stream.read(&mut room) {
                Ok(0) => return,
                Ok(count) => {
                    let wrong = (position..).zip(&room[..count]);
                    let wrong = wrong.filter(|(at, byte)| stream_byte(*at) != **byte).count();
                    direction.stream_changed.fetch_add(wrong as u64, Relaxed);
                    position += count as u64;
                    direction.stream_bytes.store(position, Relaxed);
                }
                Err(error) if is_pause(&error) => {}
                Err(error) => return self.breaks(&error),
            }
        }
    }

    fn breaks(&self, error: &io::Error) {
        if let Ok(mut broken) = self.broken.lock() {
            broken.get_or_insert_with(|| format!("a TCP connection ended: {error}"));
        }
    }
}

/// The datagram of a number: its size and bytes follow from flow and number.
fn fill(room: &mut [u8; 1472], flow: usize, number: u64) -> &[u8] {
    let payload = &mut room[..SIZES[(number % SIZES.len() as u64) as usize]];
    payload[..4].copy_from_slice(&(flow as u32).to_be_bytes());
    payload[4..HEADER].copy_from_slice(&number.to_be_bytes());
    let salt = (number ^ (number >> 8)) as u8 ^ flow as u8;
    for (at, byte) in payload[HEADER..].iter_mut().enumerate() {
        *byte = salt ^ at as u8;
    }
    payload
}

/// Flow and number of a payload.
fn read_header(payload: &[u8]) -> Option<(usize, u64)> {
    let flow = u32::from_be_bytes(payload.get(..4)?.try_into().ok()?) as usize;
    let number = u64::from_be_bytes(payload.get(4..HEADER)?.try_into().ok()?);
    (flow < FLOWS).then_some((flow, number))
}

/// The byte at a position of a stream; the pattern repeats after 64,256 bytes.
fn stream_byte(position: u64) -> u8 {
    (position / 251) as u8 ^ position as u8
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn datagram_sockets(from: &Pod, to: &Pod) -> io::Result<(UdpSocket, Vec<UdpSocket>)> {
    let sink = to.enter(|| UdpSocket::bind((to.address(), 0)))?;
    sink.set_read_timeout(Some(WAIT))?;
    set_socket_recv_buffer_size_force(&sink, SINK_BUFFER)?;
    let address = sink.local_addr()?;
    let source = || {
        let source = UdpSocket::bind((from.address(), 0))?;
        source.connect(address)?;
        Ok(source)
    };
    let sources = from.enter(|| (0..FLOWS).map(|_| source()).collect::<io::Result<_>>())?;
    Ok((sink, sources))
}

fn stream_sockets(from: &Pod, to: &Pod) -> io::Result<(TcpStream, TcpStream)> {
    let listener = to.enter(|| TcpListener::bind((to.address(), 0)))?;
    let address: SocketAddr = listener.local_addr()?;
    let out = from.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(10)))?;
    let (into, _) = listener.accept()?;
    out.set_write_timeout(Some(WAIT))?;
    into.set_read_timeout(Some(WAIT))?;
    Ok((out, into))
}

/// Waits for the threads of a load.
pub(super) fn join(threads: Vec<ScopedJoinHandle<'_, ()>>) {
    for thread in threads {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_says_what_it_is_and_a_changed_one_differs() {
        let (mut room, mut other) = ([0; 1472], [0; 1472]);
        for number in [0, 1, 2, 3, 250, 1 << 40] {
            let mut payload = fill(&mut room, 7, number).to_vec();

            assert_eq!(payload.len(), SIZES[(number % 4) as usize]);
            assert_eq!(read_header(&payload), Some((7, number)));
            payload[40] ^= 1;
            assert_ne!(payload, fill(&mut other, 7, number));
        }
        assert_eq!(read_header(&[0; 11]), None);
        assert_eq!(read_header(&[255; 64]), None);
    }

    #[test]
    fn silence_is_of_the_flows_that_did_not_get_beyond_the_mark() {
        let load = Load::default();
        for direction in &load.directions {
            direction.sent.iter().for_each(|sent| sent.store(10, Relaxed));
            direction.next.iter().for_each(|next| next.store(10, Relaxed));
        }
        let mark = load.mark();
        assert_eq!(load.silent_since(&mark).as_deref(), Some("8 of 8 flows from pod 0 to pod 1"));
        for direction in &load.directions {
            direction.next.iter().for_each(|next| next.store(11, Relaxed));
        }
        assert_eq!(load.silent_since(&mark).as_deref(), Some("the stream from pod 0 to pod 1"));
        load.directions.iter().for_each(|direction| direction.stream_bytes.store(1, Relaxed));

        assert_eq!(load.silent_since(&mark), None);
        assert_eq!(load.under_way(), 0);
    }

    #[test]
    fn a_machine_that_cannot_carry_the_load_gets_less_until_it_can() {
        let load = Load::default();
        load.adapt(false);
        assert_eq!(load.burst_ns.load(Relaxed), BURST_NS);

        (0..10).for_each(|_| load.adapt(true));
        assert_eq!(load.burst_ns.load(Relaxed), BURST_NS * LEAST);
        (0..100).for_each(|_| load.adapt(false));
        assert_eq!(load.burst_ns.load(Relaxed), BURST_NS);
    }
}
