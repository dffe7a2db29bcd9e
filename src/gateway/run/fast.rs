//! The fast path of a running gateway: it follows the peers as the workers do, and counts with them.

use super::publish::Subscriber;
use crate::config::{self, Settings};
use crate::fastpath::{FastPath, Spec};
use crate::gateway::resources::{Resources, blocking};
use crate::telemetry::fast::Source;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tracing::warn;
use twill_datapath::route::View;

/// Programs that run, for all who deal with them.
#[derive(Clone)]
pub(in crate::gateway) struct Fast(Arc<Mutex<FastPath>>);

impl Fast {
    /// Attaches the programs to the device of these resources, which is up.
    pub(super) async fn start(
        settings: &Settings,
        resources: &Resources,
        view: Arc<View>,
    ) -> Result<Self, String> {
        let SocketAddr::V4(listen) = settings.listen else {
            return Err("datagrams over IPv6 go through user space".to_owned());
        };
        let spec = Spec {
            device: (resources.device().to_owned(), resources.device_index()),
            mtu: settings.mtu.bytes(),
            listen,
            source_ports: resources.source_ports().map_err(|error| error.to_string())?,
            check: settings.ingress_check,
            any_link: settings.fast_path == config::FastPath::Bpf,
        };
        let started = blocking(move || FastPath::start(spec, &view)).await;
        let fast = started.map_err(|error| error.to_string())?;
        Ok(Self(Arc::new(Mutex::new(fast))))
    }

    /// Who follows the peers for it, for as long as it is there.
    pub(super) fn subscriber(&self) -> Box<dyn Subscriber> {
        Box::new(Following(Arc::downgrade(&self.0)))
    }

    /// Follows the host's routes. It blocks for as long as the kernel takes to answer.
    pub(in crate::gateway) fn refresh(&self) {
        if let Err(reason) = locked(&self.0).refresh() {
            warn!("the fast path does not follow the routes to peers: {reason}");
        }
    }

    /// Follows the MTU of the TUN device.
    pub(in crate::gateway) fn set_mtu(&self, mtu: u16) {
        if let Err(reason) = locked(&self.0).set_mtu(mtu) {
            warn!("the fast path does not follow the MTU of the device: {reason}");
        }
    }

    /// Where its counters are read. They end with it.
    pub(super) fn source(&self) -> Source {
        let fast = Arc::downgrade(&self.0);
        Box::new(move || {
            let fast = fast.upgrade()?;
            locked(&fast).counts().ok()
        })
    }
}

fn locked(fast: &Mutex<FastPath>) -> MutexGuard<'_, FastPath> {
    fast.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells it of new peers.
struct Following(Weak<Mutex<FastPath>>);

impl Subscriber for Following {
    fn follow(&mut self, view: &Arc<View>) {
        let Some(fast) = self.0.upgrade() else { return };
        if let Err(reason) = locked(&fast).follow(view) {
            warn!("the fast path does not follow the peers: {reason}");
        }
    }
}
