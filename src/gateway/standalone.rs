//! `twill run`: a gateway whose peers come from a file and from the control socket.
//!
//! Peers of the file are the file's: a reload makes them what the file says. Peers that came over
//! the control socket stay through a reload, until they are deleted, a sync leaves them out, or the
//! file names them.

use super::watch::watch;
use super::{Gateway, StartError, WorkerFailure};
use crate::config::file::Interface;
use crate::config::load::{LoadError, Standalone, load};
use crate::control::{self, Call, Request, Response, ServerError};
use crate::host::{HostError, LinkEvents, Network};
use crate::subnet::{InvalidPeers, Peer, PeerSet, Reconciler, TooManyPeers};
use crate::telemetry::http::{self, Answer, HttpError, Routes};
use crate::telemetry::observer::Observer;
use crate::telemetry::prometheus;
use futures_util::StreamExt;
use ipnet::IpNet;
use serde_json::json;
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

/// Calls that may wait for the control plane.
const PENDING_CALLS: usize = 16;

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
pub fn run(config: PathBuf, change: impl Fn(&mut Interface)) -> Result<(), RunError> {
    let loaded = load(&config, &change)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { Running::start(loaded, config, &change).await?.serve().await })
}

struct Running<F> {
    config: PathBuf,
    change: F,
    loaded: Standalone,
    gateway: Gateway,
    network: Network,
    links: LinkEvents,
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

impl<F: Fn(&mut Interface)> Running<F> {
    async fn start(loaded: Standalone, config: PathBuf, change: F) -> Result<Self, RunError> {
        let settings = &loaded.settings;
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        let (ask, calls) = mpsc::channel(PENDING_CALLS);
        let served = control::serve(&loaded.socket, ask)?;
        let inside = Arc::new(OnceLock::new());
        let pages = match loaded.metrics {
            Some(listen) => Some(http::serve(listen, pages(&inside)).await?),
            None => None,
        };
        let (network, links) = Network::connect()?;

        let addresses = settings.addresses.iter().map(IpNet::addr).collect();
        let mut reconciler = Reconciler::new(settings.local.clone(), addresses);
        reconciler.apply(loaded.peers.clone())?;
        let gateway = Gateway::start(settings, reconciler.view())?;
        let index = gateway.device_index();
        network.set_queue_length(index, settings.device_queue).await?;
        for address in &settings.addresses {
            network.add_address(index, *address).await?;
        }
        network.set_up(index).await?;

        let from_file = loaded.peers.iter().map(|peer| peer.name.clone()).collect();
        let running = Self {
            config,
            change,
            _watch: watch(&gateway, settings, loaded.probe),
            gateway,
            network,
            links,
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
        running.install_routes().await?;
        let _ = inside.set(Arc::clone(running.gateway.observer()));
        running.announce();
        Ok(running)
    }

    fn announce(&self) {
        let settings = &self.loaded.settings;
        let (engine, reason) = self.gateway.engine();
        info!(
            device = self.gateway.device(),
            listen = %settings.listen,
            mtu = %settings.mtu,
            queues = settings.queues.count(),
            %engine,
            reason,
            offloads = %self.gateway.features(),
            peers = self.reconciler.current().len(),
            "running"
        );
        for offload in self.gateway.offloads().iter().filter(|offload| !offload.on) {
            info!(offload = offload.name, reason = offload.reason, "offload is off");
        }
        // Only means something under systemd; anywhere else nobody listens.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }

    async fn serve(&mut self) -> Result<(), RunError> {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hangup.recv() => match self.reload().await {
                    Ok(()) => info!("reloaded"),
                    Err(error) => error!("not reloaded: {error}"),
                },
                Some(failure) = self.gateway.failed() => return Err(failure.into()),
                Some(call) = self.calls.recv() => {
                    let response = self.answer(call.request).await;
                    // The client may have gone away.
                    let _ = call.answer.send(response);
                }
                Some(event) = self.links.next() => {
                    // The kernel drops a link's routes when it goes down.
                    if event.index == self.gateway.device_index()
                        && event.up
                        && let Err(error) = self.install_routes().await
                    {
                        error!("after the device came up: {error}");
                    }
                }
            }
        }
        info!("stopping");
        Ok(())
    }

