//! The data plane while it runs: worker threads, the peers that are published to them, and the end.

#[cfg_attr(not(feature = "fast-path"), path = "fast_absent.rs")]
mod fast;
#[cfg(feature = "etcd")]
mod moving;
mod publish;
mod requeue;
mod succession;
mod worker;
mod workers;

pub(in crate::gateway) use self::fast::{Fast, FastEstate};
use self::publish::{Publisher, ToWorkers};
use self::worker::Common;
use self::workers::{Open, WorkerSpec, Workers};
use super::plan::{FastPathPlan, Needs, Plan, fast_path};
use super::resources::{ResourceError, Resources, Toward, await_port, blocking, find_out};
use crate::config::{self, Scheduling, Settings};
use crate::engine::{self, Choice, EngineError, EngineKind};
use crate::sys::clock;
use crate::telemetry::instruments::WorkerInstruments;
use crate::telemetry::observer::Observer;
use crate::telemetry::status::{About, Decision, Offload};
use arc_swap::ArcSwap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::mpsc;
use tracing::info;
use twill_datapath::offload::feature::FeatureSet;
use twill_datapath::route::View;

/// Why a gateway did not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The device or a socket.
    #[error(transparent)]
    Resources(#[from] ResourceError),
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
    /// A worker's priority.
    #[error(
        "giving worker {worker} the scheduling {scheduling}: {source}: grant CAP_SYS_NICE, allow real-time \
         threads (systemd: RestrictRealtime=no) for realtime, or set scheduling = \"normal\""
    )]
    Scheduling {
        /// Its number.
        worker: usize,
        /// What was asked for.
        scheduling: Scheduling,
        /// What came back.
        source: io::Error,
    },
    /// A thread.
    #[error("starting a worker: {0}")]
    Worker(#[from] io::Error),
    /// The fast path, which the user demands.
    #[error("no fast path: {0}; or set fast_path = \"auto\"")]
    FastPath(String),
    /// What was inherited does not serve these settings.
    #[error(
        "cannot take over the running gateway's {0}: they cannot change in a hand-over: restart \
         the gateway instead"
    )]
    Inherited(&'static str),
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

/// A running data plane. Whoever drops it instead of calling [`Gateway::stop`] waits for the workers
/// to end and for the device to be gone.
pub struct Gateway {
    plan: Plan,
    observer: Arc<Observer>,
    publisher: Publisher,
    failed: mpsc::UnboundedSender<WorkerFailure>,
    failures: mpsc::UnboundedReceiver<WorkerFailure>,
    open: Open,
    common: Common,
    instruments: Vec<Arc<WorkerInstruments>>,
    settings: Settings,
    /// What a predecessor handed over of its fast path.
    estate: Option<FastEstate>,
    // Dropped in this order: nobody closes what programs or a worker work on.
    fast: Option<Fast>,
    workers: Workers,
    resources: Resources,
}

impl Gateway {
    /// Creates the device, which is down and without addresses yet, opens sockets and engines, and
    /// starts the workers. An engine that `auto` chose and that fails although it had passed its
    /// probe makes way for the next one. Threads are in the caller's network namespace; the runtime
    /// needs its timers.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(settings: &Settings, view: View) -> Result<Self, StartError> {
        Self::start_by(engine::open, settings, view).await
    }

    async fn start_by(open: Open, settings: &Settings, view: View) -> Result<Self, StartError> {
        let view = Arc::new(view);
        Self::first_that_works(settings, async |choice| {
            Self::attempt(open, settings, &view, choice).await
        })
        .await
    }

    /// Tries engines in the order of preference, until a gateway runs on one.
    async fn first_that_works(
        settings: &Settings,
        mut attempt: impl AsyncFnMut(&Choice) -> Result<Self, StartError>,
    ) -> Result<Self, StartError> {
        let wanted = settings.engine;
        let mut choice = blocking(move || Choice::new(wanted)).await;
        loop {
            match attempt(&choice).await {
                Ok(gateway) => {
                    choice.announce();
                    announce(&gateway.plan.offloads);
                    return Ok(gateway);
                }
                // All workers have one engine: what had started has ended again by now.
                Err(StartError::Engine { kind, source }) => {
                    choice = fall_back(choice, source)
                        .await
                        .map_err(|source| StartError::Engine { kind, source })?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn attempt(
        open: Open,
        settings: &Settings,
        view: &Arc<View>,
        choice: &Choice,
    ) -> Result<Self, StartError> {
        // Before the device: after a kill, the kernel gives back port and device together, and a
        // numbered device (`flannel%d`) would not wait for the number that is about to be free.
        await_port(settings.bound(), &settings.device).await?;
        let findings = find_out(settings, Toward::peers(view, settings.listen)).await?;
        let needs = Needs::new(settings, choice.kind(), &findings);
        let has_programs = fast_path(settings, &findings).on && !settings.fast_path.is_device();
        let keeps = settings.keep_forwarding && has_programs;
        let resources = Resources::create(settings, needs, keeps).await?;
        let plan = Plan::new(settings, choice.kind(), &findings, resources.device_facts());
        let mut gateway = Self::run(open, settings, plan, choice, resources, view).await?;
        gateway.workers.begin();
        Ok(gateway)
    }

    /// Takes what a predecessor handed over of its fast path, for [`Self::start_fast_path`].
    pub(in crate::gateway) fn take_estate(&mut self, estate: Option<FastEstate>) {
        self.estate = estate;
    }

    /// Has programs in the kernel carry packets, if that is planned. The device is up.
    ///
    /// # Errors
    /// [`StartError::FastPath`], if the user demands it. Otherwise packets go through user space.
    pub(in crate::gateway) async fn start_fast_path(&mut self) -> Result<(), StartError> {
        let FastPathPlan { on, mut reason, .. } = self.plan.fast_path.clone();
        let estate = self.estate.take();
        if on {
            let view = self.observer.view();
            match Fast::start(&self.settings, &mut self.resources, view, estate).await {
                Ok(fast) => {
                    self.publisher.add(fast.subscriber());
                    let kept = self.resources.is_kept();
                    self.observer.fast.set_on(reason, kept, fast.counting());
                    self.fast = Some(fast);
                    return Ok(());
                }
                Err(refused) if self.settings.fast_path != config::FastPath::Auto => {
                    return Err(StartError::FastPath(refused));
                }
                Err(refused) => reason = refused,
            }
        } else if estate.is_some() {
            Fast::refuse(&mut self.resources, estate).await;
        }
        self.observer.fast.set_off(reason);
        Ok(())
    }

    /// Detaches the programs; what they have counted stays.
    fn stop_fast_path(&mut self) {
        if let Some(fast) = self.fast.take() {
            self.observer.fast.set_off("it has ended".to_owned());
            fast.end();
        }
    }

    /// Whether the device is one that an earlier gateway left, with its addresses and routes.
    pub(in crate::gateway) fn has_adopted(&self) -> bool {
        self.resources.is_adopted()
    }

    /// The programs in the kernel, while they carry packets.
    pub(in crate::gateway) fn fast_path(&self) -> Option<&Fast> {
        self.fast.as_ref()
    }

    /// Says that nobody else has device and sockets any more.
    pub(in crate::gateway) fn own(&mut self) {
        self.resources.set_handed_over(false);
    }

    /// Opens engines on resources, whoever created them. Workers wait to begin.
    async fn run(
        open: Open,
        settings: &Settings,
        plan: Plan,
        choice: &Choice,
        resources: Resources,
        view: &Arc<View>,
    ) -> Result<Self, StartError> {
        if plan.fast_path.is_missed {
            return Err(StartError::FastPath(plan.fast_path.reason));
        }
        let queues = settings.queues.count();
        let instruments: Vec<Arc<WorkerInstruments>> =
            (0..queues).map(|_| Arc::default()).collect();
        let about = about(settings, resources.device(), choice, &plan);
        let observer = Observer::new(about, plan.offloads.clone(), instruments.clone(), view);
        let observer = Arc::new(observer);
        let views = Arc::new(ArcSwap::new(Arc::clone(view)));
        let stop = Arc::new(AtomicBool::new(false));
        // Peers have their counters when workers first see them.
        let publisher = Publisher::new(vec![
            Box::new(Arc::clone(&observer)),
            Box::new(ToWorkers::new(Arc::clone(&views))),
        ]);
        let common = Common {
            views,
            stop: Arc::clone(&stop),
            limits: plan.limits,
            egress: plan.egress,
            ingress: plan.ingress.clone(),
            originator: resources.originator(),
            sources: settings.sources(),
            busy_poll: plan.busy_poll,
            telemetry: settings.telemetry,
        };
        let (failed, failures) = mpsc::unbounded_channel();
        let workers = Workers::held(stop);
        let mut gateway = Self {
            plan,
            observer,
            publisher,
            failed,
            failures,
            open,
            common,
            instruments,
            settings: settings.clone(),
            estate: None,
            fast: None,
            workers,
            resources,
        };
        match gateway.add_workers().await {
            Ok(()) => Ok(gateway),
            Err(error) => {
                gateway.stop().await.close().await;
                Err(error)
            }
        }
    }

    fn spec(&self, worker: usize) -> WorkerSpec {
        let Plan { engine: kind, tuning, .. } = self.plan;
        let (cpu, scheduling) = (self.plan.cpu(worker), self.settings.scheduling);
        WorkerSpec { worker, kind, open: self.open, cpu, scheduling, tuning }
    }

    async fn add_workers(&mut self) -> Result<(), StartError> {
        if self.resources.queues() != self.instruments.len() {
            // Nobody may read before the number of queues has changed.
            return Ok(());
        }
        let ports = self.resources.lend();
        for (worker, (ports, instruments)) in ports.into_iter().zip(&self.instruments).enumerate() {
            let spec = self.spec(worker);
            let (common, instruments) = (self.common.clone(), Arc::clone(instruments));
            self.workers.add(spec, ports, common, instruments, self.failed.clone()).await?;
        }
        Ok(())
    }

    /// The device's name.
    #[must_use]
    pub fn device(&self) -> &str {
        self.resources.device()
    }

    /// The device's interface index.
    #[must_use]
    pub fn device_index(&self) -> u32 {
        self.resources.device_index()
    }

    /// The engine in use and why it is.
    #[must_use]
    pub fn engine(&self) -> (EngineKind, &str) {
        (self.plan.engine, &self.observer.about().engine_reason)
    }

    /// The offloads in use at the start.
    #[must_use]
    pub fn features(&self) -> FeatureSet {
        self.plan.features()
    }

    /// A look inside, for as long as somebody holds it.
    #[must_use]
    pub fn observer(&self) -> &Arc<Observer> {
        &self.observer
    }

    /// Makes a new view the one that workers look up from their next turn on.
    pub fn publish(&mut self, view: View) {
        self.publisher.publish(&Arc::new(view));
    }

    /// Waits for a worker to fail; pends as long as all run.
    pub async fn failed(&mut self) -> Option<WorkerFailure> {
        self.failures.recv().await
    }

    /// Stops the workers and waits for them. Device and sockets are as they were before the start:
    /// another data plane can run on them.
    pub async fn stop(self) -> Resources {
        let Self { fast, workers, mut resources, .. } = self;
        if let Some(fast) = fast {
            fast.end();
        }
        resources.give_back(workers.stop().await);
        resources
    }
}

async fn fall_back(mut choice: Choice, error: EngineError) -> Result<Choice, EngineError> {
    blocking(move || choice.fall_back(error).map(|()| choice)).await
}

/// Logs every offload that is off and why.
fn announce(offloads: &[Offload]) {
    for offload in offloads.iter().filter(|offload| !offload.on) {
        info!(offload = offload.name, reason = offload.reason, "offload is off");
    }
}

fn about(settings: &Settings, device: &str, choice: &Choice, plan: &Plan) -> About {
    About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        device: device.to_owned(),
        mtu: settings.mtu.bytes(),
        listen: settings.listen,
        queues: settings.queues.count(),
        engine: choice.kind().name().to_owned(),
        engine_reason: choice.reason(),
        engine_fallback: choice.is_fallback(),
        backpressure: Decision {
            on: plan.backpressure.is_on(),
            reason: plan.backpressure.reason().to_owned(),
        },
        start_time_seconds: clock::realtime_ns() as f64 / 1e9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::QueueCount;
    use crate::config::file::{Interface, Queues};
    use crate::config::load::{self, Addressing};
    use crate::engine::{Engine, EngineChoice, PREFERENCE, Ports, Tuning};
    use crate::sys::ioctl::interface_index;
    use std::net::{SocketAddr, UdpSocket};
    use std::sync::atomic::Ordering;
    use std::thread;
    use std::time::{Duration, Instant};
    use tokio::runtime::Builder;
    use twill_datapath::route::{Overlay, Peer, PeerIndex};
    use twill_testbed::Testbed;

    /// A peer without a gateway: a plain socket.
    const PEER: &str = "127.0.0.1:9285";
    /// How long anything may take that must happen at last.
    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn an_engine_that_fails_after_its_probe_makes_way_for_the_next_one_of_auto() {
        let Some(testbed) = Testbed::for_test("an engine that fails after its probe") else {
            return;
        };
        testbed.namespace("host").unwrap().enter(|| {
            let settings = settings();
            let start = Gateway::start_by(second_worker_fails, &settings, view());
            let gateway = block_on(start).unwrap();

            let about = gateway.observer().about();
            assert_eq!(gateway.engine().0, EngineKind::Epoll);
            assert_eq!((about.engine.as_str(), about.engine_fallback), ("epoll", true));
            let expected = format!("{} does not work here: ", PREFERENCE[0]);
            assert!(about.engine_reason.starts_with(&expected), "{}", about.engine_reason);
            assert_eq!(interface_index("tun7"), Some(gateway.device_index()));
            let mut resources = block_on(gateway.stop());
            assert_eq!(resources.lend().len(), 2);
        });
    }

    #[test]
    fn a_successors_engine_that_fails_makes_way_for_the_next_one_while_the_gateway_runs() {
        let Some(testbed) = Testbed::for_test("a successor's engine that fails") else { return };
        let host = testbed.namespace("host").unwrap();
        host.ip("link set lo up").unwrap();
        host.enter(|| {
            let settings = settings();
            let first = block_on(Gateway::start(&settings, view())).unwrap();
            host.ip("link set tun7 up\nroute add 10.10.1.0/24 dev tun7").unwrap();
            let (facts, fds) = first.offer();
            let fds = fds.iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();

            let succeed = Gateway::inherit_by(second_worker_fails, &settings, view(), &facts, fds);
            let mut second = block_on(succeed).unwrap();

            assert_eq!(second.engine().0, EngineKind::Epoll);
            assert!(carries(b"first"), "the gateway that runs still has its packets");
            let mut first = first;
            let (past, _) = block_on(first.pause());
            block_on(second.begin(past, None)).unwrap();
            assert!(carries(b"second"));
            block_on(async { first.stop().await.close().await });
            second.own();
            block_on(async { second.stop().await.close().await });
            assert_eq!(interface_index("tun7"), None);
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

            let start = Gateway::start_by(second_worker_fails, &settings, view());
            let error = block_on(start).err().unwrap();

            let StartError::Engine { kind, .. } = &error else { panic!("{error}") };
            assert_eq!(*kind, PREFERENCE[0]);
            assert_eq!(interface_index("tun7"), None);
        });
    }

    #[test]
    fn a_stopped_gateway_returns_what_the_next_one_runs_on() {
        let Some(testbed) = Testbed::for_test("a gateway on inherited resources") else { return };
        for kind in EngineKind::ALL {
            let host = testbed.namespace(kind.name()).unwrap();
            host.ip("link set lo up").unwrap();
            host.enter(|| {
                let settings = Settings { engine: EngineChoice::Only(kind), ..settings() };
                let Some(first) = started(kind, block_on(Gateway::start(&settings, view()))) else {
                    return;
                };
                let index = first.device_index();
                host.ip("link set tun7 up\nroute add 10.10.1.0/24 dev tun7").unwrap();
                assert!(carries(b"first"), "{kind}");

                let inherited = block_on(first.stop());
                assert_eq!(interface_index("tun7"), Some(index), "{kind}: the device stays");
                let second = block_on(resume(&settings, inherited)).unwrap();

                assert!(carries(b"second"), "{kind}");
                assert_eq!(second.device_index(), index, "{kind}");
                block_on(async { second.stop().await.close().await });
                assert_eq!(interface_index("tun7"), None, "{kind}");
            });
        }
    }

    #[test]
    fn the_control_plane_goes_on_while_an_engine_opens() {
        let Some(testbed) = Testbed::for_test("an engine that takes its time") else { return };
        testbed.namespace("host").unwrap().enter(|| {
            let settings = Settings { engine: EngineChoice::Only(EngineKind::Epoll), ..settings() };
            let meanwhile = async {
                while !OPENING.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                GO.store(true, Ordering::Relaxed);
            };

            let start = Gateway::start_by(opens_when_told, &settings, view());
            let (started, ()) = block_on(async { tokio::join!(start, meanwhile) });

            assert!(started.is_ok());
        });
    }

    #[test]
    fn a_gateway_that_is_dropped_leaves_nothing() {
        let Some(testbed) = Testbed::for_test("a gateway that is dropped") else { return };
        testbed.namespace("host").unwrap().enter(|| {
            let gateway = block_on(Gateway::start(&settings(), view())).unwrap();

            drop(gateway);

            assert_eq!(interface_index("tun7"), None);
        });
    }

    /// Runs a second data plane on what the first one returned.
    async fn resume(settings: &Settings, resources: Resources) -> Result<Gateway, StartError> {
        let view = Arc::new(view());
        let choice = Choice::new(settings.engine);
        let findings = find_out(settings, Toward::peers(&view, settings.listen)).await?;
        let plan = Plan::new(settings, choice.kind(), &findings, resources.device_facts());
        let mut gateway =
            Gateway::run(engine::open, settings, plan, &choice, resources, &view).await?;
        gateway.workers.begin();
        Ok(gateway)
    }

    /// The gateway, unless this kernel lacks the engine.
    fn started(kind: EngineKind, start: Result<Gateway, StartError>) -> Option<Gateway> {
        match start {
            Ok(gateway) => Some(gateway),
            Err(StartError::Engine { source: EngineError::Unsupported { .. }, .. })
                if kind != EngineKind::Epoll =>
            {
                None
            }
            Err(error) => panic!("engine {kind}: {error}"),
        }
    }

    /// Whether a packet to the peer's network gets to the peer.
    fn carries(payload: &[u8]) -> bool {
        let peer = UdpSocket::bind(PEER).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let inner = UdpSocket::bind(("10.10.0.1", 0)).unwrap();
        inner.send_to(payload, ("10.10.1.5", 7)).unwrap();
        let mut datagram = [0; 2048];
        // Kernels greet devices that come up with packets of their own.
        while let Ok(len) = peer.recv(&mut datagram) {
            if datagram[..len].ends_with(payload) {
                return true;
            }
        }
        false
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

    static OPENING: AtomicBool = AtomicBool::new(false);
    static GO: AtomicBool = AtomicBool::new(false);

    /// An engine that opens once something else has happened on the control plane's thread.
    fn opens_when_told(
        kind: EngineKind,
        ports: Ports,
        tuning: Tuning,
    ) -> Result<Box<dyn Engine>, EngineError> {
        OPENING.store(true, Ordering::Relaxed);
        let began = Instant::now();
        while !GO.load(Ordering::Relaxed) {
            assert!(began.elapsed() < PATIENCE, "the control plane waits for the engine");
            thread::sleep(Duration::from_millis(1));
        }
        engine::open(kind, ports, tuning)
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    fn settings() -> Settings {
        let queues = Queues::Count(QueueCount::try_from(2).unwrap());
        let interface = Interface { name: "tun7".to_owned(), queues, ..Interface::default() };
        let addressing = Addressing {
            addresses: vec!["10.10.0.1/24".parse().unwrap()],
            mtu: crate::config::Mtu::at_most(1472),
            follows_paths: false,
            listen: "127.0.0.1:8285".parse().unwrap(),
            listen_v6: None,
            local: vec!["10.10.0.0/24".parse().unwrap()],
        };
        load::settings(&interface, addressing).unwrap()
    }

    fn view() -> View {
        let peer = Peer {
            index: PeerIndex(0),
            name: "peer".into(),
            endpoint: PEER.parse::<SocketAddr>().unwrap(),
            subnets: vec!["10.10.1.0/24".parse().unwrap()],
        };
        let local = vec!["10.10.0.0/24".parse().unwrap()];
        View::new(Overlay { peers: vec![peer], local, addresses: Vec::new() })
    }
}
