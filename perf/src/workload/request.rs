//! Requests and answers over one TCP connection.

use super::tcp::connect;
use super::watch::{Measured, Total, watch};
use super::{Course, Window, WorkloadError};
use crate::measure::Meter;
use crate::sample::{Sample, Series, histogram};
use crate::sys::now_ns;
use hdrhistogram::Histogram;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Bytes of a request and of an answer.
const SIZE: usize = 64;

/// One request after another over one connection. This is a closed loop: percentiles show what one
/// client sees, not how a loaded server behaves.
pub(super) fn run(
    course: Course<'_>,
    window: &Window,
    meter: &mut Meter,
) -> Result<Sample, WorkloadError> {
    let (client, server) = connect(course, 1)?.remove(0);
    for socket in [&client, &server] {
        socket.set_nodelay(true).map_err(WorkloadError::socket("setting TCP_NODELAY"))?;
    }
    let answered = AtomicU64::new(0);
    let measured = Measured::default();
    let total = || {
        let packets = answered.load(Ordering::Relaxed);
        Total { bytes: packets * 2 * SIZE as u64, packets, ..Total::default() }
    };

    let (watched, rtt) = thread::scope(|scope| {
        scope.spawn(|| answer(&server));
        let asking = scope.spawn(|| ask(&client, &answered, &measured));
        let watched = watch(window, meter, &measured, total);
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
        (watched, asking.join().expect("the client does not panic"))
    });

    if watched.amount.packets == 0 {
        return Err(WorkloadError::Silence("requests over TCP".to_owned()));
    }
    let mut sample = Sample::new(watched.seconds);
    sample.set("transactions", watched.amount.packets as f64 / watched.seconds);
    sample.histogram("rtt", rtt);
    sample.bytes = watched.amount.bytes;
    sample.series = Some(Series::per_step(
        "transactions",
        watched.series.iter().map(|(_, transactions)| *transactions).collect(),
    ));
    Ok(sample)
}

fn ask(mut socket: &TcpStream, answered: &AtomicU64, measured: &Measured) -> Histogram<u64> {
    let mut rtt = histogram();
    let mut message = [0x51; SIZE];
    loop {
        let start_ns = now_ns();
        let asked = socket.write_all(&message);
        if asked.and_then(|()| socket.read_exact(&mut message)).is_err() {
            return rtt;
        }
        if measured.holds(start_ns) {
            rtt.saturating_record(now_ns() - start_ns);
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

fn answer(mut socket: &TcpStream) {
    let mut message = [0; SIZE];
    while socket.read_exact(&mut message).and_then(|()| socket.write_all(&message)).is_ok() {}
}
