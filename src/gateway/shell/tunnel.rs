//! A data plane and its place in the host: peers, addresses, routes, and those who watch over it.

use super::fast_path;
use super::health::{Health, Part};
use super::neighbours;
use super::watch::Watch;
#[cfg(feature = "etcd")]
use crate::config::Addresses;
use crate::config::load;
use crate::config::{Mtu, Settings};
use crate::gateway::resources::blocking;
use crate::gateway::run::{Gateway, StartError};
use crate::host::{HostError, HostEvents, Network};
use crate::subnet::{PeerDiff, PeerSet, Reconciler, TooManyPeers};
use crate::telemetry::probe::Prober;
use crate::telemetry::{drops, news, silence};
use ipnet::IpNet;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

/// What is missing is named one by one up to this many.
const NAMED: usize = 16;

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The data plane.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Links, addresses and routes.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// A data plane in its host.
pub(super) struct Tunnel {
    pub(super) settings: Settings,
    pub(super) gateway: Gateway,
    pub(super) reconciler: Reconciler,
    pub(super) network: Network,
    pub(super) events: HostEvents,
    /// When the host is compared with what the tunnel needs.
    pub(super) watch: Watch,
    health: Arc<Health>,
    /// What goes on beside the loop; it ends with the tunnel.
    pub(super) tasks: JoinSet<()>,
}

impl Tunnel {
    /// Starts the data plane and brings its device up. Addresses and routes are still missing.
    pub(super) async fn start(
        settings: Settings,
        reconciler: Reconciler,
        (network, events): (Network, HostEvents),
        (probe, health): (Option<Duration>, &Arc<Health>),
    ) -> Result<Self, TunnelError> {
        let gateway = Gateway::start(&settings, reconciler.view()).await?;
        Self::around(gateway, settings, reconciler, (network, events), (probe, health)).await
    }

    /// Brings the device of a gateway up, which it may be already.
    pub(super) async fn around(
        gateway: Gateway,
        settings: Settings,
        reconciler: Reconciler,
        (network, events): (Network, HostEvents),
        (probe, health): (Option<Duration>, &Arc<Health>),
    ) -> Result<Self, TunnelError> {
        let tasks = JoinSet::new();
        let watch = Watch::new(gateway.device_index(), settings.sources(), settings.follows_paths);
        let health = Arc::clone(health);
        let mut tunnel =
            Self { settings, gateway, reconciler, network, events, watch, health, tasks };
        let up = match tunnel.bring_up().await {
            Ok(()) => tunnel.gateway.start_fast_path().await.map_err(TunnelError::from),
            Err(refused) => Err(refused.into()),
        };
        match up {
            Ok(()) => {
                tunnel.look_after(probe);
                Ok(tunnel)
            }
            Err(refused) => {
                tunnel.stop().await;
                Err(refused)
            }
        }
    }

    async fn bring_up(&self) -> Result<(), HostError> {
        let index = self.gateway.device_index();
        self.network.set_queue_length(index, self.settings.device_queue).await?;
        self.network.set_up(index).await
    }

    /// Logs drops, and probes peers if there is an interval to do so.
    fn look_after(&mut self, probe: Option<Duration>) {
        self.watch_fast_path();
        let observer = self.gateway.observer();
        self.tasks.spawn(drops::watch(Arc::clone(observer)));
        self.tasks.spawn(neighbours::watch(Arc::clone(observer)));
        let Some(every) = probe else { return };
        let sources: Vec<_> = self.settings.addresses.iter().map(IpNet::addr).collect();
        // Answers do not come in by the TUN device where others carry packets.
        let is_device = self.settings.fast_path.is_device();
        let device = (!is_device).then(|| self.gateway.device());
        match Prober::open(device, &sources, every) {
            Ok(prober) => {
                self.tasks.spawn(prober.run(Arc::clone(observer)));
                self.tasks.spawn(silence::watch(Arc::clone(observer)));
            }
            Err(error) => warn!("peers are not probed: opening an ICMP socket: {error}"),
        }
    }

    /// Sets how many packets may wait for the device.
    pub(super) async fn set_queue_length(&mut self, packets: u32) -> Result<(), HostError> {
        if packets != self.settings.device_queue {
            self.network.set_queue_length(self.gateway.device_index(), packets).await?;
            self.settings.device_queue = packets;
        }
        Ok(())
    }

    /// Gives the device its addresses and routes, all that the host takes. What it refuses is logged,
    /// keeps the gateway from being ready, and is tried again.
    pub(super) async fn install(&mut self, routes: &[IpNet]) {
        let index = self.gateway.device_index();
        if self.gateway.has_adopted() {
            let pruned = self.network.prune(index, &self.settings.addresses, routes).await;
            if let Err(reason) = pruned {
                error!("{reason}");
            }
        }
        let done = self.network.configure(index, &self.settings.addresses, routes).await;
        if done.is_err() {
            self.restore(routes).await;
        }
    }

    /// Makes what a predecessor left fit: MTU, and routes of which it had others.
    pub(super) async fn adopt(&mut self, before: &[IpNet], routes: &[IpNet]) {
        let index = self.gateway.device_index();
        if let Err(reason) = self.network.set_mtu(index, self.settings.mtu.bytes()).await {
            error!("{reason}");
        }
        let wanted: HashSet<_> = routes.iter().collect();
        for stale in before.iter().filter(|network| !wanted.contains(network)) {
            if let Err(reason) = self.network.remove_route(index, *stale).await {
                error!("{reason}");
            }
        }
        self.restore(routes).await;
    }

