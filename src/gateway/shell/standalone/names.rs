//! Peers of the file whose names do not resolve yet.

use crate::config::load::Unresolved;
use crate::subnet::PeerSpec;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

/// Pause between two attempts to resolve names.
const RETRY: Duration = Duration::from_secs(5);

/// Resolves names until each of them has an address.
pub(super) struct Names {
    listen: SocketAddr,
    waiting: Vec<Unresolved>,
    /// The attempt that runs on a thread of its own, as a name server may take its time.
    attempt: Option<JoinHandle<Vec<PeerSpec>>>,
    next: Instant,
}

impl Names {
    pub(super) fn new(listen: SocketAddr, waiting: Vec<Unresolved>) -> Self {
        Self { listen, waiting, attempt: None, next: Instant::now() + RETRY }
    }

    /// The names of the peers that wait for an address.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &str> {
        self.waiting.iter().map(|peer| peer.name.as_str())
    }

    /// Forgets the names so far and waits for these.
    pub(super) fn replace(&mut self, waiting: Vec<Unresolved>) {
        *self = Self::new(self.listen, waiting);
    }

    /// Forgets a peer, by its name or one of its subnets.
    pub(super) fn forget(&mut self, which: &str) {
        let waiting = std::mem::take(&mut self.waiting);
        self.replace(waiting.into_iter().filter(|peer| !peer.is_called(which)).collect());
    }

    /// Waits for peers that have an address now; pends as long as all have one. It may be dropped
    /// and called again at any time.
    pub(super) async fn resolved(&mut self) -> Vec<PeerSpec> {
        loop {
            if self.waiting.is_empty() {
                return std::future::pending().await;
            }
            if self.attempt.is_none() {
                sleep_until(self.next).await;
            }
            let attempt = self.attempt.get_or_insert_with(|| {
                let (waiting, listen) = (self.waiting.clone(), self.listen);
                let resolve = move |peer: &Unresolved| peer.resolve(listen).ok();
                spawn_blocking(move || waiting.iter().filter_map(resolve).collect())
            });
            // Nobody aborts it, and a panic ends the process.
            let found = attempt.await.expect("resolving names ends by itself");
            self.attempt = None;
            self.next = Instant::now() + RETRY;
            let is_found = |name: &str| found.iter().any(|peer| peer.name == name);
            self.waiting.retain(|peer| !is_found(&peer.name));
            if !found.is_empty() {
                return found;
            }
        }
    }
}
