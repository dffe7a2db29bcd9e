//! `twill flanneld`: a node of a flannel network, in flanneld's order of starting.
//!
//! ```text
//!  health ──> config ──> interface ──> lease ──> device, route, socket ──> firewall ──> subnet.env
//!                                                       │                                 │
//!                    leases ──> peers ──> View ─────────┘                  ready, READY=1 ─┘
//! ```
//! Messages are flanneld's where it has one, for those who look for them.

mod begin;
mod beside;

use self::begin::{external, manager, network_config, probes};
use self::beside::beside;
use super::start::await_port;
use super::watch::watch;
use super::{Gateway, StartError, WorkerFailure};
use crate::config::flanneld::Flanneld;
use crate::config::load::{self, Place, default_socket};
use crate::config::{Mtu, OVERHEAD_V4, Settings};
use crate::control::{self, Call, Request, Response};
use crate::host::external_interface::{self, ExternalError, ExternalInterface};
use crate::host::{HostError, LinkEvent, LinkEvents, Network, Previous, SubnetEnv};
use crate::subnet::etcd::AccessError;
use crate::subnet::{
    AcquireError, BackendError, Change, Held, Holder, Keeper, Keeping, Leases, NetworkConfig,
    OwnLease, PeerSet, Reconciler, Revoked, TooManyPeers, acquire,
};
use crate::telemetry::http::{self, HttpError};
use crate::telemetry::status::{EtcdStatus, IgnoredLeases};
use futures_util::StreamExt;
use ipnet::Ipv4Net;
use serde_json::json;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

