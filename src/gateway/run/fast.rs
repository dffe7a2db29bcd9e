//! The fast path of a running gateway: it follows the peers as the workers do, and counts with them.

use super::publish::Subscriber;
use crate::config::{self, Settings};
use crate::fastpath::{self, About, Carrier, Estate, Kind, Spec};
use crate::gateway::resources::{Resources, blocking};
use crate::telemetry::fast::Counting;
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tracing::{info, warn};
use twill_datapath::route::View;

/// What runs in the kernel, for all who deal with them. None once it has ended.
#[derive(Clone)]
pub(in crate::gateway) struct Fast(Arc<Mutex<Option<Carrier>>>);

/// What a gateway hands over of its fast path: words for the message, and descriptors.
pub(in crate::gateway) struct FastEstate {
    pub(in crate::gateway) about: Value,
    pub(in crate::gateway) fds: Vec<OwnedFd>,
}

impl FastEstate {
    fn read(self) -> io::Result<Estate> {
        Estate::handed(serde_json::from_value::<About>(self.about)?, self.fds)
    }
}

impl Fast {
    /// Attaches programs to the device of these resources, which is up, or goes on with what a
    /// predecessor has handed over or left; or creates devices beside it.
    pub(super) async fn start(
        settings: &Settings,
        resources: &mut Resources,
        view: Arc<View>,
        estate: Option<FastEstate>,
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
            any_link: settings.fast_path != config::FastPath::Auto,
            early: settings.fast_path == config::FastPath::Xdp,
            keep: settings.keep_forwarding,
        };
        let estate = estate.and_then(|estate| {
            let read = estate.read();
            read.inspect_err(|reason| warn!("the fast path begins anew: {reason}")).ok()
        });
        let devices = devices(settings.fast_path);
        let started = blocking(move || Carrier::start(devices, spec, &view, estate)).await;
        let fast = match started {
            Ok(fast) => fast,
            Err(error) => {
                Self::refuse(resources, None).await;
                return Err(error.to_string());
            }
        };
        // A device that outlives its programs would swallow packets.
        match resources.keep(fast.is_kept()) {
            Ok(()) if fast.is_kept() => info!("forwarding goes on when this gateway ends"),
            Ok(()) => {}
            Err(reason) => warn!("keep_forwarding has no effect: keeping the device: {reason}"),
        }
        Ok(Self(Arc::new(Mutex::new(Some(fast)))))
    }

    /// Removes what a predecessor has left of a fast path.
    pub(super) async fn refuse(resources: &mut Resources, estate: Option<FastEstate>) {
        drop(estate);
        let device = resources.device().to_owned();
        let removed = blocking(move || fastpath::remove(&device)).await;
        if let Err(reason) = removed.map(drop).and_then(|()| resources.keep(false)) {
            warn!("removing the fast path of an earlier gateway: {reason}");
        }
    }

    /// Who follows the peers for it, for as long as it is there.
    pub(super) fn subscriber(&self) -> Box<dyn Subscriber> {
        Box::new(Following(Arc::downgrade(&self.0)))
    }

    /// Follows the host's routes, and says whether there is something that follows. It blocks for as long
    /// as the kernel takes to answer.
    pub(in crate::gateway) fn refresh(&self) -> bool {
        let Some(fast) = &mut *locked(&self.0) else { return false };
        if let Err(reason) = fast.refresh() {
            warn!("the fast path does not follow the routes to peers: {reason}");
        }
        true
    }

    /// Follows the MTU of the TUN device.
    pub(in crate::gateway) fn set_mtu(&self, mtu: u16) {
        let Some(fast) = &mut *locked(&self.0) else { return };
        if let Err(reason) = fast.set_mtu(mtu) {
            warn!("the fast path does not follow the MTU of the device: {reason}");
        }
    }

    /// Leaves the programs to a successor, which gets this; none if they cannot be handed over.
    pub(super) fn rest(&self) -> Option<FastEstate> {
        let mut fast = locked(&self.0);
        let fast = fast.as_mut()?;
        let (about, fds) = fast.estate()?;
        fast.rest(true);
        Some(FastEstate { about: json!(about), fds })
    }

    /// Takes them back; whether they are there.
    pub(super) fn resume(&self) -> bool {
        let Some(fast) = &mut *locked(&self.0) else { return false };
        fast.rest(false);
        if let Err(reason) = fast.refresh() {
            warn!("the fast path does not follow the routes to peers: {reason}");
        }
        true
    }

    /// Ends it: its programs are detached, unless they are kept or a successor has them.
    pub(super) fn end(self) {
        drop(locked(&self.0).take());
    }

    /// Where its counters are read. They end with it.
    pub(super) fn counting(&self) -> Option<Counting> {
        let goes_on = locked(&self.0).as_ref()?.goes_on();
        let fast = Arc::downgrade(&self.0);
        let source = Box::new(move |depth| {
            let fast = fast.upgrade()?;
            let fast = locked(&fast);
            fast.as_ref()?.counts(depth).ok()
        });
        Some(Counting { source, goes_on })
    }
}

/// Devices of which kind carry packets; none if programs do.
fn devices(wanted: config::FastPath) -> Option<Kind> {
    match wanted {
        config::FastPath::Bareudp => Some(Kind::Bareudp),
        config::FastPath::Fou => Some(Kind::Fou),
        config::FastPath::Off
        | config::FastPath::Auto
        | config::FastPath::Bpf
        | config::FastPath::Xdp => None,
    }
}

fn locked(fast: &Mutex<Option<Carrier>>) -> MutexGuard<'_, Option<Carrier>> {
    fast.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells it of new peers.
struct Following(Weak<Mutex<Option<Carrier>>>);

impl Subscriber for Following {
    fn follow(&mut self, view: &Arc<View>) {
        let Some(fast) = self.0.upgrade() else { return };
        let Some(fast) = &mut *locked(&fast) else { return };
        if let Err(reason) = fast.follow(view) {
            warn!("the fast path does not follow the peers: {reason}");
        }
    }
}
