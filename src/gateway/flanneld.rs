//! `twill flanneld`: a node of a flannel network, in flanneld's order of starting.
//!
//! ```text
//!  health ──> config ──> interface ──> lease ──> device, route, socket ──> firewall ──> subnet.env
//!                                                       │                                 │
//!                    leases ──> peers ──> View ─────────┘                  ready, READY=1 ─┘
//! ```
//! Messages are flanneld's where it has one, for those who look for them.

use super::start::await_port;
use super::watch::watch;
use super::{Gateway, StartError, WorkerFailure};
use crate::config::flanneld::{Etcd, Flanneld};
use crate::config::load::{self, Place, default_socket};
use crate::config::{Mtu, OVERHEAD_V4, Settings};
use crate::control::{self, Call, Request, Response};
use crate::host::external_interface::{self, ExternalError, ExternalInterface};
use crate::host::firewall::{Backend, Firewall, Scope};
use crate::host::{HostError, LinkEvents, Network, Previous, SubnetEnv};
use crate::subnet::etcd::{Access, AccessError, EtcdManager};
use crate::subnet::{
    AcquireError, BackendError, Held, Holder, Keeper, Keeping, Leases, Manager, NetworkConfig,
    NetworkError, OwnLease, PeerSet, Prefix, Reconciler, Revoked, TooManyPeers, acquire,
};
use crate::telemetry::http::{self, Answer, HttpError, Routes};
use crate::telemetry::observer::Observer;
use crate::telemetry::prometheus;
use crate::telemetry::snapshot::{EtcdStatus, IgnoredLeases};
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

