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
mod leases;

use self::begin::{external, manager, network_config};
use self::beside::beside;
use self::leases::LeaseSource;
use super::clients::Clients;
use super::health::{Health, Words};
use super::tunnel::{Tunnel, TunnelError};
use super::{StopSignals, block_on, serve, tell_systemd};
use crate::config::flanneld::Flanneld;
use crate::config::load::{self, Addressing, default_socket};
use crate::config::{Mtu, OVERHEAD_V4, Settings};
use crate::gateway::resources::{ResourceError, await_port};
use crate::gateway::run::WorkerFailure;
use crate::host::external_interface::{self, ExternalError, ExternalInterface};
use crate::host::{HostError, LinkEvents, Network, Previous, SubnetEnv};
use crate::subnet::etcd::{AccessError, EtcdManager};
use crate::subnet::{
    AcquireError, BackendError, Held, Holder, Keeper, Keeping, Leases, NetworkConfig, Reconciler,
    acquire,
};
use crate::telemetry::http::{self, HttpError, Server};
use ipnet::Ipv4Net;
use sd_notify::NotifyState;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;
use tracing::{info, warn};

/// Packets that cross a bridge pass iptables only if this is there.
const BRIDGE_FILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
/// flanneld's answers; the node is ready while it holds its lease and `subnet.env` is written.
const WORDS: Words = Words {
    alive: "flanneld is running",
    ready: "flanneld is ready",
    not_ready: "flanneld is not ready yet",
};

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
    /// The port.
    #[error("Error registering network: {0}")]
    Port(#[from] ResourceError),
    /// The data plane and its device.
    #[error("Error registering network: {0}")]
    Tunnel(#[from] TunnelError),
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
    block_on(until_the_end(options))?
}

async fn until_the_end(options: Flanneld) -> Result<(), FlanneldError> {
    info!("Installing signal handlers");
    let mut stop = StopSignals::install()?;
    let joined = tokio::select! {
        () = stop.asked() => None,
        // Boxed, because it is large.
        joined = Box::pin(join(options)) => Some(joined?),
    };
    match joined {
        Some(node) => node.serve(&mut stop).await?,
        None => info!("shutdownHandler sent cancel signal..."),
    }
    info!("Exiting cleanly...");
    Ok(())
}

/// Joins the network: from nothing to a node that is ready.
async fn join(options: Flanneld) -> Result<Node, FlanneldError> {
    let previous = Previous::read(&options.subnet_file);
    let manager = manager(&options.etcd, previous).await?;
    let health = Arc::new(Health::default());
    let pages = serve_pages(&options, &health).await?;
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
    await_port((external.address, config.backend.port).into()).await?;
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
    let member = Member { options, config, external, held, previous };
    let (tunnel, clients) = start(&member, (network, links), &leases).await?;
    let mut source = LeaseSource::new(member.config.network, leases, Arc::clone(&health));
    source.set_written(write_subnet_file(&member, &tunnel.settings));
    info!("Running backend.");
    tell_systemd(NotifyState::Ready);
    info!("Watching for new subnet leases");
    health.show(tunnel.gateway.observer());
    Ok(Node { tunnel, clients, source, keeper, _pages: pages })
}

async fn serve_pages(
    options: &Flanneld,
    health: &Arc<Health>,
) -> Result<Vec<Server>, FlanneldError> {
    let mut pages = Vec::new();
    if let Some(listen) = options.healthz {
        info!("Start healthz server on {listen}");
        let served = http::serve(listen, health.pages(&WORDS)).await;
        pages.push(served.map_err(FlanneldError::Health)?);
    }
    if let Some(listen) = options.interface.metrics {
        let served = http::serve(listen, health.pages(&WORDS)).await;
        pages.push(served.map_err(FlanneldError::Metrics)?);
    }
    Ok(pages)
}

/// What makes this host a node of the network.
struct Member {
    options: Flanneld,
    config: NetworkConfig,
    external: ExternalInterface,
    held: Held,
    previous: Previous,
}

impl Member {
    /// The device's address.
    fn address(&self) -> Ipv4Net {
        Ipv4Net::from(self.held.subnet.addr())
    }

    fn settings(&self) -> io::Result<Settings> {
        let Self { options, config, external, held, .. } = self;
        let underlay = config.backend.mtu.map_or(external.mtu, u32::from);
        let mtu = underlay.saturating_sub(OVERHEAD_V4.into());
        let addressing = Addressing {
            addresses: vec![self.address().into()],
            mtu: Mtu::at_most(u16::try_from(mtu).unwrap_or(u16::MAX)),
            listen: (external.address, config.backend.port).into(),
            local: vec![held.subnet.into()],
        };
        load::settings(&options.interface, addressing)
    }
}

/// Brings up the tunnel, with the network routed to it, and what is beside it.
async fn start(
    member: &Member,
    host: (Network, LinkEvents),
    leases: &watch::Receiver<Leases>,
) -> Result<(Tunnel, Clients), FlanneldError> {
    let settings = member.settings()?;
    let addresses = vec![member.address().addr().into()];
    let reconciler = Reconciler::new(settings.local.clone(), addresses);
    let interface = &member.options.interface;
    let mut tunnel = Tunnel::start(settings, reconciler, host, interface.probe()).await?;
    tunnel.gateway.observer().set_etcd(leases::status(&leases.borrow()));
    match tunnel.install(&[member.config.network.into()]).await {
        // flanneld does not mind either.
        Err(taken @ HostError::Routed { .. }) => warn!("{taken}"),
        done => done?,
    }
    tunnel.announce("tunnel is up", None);
    beside(member, &mut tunnel).await;
    let socket = interface.socket.clone();
    let socket = socket.unwrap_or_else(|| default_socket(tunnel.gateway.device()));
    let clients = Clients::serve(&socket, None).unwrap_or_else(|reason| {
        warn!("{reason}: `twill status` will not see this node");
        Clients::none()
    });
    Ok((tunnel, clients))
}

/// Says whether it is there now.
fn write_subnet_file(member: &Member, settings: &Settings) -> bool {
    let Member { options, config, held, .. } = member;
    let env = SubnetEnv {
        network: config.network,
        subnet: held.subnet,
        mtu: settings.mtu.bytes(),
        masquerade: options.rules.masquerade,
    };
    match env.write(&options.subnet_file) {
        Ok(()) => info!("Wrote subnet file to {}", options.subnet_file.display()),
        Err(reason) => {
            warn!("{reason}");
            return false;
        }
    }
    true
}

/// A node of the network.
struct Node {
    tunnel: Tunnel,
    clients: Clients,
    source: LeaseSource,
    keeper: Keeper<EtcdManager>,
    _pages: Vec<Server>,
}

impl Node {
    /// Serves until somebody asks for the end, the lease is revoked, or a worker fails.
    async fn serve(mut self, stop: &mut StopSignals) -> Result<(), FlanneldError> {
        let serving = serve(&mut self.tunnel, &mut self.source, &mut self.clients, stop);
        let ended = tokio::select! {
            _revoked = Box::pin(self.keeper.run()) => Ok(()),
            ended = serving => ended.inspect(|()| info!("shutdownHandler sent cancel signal...")),
        };
        self.tunnel.stop().await;
        Ok(ended?)
    }
}
