//! After its start a worker allocates nothing, whatever flows and in either direction.
//!
//! Two gateways on real devices and sockets, in one process whose allocator counts what the
//! workers' threads ask of it.

#![allow(unsafe_code, reason = "an allocator is unsafe by its signature")]
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use twill::config::Settings;
use twill::engine::{EngineChoice, EngineKind};
use twill_testbed::Host;
use twill_testbed::local::LocalPair;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes of one bulk transfer: some hundred turns.
const BULK: usize = 16 << 20;
/// Datagrams of one exchange of small packets.
const SMALL: usize = 2000;

#[test]
fn a_worker_allocates_nothing_after_its_start() {
    assert_the_count_sees_a_thread_that_allocates();
    for kind in EngineKind::ALL {
        let engine = EngineChoice::Only(kind);
        let pair = LocalPair::start(&format!("allocations of {kind}"), 1500, |settings| Settings {
            engine,
            socket_buffer: 4 << 20,
            ..settings
        });
        let Some(mut pair) = pair else { continue };
        // The first round may warm caches of the standard library; it is not counted.
        exchange(&pair.hosts[0], &pair.hosts[1]);
        assert_eq!(watch_workers(), 2, "a worker of each gateway is watched");
        let before = COUNTED.load(Ordering::Relaxed);

        exchange(&pair.hosts[0], &pair.hosts[1]);
        exchange(&pair.hosts[1], &pair.hosts[0]);
        for own in 0..2 {
            let view = pair.view(own);
            pair.gateways[own].publish(view);
        }
        exchange(&pair.hosts[0], &pair.hosts[1]);

        let allocations = COUNTED.load(Ordering::Relaxed) - before;
        assert_eq!(allocations, 0, "engine {kind}: allocations in worker threads");
    }
}

/// A bulk transfer over TCP, then small datagrams there and back: super-packets, joined frames and
/// single packets, in both directions.
fn exchange(from: &Host, to: &Host) {
    let listener = to.enter(|| TcpListener::bind((to.pod_network(), 0)).unwrap());
    let address = listener.local_addr().unwrap();
    let receiver = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::with_capacity(BULK);
        stream.read_to_end(&mut received).unwrap();
        received.len()
    });
    let mut stream = from.enter(|| TcpStream::connect(address).unwrap());
    stream.write_all(&vec![7; BULK]).unwrap();
    drop(stream);
    assert_eq!(receiver.join().unwrap(), BULK);

    let bind = |side: &Host| {
        let socket = side.enter(|| UdpSocket::bind((side.pod_network(), 0)).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    };
    let (here, there) = (bind(from), bind(to));
    let mut buffer = [0; 64];
    for number in 0..SMALL {
        here.send_to(&number.to_be_bytes(), there.local_addr().unwrap()).unwrap();
        let (len, source) = there.recv_from(&mut buffer).unwrap();
        there.send_to(&buffer[..len], source).unwrap();
        assert_eq!(here.recv(&mut buffer).unwrap(), len);
    }
}

/// Counts what threads that are watched ask for; all else is the system's allocator.
struct Counting;

static COUNTED: AtomicU64 = AtomicU64::new(0);
static WATCHED: [AtomicI32; 16] = [const { AtomicI32::new(0) }; 16];

fn count() {
    // SAFETY: gettid has no arguments and cannot fail.
    let thread = unsafe { libc::gettid() };
    if WATCHED.iter().any(|watched| watched.load(Ordering::Relaxed) == thread) {
        COUNTED.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to `System` with the caller's own arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract, and `System` allocated it.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `realloc`'s contract, and `System` allocated it.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Watches this process's threads whose names begin with `twill-`, and no others; how many.
fn watch_workers() -> usize {
    let mut slots = WATCHED.iter();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.starts_with("twill-") {
            let thread = path.file_name().unwrap().to_string_lossy().parse().unwrap();
            slots.next().expect("few workers").store(thread, Ordering::Relaxed);
        }
    }
    let unused = slots.as_slice();
    for slot in unused {
        slot.store(0, Ordering::Relaxed);
    }
    WATCHED.len() - unused.len()
}

fn assert_the_count_sees_a_thread_that_allocates() {
    let (go, wait) = mpsc::channel::<()>();
    let (done, step) = mpsc::channel();
    let allocating = thread::Builder::new().name("twill-seen".to_owned()).spawn(move || {
        done.send(0).unwrap();
        wait.recv().unwrap();
        done.send(std::hint::black_box(vec![0u8; 100]).len()).unwrap();
    });
    step.recv().unwrap();
    assert_eq!(watch_workers(), 1);
    let before = COUNTED.load(Ordering::Relaxed);

    go.send(()).unwrap();
    step.recv().unwrap();
    allocating.unwrap().join().unwrap();

    assert!(COUNTED.load(Ordering::Relaxed) > before);
}
