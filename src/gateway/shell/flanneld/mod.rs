//! `twill flanneld`: a node of a flannel network, in flanneld's order of starting.
//!
//! ```text
//!  health ──> config ──> interface ──> lease ──> device, route, socket ──> firewall ──> subnet.env
//!                                                       │                                 │
//!                    leases ──> peers ──> View ─────────┘                  ready, READY=1 ─┘
//! ```
//! Messages are flanneld's where it has one, for those who look for them.

mod address;
mod beside;
mod leases;
mod stores;
mod subnet_file;
mod succeed;

use self::address::Address;
use self::beside::beside;
use self::leases::{Known, LeaseSource};
use self::subnet_file::SubnetFile;
use super::clients::Clients;
use super::handover::{self, TakeOverError};
use super::health::{Health, Part, Words};
use super::tunnel::{Tunnel, TunnelError};
use super::{
    Ended, PeerSource, ServeError, StopSignals, after, block_on, restrict, serve, tell_ready,
};
use crate::config::flanneld::{self as config, External, Flanneld};
use crate::config::load::{self, Addressing, default_socket};
use crate::config::{Addresses, Mtu, Settings, overhead};
use crate::control::Place;
use crate::control::handover::Conversation;
use crate::gateway::resources::{ResourceError, await_port, kept_devices};
use crate::host::external_interface::{self, ExternalError, ExternalInterface};
use crate::host::{HostError, HostEvents, Network, Path, Previous, Survey};
#[cfg(feature = "kube")]
use crate::subnet::kube;
use crate::subnet::{
    HostAddress, Joined, LeaseStore, NetworkConfig, NodeAddress, Reconciler, Subnets, etcd,
};
use crate::sys::seccomp::Programs;
use crate::telemetry::http::{self, HttpError, Server};
use ipnet::IpNet;
use std::io;
use std::net::IpAddr;
use std::path::{Path as FilePath, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use tracing::{info, warn};

/// Packets that cross a bridge pass iptables only if this is there.
const BRIDGE_FILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
/// The same of IPv6.
const BRIDGE_FILTER_V6: &str = "/proc/sys/net/bridge/bridge-nf-call-ip6tables";
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
    Access(#[from] etcd::client::AccessError),
    /// Access to the API server.
    #[cfg(feature = "kube")]
    #[error("Failed to create SubnetManager: {0}")]
    KubeAccess(#[from] kube::AccessError),
    /// Leases in etcd.
    #[error(transparent)]
    Etcd(#[from] etcd::StoreError),
    /// Leases in a Kubernetes cluster.
    #[cfg(feature = "kube")]
    #[error("Error registering network: {0}")]
    Kube(#[from] kube::StoreError),
    /// The address for probes.
    #[error("Start healthz server error. {0}")]
    Health(HttpError),
    /// The address for metrics.
    #[error("serving TWILL_METRICS: {0}")]
    Metrics(HttpError),
    /// No interface for the tunnel.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// The port.
    #[error("Error registering network: {0}")]
    Port(#[from] ResourceError),
    /// The data plane and its device.
    #[error("Error registering network: {0}")]
    Tunnel(#[from] TunnelError),
    /// Links, addresses and routes.
    #[error("Error registering network: {0}")]
    Host(#[from] HostError),
    /// The hand-over.
    #[error(transparent)]
    TakeOver(#[from] TakeOverError),
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
    block_on(async {
        info!("Installing signal handlers");
        let mut stop = StopSignals::install()?;
        let succession = options.succession;
        let successor = until_the_end(options, &mut stop).await?;
        after(successor, succession, &mut stop).await;
        info!("Exiting cleanly...");
        Ok(())
    })?
}

async fn until_the_end(
    options: Flanneld,
    stop: &mut StopSignals,
) -> Result<Option<Conversation>, FlanneldError> {
    let previous = Previous::read(&options.subnet_file);
    match options.leases.clone() {
        config::LeaseStore::Etcd(etcd) => {
            let store = stores::etcd(&etcd, options.renew_margin, previous)?;
            be_a_node(store, options, previous, stop).await
        }
        #[cfg(feature = "kube")]
        config::LeaseStore::Kube(kube) => {
            be_a_node(stores::kube(kube)?, options, previous, stop).await
        }
    }
}

/// Joins the network and serves it.
async fn be_a_node<S>(
    store: S,
    options: Flanneld,
    previous: Previous,
    stop: &mut StopSignals,
) -> Result<Option<Conversation>, FlanneldError>
where
    S: LeaseStore<Known: Known>,
    FlanneldError: From<S::Error>,
{
    let joined = tokio::select! {
        () = stop.asked() => None,
        // Boxed, because it is large.
        node = Box::pin(Node::join(store, options, previous)) => Some(node?),
    };
    match joined {
        Some(node) => node.serve(stop).await,
        None => {
            info!("shutdownHandler sent cancel signal...");
            Ok(None)
        }
    }
}

/// What is there before the node has a subnet: the host's network and the tunnel's place in it.
struct Ground {
    network: Network,
    events: HostEvents,
    external: ExternalInterface,
    /// All addresses of the host.
    local: Vec<IpAddr>,
}

impl Ground {
    /// The device of a predecessor is not looked at.
    async fn prepare(
        options: &Flanneld,
        config: &NetworkConfig,
        predecessor: Option<&str>,
    ) -> Result<Self, FlanneldError> {
        info!("Found network config - Backend type: udp");
        let filters = [
            config.v4.as_ref().map(|_| BRIDGE_FILTER),
            config.v6.as_ref().map(|_| BRIDGE_FILTER_V6),
        ];
        let mut missing =
            filters.into_iter().flatten().filter(|path| !FilePath::new(path).exists());
        if !config.nftables
            && let Some(missing) = missing.next()
        {
            warn!(
                "{missing} does not exist: if containers are on a bridge, load br_netfilter, \
                 or Kubernetes services will not reach those of the same node"
            );
        }
        let (network, events) = Network::connect()?;
        let (mut survey, path) = look(&options.external, &network).await?;
        let kept = kept_devices(&options.interface.name);
        survey.leave_out(|name| Some(name) == predecessor || kept.iter().any(|it| it == name));
        let external =
            external_interface::choose(&options.external, config.networks(), &survey, path)?;
        let local = local(&survey);
        Ok(Self { network, events, external, local })
    }

    /// What the host brings along as a node that was given these addresses.
    fn host(&self, given: Addresses) -> HostAddress {
        let (public_ip, local) = (self.external.public_ip, self.local.clone());
        HostAddress { public_ip, given, local }
    }
}

/// All addresses of the host.
fn local(survey: &Survey) -> Vec<IpAddr> {
    let addresses = survey.interfaces.iter().flat_map(|interface| &interface.addresses);
    addresses.map(|address| address.network.addr()).collect()
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
    subnets: Subnets,
    previous: Previous,
}

impl Member {
    /// The device's addresses.
    fn addresses(&self) -> impl Iterator<Item = IpNet> + use<> {
        self.subnets.iter().map(|subnet| IpNet::from(subnet.addr()))
    }

    fn settings(&self, external: &ExternalInterface) -> io::Result<Settings> {
        let Self { options, config, subnets, .. } = self;
        let address = external.address();
        let addressing = Addressing {
            addresses: self.addresses().collect(),
            mtu: device_mtu(config, external),
            // Container runtimes read it from subnet.env once.
            follows_paths: false,
            listen: (address, config.backend.port).into(),
            listen_v6: external.addresses.v4.and(external.addresses.v6),
            local: subnets.iter().collect(),
        };
        load::settings(&options.interface, addressing)
    }
}

/// The MTU of the device over this interface.
fn device_mtu(config: &NetworkConfig, external: &ExternalInterface) -> Mtu {
    let underlay = config.backend.mtu.map_or(external.mtu, u32::from);
    // Paths over IPv6 beside IPv4 are narrower: senders hear that from the workers.
    let mtu = underlay.saturating_sub(overhead(external.address()).into());
    Mtu::at_most(u16::try_from(mtu).unwrap_or(u16::MAX))
}

/// Brings up the tunnel, with the network routed to it, and what is beside it.
async fn start(
    member: &Member,
    ground: Ground,
    known: &impl Known,
    health: &Arc<Health>,
) -> Result<(Tunnel, Clients), FlanneldError> {
    let Ground { network, events, external, .. } = ground;
    // What a killed node left is not a collision; it is gone with its port.
    let device = &member.options.interface.name;
    let settings = member.settings(&external)?;
    await_port(settings.bound(), device).await?;
    let mut survey = network.survey().await?;
    let kept = kept_devices(device);
    survey.leave_out(|name| kept.iter().any(|it| it == name));
    let networks = member.config.networks();
    for collision in external_interface::collisions(&survey, networks, member.subnets) {
        warn!("{collision}: packets to that address may take the wrong route");
    }
    let addresses = member.addresses().map(|own| own.addr()).collect();
    let reconciler = Reconciler::new(settings.local.clone(), addresses);
    let interface = &member.options.interface;
    let host = (network, events);
    let mut tunnel = Tunnel::start(settings, reconciler, host, (interface.probe(), health)).await?;
    known.show(tunnel.gateway.observer());
    tunnel.install(&networks.iter().collect::<Vec<_>>()).await;
    tunnel.announce("tunnel is up", None);
    beside(member, &mut tunnel).await;
    let socket = socket(member, &tunnel);
    let clients = Clients::serve(&socket, None, Place::Free).unwrap_or_else(|reason| {
        warn!("{reason}: `twill status` will not see this node");
        Clients::none()
    });
    Ok((tunnel, clients))
}

/// Keeps the lease for as long as it is polled.
type Keeping<S> = Pin<Box<dyn Future<Output = Result<(), <S as LeaseStore>::Error>>>>;

/// Where the control socket is.
fn socket(member: &Member, tunnel: &Tunnel) -> PathBuf {
    let named = member.options.interface.socket.clone();
    named.unwrap_or_else(|| default_socket(tunnel.gateway.device()))
}

/// A node of the network.
struct Node<S: LeaseStore> {
    tunnel: Tunnel,
    clients: Clients,
    /// The control socket.
    socket: PathBuf,
    source: LeaseSource<S::Known>,
    keeping: Keeping<S>,
    _pages: Vec<Server>,
}

impl<S> Node<S>
where
    S: LeaseStore<Known: Known>,
    FlanneldError: From<S::Error>,
{
    /// Becomes a node that is ready: in the place of one that runs, or from nothing.
    async fn join(
        store: S,
        mut options: Flanneld,
        previous: Previous,
    ) -> Result<Self, FlanneldError> {
        let health = Arc::new(Health::waiting_for(&[Part::Start, Part::Lease, Part::SubnetFile]));
        if options.succession.take_over
            && let Some(offered) = succeed::ask(&options).await?
        {
            return Box::pin(Self::succeed(store, options, previous, health, offered)).await;
        }
        let pages = serve_pages(&options, &health).await?;
        let config = store.network_config().await?;
        options.external.public_ip = store.public_ip().await?.or(options.external.public_ip);
        let ground = Ground::prepare(&options, &config, None).await?;
        let address = Address::of(&ground, options.external.public_ip);
        let previously = (previous.networks, previous.subnets);
        let node = NodeAddress { host: address.host.subscribe(), previous: previously };
        let Joined { subnets, known, keeping } = Box::pin(store.join(&config, node)).await?;
        let member = Member { options, config, subnets, previous };
        let now = known.borrow().clone();
        let (tunnel, clients) = start(&member, ground, &now, &health).await?;
        let source = LeaseSource::new(&member, known, Arc::clone(&health), address);
        Ok(Self::ready(&member, (tunnel, clients), (source, keeping), health, pages).await)
    }

    /// Writes `subnet.env` and says that all is there.
    async fn ready(
        member: &Member,
        (mut tunnel, clients): (Tunnel, Clients),
        (source, keeping): (LeaseSource<S::Known>, Keeping<S>),
        health: Arc<Health>,
        pages: Vec<Server>,
    ) -> Self {
        let mut file = SubnetFile::of(member, &tunnel.settings, &health);
        file.ensure().await;
        tunnel.tasks.spawn(file.keep());
        health.set(Part::Start, Ok(()));
        info!("Running backend.");
        tell_ready();
        restrict(Programs::Run);
        info!("Watching for new subnet leases");
        health.show(tunnel.gateway.observer());
        let socket = socket(member, &tunnel);
        Self { tunnel, clients, socket, source, keeping, _pages: pages }
    }

    /// Serves until somebody asks for the end, the lease is gone, or a worker fails.
    /// Returns the successor that took over, if one did.
    async fn serve(
        mut self,
        stop: &mut StopSignals,
    ) -> Result<Option<Conversation>, FlanneldError> {
        let ended = self.carry(stop).await;
        self.tunnel.stop().await;
        ended
    }

    async fn carry(
        &mut self,
        stop: &mut StopSignals,
    ) -> Result<Option<Conversation>, FlanneldError> {
        loop {
            let Self { tunnel, clients, socket, source, keeping, .. } = self;
            let ended = tokio::select! {
                ended = &mut *keeping => return Ok(ended.map(|()| None)?),
                ended = serve(tunnel, source, clients, stop) => ended?,
            };
            let Ended::Successor(stream) = ended else {
                info!("shutdownHandler sent cancel signal...");
                return Ok(None);
            };
            // The lease rests meanwhile, so that nothing changes that the successor knows already.
            let bequest = source.bequest(tunnel.reconciler.current());
            let given = handover::give(tunnel, bequest, stream, clients, (socket, None)).await;
            if let Some(successor) = given.map_err(TunnelError::from)? {
                return Ok(Some(successor));
            }
        }
    }
}
