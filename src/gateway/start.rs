//! Bringing a gateway up: device, sockets, engines, workers; all of it or nothing.

use super::offloads::{self, Grounds};
use super::worker::{BATCH, Common, Worker};
use crate::config::{Pinning, Settings, SourcePorts, Steering};
use crate::engine::{self, Choice, Engine, EngineError, EngineKind, Ports, Tuning};
use crate::host::nic::{Nic, device_of};
use crate::socket::{self, Originator, SocketError, SocketSpec};
use crate::sys::ioctl::interface_index;
use crate::sys::{affinity, clock, kernel};
use crate::telemetry::instruments::WorkerInstruments;
use crate::telemetry::observer::Observer;
use crate::telemetry::status::{About, Offload};
use crate::tun::{self, Device, DeviceSpec, TunError};
use arc_swap::ArcSwap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc as events;
use tracing::warn;
use twill_datapath::batch::RunLimits;
use twill_datapath::offload::feature::{Feature, FeatureSet};
use twill_datapath::route::View;
use twill_datapath::{EgressRules, IngressRules};

/// Bytes of one run: the largest UDP payload over IPv4.
const MAX_RUN_BYTES: u32 = 65_507;

/// How long an ending gateway waits for the kernel to take its device away.
const TEARDOWN: Duration = Duration::from_secs(2);

/// Why a gateway did not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The device.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// A socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// An engine.
    #[error("engine {kind}: {source}")]
    Engine {
        /// Which one.
        kind: EngineKind,
        /// Why.
        source: EngineError,
    },
    /// A worker's CPU.
    #[error(
        "binding worker {worker} to CPU {cpu}: {source}: allow sched_setaffinity, or set pinning = \"none\""
    )]
    Pinning {
        /// Its number.
        worker: usize,
        /// The CPU.
        cpu: usize,
        /// What came back.
        source: io::Error,
    },
    /// A thread or its wake-up.
    #[error("starting a worker: {0}")]
    Worker(#[from] io::Error),
}

/// A worker ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[error("worker {worker}: {source}")]
pub struct WorkerFailure {
    /// Its number.
    pub worker: usize,
    /// Why.
    pub source: EngineError,
}

/// A running data plane.
pub struct Gateway {
    device: String,
    device_index: u32,
    engine: EngineKind,
    offloads: Vec<Offload>,
    observer: Arc<Observer>,
    views: Arc<ArcSwap<View>>,
    /// Views that were published before; workers may still look at them.
    retired: Vec<Arc<View>>,
    stop: Arc<AtomicBool>,
    workers: Vec<RunningWorker>,
    failures: events::UnboundedReceiver<WorkerFailure>,
}

struct RunningWorker {
    thread: JoinHandle<()>,
    wake: OwnedFd,
}