    async fn answer(&mut self, request: Request) -> Response {
        let result = match request {
            Request::PeerAdd { peer } => self.add(peer).await,
            Request::PeerDel { which } => self.delete(&which).await,
            Request::PeerSync { peers } => self.sync(peers).await,
            Request::PeerList => {
                let peers: Vec<_> = self.reconciler.current().iter().collect();
                Ok(json!(peers))
            }
            Request::Reload => self.reload().await.map(|()| json!({})),
            Request::Status => Ok(json!(self.gateway.observer().snapshot())),
            Request::Histograms => Ok(json!(self.gateway.observer().histograms())),
        };
        result.map_or_else(|error| Response::Error(error.to_string()), Response::Ok)
    }

    async fn add(&mut self, mut peer: Peer) -> Result<serde_json::Value, ChangeError> {
        if peer.endpoint.port() == 0 {
            peer.endpoint.set_port(self.loaded.settings.listen.port());
        }
        if peer.subnets.is_empty() {
            return Err(ChangeError::NoSubnets(peer.name));
        }
        peer.subnets = peer.subnets.iter().map(IpNet::trunc).collect();
        let mut wanted = self.reconciler.current().clone();
        wanted.insert(peer);
        self.make(wanted).await
    }

    async fn delete(&mut self, which: &str) -> Result<serde_json::Value, ChangeError> {
        let mut wanted = self.reconciler.current().clone();
        let subnet = which.parse::<IpNet>().ok().map(|subnet| subnet.trunc());
        let named = wanted.find(which).or_else(|| {
            let subnet = subnet?;
            wanted.iter().find(|peer| peer.subnets.contains(&subnet))
        });
        if let Some(name) = named.map(|peer| peer.name.clone()) {
            wanted.remove(&name);
        }
        self.make(wanted).await
    }

    async fn sync(&mut self, peers: Vec<Peer>) -> Result<serde_json::Value, ChangeError> {
        let port = self.loaded.settings.listen.port();
        let wanted = peers.into_iter().map(|mut peer| {
            if peer.endpoint.port() == 0 {
                peer.endpoint.set_port(port);
            }
            peer
        });
        self.make(wanted.collect()).await
    }

    async fn reload(&mut self) -> Result<(), ChangeError> {
        let loaded = load(&self.config, &self.change)?;
        if loaded.settings != self.loaded.settings || loaded.socket != self.loaded.socket {
            warn!("[interface] has changed; that needs a restart, only peers are reloaded");
        }
        let kept = self.reconciler.current().iter();
        let mut wanted: PeerSet =
            kept.filter(|peer| !self.from_file.contains(&peer.name)).cloned().collect();
        for peer in loaded.peers.iter() {
            wanted.insert(peer.clone());
        }
        let from_file = loaded.peers.iter().map(|peer| peer.name.clone()).collect();
        self.make(wanted).await?;
        self.from_file = from_file;
        Ok(())
    }

    /// Makes the peers these: workers first, so that no packet is routed here before it can be
    /// sent, then routes.
    async fn make(&mut self, wanted: PeerSet) -> Result<serde_json::Value, ChangeError> {
        let settings = &self.loaded.settings;
        wanted.check(settings.listen, &settings.local)?;
        let change = self.reconciler.apply(wanted)?;
        if !change.is_empty() {
            self.gateway.publish(self.reconciler.view());
            let index = self.gateway.device_index();
            for network in &change.routes_added {
                self.network.add_route(index, *network).await?;
            }
            for network in &change.routes_removed {
                self.network.remove_route(index, *network).await?;
            }
            info!(changed = ?change.upserted, removed = ?change.removed, "peers");
        }
        Ok(json!({ "changed": change.upserted, "removed": change.removed }))
    }

    async fn install_routes(&self) -> Result<(), HostError> {
        let index = self.gateway.device_index();
        for subnet in self.reconciler.current().iter().flat_map(|peer| &peer.subnets) {
            self.network.add_route(index, *subnet).await?;
        }
        Ok(())
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

/// Why peers were not changed.
#[derive(Debug, thiserror::Error)]
enum ChangeError {
    #[error(transparent)]
    Invalid(#[from] InvalidPeers),
    #[error("peer {0:?} has no subnets: nothing would go there")]
    NoSubnets(String),
    #[error(transparent)]
    TooMany(#[from] TooManyPeers),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Load(#[from] LoadError),
}
