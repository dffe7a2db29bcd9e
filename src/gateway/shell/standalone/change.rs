//! What clients and reloads change.

use super::FileSource;
use super::reload::Loaded;
use crate::config::file::OnReload;
use crate::config::load::{LoadError, Standalone, misplaced};
use crate::control::Response;
use crate::gateway::shell::PeerSource;
use crate::gateway::shell::clients::PeerChange;
use crate::gateway::shell::tunnel::Tunnel;
use crate::host::HostError;
use crate::subnet::{InvalidPeers, PeerDiff, PeerSet, PeerSpec, Site, TooManyPeers};
use crate::telemetry::news;
use ipnet::IpNet;
use serde_json::json;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

/// Why peers were not changed.
#[derive(Debug, thiserror::Error)]
enum ChangeError {
    #[error(transparent)]
    Invalid(#[from] InvalidPeers),
    #[error("peer {0:?} has no subnets: a peer without subnets receives no packets")]
    NoSubnets(String),
    #[error("invalid peer name {0:?}: it must not be empty or contain whitespace")]
    Name(String),
    #[error(
        "[interface] has changed in {0}: a reload cannot change that, and nothing is reloaded: \
         restart the gateway"
    )]
    Restart(String),
    #[error(transparent)]
    TooMany(#[from] TooManyPeers),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl FileSource {
    /// Does what a client wants, and answers.
    pub(super) async fn take(
        &mut self,
        tunnel: &mut Tunnel,
        change: PeerChange,
        answer: oneshot::Sender<Response>,
    ) {
        let result = match change {
            PeerChange::Add(peer) => add(tunnel, peer).await,
            PeerChange::Delete(which) => {
                self.names.forget(&which);
                delete(tunnel, &which).await
            }
            PeerChange::Sync(peers) => {
                let synced = sync(tunnel, peers).await;
                if synced.is_ok() {
                    self.names.replace(Vec::new());
                }
                synced
            }
            PeerChange::Reload => return self.reloads.want(Some(answer)),
            PeerChange::Origin => {
                let unresolved: Vec<_> = self.names.waiting().collect();
                let origin = json!({"file": self.reloads.config(), "unresolved": unresolved});
                let _ = answer.send(Response::Ok(origin));
                return;
            }
        };
        // The client may have gone away.
        let _ = answer.send(response(result));
    }

    /// Applies what a reload has read, and tells those who wait for it.
    pub(super) async fn finish_reload(&mut self, tunnel: &mut Tunnel, (loaded, waiting): Loaded) {
        let result = match loaded {
            Ok(loaded) => {
                let reloaded = self.reload(tunnel, loaded).await;
                tunnel.restore(&self.routes(tunnel.reconciler.current())).await;
                reloaded
            }
            Err(mistakes) => Err(mistakes.into()),
        };
        match &result {
            Ok(_) => info!("reloaded"),
            Err(reason) => error!("not reloaded: {reason}"),
        }
        let response = match result {
            Ok((change, restart)) => {
                let PeerDiff { changed, removed, .. } = change;
                Response::Ok(json!({"changed": changed, "removed": removed, "restart": restart}))
            }
            // A client shows its user the lines of the file.
            Err(error) => Response::Error(format!("not reloaded: {error:#}")),
        };
        for answer in waiting {
            let _ = answer.send(response.clone());
        }
    }

    async fn reload(
        &mut self,
        tunnel: &mut Tunnel,
        loaded: Standalone,
    ) -> Result<(PeerDiff, Vec<&'static str>), ChangeError> {
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        let changed = self.interface.differences(&loaded.interface);
        let those = |effect| changed.iter().copied().filter(move |key| OnReload::of(key) == effect);
        let refused: Vec<_> = those(OnReload::Refuse).collect();
        if !refused.is_empty() {
            return Err(ChangeError::Restart(refused.join(", ")));
        }
        let restart: Vec<_> = those(OnReload::Restart).collect();
        for key in &restart {
            warn!("[interface] {key} has changed: restart the gateway to apply it");
        }
        let kept = tunnel.reconciler.current().iter();
        let mut wanted: PeerSet =
            kept.filter(|peer| !self.from_file.contains(&peer.name)).cloned().collect();
        for peer in loaded.peers.iter() {
            wanted.insert(peer.clone());
        }
        // A name that does not resolve at the moment takes no known peer away.
        let current = tunnel.reconciler.current();
        let known = loaded.unresolved.iter().filter_map(|peer| current.find(&peer.name));
        for peer in known {
            wanted.insert(peer.clone());
        }
        let done = make(tunnel, wanted).await?;
        self.from_file = loaded.names().cloned().collect();
        self.names.replace(loaded.unresolved);
        tunnel.set_queue_length(loaded.interface.device_queue).await?;
        self.interface.device_queue = loaded.interface.device_queue;
        Ok((done, restart))
    }
}

