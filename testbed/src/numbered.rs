//! Numbered datagrams: whether each arrives, once, in its flow's order and unchanged.
//!
//! [`datagram`] and [`Arrivals`] are the two ends of any test of this kind. [`Stream`] sends slowly
//! from one namespace to another and back for as long as a test does other things.

use crate::{Namespace, within};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Flow and number, at the beginning of each datagram, bytes.
const HEAD: usize = 8;

/// A datagram of a flow, of `size` bytes, or of as many as flow and number take.
#[must_use]
pub fn datagram(flow: usize, number: u32, size: usize) -> Vec<u8> {
    let mut datagram = vec![fill(flow, number); size.max(HEAD)];
    datagram[..4].copy_from_slice(&(flow as u32).to_be_bytes());
    datagram[4..HEAD].copy_from_slice(&number.to_be_bytes());
    datagram
}

fn fill(flow: usize, number: u32) -> u8 {
    (flow * 31) as u8 ^ number as u8
}

/// What is wrong with datagrams that arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disorder {
    /// After one with a higher number.
    pub reordered: u64,
    /// For the second time.
    pub duplicates: u64,
    /// With other bytes than they were sent with.
    pub changed: u64,
}

/// The numbers that arrive at one end.
#[derive(Debug)]
pub struct Arrivals {
    /// The last of each flow.
    last: Vec<Option<u32>>,
}

impl Arrivals {
    /// Nothing of these flows has arrived yet.
    #[must_use]
    pub fn new(flows: usize) -> Self {
        Self { last: vec![None; flows] }
    }

    /// Notes a datagram that arrived. `sent` says how many bytes were sent of a flow and number.
    pub fn note(
        &mut self,
        datagram: &[u8],
        disorder: &mut Disorder,
        sent: impl Fn(usize, u32) -> usize,
    ) {
        let Some((flow, number)) = self.numbers(datagram) else {
            disorder.changed += 1;
            return;
        };
        let whole = datagram.len() == sent(flow, number).max(HEAD)
            && datagram[HEAD..].iter().all(|byte| *byte == fill(flow, number));
        disorder.changed += u64::from(!whole);
        match self.last[flow] {
            Some(before) if number == before => disorder.duplicates += 1,
            Some(before) if number < before => disorder.reordered += 1,
            _ => self.last[flow] = Some(number),
        }
    }

    /// Flow and number of a datagram; nothing if it cannot be one of ours.
    fn numbers(&self, datagram: &[u8]) -> Option<(usize, u32)> {
        let word = |at| Some(u32::from_be_bytes(datagram.get(at..at + 4)?.try_into().ok()?));
        let (flow, number) = (word(0)? as usize, word(4)?);
        (flow < self.last.len()).then_some((flow, number))
    }
}

/// Flows of a [`Stream`], each with a source port of its own.
const FLOWS: usize = 4;
/// Sizes that its datagrams take in turn, bytes.
const SIZES: [usize; 3] = [64, 1400, 700];
/// Where its datagrams go and come back from.
const ECHO: u16 = 7101;
/// How long nothing arrives until what is still out is lost.
const SILENCE: Duration = Duration::from_secs(10);

/// Numbered datagrams, sent from one namespace to another and back on a thread of its own until it is
/// stopped or dropped.
#[derive(Debug)]
pub struct Stream {
    done: Arc<AtomicBool>,
    back: Arc<AtomicU64>,
    thread: Option<JoinHandle<Passed>>,
}

/// What became of a [`Stream`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Datagrams that the kernel took.
    pub sent: u64,
    /// Datagrams that the kernel did not take.
    pub refused: u64,
    /// Datagrams that arrived at the other end.
    pub there: u64,
    /// Datagrams that came back.
    pub back: u64,
    /// What is wrong with them, at either end.
    pub wrong: Disorder,
}

impl Passed {
    /// Everything arrived, there and back, once, in order and unchanged.
    ///
    /// # Panics
    /// When something is missing.
    pub fn assert_complete(&self) {
        let Self { sent, refused, there, back, wrong } = *self;
        assert!(sent > 0, "{self:?}");
        assert_eq!((refused, there, back, wrong), (0, sent, sent, Disorder::default()), "{self:?}");
    }
}

impl Stream {
    /// Datagrams a second. Few enough that no queue fills on a machine that is busy with others.
    pub const RATE: u32 = 200;

