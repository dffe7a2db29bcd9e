//! A node that takes the place of one that runs: device, lease and peers go over, and no store is
//! needed for it.

use super::address::Address;
use super::beside::beside;
use super::leases::{Known, LeaseSource};
use super::{FlanneldError, Ground, Member, Node, serve_pages};
use crate::config::flanneld::Flanneld;
use crate::config::load::{SOCKET_FOLDER, default_socket};
use crate::control::{self, handover};
use crate::gateway::shell::handover::{self as hand, Offered, TakeOverError, named, patiently};
use crate::gateway::shell::health::Health;
use crate::host::Previous;
use crate::subnet::{
    Addresses, Joined, LeaseStore, Memory, MemoryError, NetworkConfig, Reconciler,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tracing::{info, warn};

/// How long a store may take to say whether the network is still the same.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// Asks the node that runs; none if none does.
pub(super) async fn ask(options: &Flanneld) -> Result<Option<Offered>, TakeOverError> {
    match socket(options)? {
        Some(socket) => hand::ask(&socket).await,
        None => Ok(None),
    }
}

/// The control socket of the node that runs. The kernel has numbered its device.
fn socket(options: &Flanneld) -> Result<Option<PathBuf>, TakeOverError> {
    let interface = &options.interface;
    if let Some(socket) = &interface.socket {
        return Ok(Some(socket.clone()));
    }
    if !interface.name.contains("%d") {
        return Ok(Some(default_socket(&interface.name)));
    }
    let mut running = control::running(Path::new(SOCKET_FOLDER));
    let stem =
        |socket: &PathBuf| socket.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    running.retain(|socket| stem(socket).is_some_and(|name| named(&interface.name, &name) == name));
    match &*running {
        [] | [_] => Ok(running.pop()),
        several => {
            let names: Vec<_> = several.iter().filter_map(stem).collect();
            Err(TakeOverError::Several(names.join(", ")))
        }
    }
}

/// What the node that runs says of itself.
struct Predecessor {
    config: NetworkConfig,
    memory: Memory,
}

impl Predecessor {
    fn of(offered: &Offered) -> Result<Self, TakeOverError> {
        let mode = TakeOverError::Mode { theirs: "twill run", ours: "twill flanneld" };
        let handover::Node { config, memory } = offered.offer().node.clone().ok_or(mode)?;
        Ok(Self { config: read(config)?, memory: read(memory)? })
    }
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, MemoryError> {
    serde_json::from_value(value).map_err(|error| MemoryError::Unreadable(error.to_string()))
}

impl<S> Node<S>
where
    S: LeaseStore<Known: Known>,
    FlanneldError: From<S::Error>,
{
    /// Takes the place of the node that runs.
    pub(super) async fn succeed(
        store: S,
        mut options: Flanneld,
        previous: Previous,
        health: Arc<Health>,
        offered: Offered,
    ) -> Result<Self, FlanneldError> {
        let Predecessor { config, memory } = Predecessor::of(&offered)?;
        is_still_so(&store, &config).await?;
        let external = &mut options.external;
        // Those of families that the network does not have are of no use to either.
        let theirs = memory.public_ip;
        let asked = std::mem::replace(&mut external.public_ip, theirs);
        let ours =
            Addresses { v4: theirs.v4.and(asked.v4), v6: theirs.v6.and(asked.v6) }.or(theirs);
        differs("public-ip", theirs, ours)?;
        let device = offered.offer().device.clone();
        let ground = Ground::prepare(&options, &config, Some(&device)).await?;
        // What was found is looked for again when the host has another address.
        options.external.public_ip = memory.given.or(asked);
        let address = Address::of(&ground, options.external.public_ip);
        let Ground { network, events, external, .. } = ground;
        let joined =
            store.resume(&config, address.host.subscribe(), memory).map_err(TakeOverError::from)?;
        let Joined { subnets, known, keeping } = joined;
        info!("Going on with lease ({subnets}) of the node that runs");
        let member = Member { options, config, subnets, previous };
        let settings = member.settings(&external)?;
        let addresses = member.addresses().map(|own| own.addr()).collect();
        let mut reconciler = Reconciler::new(settings.local.clone(), addresses);
        let now = known.borrow().clone();
        reconciler
            .apply(now.peers().clone())
            .map_err(|error| TakeOverError::Peers(error.to_string()))?;
        let interface = &member.options.interface;
        let socket = interface.socket.clone().unwrap_or_else(|| default_socket(&device));
        let (host, watched) = ((network, events), (interface.probe(), &health));
        let routes: Vec<_> = member.config.networks().iter().collect();
        let taken = offered.take(settings, reconciler, host, watched, (&socket, None), &routes);
        let (mut tunnel, clients) = Box::pin(taken).await?;
        now.show(tunnel.gateway.observer());
        tunnel.announce("tunnel is taken over", Some(tunnel.reconciler.current().len()));
        beside(&member, &mut tunnel).await;
        let pages = patiently(async || serve_pages(&member.options, &health).await).await?;
        let source = LeaseSource::new(&member, known, Arc::clone(&health), address);
        Ok(Self::ready(&member, (tunnel, clients), (source, keeping), health, pages).await)
    }
}

/// A hand-over keeps the network's configuration. A store that is away is not waited for.
async fn is_still_so<S>(store: &S, theirs: &NetworkConfig) -> Result<(), FlanneldError>
where
    S: LeaseStore,
    FlanneldError: From<S::Error>,
{
    match timeout(STORE_PATIENCE, store.network_config()).await {
        Ok(ours) => {
            let show = |config: &NetworkConfig| serde_json::json!(config).to_string();
            Ok(differs("the network config", show(theirs), show(&ours?))?)
        }
        Err(_) => {
            warn!("the network config cannot be read now: going on with that of the running node");
            Ok(())
        }
    }
}

fn differs<T: PartialEq + ToString>(
    what: &'static str,
    theirs: T,
    ours: T,
) -> Result<(), TakeOverError> {
    if theirs == ours {
        return Ok(());
    }
    Err(TakeOverError::Differs { what, theirs: theirs.to_string(), ours: ours.to_string() })
}