/// Adds peers of the file whose names resolve by now; each by itself, as one that cannot be must
/// keep no other one out.
pub(super) async fn add_resolved(tunnel: &mut Tunnel, peers: Vec<PeerSpec>) {
    for peer in peers {
        let (name, endpoint) = (peer.name.clone(), peer.endpoint);
        match add(tunnel, peer).await {
            Ok(_) => info!(peer = name, %endpoint, "the name resolves"),
            Err(reason) => error!("peer {name:?} is left out: {reason}"),
        }
    }
}

async fn add(tunnel: &mut Tunnel, peer: PeerSpec) -> Result<PeerDiff, ChangeError> {
    let peer = completed(tunnel, peer)?;
    let mut wanted = tunnel.reconciler.current().clone();
    wanted.insert(peer);
    make(tunnel, wanted).await
}

async fn delete(tunnel: &mut Tunnel, which: &str) -> Result<PeerDiff, ChangeError> {
    let mut wanted = tunnel.reconciler.current().clone();
    let subnet = which.parse::<IpNet>().ok().map(|subnet| subnet.trunc());
    let named = wanted.find(which).or_else(|| {
        let subnet = subnet?;
        wanted.iter().find(|peer| peer.subnets.contains(&subnet))
    });
    if let Some(name) = named.map(|peer| peer.name.clone()) {
        wanted.remove(&name);
    }
    make(tunnel, wanted).await
}

async fn sync(tunnel: &mut Tunnel, peers: Vec<PeerSpec>) -> Result<PeerDiff, ChangeError> {
    let peers = peers.into_iter().map(|peer| completed(tunnel, peer));
    let peers = peers.collect::<Result<Vec<_>, _>>()?;
    make(tunnel, PeerSet::of(peers)?).await
}

/// A client's peer as the file's are: port 0 stands for our own, networks have no host bits.
fn completed(tunnel: &Tunnel, mut peer: PeerSpec) -> Result<PeerSpec, ChangeError> {
    if peer.name.is_empty() || peer.name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(ChangeError::Name(peer.name));
    }
    if peer.subnets.is_empty() {
        return Err(ChangeError::NoSubnets(peer.name));
    }
    if peer.endpoint.port() == 0 {
        peer.endpoint.set_port(tunnel.settings.listen.port());
    }
    peer.subnets = peer.subnets.iter().map(IpNet::trunc).collect();
    Ok(peer)
}

/// Makes the peers these: workers first, so that no packet is routed here before it can be sent, then
/// routes. When a route cannot be had, everything is as before.
async fn make(tunnel: &mut Tunnel, wanted: PeerSet) -> Result<PeerDiff, ChangeError> {
    let settings = &tunnel.settings;
    wanted.check(Site { listen: settings.listen, local: &settings.local })?;
    for peer in wanted.iter() {
        let known = tunnel.reconciler.current().find(&peer.name);
        let moved = known.is_none_or(|known| known.endpoint != peer.endpoint);
        if moved && let Some(reason) = misplaced(peer, settings.listen) {
            return Err(reason.into());
        }
    }
    let before = tunnel.reconciler.current().clone();
    let change = tunnel.set_peers(wanted)?;
    if change.is_empty() {
        return Ok(change);
    }
    let index = tunnel.gateway.device_index();
    if let Err(refused) = tunnel.network.add_routes(index, &change.routes_added).await {
        remove_routes(tunnel, &change.routes_added).await;
        tunnel.set_peers(before)?;
        return Err(refused.into());
    }
    remove_routes(tunnel, &change.routes_removed).await;
    tell(&change, &before);
    Ok(change)
}

async fn remove_routes(tunnel: &Tunnel, networks: &[IpNet]) {
    let index = tunnel.gateway.device_index();
    for network in networks {
        if let Err(reason) = tunnel.network.remove_route(index, *network).await {
            warn!("{reason}");
        }
    }
}

fn response(result: Result<PeerDiff, ChangeError>) -> Response {
    match result {
        Ok(change) => Response::Ok(json!(change)),
        Err(error) => Response::Error(error.to_string()),
    }
}

fn tell(change: &PeerDiff, before: &PeerSet) {
    let is_new = |name: &&String| before.find(name).is_none();
    let (new, changed): (Vec<_>, Vec<_>) = change.changed.iter().partition(is_new);
    let removed = change.removed.iter().collect();
    for (names, one, many) in [
        (new, "new peer", "new peers"),
        (changed, "peer changed", "peers changed"),
        (removed, "peer removed", "peers removed"),
    ] {
        let (name, number) = (|peer| info!(peer, "{one}"), |count| info!(count, "{many}"));
        news::tell(names.into_iter(), name, number);
    }
}