    /// Begins to send to an address of `to`, which sends everything back.
    ///
    /// # Errors
    /// When a socket cannot be made.
    ///
    /// # Panics
    /// When a namespace is gone.
    pub fn start(from: &Namespace, to: &Namespace, address: Ipv4Addr) -> io::Result<Self> {
        let echo_at = SocketAddr::from((address, ECHO));
        let echo = prepared(to.enter(|| UdpSocket::bind(echo_at))?)?;
        let one = |_| {
            let flow = from.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
            flow.connect(echo_at)?;
            prepared(flow)
        };
        let flows = (0..FLOWS).map(one).collect::<io::Result<Vec<_>>>()?;
        let (done, back) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut ends = Ends::new(flows, echo, Arc::clone(&back));
        let is_done = Arc::clone(&done);
        let thread = thread::spawn(move || ends.run(&is_done));
        Ok(Self { done, back, thread: Some(thread) })
    }

    /// Waits until as many more datagrams have come back. Then whatever was done before is through.
    ///
    /// # Panics
    /// When they do not come within `limit`.
    pub fn wait_for(&self, more: u64, limit: Duration) {
        let enough = self.back.load(Ordering::Relaxed) + more;
        within(limit, "numbered datagrams", || self.back.load(Ordering::Relaxed) >= enough);
    }

    /// Stops sending, and waits for what is still out.
    ///
    /// # Panics
    /// When the thread has panicked.
    #[must_use]
    pub fn stop(mut self) -> Passed {
        self.done.store(true, Ordering::Relaxed);
        self.thread.take().expect("it is stopped once").join().expect("nothing in it panics")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

fn prepared(socket: UdpSocket) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    set_socket_recv_buffer_size_force(&socket, 4 << 20)?;
    Ok(socket)
}

fn size(flow: usize, number: u32) -> usize {
    SIZES[(flow + number as usize) % SIZES.len()]
}

/// Both ends of a stream.
struct Ends {
    flows: Vec<UdpSocket>,
    echo: UdpSocket,
    there: Arrivals,
    back: Arrivals,
    passed: Passed,
    came_back: Arc<AtomicU64>,
}

impl Ends {
    fn new(flows: Vec<UdpSocket>, echo: UdpSocket, came_back: Arc<AtomicU64>) -> Self {
        let [there, back] = [(); 2].map(|()| Arrivals::new(FLOWS));
        Self { flows, echo, there, back, passed: Passed::default(), came_back }
    }

    fn run(&mut self, done: &AtomicBool) -> Passed {
        let pause = Duration::from_secs(1) / Stream::RATE;
        let (mut next, mut number) = (Instant::now(), 0);
        while !done.load(Ordering::Relaxed) {
            if Instant::now() >= next {
                self.send(number);
                number += 1;
                // What could not be sent in time is not made up for.
                next = (next + pause).max(Instant::now());
            }
            self.receive();
            thread::sleep(Duration::from_millis(1));
        }
        let mut heard = Instant::now();
        while self.passed.back < self.passed.sent && heard.elapsed() < SILENCE {
            if self.receive() {
                heard = Instant::now();
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.passed
    }

    /// Sends the datagram of this number among those of all flows.
    fn send(&mut self, number: u32) {
        let (flow, number) = (number as usize % FLOWS, number / FLOWS as u32);
        match self.flows[flow].send(&datagram(flow, number, size(flow, number))) {
            Ok(_) => self.passed.sent += 1,
            Err(_) => self.passed.refused += 1,
        }
    }

    /// Takes what has arrived. Says whether anything came back.
    fn receive(&mut self) -> bool {
        let mut room = [0; 2048];
        let Self { flows, echo, there, back, passed, came_back } = self;
        while let Ok((len, from)) = echo.recv_from(&mut room) {
            passed.there += 1;
            there.note(&room[..len], &mut passed.wrong, size);
            // It is missing at the other end if this fails.
            let _ = echo.send_to(&room[..len], from);
        }
        let before = passed.back;
        for flow in flows {
            while let Ok(len) = flow.recv(&mut room) {
                passed.back += 1;
                back.note(&room[..len], &mut passed.wrong, size);
            }
        }
        came_back.store(passed.back, Ordering::Relaxed);
        passed.back > before
    }
}
