//! `twill run`: a gateway whose peers come from a file and from the control socket.
//!
//! Peers of the file are the file's: a reload makes them what the file says. Peers that came over
//! the control socket stay through a reload, until they are deleted, a sync leaves them out, or the
//! file names them.
//!
//! Every change is either done, with workers and routes, when its answer goes out, or it is not done
//! at all.

mod change;
mod reload;

use self::reload::Reloads;
use super::watch::watch;
use super::{Gateway, StartError, WorkerFailure};
use crate::config::file::Interface;
use crate::config::load::{LoadError, Standalone, load};
use crate::control::{self, Call, ServerError};
use crate::host::{HostError, LinkEvent, LinkEvents, Network};
use crate::subnet::{Reconciler, TooManyPeers};
use crate::telemetry::http::{self, Answer, HttpError, Routes};
use crate::telemetry::observer::Observer;
use crate::telemetry::prometheus;
use futures_util::StreamExt;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

/// Peers whose subnets are compared with the host's addresses and routes at the start, at most.
const SURVEYED_PEERS: usize = 1024;

/// Why a gateway ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ServerError),
    /// The data plane.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The address for metrics.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Addresses and routes.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The peers of the file.
    #[error(transparent)]
    Peers(#[from] TooManyPeers),
    /// A worker failed while running.
    #[error(transparent)]
    Worker(#[from] WorkerFailure),
    /// Signals cannot be received, or there is no runtime.
    #[error("setting up the control plane: {0}")]
    Runtime(#[from] io::Error),
}

/// Runs a gateway until SIGTERM or SIGINT. `change` applies the command line to the file's words,
/// at the start and at every reload.
///
/// # Errors
/// [`RunError`]; nothing of the gateway is left behind.
pub fn run(
    config: PathBuf,
    change: impl Fn(&mut Interface) + Send + Sync + 'static,
) -> Result<(), RunError> {
    let loaded = load(&config, &change)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let reloads = Reloads::new(config, Arc::new(change));
    let ended = runtime.block_on(async { Running::start(loaded, reloads).await?.serve().await });
    // A reload may still be waiting for a name server.
    runtime.shutdown_background();
    ended
}

struct Running {
    loaded: Standalone,
    reloads: Reloads,
    gateway: Gateway,
    network: Network,
    links: LinkEvents,
    /// Whether the device is up.
    is_up: bool,
    reconciler: Reconciler,
    /// Names of the peers that came from the file.
    from_file: BTreeSet<String>,
    calls: mpsc::Receiver<Call>,
    _control: control::Served,
    _pages: Option<http::Server>,
    _watch: JoinSet<()>,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Running {
    async fn start(loaded: Standalone, reloads: Reloads) -> Result<Self, RunError> {
        let settings = &loaded.settings;
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        let (ask, calls) = mpsc::channel(control::PENDING_CALLS);
        let served = control::serve(&loaded.socket, loaded.socket_group, ask)?;
        let inside = Arc::new(OnceLock::new());
        let pages = match loaded.metrics {
            Some(listen) => Some(http::serve(listen, pages(&inside)).await?),
            None => None,
        };
        let (network, links) = Network::connect()?;
        warn_of(&loaded, &network).await?;

        let addresses = settings.addresses.iter().map(IpNet::addr).collect();
        let mut reconciler = Reconciler::new(settings.local.clone(), addresses);
        reconciler.apply(loaded.peers.clone())?;
        let gateway = Gateway::start(settings, reconciler.view())?;
        let index = gateway.device_index();
        network.set_queue_length(index, settings.device_queue).await?;
        network.set_up(index).await?;

        let from_file = loaded.peers.iter().map(|peer| peer.name.clone()).collect();
        let running = Self {
            _watch: watch(&gateway, settings, loaded.probe),
            reloads,
            gateway,
            network,
            links,
            is_up: true,
            reconciler,
            from_file,
            calls,
            _control: served,
            _pages: pages,
            terminate,
            interrupt,
            hangup,
            loaded,
        };
        running.install().await?;
        let _ = inside.set(Arc::clone(running.gateway.observer()));
        running.announce();
        Ok(running)
    }

    fn announce(&self) {
        let settings = &self.loaded.settings;
        let (engine, _) = self.gateway.engine();
        info!(
            device = self.gateway.device(),
            listen = %settings.listen,
            mtu = %settings.mtu,
            queues = settings.queues.count(),
            %engine,
            offloads = %self.gateway.features(),
            peers = self.reconciler.current().len(),
            "running"
        );
        // Only means something under systemd; anywhere else nobody listens.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }

    async fn serve(&mut self) -> Result<(), RunError> {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hangup.recv() => self.reloads.want(None),
                loaded = self.reloads.loaded() => self.finish_reload(loaded).await,
                Some(failure) = self.gateway.failed() => return Err(failure.into()),
                Some(call) = self.calls.recv() => self.take(call).await,
                Some(event) = self.links.next() => self.follow(event).await,
            }
        }
        info!("stopping");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        Ok(())
    }

    /// The kernel forgets a device's routes and IPv6 addresses when it goes down.
    async fn follow(&mut self, event: LinkEvent) {
        let (was_up, is_up) = match event {
            LinkEvent::Changed { index, up } if index == self.gateway.device_index() => {
                (self.is_up, up)
            }
            LinkEvent::Changed { .. } => return,
            // It may have gone down and come up again; what is there already does no harm.
            LinkEvent::Missed => (false, true),
        };
        let came_up = is_up && !was_up;
        self.is_up = is_up && event != LinkEvent::Missed;
        if came_up && let Err(error) = self.install().await {
            error!("after the device came up: {error}");
        }
    }

    /// Gives the device its addresses and routes.
    async fn install(&self) -> Result<(), HostError> {
        let index = self.gateway.device_index();
        let peers = self.reconciler.current().iter();
        let subnets: Vec<_> = peers.flat_map(|peer| peer.subnets.iter().copied()).collect();
        self.network.configure(index, &self.loaded.settings.addresses, &subnets).await
    }
}

/// What is served over HTTP; the gateway is ready once it can be looked into.
fn pages(inside: &Arc<OnceLock<Arc<Observer>>>) -> Routes {
    let (ready, metrics) = (Arc::clone(inside), Arc::clone(inside));
    Routes::default()
        .with("/healthz", || Answer::text(200, "twill is running\n"))
        .with("/readyz", move || match ready.get() {
            Some(_) => Answer::text(200, "twill is ready\n"),
            None => Answer::text(503, "twill is starting\n"),
        })
        .with("/metrics", move || prometheus::page(&metrics))
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
    let v4 = |network: &IpNet| match network {
        IpNet::V4(network) => Some(*network),
        IpNet::V6(_) => None,
    };
    let ours: Vec<_> = loaded.settings.local.iter().filter_map(v4).collect();
    for peer in loaded.peers.iter() {
        for collision in
            peer.subnets.iter().filter_map(v4).flat_map(|net| survey.inside(net, &ours))
        {
            warn!("{collision}, which is behind peer {:?}", peer.name);
        }
    }
    Ok(())
}
