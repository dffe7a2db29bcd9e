//! Keeps the fast path on the routes that the host has.

use crate::gateway::resources::blocking;
use crate::gateway::run::Fast;
use std::time::Duration;

/// How long the programs may follow a route that has changed, or a path whose MTU ICMP has taught
/// meanwhile: the kernel tells nobody of the latter.
const EVERY: Duration = Duration::from_secs(1);

/// Asks for the routes again and again, until the fast path has ended.
pub(super) async fn watch(fast: Fast) {
    let mut goes_on = true;
    while goes_on {
        tokio::time::sleep(EVERY).await;
        let fast = fast.clone();
        goes_on = blocking(move || fast.refresh()).await;
    }
}