impl Gateway {
    /// Creates the device, which is down and without addresses yet, opens sockets and engines, and
    /// starts the workers. An engine that `auto` chose and that fails although it had passed its
    /// probe makes way for the next one.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(settings: &Settings, view: View) -> Result<Self, StartError> {
        Self::start_by(engine::open, settings, view)
    }

    fn start_by(open: Open, settings: &Settings, view: View) -> Result<Self, StartError> {
        let view = Arc::new(view);
        let mut choice = Choice::new(settings.engine);
        loop {
            match Self::assemble(open, settings, &view, &choice) {
                Ok(gateway) => {
                    choice.announce();
                    offloads::announce(&gateway.offloads);
                    return Ok(gateway);
                }
                // All workers have one engine: what had started has ended again by now.
                Err(StartError::Engine { kind, source }) => choice
                    .fall_back(source)
                    .map_err(|source| StartError::Engine { kind, source })?,
                Err(error) => return Err(error),
            }
        }
    }

    fn assemble(
        open: Open,
        settings: &Settings,
        view: &Arc<View>,
        choice: &Choice,
    ) -> Result<Self, StartError> {
        let queues = settings.queues.count();
        let engine = choice.kind();
        let vnet_hdr = engine != EngineKind::Classic;
        // Before the device: after a kill, the kernel gives back port and device together, and a
        // numbered device (`flannel%d`) would not wait for the number that is about to be free.
        await_port(settings.listen)?;
        let joined = tun::joined()?;
        let spec =
            DeviceSpec { name: &settings.device, queues, vnet_hdr, offloads: settings.offloads };
        let device = patiently(TunError::is_busy, || Device::create(&spec))?;
        let release = kernel::release();
        let gso = socket::gso_policy(&release, settings.gso_forced);
        let offloads = offloads::decide(&Grounds {
            wanted: settings.offloads,
            granted: device.granted,
            engine,
            joined: &joined,
            gso: &gso,
            gro: &socket::joins(),
            by_flow: queues > 1 && settings.steering == Steering::Flows,
        });
        let features = offloads::in_use(&offloads);
        tun::configure(
            device.queues[0].as_fd(),
            &device.name,
            settings.mtu.bytes(),
            first_v4(settings),
        )?;
        let instruments: Vec<Arc<WorkerInstruments>> =
            (0..queues).map(|_| Arc::default()).collect();
        let cpus = placement(settings.pinning, settings.listen, view)?;
        let about = about(settings, &device.name, choice);
        let observer = Observer::new(about, offloads.clone(), instruments.clone(), view);
        let common = Common {
            views: Arc::new(ArcSwap::new(Arc::clone(view))),
            stop: Arc::new(AtomicBool::new(false)),
            limits: RunLimits { datagrams: socket::max_run(&release), bytes: MAX_RUN_BYTES },
            egress: EgressRules { vnet_hdr },
            ingress: IngressRules {
                check: settings.ingress_check,
                peer_sources: settings.peer_sources.clone(),
                mtu: settings.mtu.bytes(),
                vnet_hdr,
                coalesce_tcp: features.has(Feature::CoalesceTcp),
                coalesce_udp: features.has(Feature::CoalesceUdp),
            },
            originator: originator(),
            listen: settings.listen,
            busy_poll: settings.busy_poll,
            telemetry: settings.telemetry,
        };
        let tuning = Tuning {
            batch: BATCH,
            gro: features.has(Feature::Gro),
            gso: features.has(Feature::Gso),
            super_packets: features.has(Feature::Tso) || features.has(Feature::Uso),
            mtu: settings.mtu.bytes(),
        };
        let (failed, failures) = events::unbounded_channel();
        let mut gateway = Self {
            device: device.name,
            device_index: device.index,
            engine,
            offloads,
            observer: Arc::new(observer),
            views: Arc::clone(&common.views),
            retired: Vec::new(),
            stop: Arc::clone(&common.stop),
            workers: Vec::with_capacity(queues),
            failures,
        };
        let tuns = device.queues.into_iter().enumerate();
        let ports = tuns.map(|(worker, tun)| ports(settings, worker, tun, features));
        let ports = ports.collect::<Result<Vec<_>, _>>()?;
        steer(settings, &ports);
        for (worker, (ports, instruments)) in ports.into_iter().zip(instruments).enumerate() {
            let cpu = cpus.as_ref().map(|cpus| cpus[worker % cpus.len()]);
            let spec = WorkerSpec { worker, kind: engine, open, cpu, tuning };
            // What has started so far stops when `gateway` is dropped.
            gateway.workers.push(spawn(spec, ports, common.clone(), instruments, failed.clone())?);
        }
        Ok(gateway)
    }

    /// The device's name.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The device's interface index.
    #[must_use]
    pub fn device_index(&self) -> u32 {
        self.device_index
    }

    /// The engine in use and why it is.
    #[must_use]
    pub fn engine(&self) -> (EngineKind, &str) {
        (self.engine, &self.observer.about().engine_reason)
    }

    /// The offloads in use at the start.
    #[must_use]
    pub fn features(&self) -> FeatureSet {
        offloads::in_use(&self.offloads)
    }

    /// A look inside, for as long as somebody holds it.
    #[must_use]
    pub fn observer(&self) -> &Arc<Observer> {
        &self.observer
    }

    /// Makes a new view the one that workers look up from their next turn on. The old one is kept
    /// until none of them has it any more: to free a large one takes longer than a turn.
    pub fn publish(&mut self, view: View) {
        let view = Arc::new(view);
        self.observer.follow(&view);
        self.retired.retain(|view| Arc::strong_count(view) > 1);
        self.retired.push(self.views.swap(view));
    }

    /// Waits for a worker to fail; pends as long as all run.
    pub async fn failed(&mut self) -> Option<WorkerFailure> {
        self.failures.recv().await
    }
}

/// Stops the workers and waits for them; device and sockets vanish with their descriptors. The
/// kernel may close those in the background: who sees the gateway end must not see its device.
impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in &self.workers {
            let _ = rustix::io::write(&worker.wake, &1u64.to_ne_bytes());
        }
        for worker in self.workers.drain(..) {
            let _ = worker.thread.join();
        }
        let until = Instant::now() + TEARDOWN;
        while interface_index(&self.device) == Some(self.device_index) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn about(settings: &Settings, device: &str, choice: &Choice) -> About {
    About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        device: device.to_owned(),
        mtu: settings.mtu.bytes(),
        listen: settings.listen,
        queues: settings.queues.count(),
        engine: choice.kind().name().to_owned(),
        engine_reason: choice.reason(),
        engine_fallback: choice.is_fallback(),
        start_time_seconds: clock::realtime_ns() as f64 / 1e9,
    }
}