/// How often it is said again that there are too many leases.
const REMINDER: Duration = Duration::from_secs(60);
/// Changes that are logged one by one; of more at a time only the number.
const NAMED_CHANGES: usize = 16;
/// Packets that cross a bridge pass iptables only if this is there.
const BRIDGE_FILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// Why the node ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum FlanneldError {
    /// A file for TLS.
    #[error("Failed to create SubnetManager: {0}")]
    Access(#[from] AccessError),
    /// The address for probes.
    #[error("Start healthz server error. {0}")]
    Health(HttpError),
    /// The address for metrics.
    #[error("serving TWILL_METRICS: {0}")]
    Metrics(HttpError),
    /// A backend that is not ours.
    #[error("Error fetching backend: {0}")]
    Backend(#[from] BackendError),
    /// No interface for the tunnel.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// No subnet.
    #[error("Error registering network: {0}")]
    Acquire(#[from] AcquireError),
    /// The data plane.
    #[error("Error registering network: {0}")]
    Start(#[from] StartError),
    /// Links, addresses and routes.
    #[error("Error registering network: {0}")]
    Host(#[from] HostError),
    /// A worker failed while running.
    #[error(transparent)]
    Worker(#[from] WorkerFailure),
    /// Signals cannot be received, or there is no runtime.
    #[error("setting up the control plane: {0}")]
    Runtime(#[from] io::Error),
}

/// Runs the node until SIGTERM or SIGINT, or until its lease is revoked.
///
/// # Errors
/// [`FlanneldError`]. Device, routes and socket are gone then; lease, `subnet.env` and firewall
/// rules stay, as they do at the end without an error.
pub fn run(options: Flanneld) -> Result<(), FlanneldError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(until_the_end(options));
    // An etcd endpoint's name may still be waiting for a name server.
    runtime.shutdown_background();
    ended
}

async fn until_the_end(options: Flanneld) -> Result<(), FlanneldError> {
    info!("Installing signal handlers");
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => info!("shutdownHandler sent cancel signal..."),
        _ = interrupt.recv() => info!("shutdownHandler sent cancel signal..."),
        // Boxed, because it is large and lives as long as the program.
        ended = Box::pin(serve(options)) => match ended {
            Ok(Revoked) => {}
            Err(failure) => return Err(failure),
        },
    }
    info!("Exiting cleanly...");
    Ok(())
}

async fn serve(options: Flanneld) -> Result<Revoked, FlanneldError> {
    let previous = Previous::read(&options.subnet_file);
    let manager = manager(&options.etcd, previous).await?;
    let ready = Arc::new(AtomicBool::new(false));
    let inside = Arc::new(OnceLock::new());
    let mut pages = Vec::new();
    if let Some(listen) = options.healthz {
        info!("Start healthz server on {listen}");
        let served = http::serve(listen, probes(&ready, &inside)).await;
        pages.push(served.map_err(FlanneldError::Health)?);
    }
    if let Some(listen) = options.interface.metrics {
        let served = http::serve(listen, probes(&ready, &inside)).await;
        pages.push(served.map_err(FlanneldError::Metrics)?);
    }
    let config = network_config(&manager).await?;
    info!("Found network config - Backend type: udp");
    if !config.nftables && !Path::new(BRIDGE_FILTER).exists() {
        warn!(
            "{BRIDGE_FILTER} does not exist: if containers are on a bridge, load br_netfilter, or \
             Kubernetes services will not reach those of the same node"
        );
    }
    let (network, links) = Network::connect()?;
    let external = external(&options, &network).await?;
    let holder = Holder { public_ip: external.public_ip };
    let held = Box::pin(acquire(&manager, &config, holder, previous.subnet)).await?;
    // What a killed node left is not a collision; it is gone with its port.
    await_port((external.address, config.backend.port).into()).map_err(StartError::from)?;
    let survey = network.survey().await?;
    for collision in external_interface::collisions(&survey, config.network, held.subnet) {
        warn!("{collision}: packets to it will go astray");
    }
    let keeping = Keeping {
        network: config.network,
        key: manager.prefix().lease(held.subnet),
        held,
        margin: options.renew_margin,
        port: config.backend.port,
    };
    let (keeper, leases) = Keeper::new(manager, keeping);
    let mut node =
        Node::start(Setting { options, config, external, held, previous }, network, leases, ready)
            .await?;
    let _ = inside.set(Arc::clone(node.gateway.observer()));
    tokio::select! {
        revoked = Box::pin(keeper.run()) => Ok(revoked),
        failure = node.serve(links) => Err(failure),
    }
}

/// What a node is made of.
struct Setting {
    options: Flanneld,
    config: NetworkConfig,
    external: ExternalInterface,
    held: Held,
    previous: Previous,
}

struct Node {
    setting: Setting,
    settings: Settings,
    network: Network,
    gateway: Gateway,
    reconciler: Reconciler,
    leases: watch::Receiver<Leases>,
    pace: Pace,
    /// When it was last said that there are more leases than a gateway can know.
    overfull: Option<Instant>,
    calls: mpsc::Receiver<Call>,
    _control: Option<control::Served>,
    /// Whether `subnet.env` is there.
    written: bool,
    ready: Arc<AtomicBool>,
    /// Resynchronisation of what is beside the tunnel; ends with the node.
    _tasks: JoinSet<()>,
    _watch: JoinSet<()>,
}

/// When the leases are looked at next.
struct Pace {
    /// Whether there is something new.
    waiting: bool,
    next: Instant,
}

impl Pace {
    /// After something that took so long: with many thousand leases, changes that never end still
    /// leave nine tenths of a CPU to others.
    fn after(cost: Duration) -> Self {
        Self { waiting: false, next: Instant::now() + cost * 9 }
    }
}

impl Node {
    async fn start(
        setting: Setting,
        network: Network,
        leases: watch::Receiver<Leases>,
        ready: Arc<AtomicBool>,
    ) -> Result<Self, FlanneldError> {
        let Setting { options, config, external, held, .. } = &setting;
        let underlay = config.backend.mtu.map_or(external.mtu, u32::from);
        let mtu = underlay.saturating_sub(OVERHEAD_V4.into());
        let mtu = Mtu::at_most(u16::try_from(mtu).unwrap_or(u16::MAX));
        let address = Ipv4Net::from(held.subnet.addr());
        let place = Place {
            addresses: vec![address.into()],
            mtu,
            listen: (external.address, config.backend.port).into(),
            local: vec![held.subnet.into()],
        };
        let settings = load::settings(&options.interface, place)?;
        let reconciler = Reconciler::new(settings.local.clone(), vec![address.addr().into()]);
        let gateway = Gateway::start(&settings, reconciler.view())?;
        gateway.observer().set_etcd(etcd_status(&leases.borrow()));
        let index = gateway.device_index();
        network.set_queue_length(index, settings.device_queue).await?;
        network.add_address(index, address.into()).await?;
        network.set_up(index).await?;
        match network.add_routes(index, &[config.network.into()]).await {
            // flanneld does not mind either.
            Err(taken @ HostError::Routed { .. }) => warn!("{taken}"),
            done => done?,
        }
        announce(&gateway, &settings);

        let tasks = beside(&setting, &network).await;
        let watch = watch(&gateway, &settings, options.interface.probe());
        let (ask, calls) = mpsc::channel(control::PENDING_CALLS);
        let socket = setting.options.interface.socket.clone();
        let socket = socket.unwrap_or_else(|| default_socket(gateway.device()));
        let served = control::serve(&socket, None, ask).inspect_err(|reason| {
            warn!("{reason}: `twill status` will not see this node");
        });
        let mut node = Self {
            setting,
            settings,
            network,
            gateway,
            reconciler,
            leases,
            pace: Pace::after(Duration::ZERO),
            overfull: None,
            calls,
            _control: served.ok(),
            written: false,
            ready,
            _tasks: tasks,
            _watch: watch,
        };
        node.write_subnet_file();
        info!("Running backend.");
        // Only means something under systemd; anywhere else nobody listens.
        if let Err(reason) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            error!("Failed to notify systemd the message READY=1 {reason}");
        }
        info!("Watching for new subnet leases");
        Ok(node)
    }

    fn write_subnet_file(&mut self) {
        let Setting { options, config, held, .. } = &self.setting;
        let env = SubnetEnv {
            network: config.network,
            subnet: held.subnet,
            mtu: self.settings.mtu.bytes(),
            masquerade: options.rules.masquerade,
        };
        match env.write(&options.subnet_file) {
            Ok(()) => {
                info!("Wrote subnet file to {}", options.subnet_file.display());
                self.written = true;
            }
            Err(reason) => warn!("{reason}"),
        }
        self.tell_readiness(OwnLease::Held);
    }

    fn tell_readiness(&self, own: OwnLease) {
        self.ready.store(self.written && own == OwnLease::Held, Ordering::Relaxed);
    }

    /// Serves until something fails.
    async fn serve(&mut self, mut links: LinkEvents) -> FlanneldError {
        loop {
            let done = tokio::select! {
                Some(failure) = self.gateway.failed() => Err(failure.into()),
                Ok(()) = self.leases.changed(), if !self.pace.waiting => {
                    self.pace.waiting = true;
                    Ok(())
                }
                () = sleep_until(self.pace.next), if self.pace.waiting => {
                    self.follow();
                    Ok(())
                }
                Some(call) = self.calls.recv() => {
                    // The client may have gone away.
                    let _ = call.answer.send(self.answer(call.request));
                    Ok(())
                }
                Some(event) = links.next() => {
                    if self.may_have_come_up(event) {
                        self.route_again().await;
                    }
                    Ok(())
                }
            };
            if let Err(failure) = done {
                return failure;
            }
        }
    }

    fn follow(&mut self) {
        let began = Instant::now();
        let leases = self.leases.borrow_and_update().clone();
        self.tell_readiness(leases.own);
        self.gateway.observer().set_etcd(etcd_status(&leases));
        let applied = self.reconciler.apply(PeerSet::clone(&leases.peers));
        if applied.as_ref().is_ok_and(|change| !change.is_empty()) {
            self.gateway.publish(self.reconciler.view());
        }
        self.pace = Pace::after(began.elapsed());
        match applied {
            Ok(change) => {
                self.overfull = None;
                tell(&change);
            }
            Err(reason) => self.complain(reason),
        }
    }

    /// Says, not too often, that the peers stay what they are. To end would end the whole network:
    /// every node sees the same leases.
    fn complain(&mut self, reason: TooManyPeers) {
        if self.overfull.is_none_or(|told| told.elapsed() >= REMINDER) {
            error!("{reason}: the peers stay what they are; remove leases of nodes that are gone");
            self.overfull = Some(Instant::now());
        }
    }

    /// Whether routes may be missing: the kernel drops a link's when it goes down.
    fn may_have_come_up(&self, event: LinkEvent) -> bool {
        match event {
            LinkEvent::Changed { index, up } => up && index == self.gateway.device_index(),
            LinkEvent::Missed => true,
        }
    }

    async fn route_again(&self) {
        let network = [self.setting.config.network.into()];
        let index = self.gateway.device_index();
        if let Err(reason) = self.network.add_routes(index, &network).await {
            error!("after the device came up: {reason}");
        }
    }

    fn answer(&self, request: Request) -> Response {
        match request {
            Request::Status => Response::Ok(json!(self.gateway.observer().snapshot())),
            Request::Histograms => Response::Ok(json!(self.gateway.observer().histograms())),
            Request::PeerList => {
                Response::Ok(json!(self.reconciler.current().iter().collect::<Vec<_>>()))
            }
            _ => Response::Error("peers of this gateway come from etcd".to_owned()),
        }
    }
}

fn tell(change: &Change) {
    for (what, subnets) in [("added", &change.changed), ("removed", &change.removed)] {
        match subnets.len() {
            ..=NAMED_CHANGES => subnets.iter().for_each(|subnet| info!("Subnet {what}: {subnet}")),
            count => info!("Subnets {what}: {count}"),
        }
    }
}

fn etcd_status(leases: &Leases) -> EtcdStatus {
    let counts = leases.counts;
    EtcdStatus {
        own: leases.own.name().to_owned(),
        connected: leases.connected,
        disconnects: leases.disconnects,
        failed_renewals: leases.failed_renewals,
        counts: IgnoredLeases {
            malformed: counts.malformed,
            foreign_backend: counts.foreign_backend,
            duplicate_public_ip: counts.duplicate_public_ip,
            out_of_place: counts.out_of_place,
        },
    }
}

fn announce(gateway: &Gateway, settings: &Settings) {
    let (engine, _) = gateway.engine();
    info!(
        device = gateway.device(),
        listen = %settings.listen,
        mtu = %settings.mtu,
        queues = settings.queues.count(),
        %engine,
        offloads = %gateway.features(),
        "tunnel is up"
    );
}
