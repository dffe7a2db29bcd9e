//! `twill flanneld`: a node of a flannel network, in flanneld's order of starting.
//!
//! ```text
//!  health ──> config ──> interface ──> lease ──> device, route, socket ──> firewall ──> subnet.env
//!                                                       │                                 │
//!                    leases ──> peers ──> View ─────────┘                  ready, READY=1 ─┘
//! ```
//! Messages are flanneld's where it has one, for those who look for them.

mod beside;
mod etcd;
#[cfg(feature = "kube")]
mod kube;
mod leases;
mod subnet_file;

use self::beside::beside;
use self::leases::{Known, LeaseSource};
use self::subnet_file::SubnetFile;
use super::clients::Clients;
use super::health::{Health, Part, Words};
use super::tunnel::{Tunnel, TunnelError};
use super::{ServeError, StopSignals, block_on, serve, tell_systemd};
use crate::config::flanneld::{External, Flanneld, LeaseStore};
use crate::config::load::{self, Addressing, default_socket};
use crate::config::{Mtu, OVERHEAD_V4, Settings};
use crate::gateway::resources::{ResourceError, await_port};
use crate::host::external_interface::{self, ExternalError, ExternalInterface};
use crate::host::{HostError, HostEvents, Network, Path, Previous, Survey};
use crate::subnet::etcd::AccessError;
#[cfg(feature = "kube")]
use crate::subnet::kube::Cluster;
use crate::subnet::{AcquireError, BackendError, Leases, NetworkConfig, Reconciler};
use crate::telemetry::http::{self, HttpError, Server};
use ipnet::Ipv4Net;
use sd_notify::NotifyState;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::watch;
use tracing::subscriber::{NoSubscriber, with_default};
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
    /// The Kubernetes cluster.
    #[cfg(feature = "kube")]
    #[error("Failed to create SubnetManager: {0}")]
    Kube(#[from] kube::KubeError),
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
    /// It ended while running.
    #[error(transparent)]
    Serve(#[from] ServeError),
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
        Some(Joined::Etcd(node)) => node.serve(&mut stop).await?,
        #[cfg(feature = "kube")]
        Some(Joined::Kube(node)) => node.serve(&mut stop).await?,
        None => info!("shutdownHandler sent cancel signal..."),
    }
    info!("Exiting cleanly...");
    Ok(())
}

/// A node of the network, by where its lease is.
enum Joined {
    Etcd(Box<Node<Leases>>),
    #[cfg(feature = "kube")]
    Kube(Box<Node<Cluster>>),
}

/// Ends when the lease is gone: in order, or with the reason.
type Ends = Pin<Box<dyn Future<Output = Result<(), FlanneldError>>>>;

/// Joins the network: from nothing to a node that is ready.
async fn join(options: Flanneld) -> Result<Joined, FlanneldError> {
    let previous = Previous::read(&options.subnet_file);
    let health = Arc::new(Health::waiting_for(&[Part::Start, Part::Lease, Part::SubnetFile]));
    match options.leases.clone() {
        LeaseStore::Etcd(etcd) => {
            let manager = etcd::manager(&etcd, previous).await?;
            let pages = serve_pages(&options, &health).await?;
            let (member, ground, leases, ends) = etcd::join(manager, options, previous).await?;
            let node = Node::start(member, ground, leases, ends, health, pages).await?;
            Ok(Joined::Etcd(Box::new(node)))
        }
        #[cfg(feature = "kube")]
        LeaseStore::Kube(kube) => {
            let nodes = kube::nodes(&kube)?;
            let pages = serve_pages(&options, &health).await?;
            let (member, ground, cluster, ends) =
                kube::join(nodes, kube, options, previous).await?;
            let node = Node::start(member, ground, cluster, ends, health, pages).await?;
            Ok(Joined::Kube(Box::new(node)))
        }
    }
}

/// What is there before the node has a subnet: the host's network and the tunnel's place in it.
struct Ground {
    network: Network,
    events: HostEvents,
    external: ExternalInterface,
}

impl Ground {
    async fn prepare(options: &Flanneld, config: &NetworkConfig) -> Result<Self, FlanneldError> {
        info!("Found network config - Backend type: udp");
        if !config.nftables && !std::path::Path::new(BRIDGE_FILTER).exists() {
            warn!(
                "{BRIDGE_FILTER} does not exist: if containers are on a bridge, load br_netfilter, \
                 or Kubernetes services will not reach those of the same node"
            );
        }
        let (network, events) = Network::connect()?;
        let (survey, path) = look(&options.external, &network).await?;
        let external = external_interface::choose(&options.external, &survey, path)?;
        Ok(Self { network, events, external })
    }
}

