//! `twill run`: a gateway whose peers come from a file and from the control socket.
//!
//! Peers of the file are the file's: a reload makes them what the file says. Peers that came over
//! the control socket stay through a reload, until they are deleted, a sync leaves them out, or the
//! file names them.
//!
//! Every change is either done, with workers and routes, when its answer goes out, or it is not done
//! at all.

mod change;
mod names;
mod reload;

use self::names::Names;
use self::reload::{ApplyFlags, Loaded, Reloads};
use super::clients::{Clients, PeerChange};
use super::handover::{self, Bequest, Offered, TakeOverError, patiently};
use super::health::{Health, Part, Words};
use super::tunnel::{Tunnel, TunnelError};
use super::{
    Ended, PeerSource, ServeError, StopSignals, after, block_on, restrict, serve, tell_ready,
    tell_systemd,
};
use crate::config::Succession;
use crate::config::file::Interface;
use crate::config::load::{LoadError, Standalone, load};
use crate::control::handover::Conversation;
use crate::control::{Place, Response, ServerError};
use crate::host::{HostError, Network};
use crate::subnet::{PeerSet, PeerSpec, Reconciler, TooManyPeers};
use crate::sys::seccomp::Programs;
use crate::telemetry::http::{self, HttpError};
use ipnet::IpNet;
use sd_notify::NotifyState;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{info, warn};

/// Peers whose subnets are compared with the host's addresses and routes at the start, at most.
const SURVEYED_PEERS: usize = 1024;
/// The gateway is ready once its peers are routed.
const WORDS: Words = Words {
    alive: "twill is running\n",
    ready: "twill is ready\n",
    not_ready: "twill is starting\n",
};