/// Pause between two attempts to read the network's configuration.
const CONFIG_RETRY: Duration = Duration::from_secs(1);
/// How often a reason that stays the same is logged again.
const REMINDER: Duration = Duration::from_secs(60);
/// Calls that may wait for the control plane.
const PENDING_CALLS: usize = 16;
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
    Health(#[from] HttpError),
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
    /// More leases than a gateway can know.
    #[error(transparent)]
    Peers(#[from] TooManyPeers),
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
    runtime.block_on(async {
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
    })
}

async fn serve(options: Flanneld) -> Result<Revoked, FlanneldError> {
    let previous = Previous::read(&options.subnet_file);
    let manager = manager(&options.etcd, previous)?;
    let ready = Arc::new(AtomicBool::new(false));
    let inside = Arc::new(OnceLock::new());
    let mut pages = Vec::new();
    if let Some(listen) = options.healthz {
        info!("Start healthz server on {listen}");
        pages.push(http::serve(listen, probes(&ready, &inside)).await?);
    }
    if let Some(listen) = options.interface.metrics {
        pages.push(http::serve(listen, probes(&ready, &inside)).await?);
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

fn manager(etcd: &Etcd, previous: Previous) -> Result<EtcdManager, AccessError> {
    let access = Access::new(etcd.endpoints.clone(), etcd.tls.as_ref(), etcd.credentials.clone())?;
    let before = previous.subnet.map_or_else(|| "None".to_owned(), |subnet| subnet.to_string());
    info!("Created subnet manager: Etcd Local Manager with Previous Subnet: {before}");
    Ok(EtcdManager::new(access, Prefix::new(&etcd.prefix)))
}

fn probes(ready: &Arc<AtomicBool>, inside: &Arc<OnceLock<Arc<Observer>>>) -> Routes {
    let (ready, inside) = (Arc::clone(ready), Arc::clone(inside));
    Routes::default()
        .with("/healthz", || Answer::text(200, "flanneld is running"))
        .with("/readyz", move || match ready.load(Ordering::Relaxed) {
            true => Answer::text(200, "flanneld is ready"),
            false => Answer::text(503, "flanneld is not ready yet"),
        })
        .with("/metrics", move || prometheus::page(&inside))
}

/// Asks for the configuration until there is one that can be used.
async fn network_config(manager: &EtcdManager) -> Result<NetworkConfig, BackendError> {
    let mut told: Option<(String, Instant)> = None;
    loop {
        let reason = match manager.config().await {
            Ok(text) => match NetworkConfig::parse(&text) {
                Ok(config) => return Ok(config),
                Err(NetworkError::Backend(other)) => return Err(other),
                Err(mistake) => mistake.to_string(),
            },
            Err(cause) => cause.to_string(),
        };
        let is_news =
            told.as_ref().is_none_or(|(last, at)| *last != reason || at.elapsed() >= REMINDER);
        if is_news {
            error!("Couldn't fetch network config: {reason}; trying again every second");
            told = Some((reason, Instant::now()));
        }
        tokio::time::sleep(CONFIG_RETRY).await;
    }
}

async fn external(
    options: &Flanneld,
    network: &Network,
) -> Result<ExternalInterface, FlanneldError> {
    let survey = network.survey().await?;
    let path = match options.external.can_reach {
        Some(address) => network.path_to(address).await.ok(),
        None => None,
    };
    Ok(external_interface::choose(&options.external, &survey, path)?)
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
        let (ask, calls) = mpsc::channel(PENDING_CALLS);
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
                () = sleep_until(self.pace.next), if self.pace.waiting => self.follow(),
                Some(call) = self.calls.recv() => {
                    // The client may have gone away.
                    let _ = call.answer.send(self.answer(call.request));
                    Ok(())
                }
                Some(event) = links.next() => {
                    // The kernel drops a link's routes when it goes down.
                    if event.index == self.gateway.device_index() && event.up {
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

    fn follow(&mut self) -> Result<(), FlanneldError> {
        let began = Instant::now();
        let leases = self.leases.borrow_and_update().clone();
        self.tell_readiness(leases.own);
        self.gateway.observer().set_etcd(etcd_status(&leases));
        let change = self.reconciler.apply(PeerSet::clone(&leases.peers))?;
        if !change.is_empty() {
            self.gateway.publish(self.reconciler.view());
        }
        self.pace = Pace::after(began.elapsed());
        for (what, subnets) in [("added", &change.changed), ("removed", &change.removed)] {
            match subnets.len() {
                ..=NAMED_CHANGES => {
                    subnets.iter().for_each(|subnet| info!("Subnet {what}: {subnet}"));
                }
                count => info!("Subnets {what}: {count}"),
            }
        }
        Ok(())
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

/// Sets up what is beside the tunnel and keeps it there.
async fn beside(setting: &Setting, network: &Network) -> JoinSet<()> {
    let Setting { options, config, held, previous, .. } = setting;
    let rules = options.rules;
    let is_new = previous.network != Some(config.network) || previous.subnet != Some(held.subnet);
    if is_new && rules.masquerade && !config.nftables {
        let show = |net: Option<Ipv4Net>| net.map_or("none".to_owned(), |net| net.to_string());
        info!(
            "Current network or subnet ({}, {}) is not equal to previous one ({}, {}), trying to \
             recycle old iptables rules",
            config.network,
            held.subnet,
            show(previous.network),
            show(previous.subnet)
        );
    }
    let scope = Scope {
        network: config.network,
        subnet: held.subnet,
        masquerade: rules.masquerade,
        forward: rules.forward,
        random_fully: rules.random_fully,
    };
    let backend = if config.nftables { Backend::Nftables } else { Backend::Iptables };
    let firewall = Firewall::start(scope, backend).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            tokio::time::sleep(rules.resync).await;
            firewall.ensure().await;
        }
    });
    if rules.blackhole {
        let (network, subnet) = (network.clone(), held.subnet);
        tasks.spawn(async move {
            loop {
                match network.ensure_blackhole(subnet).await {
                    Ok(true) => info!("Added blackhole route {subnet}"),
                    Ok(false) => {}
                    Err(reason) => error!("{reason}"),
                }
                tokio::time::sleep(rules.resync).await;
            }
        });
    }
    tasks
}
