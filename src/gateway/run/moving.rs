//! A data plane that goes on at other addresses of its host.

use super::{Gateway, StartError};
use crate::config::Addresses;
use crate::gateway::plan::sources;

impl Gateway {
    /// Receives at other addresses of the host from now on, of the same families: the same device, queues
    /// and counters, and new sockets unless they are bound to all addresses. What has arrived at the old
    /// ones is carried; what arrives at new ones meanwhile waits. The fast path begins anew.
    ///
    /// # Errors
    /// [`StartError`]. If an address cannot be had, all is as it was; if workers do not start again, the
    /// gateway carries nothing any more.
    pub(in crate::gateway) async fn move_to(&mut self, now: Addresses) -> Result<(), StartError> {
        let settings = self.settings.at(now);
        let is_bound = settings.bound() == self.settings.bound();
        let sockets = match is_bound {
            true => None,
            false => Some(self.resources.open_sockets(&settings)?),
        };
        self.stop_fast_path();
        let (past, _) = self.pause().await;
        self.resources.set_handed_over(false);
        if let Some(sockets) = sockets {
            self.resources.replace_sockets(&settings, sockets)?;
        }
        self.common.sources = settings.sources();
        self.plan.tuning.sources = sources(&settings);
        self.observer.set_listen(settings.listen);
        self.settings = settings;
        self.resume(&past).await
    }
}
