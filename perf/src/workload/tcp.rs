//! Bulk TCP: streams as fast as they go.

use super::watch::{Measured, Total, watch};
use super::{Course, Window, WorkloadError};
use crate::measure::Meter;
use crate::sample::{Sample, Series};
use crate::sys::{now_ns, thread_cpu_ns};
use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Bytes per send call: what a file server hands the kernel at once.
const CHUNK: usize = 1 << 20;
/// Bytes per receive call, within a core's second-level cache.
const READ: usize = 256 << 10;
/// How long a connection may take to open.
const CONNECT: Duration = Duration::from_secs(5);

/// Sends over `streams` connections as fast as possible.
pub(super) fn run(
    course: Course<'_>,
    streams: u16,
    window: &Window,
    meter: &mut Meter,
) -> Result<Sample, WorkloadError> {
    let (watched, busiest) =
        beside(course, streams, |received| watch(window, meter, &Measured::default(), received))?;

    if watched.amount.bytes == 0 {
        return Err(WorkloadError::Silence(format!("{streams} TCP streams")));
    }
    let mut sample = Sample::new(watched.seconds);
    sample.set("goodput", watched.gbit());
    sample.set("generator_busy", busiest);
    if busiest > 0.95 {
        sample.note(
            "the generator is the bottleneck: one of its threads used a whole core".to_owned(),
        );
    }
    sample.bytes = watched.amount.bytes;
    sample.series = Some(Series::per_step(
        "goodput",
        watched.series.iter().map(|(bytes, _)| bytes * 8e-9).collect(),
    ));
    Ok(sample)
}

/// Keeps `streams` connections busy while `body` runs; `body` may ask what has arrived. Also
/// returns the share of its time that the busiest generator thread spent on a CPU.
pub(super) fn beside<T>(
    course: Course<'_>,
    streams: u16,
    body: impl FnOnce(&dyn Fn() -> Total) -> T,
) -> Result<(T, f64), WorkloadError> {
    let pairs = connect(course, streams)?;
    let source = source().map_err(WorkloadError::socket("making the data to send"))?;
    let received: Vec<_> = pairs.iter().map(|_| AtomicU64::new(0)).collect();
    let total = || Total {
        bytes: received.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum(),
        ..Total::default()
    };

    Ok(thread::scope(|scope| {
        let mut workers = Vec::new();
        for ((sender, receiver), received) in pairs.iter().zip(&received) {
            let source = &source;
            workers.push(scope.spawn(move || busy_share(|| send(sender, source))));
            workers.push(scope.spawn(move || busy_share(|| receive(receiver, received))));
        }
        let result = body(&total);
        for (sender, receiver) in &pairs {
            // Both ends: a sender that waits for room must wake up, too.
            let _ = sender.shutdown(Shutdown::Both);
            let _ = receiver.shutdown(Shutdown::Both);
        }
        let busy = workers.into_iter().map(|worker| worker.join().unwrap_or(0.0));
        (result, busy.fold(0.0, f64::max))
    }))
}

/// Opens connections across the path.
pub(super) fn connect(
    course: Course<'_>,
    count: u16,
) -> Result<Vec<(TcpStream, TcpStream)>, WorkloadError> {
    let listener = course
        .to
        .enter(|| TcpListener::bind((course.to.address(), 0)))
        .map_err(WorkloadError::socket("listening in the receiving pod"))?;
    let address =
        listener.local_addr().map_err(WorkloadError::socket("reading the listener's address"))?;
    (0..count)
        .map(|_| {
            let sender = course
                .from
                .enter(|| TcpStream::connect_timeout(&address, CONNECT))
                .map_err(WorkloadError::socket("connecting across the path"))?;
            let (receiver, _) = listener
                .accept()
                .map_err(WorkloadError::socket("accepting a connection across the path"))?;
            Ok((sender, receiver))
        })
        .collect()
}

/// A file in memory that is sent over and over: no copy in the sender.
fn source() -> io::Result<File> {
    let mut file = File::from(memfd_create("twill-perf", MemfdFlags::CLOEXEC)?);
    file.write_all(&vec![0x5a; CHUNK])?;
    Ok(file)
}

fn send(socket: &TcpStream, source: &File) {
    // A path that stalls must not hold the sender for ever.
    let _ = socket.set_write_timeout(Some(CONNECT));
    let mut offset = 0;
    loop {
        let left = CHUNK - offset as usize;
        match sendfile(socket, source, Some(&mut offset), left) {
            Ok(0) | Err(_) => return,
            Ok(_) if offset as usize >= CHUNK => offset = 0,
            Ok(_) => {}
        }
    }
}

fn receive(mut socket: &TcpStream, received: &AtomicU64) {
    let mut buffer = vec![0; READ];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(bytes) => received.fetch_add(bytes as u64, Ordering::Relaxed),
        };
    }
}

/// The share of the time of `work` that the calling thread spent on a CPU.
pub(super) fn busy_share(work: impl FnOnce()) -> f64 {
    let (wall, cpu) = (now_ns(), thread_cpu_ns());
    work();
    (thread_cpu_ns() - cpu) as f64 / (now_ns() - wall).max(1) as f64
}