/// Why a gateway ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ServerError),
    /// The data plane and its device.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The address for metrics.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Addresses and routes.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The peers of the file.
    #[error(transparent)]
    Peers(#[from] TooManyPeers),
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

/// Runs a gateway until SIGTERM or SIGINT. `flags` applies the command line to the file's words, at
/// the start and at every reload.
///
/// # Errors
/// [`RunError`]; nothing of the gateway is left behind.
pub fn run(
    config: PathBuf,
    flags: impl Fn(&mut Interface) + Send + Sync + 'static,
    succession: Succession,
) -> Result<(), RunError> {
    let loaded = load(&config, &flags)?;
    block_on(async {
        let mut stop = StopSignals::install()?;
        let take_over = succession.take_over;
        let end = until_the_end(loaded, config, Arc::new(flags), take_over, &mut stop);
        let successor = Box::pin(end).await?;
        after(successor, succession, &mut stop).await;
        Ok(())
    })?
}

async fn until_the_end(
    loaded: Standalone,
    config: PathBuf,
    flags: ApplyFlags,
    take_over: bool,
    stop: &mut StopSignals,
) -> Result<Option<Conversation>, RunError> {
    let mut source = FileSource {
        hangup: signal(SignalKind::hangup())?,
        reloads: Reloads::new(std::path::absolute(config)?, flags),
        names: Names::new(loaded.settings.listen, loaded.unresolved.clone()),
        from_file: loaded.names().cloned().collect(),
        interface: loaded.interface.clone(),
    };
    let health = Arc::new(Health::waiting_for(&[Part::Start]));
    let (socket, group, metrics) = (loaded.socket.clone(), loaded.socket_group, loaded.metrics);
    let offered = match take_over {
        true => handover::ask(&socket).await?,
        false => None,
    };
    let (mut tunnel, mut clients, _pages) = match offered {
        Some(offered) => {
            let (tunnel, clients) = succeed(loaded, &source, &health, offered).await?;
            // The predecessor had the address until now.
            (tunnel, clients, patiently(async || pages(metrics, &health).await).await?)
        }
        None => {
            let clients = Clients::serve(&socket, group, Place::Free)?;
            let pages = pages(metrics, &health).await?;
            (start(loaded, &source, &health).await?, clients, pages)
        }
    };
    health.show(tunnel.gateway.observer());
    health.set(Part::Start, Ok(()));
    tunnel.announce("running", Some(tunnel.reconciler.current().len()));
    tell_ready();
    // The rules that go with devices are set by nft.
    let needs_nft = tunnel.settings.fast_path.is_device();
    restrict(if needs_nft { Programs::Run } else { Programs::Never });

    let named = (socket.as_path(), group);
    let ended = carry(&mut tunnel, &mut source, &mut clients, named, stop).await;
    tunnel.stop().await;
    ended
}

/// Serves until the end, whatever its reason. Returns the successor that took over, if one did.
async fn carry(
    tunnel: &mut Tunnel,
    source: &mut FileSource,
    clients: &mut Clients,
    named: (&Path, Option<u32>),
    stop: &mut StopSignals,
) -> Result<Option<Conversation>, RunError> {
    loop {
        let stream = match serve(tunnel, source, clients, stop).await {
            Ok(Ended::Successor(stream)) => stream,
            Ok(Ended::Asked) => {
                info!("stopping");
                tell_systemd(NotifyState::Stopping);
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let bequest = source.bequest(tunnel.reconciler.current());
        match handover::give(tunnel, bequest, stream, clients, named).await {
            Ok(Some(successor)) => return Ok(Some(successor)),
            Ok(None) => {}
            Err(error) => return Err(TunnelError::from(error).into()),
        }
    }
}

async fn pages(
    listen: Option<SocketAddr>,
    health: &Arc<Health>,
) -> Result<Option<http::Server>, HttpError> {
    match listen {
        Some(listen) => Ok(Some(http::serve(listen, health.pages(&WORDS)).await?)),
        None => Ok(None),
    }
}

/// Takes the tunnel over from the gateway that runs, with the peers of the file and those that
/// clients had added.
async fn succeed(
    loaded: Standalone,
    source: &FileSource,
    health: &Arc<Health>,
    offered: Offered,
) -> Result<(Tunnel, Clients), RunError> {
    offered.expect_no_node()?;
    let connected = Network::connect()?;
    warn_of(&loaded, &connected.0).await?;
    let Standalone { settings, peers, probe, socket, socket_group, .. } = loaded;
    let addresses = settings.addresses.iter().map(IpNet::addr).collect();
    let mut reconciler = Reconciler::new(settings.local.clone(), addresses);
    let added = offered.offer().peers.iter().filter(|peer| !source.from_file.contains(&peer.name));
    let all = PeerSet::of(peers.iter().chain(added).cloned())
        .map_err(|error| TakeOverError::Peers(error.to_string()))?;
    reconciler.apply(all)?;
    let routes = source.routes(reconciler.current());
    let named = (socket.as_path(), socket_group);
    let taken = offered.take(settings, reconciler, connected, (probe, health), named, &routes);
    Ok(taken.await?)
}

/// Brings the tunnel up with the peers of the file.
async fn start(
    loaded: Standalone,
    source: &FileSource,
    health: &Arc<Health>,
) -> Result<Tunnel, RunError> {
    let (network, events) = Network::connect()?;
    warn_of(&loaded, &network).await?;
    let Standalone { settings, peers, probe, .. } = loaded;
    let addresses = settings.addresses.iter().map(IpNet::addr).collect();
    let mut reconciler = Reconciler::new(settings.local.clone(), addresses);
    reconciler.apply(peers)?;
    let mut tunnel =
        Tunnel::start(settings, reconciler, (network, events), (probe, health)).await?;
    let routes = source.routes(tunnel.reconciler.current());
    tunnel.install(&routes).await;
    Ok(tunnel)
}

/// A file that is read again when somebody wants it, and the changes that clients make.
struct FileSource {
    reloads: Reloads,
    /// Peers of the file without an address.
    names: Names,
    /// Wants the file to be read again.
    hangup: Signal,
    /// The file's words that are in force.
    interface: Interface,
    /// Names of the peers that came from the file, with or without an address.
    from_file: BTreeSet<String>,
}

/// What a file source learns.
enum News {
    /// The file was read again.
    Loaded(Box<Loaded>),
    /// Peers whose names resolve by now.
    Resolved(Vec<PeerSpec>),
}

impl FileSource {
    /// The peers that clients have added.
    fn added_by_clients(&self, peers: &PeerSet) -> Vec<PeerSpec> {
        peers.iter().filter(|peer| !self.from_file.contains(&peer.name)).cloned().collect()
    }
}

impl PeerSource for FileSource {
    type News = News;

    async fn news(&mut self) -> News {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => self.reloads.want(None),
                loaded = self.reloads.loaded() => return News::Loaded(Box::new(loaded)),
                peers = self.names.resolved() => return News::Resolved(peers),
            }
        }
    }

    async fn apply(&mut self, tunnel: &mut Tunnel, news: News) {
        match news {
            News::Loaded(loaded) => self.finish_reload(tunnel, *loaded).await,
            News::Resolved(peers) => change::add_resolved(tunnel, peers).await,
        }
    }

    async fn change(
        &mut self,
        tunnel: &mut Tunnel,
        change: PeerChange,
        answer: oneshot::Sender<Response>,
    ) {
        self.take(tunnel, change, answer).await;
    }

    fn routes(&self, peers: &PeerSet) -> Vec<IpNet> {
        peers.iter().flat_map(|peer| peer.subnets.iter().copied()).collect()
    }

    fn bequest(&self, peers: &PeerSet) -> Bequest {
        let routes = self.routes(peers);
        Bequest { peers: self.added_by_clients(peers), routes, node: None }
    }

    /// The file names the address: only its author knows another one.
    async fn follow_address(&mut self, _: &mut Tunnel) -> Result<bool, ServeError> {
        Ok(false)
    }
}

/// Says what works, but probably not as it is meant.
async fn warn_of(loaded: &Standalone, network: &Network) -> Result<(), HostError> {
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    if loaded.peers.len() > SURVEYED_PEERS {
        return Ok(());
    }
    let survey = network.survey().await?;
    let ours = &loaded.settings.local;
    for peer in loaded.peers.iter() {
        for collision in peer.subnets.iter().flat_map(|net| survey.inside(*net, ours)) {
            warn!("{collision}, which is behind peer {:?}", peer.name);
        }
    }
    Ok(())
}