/// Tries again for a moment when a device or a port is taken: the kernel may still be tearing a
/// killed predecessor down. An instance that lives keeps them, and this one gives up.
fn patiently<T, E>(
    is_taken: fn(&E) -> bool,
    mut call: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    const ATTEMPTS: u32 = 10;
    const PAUSE: Duration = Duration::from_millis(50);
    for _ in 1..ATTEMPTS {
        match call() {
            Err(error) if is_taken(&error) => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
    call()
}

/// Opens an engine: the engines' own, or a test's.
type Open = fn(EngineKind, Ports, Tuning) -> Result<Box<dyn Engine>, EngineError>;

struct WorkerSpec {
    worker: usize,
    kind: EngineKind,
    open: Open,
    cpu: Option<usize>,
    tuning: Tuning,
}

/// Waits a little for a port that a killed gateway may still have.
pub(super) fn await_port(listen: SocketAddr) -> Result<(), SocketError> {
    patiently(SocketError::is_in_use, || socket::check_free(listen))
}

/// Starts a worker's thread and waits until its engine is open.
fn spawn(
    spec: WorkerSpec,
    ports: Ports,
    common: Common,
    instruments: Arc<WorkerInstruments>,
    failed: events::UnboundedSender<WorkerFailure>,
) -> Result<RunningWorker, StartError> {
    let wake = ports.wake.try_clone()?;
    let (ready, opened) = mpsc::channel();
    let WorkerSpec { worker, kind, open, cpu, tuning } = spec;
    let thread = std::thread::Builder::new().name(format!("twill-{worker}")).spawn(move || {
        if let Some(cpu) = cpu
            && let Err(source) = affinity::bind_thread(cpu)
        {
            let _ = ready.send(Err(StartError::Pinning { worker, cpu, source }));
            return;
        }
        let engine = match open(kind, ports, tuning) {
            Ok(engine) => engine,
            Err(source) => {
                let _ = ready.send(Err(StartError::Engine { kind, source }));
                return;
            }
        };
        let _ = ready.send(Ok(()));
        if let Err(source) = Worker::new(engine, common, instruments).run() {
            let _ = failed.send(WorkerFailure { worker, source });
        }
    })?;
    match opened.recv() {
        Ok(Ok(())) => Ok(RunningWorker { thread, wake }),
        Ok(Err(error)) => {
            let _ = thread.join();
            Err(error)
        }
        Err(_) => Err(io::Error::other("its thread ended").into()),
    }
}

/// What a worker works on. Its socket is the one of its number in the reuseport group, as workers
/// are opened in order.
fn ports(
    settings: &Settings,
    worker: usize,
    tun: OwnedFd,
    features: FeatureSet,
) -> Result<Ports, StartError> {
    let queues = settings.queues.count();
    let gro = features.has(Feature::Gro);
    let spec = SocketSpec {
        listen: settings.listen,
        shared: queues > 1,
        gro,
        buffer: settings.socket_buffer,
    };
    let udp = if worker == 0 { socket::open_first(&spec)? } else { socket::open(&spec)? };
    let udp_send = match settings.source_ports {
        SourcePorts::Fixed => None,
        SourcePorts::Spread => {
            let listen = SocketAddr::new(settings.listen.ip(), 0);
            Some(socket::open_spread(&SocketSpec { listen, gro: false, ..spec }, worker)?)
        }
    };
    let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
    let wake = rustix::event::eventfd(0, flags).map_err(io::Error::from)?;
    Ok(Ports { tun, udp, udp_send, wake })
}

/// Which socket receives what, once all of them make a group.
fn steer(settings: &Settings, ports: &[Ports]) {
    let by_flow = settings.steering == Steering::Flows;
    let [first, _, ..] = ports else { return };
    if let Err(error) = socket::steer(first.udp.as_fd(), settings.listen, ports.len(), by_flow) {
        warn!("the kernel spreads datagrams as it likes, and flows may lose their order: {error}");
    }
}

/// The first IPv4 address of the device, with its netmask.
fn first_v4(settings: &Settings) -> Option<(Ipv4Addr, Ipv4Addr)> {
    settings.addresses.iter().find_map(|net| match (net.addr(), net.netmask()) {
        (IpAddr::V4(address), IpAddr::V4(netmask)) => Some((address, netmask)),
        _ => None,
    })
}

/// The raw sockets for ICMP errors; the gateway carries packets without them too.
fn originator() -> Option<Arc<Originator>> {
    match Originator::open() {
        Ok(originator) => Some(Arc::new(originator)),
        Err(error) => {
            warn!(
                "no raw socket ({error}): ICMP errors may not reach inner senders; \
                   grant CAP_NET_RAW"
            );
            None
        }
    }
}

/// The CPUs to bind workers to, in turn.
fn placement(pinning: Pinning, listen: SocketAddr, view: &View) -> io::Result<Option<Vec<usize>>> {
    let allowed = match pinning {
        Pinning::None => return Ok(None),
        Pinning::Cpus | Pinning::Nic => affinity::allowed_cpus()?,
    };
    let nic = (pinning == Pinning::Nic).then(|| underlay(listen, view)).flatten();
    Ok(Some(nic.map_or_else(|| allowed.clone(), |nic| nic.order(&allowed))))
}

/// The network card on the way to the first peer, or to anywhere.
fn underlay(listen: SocketAddr, view: &View) -> Option<Nic> {
    let to = view.peers().next().map(|peer| peer.endpoint);
    let to = to.unwrap_or_else(|| socket::anywhere(listen));
    let name = device_of(socket::path_to(to).ok()?.source)?;
    Nic::read(Path::new("/sys"), Path::new("/proc"), &name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::{Interface, Queues};
    use crate::config::load::{self, Place};
    use crate::config::{Mtu, QueueCount};
    use crate::engine::{EngineChoice, PREFERENCE};
    use std::thread;
    use twill_datapath::route::Overlay;
    use twill_testbed::Testbed;

    #[test]
    fn an_engine_that_fails_after_its_probe_makes_way_for_the_next_one_of_auto() {
        let Some(testbed) = Testbed::for_test("an engine that fails after its probe") else {
            return;
        };
        testbed.namespace("host").unwrap().enter(|| {
            let gateway = Gateway::start_by(second_worker_fails, &settings(), view()).unwrap();

            let about = gateway.observer().about();
            assert_eq!(gateway.engine().0, EngineKind::Epoll);
            assert_eq!((about.engine.as_str(), about.engine_fallback), ("epoll", true));
            let expected = format!("{} does not work here: ", PREFERENCE[0]);
            assert!(about.engine_reason.starts_with(&expected), "{}", about.engine_reason);
            assert_eq!(gateway.workers.len(), 2);
            assert_eq!(interface_index("tun7"), Some(gateway.device_index()));
        });
    }

    #[test]
    fn an_engine_that_is_asked_for_by_name_fails_with_its_own_error_and_leaves_nothing() {
        let Some(testbed) = Testbed::for_test("an engine that is asked for by name") else {
            return;
        };
        testbed.namespace("host").unwrap().enter(|| {
            let named = EngineChoice::Only(PREFERENCE[0]);
            let settings = Settings { engine: named, ..settings() };

            let error = Gateway::start_by(second_worker_fails, &settings, view()).err().unwrap();

            let StartError::Engine { kind, .. } = &error else { panic!("{error}") };
            assert_eq!(*kind, PREFERENCE[0]);
            assert_eq!(interface_index("tun7"), None);
        });
    }

    /// Engines but for one that passes its probe and that the second worker does not get.
    fn second_worker_fails(
        kind: EngineKind,
        ports: Ports,
        tuning: Tuning,
    ) -> Result<Box<dyn Engine>, EngineError> {
        if kind == PREFERENCE[0] && thread::current().name() == Some("twill-1") {
            let source = io::Error::from_raw_os_error(libc::ENOMEM);
            return Err(EngineError::Unsupported { what: "a second ring", source });
        }
        engine::open(kind, ports, tuning)
    }

    fn settings() -> Settings {
        let queues = Queues::Count(QueueCount::try_from(2).unwrap());
        let interface = Interface { name: "tun7".to_owned(), queues, ..Interface::default() };
        let place = Place {
            addresses: vec!["10.10.0.1/24".parse().unwrap()],
            mtu: Mtu::try_from(1472).unwrap(),
            listen: "127.0.0.1:8285".parse().unwrap(),
            local: vec!["10.10.0.0/24".parse().unwrap()],
        };
        load::settings(&interface, place).unwrap()
    }

    fn view() -> View {
        View::new(Overlay { peers: Vec::new(), local: Vec::new(), addresses: Vec::new() })
    }
}