/// The host's network, and how it reaches the address that the interface must reach.
async fn look(wanted: &External, network: &Network) -> Result<(Survey, Option<Path>), HostError> {
    let survey = network.survey().await?;
    let path = match wanted.can_reach {
        Some(address) => network.path_to(address).await.ok(),
        None => None,
    };
    Ok((survey, path))
}

/// The address of the tunnel if the node started now; none if there is no interface for it.
async fn address_now(wanted: &External, network: &Network) -> Option<IpAddr> {
    let (survey, path) = look(wanted, network).await.ok()?;
    // It is asked again and again: what it logs belongs to the start.
    let silence = NoSubscriber::default();
    let chosen = with_default(silence, || external_interface::choose(wanted, &survey, path));
    chosen.ok().map(|external| external.address.into())
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
    subnet: Ipv4Net,
    previous: Previous,
}

impl Member {
    /// The device's address.
    fn address(&self) -> Ipv4Net {
        Ipv4Net::from(self.subnet.addr())
    }

    fn settings(&self, external: &ExternalInterface) -> io::Result<Settings> {
        let Self { options, config, subnet, .. } = self;
        let underlay = config.backend.mtu.map_or(external.mtu, u32::from);
        let mtu = underlay.saturating_sub(OVERHEAD_V4.into());
        let addressing = Addressing {
            addresses: vec![self.address().into()],
            mtu: Mtu::at_most(u16::try_from(mtu).unwrap_or(u16::MAX)),
            listen: (external.address, config.backend.port).into(),
            local: vec![(*subnet).into()],
        };
        load::settings(&options.interface, addressing)
    }
}

/// Brings up the tunnel, with the network routed to it, and what is beside it.
async fn start(
    member: &Member,
    ground: Ground,
    known: &impl Known,
    health: &Arc<Health>,
) -> Result<(Tunnel, Clients), FlanneldError> {
    let Ground { network, events, external } = ground;
    // What a killed node left is not a collision; it is gone with its port.
    await_port((external.address, member.config.backend.port).into()).await?;
    let survey = network.survey().await?;
    for collision in external_interface::collisions(&survey, member.config.network, member.subnet) {
        warn!("{collision}: packets to it will go astray");
    }
    let settings = member.settings(&external)?;
    let addresses = vec![member.address().addr().into()];
    let reconciler = Reconciler::new(settings.local.clone(), addresses);
    let interface = &member.options.interface;
    let host = (network, events);
    let mut tunnel = Tunnel::start(settings, reconciler, host, (interface.probe(), health)).await?;
    known.show(tunnel.gateway.observer());
    match tunnel.install(&[member.config.network.into()]).await {
        // flanneld does not mind either.
        Err(taken @ HostError::Routed { .. }) => {
            warn!("{taken}");
            tunnel.watch.expect();
        }
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

/// A node of the network.
struct Node<L> {
    tunnel: Tunnel,
    clients: Clients,
    source: LeaseSource<L>,
    ends: Ends,
    _pages: Vec<Server>,
}

impl<L: Known> Node<L> {
    async fn start(
        member: Member,
        ground: Ground,
        leases: watch::Receiver<L>,
        ends: Ends,
        health: Arc<Health>,
        pages: Vec<Server>,
    ) -> Result<Self, FlanneldError> {
        let known = leases.borrow().clone();
        let (mut tunnel, clients) = start(&member, ground, &known, &health).await?;
        let source = LeaseSource::new(&member, leases, Arc::clone(&health));
        let mut file = SubnetFile::of(&member, &tunnel.settings, &health);
        file.ensure().await;
        tunnel.tasks.spawn(file.keep());
        health.set(Part::Start, Ok(()));
        info!("Running backend.");
        tell_systemd(NotifyState::Ready);
        info!("Watching for new subnet leases");
        health.show(tunnel.gateway.observer());
        Ok(Self { tunnel, clients, source, ends, _pages: pages })
    }

    /// Serves until somebody asks for the end, the lease is gone, or a worker fails.
    async fn serve(mut self, stop: &mut StopSignals) -> Result<(), FlanneldError> {
        let serving = serve(&mut self.tunnel, &mut self.source, &mut self.clients, stop);
        let ended = tokio::select! {
            ended = self.ends => ended,
            ended = serving => ended
                .inspect(|()| info!("shutdownHandler sent cancel signal..."))
                .map_err(FlanneldError::from),
        };
        self.tunnel.stop().await;
        ended
    }
}
