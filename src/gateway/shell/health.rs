//! What probes are answered over HTTP.

use crate::telemetry::http::{Answer, Routes};
use crate::telemetry::observer::Observer;
use crate::telemetry::prometheus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// What the pages say.
pub(super) struct Words {
    pub(super) alive: &'static str,
    pub(super) ready: &'static str,
    pub(super) not_ready: &'static str,
}

/// How a daemon is, for those who ask from outside.
#[derive(Default)]
pub(super) struct Health {
    ready: AtomicBool,
    inside: OnceLock<Arc<Observer>>,
}

impl Health {
    /// Says whether packets to and from this host are carried.
    pub(super) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// Shows a gateway that is up.
    pub(super) fn show(&self, observer: &Arc<Observer>) {
        let _ = self.inside.set(Arc::clone(observer));
    }

    /// The pages.
    pub(super) fn pages(self: &Arc<Self>, words: &'static Words) -> Routes {
        let (ready, metrics) = (Arc::clone(self), Arc::clone(self));
        Routes::default()
            .with("/healthz", || Answer::text(200, words.alive))
            .with("/readyz", move || match ready.ready.load(Ordering::Relaxed) {
                true => Answer::text(200, words.ready),
                false => Answer::text(503, words.not_ready),
            })
            .with("/metrics", move || prometheus::page(&metrics.inside))
    }
}
