//! After its start a worker allocates nothing, whatever flows and in either direction.
//!
//! Two gateways on real devices and sockets, in one process whose allocator counts what the
//! workers' threads ask of it.

#![allow(unsafe_code, reason = "an allocator is unsafe by its signature")]
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use ipnet::IpNet;
use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use twill::config::Settings;
use twill::engine::{EngineChoice, EngineError, EngineKind};
use twill::gateway::{Gateway, StartError};
use twill_datapath::route::{Overlay, Peer, PeerIndex, View};
use twill_testbed::{Namespace, Testbed, missing, settings, start_gateway};

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes of one bulk transfer: some hundred turns.
const BULK: usize = 16 << 20;
/// Datagrams of one exchange of small packets.
const SMALL: usize = 2000;

#[test]
fn a_worker_allocates_nothing_after_its_start() {
    let Some(testbed) = Testbed::for_test("a_worker_allocates_nothing_after_its_start") else {
        return;
    };
    assert_the_count_sees_a_thread_that_allocates();
    for kind in EngineKind::ALL {
        let near = Side::new(&testbed, kind, 1);
        let far = Side::new(&testbed, kind, 2);
        join(&near, &far);
        let (Some(mut near_gateway), Some(mut far_gateway)) = (near.start(&far), far.start(&near))
        else {
            continue;
        };
        // The first round may warm caches of the standard library; it is not counted.
        exchange(&near, &far);
        assert_eq!(watch_workers(), 2, "a worker of each gateway is watched");
        let before = COUNTED.load(Ordering::Relaxed);

        exchange(&near, &far);
        exchange(&far, &near);
        near_gateway.publish(near.view(&far));
        far_gateway.publish(far.view(&near));
        exchange(&near, &far);

        let allocations = COUNTED.load(Ordering::Relaxed) - before;
        assert_eq!(allocations, 0, "engine {kind}: allocations in worker threads");
    }
}

/// One gateway's host, and who runs there.
struct Side {
    namespace: Namespace,
    kind: EngineKind,
    number: u8,
}

impl Side {
    fn new(testbed: &Testbed, kind: EngineKind, number: u8) -> Self {
        let namespace = testbed.namespace(&format!("{kind}{number}")).unwrap();
        Self { namespace, kind, number }
    }

    /// The TUN device's address.
    fn inner(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 10, self.number, 1)
    }

    fn subnet(&self) -> IpNet {
        IpNet::new_assert(IpAddr::from([10, 10, self.number, 0]), 24)
    }

    fn endpoint(&self) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, self.number], 8285))
    }

    fn view(&self, peer: &Self) -> View {
        View::new(Overlay {
            peers: vec![Peer {
                index: PeerIndex(0),
                name: "peer".into(),
                endpoint: peer.endpoint(),
                subnets: vec![peer.subnet()],
            }],
            local: vec![self.subnet()],
            addresses: vec![IpAddr::V4(self.inner())],
        })
    }

    /// Starts the gateway inside and brings its device up; `None` where the kernel lacks the
    /// engine.
    fn start(&self, peer: &Self) -> Option<Gateway> {
        let settings = Settings {
            engine: EngineChoice::Only(self.kind),
            socket_buffer: 4 << 20,
            ..settings(self.endpoint(), self.subnet(), self.subnet())
        };
        let started = self.namespace.enter(|| start_gateway(&settings, self.view(peer)));
        let gateway = match started {
            Ok(gateway) => gateway,
            Err(StartError::Engine { source: error @ EngineError::Unsupported { .. }, .. }) => {
                missing::skip(self.kind.name(), &error);
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let inner = self.inner();
        self.namespace
            .ip(&format!(
                "link set tun0 mtu 1472 up\naddr add {inner}/32 dev tun0\nroute add 10.10.0.0/16 dev tun0"
            ))
            .unwrap();
        Some(gateway)
    }
}

fn join(near: &Side, far: &Side) {
    near.namespace.link("under", &far.namespace, "under", 1500).unwrap();
    for side in [near, far] {
        let address = side.endpoint().ip();
        side.namespace.ip(&format!("addr add {address}/24 dev under")).unwrap();
    }
}

/// A bulk transfer over TCP, then small datagrams there and back: super-packets, joined frames and
/// single packets, in both directions.
fn exchange(from: &Side, to: &Side) {
    let listener = to.namespace.enter(|| TcpListener::bind((to.inner(), 0)).unwrap());
    let address = listener.local_addr().unwrap();
    let receiver = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::with_capacity(BULK);
        stream.read_to_end(&mut received).unwrap();
        received.len()
    });
    let mut stream = from.namespace.enter(|| TcpStream::connect(address).unwrap());
    stream.write_all(&vec![7; BULK]).unwrap();
    drop(stream);
    assert_eq!(receiver.join().unwrap(), BULK);

    let bind = |side: &Side| {
        let socket = side.namespace.enter(|| UdpSocket::bind((side.inner(), 0)).unwrap());
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
