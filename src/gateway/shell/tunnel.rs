//! A data plane and its place in the host: peers, addresses, routes, and those who watch over it.

use crate::config::Settings;
use crate::gateway::run::{Gateway, StartError};
use crate::host::{HostError, LinkEvent, LinkEvents, Network};
use crate::subnet::{Change, PeerSet, Reconciler, TooManyPeers};
use crate::telemetry::drops;
use crate::telemetry::probe::Prober;
use ipnet::IpNet;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tracing::{info, warn};

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
    pub(super) links: LinkEvents,
    /// Whether the device is up.
    is_up: bool,
    /// What goes on beside the loop; it ends with the tunnel.
    pub(super) tasks: JoinSet<()>,
}

impl Tunnel {
    /// Starts the data plane and brings its device up. Addresses and routes are still missing.
    pub(super) async fn start(
        settings: Settings,
        reconciler: Reconciler,
        (network, links): (Network, LinkEvents),
        probe: Option<Duration>,
    ) -> Result<Self, TunnelError> {
        let gateway = Gateway::start(&settings, reconciler.view()).await?;
        let tasks = JoinSet::new();
        let mut tunnel = Self { settings, gateway, reconciler, network, links, is_up: true, tasks };
        match tunnel.bring_up().await {
            Ok(()) => {
                tunnel.watch(probe);
                Ok(tunnel)
            }
            Err(refused) => {
                tunnel.stop().await;
                Err(refused.into())
            }
        }
    }

    async fn bring_up(&self) -> Result<(), HostError> {
        let index = self.gateway.device_index();
        self.network.set_queue_length(index, self.settings.device_queue).await?;
        self.network.set_up(index).await
    }

    /// Logs drops, and probes peers if there is an interval to do so.
    fn watch(&mut self, probe: Option<Duration>) {
        let observer = self.gateway.observer();
        self.tasks.spawn(drops::watch(Arc::clone(observer)));
        let (Some(every), Some(source)) = (probe, self.settings.first_v4()) else { return };
        match Prober::open(self.gateway.device(), source.addr(), every) {
            Ok(prober) => {
                self.tasks.spawn(prober.run(Arc::clone(observer)));
            }
            Err(error) => warn!("peers are not probed: opening an ICMP socket: {error}"),
        }
    }

    /// Gives the device its addresses and routes; those that are there already do no harm.
    pub(super) async fn install(&self, routes: &[IpNet]) -> Result<(), HostError> {
        let index = self.gateway.device_index();
        self.network.configure(index, &self.settings.addresses, routes).await
    }

    /// Makes these the peers and has workers look them up; says what that changed.
    pub(super) fn set_peers(&mut self, wanted: PeerSet) -> Result<Change, TooManyPeers> {
        let change = self.reconciler.apply(wanted)?;
        if !change.is_empty() {
            self.gateway.publish(self.reconciler.view());
        }
        Ok(change)
    }

    /// Whether the device is up again: the kernel has forgotten its routes and IPv6 addresses.
    pub(super) fn came_up(&mut self, event: LinkEvent) -> bool {
        let (was_up, is_up) = match event {
            LinkEvent::Changed { index, up } if index == self.gateway.device_index() => {
                (self.is_up, up)
            }
            LinkEvent::Changed { .. } => return false,
            // It may have gone down and come up again.
            LinkEvent::Missed => (false, true),
        };
        self.is_up = is_up && event != LinkEvent::Missed;
        is_up && !was_up
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
