//! What clients and reloads change.

use super::Running;
use super::reload::Loaded;
use crate::config::load::{LoadError, Standalone, is_ourselves};
use crate::control::{Call, Request, Response};
use crate::host::HostError;
use crate::subnet::{self, InvalidPeers, Peer, PeerSet, Site, TooManyPeers};
use ipnet::IpNet;
use serde_json::json;
use tracing::{error, info, warn};

/// Changes that are logged one by one; of more at a time only the number.
const NAMED_CHANGES: usize = 16;

/// Why peers were not changed.
#[derive(Debug, thiserror::Error)]
enum ChangeError {
    #[error(transparent)]
    Invalid(#[from] InvalidPeers),
    #[error("peer {0:?} has no subnets: nothing would go there")]
    NoSubnets(String),
    #[error("a peer's name is one word, and {0:?} is none")]
    Name(String),
    #[error(transparent)]
    TooMany(#[from] TooManyPeers),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl Running {
    /// Does what a client wants, and answers.
    pub(super) async fn take(&mut self, call: Call) {
        let result = match call.request {
            Request::PeerAdd { peer } => self.add(peer).await,
            Request::PeerDel { which } => self.delete(&which).await,
            Request::PeerSync { peers } => self.sync(peers).await,
            Request::PeerList => {
                let peers: Vec<_> = self.reconciler.current().iter().collect();
                Ok(json!(peers))
            }
            Request::Reload => return self.reloads.want(Some(call.answer)),
            Request::Status => Ok(json!(self.gateway.observer().snapshot())),
            Request::Histograms => Ok(json!(self.gateway.observer().histograms())),
        };
        // The client may have gone away.
        let _ = call.answer.send(response(result));
    }

    async fn add(&mut self, peer: Peer) -> Result<serde_json::Value, ChangeError> {
        let peer = self.completed(peer)?;
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
        let peers = peers.into_iter().map(|peer| self.completed(peer));
        let peers = peers.collect::<Result<Vec<_>, _>>()?;
        self.make(PeerSet::of(peers)?).await
    }

    /// A client's peer as the file's are: port 0 stands for our own, networks have no host bits.
    fn completed(&self, mut peer: Peer) -> Result<Peer, ChangeError> {
        if peer.name.is_empty() || peer.name.contains(|c: char| c.is_whitespace() || c.is_control())
        {
            return Err(ChangeError::Name(peer.name));
        }
        if peer.subnets.is_empty() {
            return Err(ChangeError::NoSubnets(peer.name));
        }
        if peer.endpoint.port() == 0 {
            peer.endpoint.set_port(self.loaded.settings.listen.port());
        }
        peer.subnets = peer.subnets.iter().map(IpNet::trunc).collect();
        Ok(peer)
    }

    /// Applies what a reload has read, and tells those who wait for it.
    pub(super) async fn finish_reload(&mut self, (loaded, waiting): Loaded) {
        let result = match loaded {
            Ok(loaded) => self.reload(loaded).await,
            Err(mistakes) => Err(mistakes.into()),
        };
        match &result {
            Ok(_) => info!("reloaded"),
            Err(reason) => error!("not reloaded: {reason}"),
        }
        let response = response(result);
        for answer in waiting {
            let _ = answer.send(response.clone());
        }
    }

    async fn reload(&mut self, loaded: Standalone) -> Result<serde_json::Value, ChangeError> {
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        let changed = self.loaded.interface.differences(&loaded.interface);
        if !changed.is_empty() {
            let keys = changed.join(", ");
            warn!("[interface] has changed in {keys}: that needs a restart, peers are reloaded");
        }
        let kept = self.reconciler.current().iter();
        let mut wanted: PeerSet =
            kept.filter(|peer| !self.from_file.contains(&peer.name)).cloned().collect();
        for peer in loaded.peers.iter() {
            wanted.insert(peer.clone());
        }
        // A name that does not resolve at the moment takes no known peer away.
        let current = self.reconciler.current();
        let known = loaded.unresolved.iter().filter_map(|peer| current.find(&peer.name)).cloned();
        for peer in known.collect::<Vec<_>>() {
            wanted.insert(peer);
        }
        let done = self.make(wanted).await?;
        let unresolved = loaded.unresolved.iter().map(|peer| &peer.name);
        let names = loaded.peers.iter().map(|peer| &peer.name).chain(unresolved);
        self.from_file = names.cloned().collect();
        Ok(done)
    }

    /// Makes the peers these: workers first, so that no packet is routed here before it can be
    /// sent, then routes. When a route cannot be had, everything is as before.
    async fn make(&mut self, wanted: PeerSet) -> Result<serde_json::Value, ChangeError> {
        let settings = &self.loaded.settings;
        let site = Site { listen: settings.listen, local: &settings.local };
        wanted.check(site)?;
        for peer in wanted.iter() {
            let known = self.reconciler.current().find(&peer.name);
            let moved = known.is_none_or(|known| known.endpoint != peer.endpoint);
            if moved && is_ourselves(peer.endpoint, settings.listen) {
                return Err(InvalidPeers::Ourselves(peer.name.clone()).into());
            }
        }
        let before = self.reconciler.current().clone();
        let change = self.reconciler.apply(wanted)?;
        if change.is_empty() {
            return Ok(json!(change));
        }
        self.gateway.publish(self.reconciler.view());
        let index = self.gateway.device_index();
        if let Err(refused) = self.network.add_routes(index, &change.routes_added).await {
            self.remove_routes(&change.routes_added).await;
            self.reconciler.apply(before)?;
            self.gateway.publish(self.reconciler.view());
            return Err(refused.into());
        }
        self.remove_routes(&change.routes_removed).await;
        tell(&change, &before);
        Ok(json!(change))
    }

    async fn remove_routes(&self, networks: &[IpNet]) {
        let index = self.gateway.device_index();
        for network in networks {
            if let Err(reason) = self.network.remove_route(index, *network).await {
                warn!("{reason}");
            }
        }
    }
}

fn response(result: Result<serde_json::Value, ChangeError>) -> Response {
    result.map_or_else(|error| Response::Error(error.to_string()), Response::Ok)
}

fn tell(change: &subnet::Change, before: &PeerSet) {
    let is_new = |name: &&String| before.find(name).is_none();
    let (new, changed): (Vec<_>, Vec<_>) = change.changed.iter().partition(is_new);
    let removed = change.removed.iter().collect();
    for (names, one, many) in [
        (new, "new peer", "new peers"),
        (changed, "peer changed", "peers changed"),
        (removed, "peer removed", "peers removed"),
    ] {
        match names.len() {
            ..=NAMED_CHANGES => names.iter().for_each(|peer| info!(peer, "{one}")),
            count => info!(count, "{many}"),
        }
    }
}