    /// Makes these the peers and has workers look them up; says what that changed.
    pub(super) fn set_peers(&mut self, wanted: PeerSet) -> Result<PeerDiff, TooManyPeers> {
        let change = self.reconciler.apply(wanted)?;
        if !change.is_empty() {
            self.gateway.publish(self.reconciler.view());
        }
        Ok(change)
    }

    /// Compares the host with what the tunnel needs, puts back what is missing, and tells. What
    /// cannot be put back is tried again at the next comparison.
    pub(super) async fn restore(&mut self, routes: &[IpNet]) {
        if self.watch.take_paths_changed()
            && let Err(reason) = self.follow_paths().await
        {
            error!("{reason}");
        }
        let missing = match self.put_back(routes).await {
            Ok(missing) => missing,
            Err(reason) => vec![reason.to_string()],
        };
        if self.watch.found(missing) {
            match self.watch.missing() {
                [] => info!("all missing addresses and routes are restored"),
                missing => missing.iter().for_each(|reason| error!("missing: {reason}")),
            }
        }
        let missing = self.watch.missing();
        let state = if missing.is_empty() { Ok(()) } else { Err(missing.join("\n")) };
        self.health.set(Part::Host, state);
    }

    /// Receives at other addresses of the host from now on, of the same families.
    #[cfg(feature = "etcd")]
    pub(super) async fn move_to(&mut self, now: Addresses) -> Result<(), StartError> {
        self.gateway.move_to(now).await?;
        self.settings = self.settings.at(now);
        self.watch.set_listen(now);
        self.watch_fast_path();
        Ok(())
    }

    fn watch_fast_path(&mut self) {
        if let Some(fast) = self.gateway.fast_path() {
            self.tasks.spawn(fast_path::watch(fast.clone()));
        }
    }

    /// Gives the device the MTU that fits the paths to peers now, as far as buffers have room.
    async fn follow_paths(&mut self) -> Result<(), HostError> {
        let listen = self.settings.listen;
        let peers: Vec<_> = self.reconciler.current().iter().map(|peer| peer.endpoint).collect();
        let fits = blocking(move || load::path_mtu(listen, &peers)).await;
        let has_v6 = self.settings.addresses.iter().any(|net| net.addr().is_ipv6());
        let least = if has_v6 { load::MIN_MTU_V6 } else { 0 };
        let mtu = fits.min(self.settings.largest_mtu()).max(Mtu::at_most(least));
        let before = self.settings.mtu;
        if mtu != before {
            self.network.set_mtu(self.gateway.device_index(), mtu.bytes()).await?;
            self.settings.mtu = mtu;
            self.gateway.observer().set_mtu(mtu.bytes());
            if let Some(fast) = self.gateway.fast_path() {
                fast.set_mtu(mtu.bytes());
            }
            let device = self.gateway.device();
            info!(
                "MTU of {device} changed from {before} to {mtu}: the path MTU to the peers changed"
            );
        }
        Ok(())
    }

    /// Puts addresses and routes back; returns what is missing nevertheless, a sentence each.
    async fn put_back(&mut self, routes: &[IpNet]) -> Result<Vec<String>, HostError> {
        let index = self.gateway.device_index();
        let there = self.network.addresses().await?;
        let mut missing = Vec::new();
        let receives = self.settings.sources().iter().filter(|address| !address.is_unspecified());
        let gone = receives.filter(|address| !there.iter().any(|(_, own)| own.addr() == *address));
        missing.extend(
            gone.map(|lost| format!("this host has lost {lost}, at which the gateway receives")),
        );
        self.watch.set_lost(!missing.is_empty());
        let lost = self.settings.addresses.iter().filter(|net| !there.contains(&(index, **net)));
        let mut restored = Vec::new();
        for address in lost {
            match self.network.add_address(index, *address).await {
                Ok(()) => restored.push(format!("address {address}")),
                Err(reason) => missing.push(reason.to_string()),
            }
        }
        if !self.watch.is_up() {
            let device = self.gateway.device();
            missing.push(format!("device {device} is down: run `ip link set {device} up`"));
            return Ok(self.told(restored, missing));
        }
        for network in self.network.unrouted(index, routes).await? {
            match self.network.add_routes(index, &[network]).await {
                Ok(()) => restored.push(format!("route {network}")),
                Err(reason) => missing.push(reason.to_string()),
            }
        }
        Ok(self.told(restored, missing))
    }

    /// Logs what was restored, and keeps of what is missing as much as anybody reads.
    fn told(&self, restored: Vec<String>, mut missing: Vec<String>) -> Vec<String> {
        let device = self.gateway.device();
        let one = |what| warn!("restored {what} of {device}: something had removed it");
        let many = |count| warn!("restored {count} routes and addresses of {device}");
        news::tell(restored.iter(), one, many);
        let more = missing.len().saturating_sub(NAMED);
        if more > 0 {
            missing.truncate(NAMED);
            missing.push(format!("and {more} more routes and addresses"));
        }
        missing
    }

    /// Says what runs now; `peers` where they are known already.
    pub(super) fn announce(&self, what: &str, peers: Option<usize>) {
        let settings = &self.settings;
        let (engine, _) = self.gateway.engine();
        info!(
            device = self.gateway.device(),
            listen = %settings.listen,
            mtu = %settings.mtu,
            queues = settings.queues.count(),
            %engine,
            offloads = %self.gateway.features(),
            peers,
            "{what}"
        );
    }

    /// Ends it. The device is gone then.
    pub(super) async fn stop(self) {
        drop(self.tasks);
        self.gateway.stop().await.close().await;
    }
}
