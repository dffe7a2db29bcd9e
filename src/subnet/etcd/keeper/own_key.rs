//! What a keeper does about its own key: adopt it, write it again, report it, or end.

use super::{Interruption, Keeper, Own, OwnKey, OwnLease, Revoked, boot_ns};
use crate::subnet::HostAddress;
use crate::subnet::etcd::keys::{Entry, Granted, Keys, Term, WatchError};
use crate::subnet::etcd::lease::LeaseAttrs;
use std::time::Duration;
use tokio::sync::watch;
use tracing::{error, info, warn};

impl<K: Keys> Keeper<K> {
    /// Follows the host's addresses, too, while it runs.
    pub fn follow_host(&mut self, host: watch::Receiver<HostAddress>) {
        self.host = Some(host);
    }

    /// The host has other addresses. The next list, by a connection from the new one, shows our key as
    /// we left it.
    pub(super) fn move_to(&mut self, host: HostAddress) {
        self.table.move_to(LeaseAttrs { public_ip: host.public_ip }, host.local);
        self.keys.disconnect();
        self.dirty = true;
    }

    /// Draws the conclusions from what became of our key.
    pub(super) async fn take_note(&mut self, own: OwnKey) -> Result<(), Interruption> {
        match own {
            OwnKey::Ours(entry) => self.adopt(entry).await,
            OwnKey::Former(entry) => self.write_again(entry).await,
            OwnKey::Taken(value) => {
                self.stolen(&value);
                Ok(())
            }
            OwnKey::Gone => self.gone().await,
        }
    }

    /// Our key says what we wrote, perhaps under a lease that we did not ask for: an administrator
    /// made it a reservation or took that back, or another node has our PublicIP.
    async fn adopt(&mut self, entry: Entry) -> Result<(), Interruption> {
        self.replaced = false;
        let lease = entry.lease;
        if lease == self.entry.lease && self.leases.own == OwnLease::Held {
            self.entry = entry;
            return Ok(());
        }
        let asked_ns = boot_ns();
        let ttl = if lease == 0 { None } else { Some(self.remaining(lease).await?) };
        self.entry = entry;
        if lease != 0 && !self.keys.asked_for(lease) {
            self.shared += 1;
            self.dirty = true;
            warn!(
                "our lease {} was written by somebody else with our PublicIP {}: if that is another \
                 node, give each its own address with --public-ip",
                self.table.own_name(),
                self.table.own().attrs.public_ip
            );
        }
        self.renewed(Granted { lease, ttl }, asked_ns);
        match self.renewal.due_in(boot_ns()) {
            Some(due) => info!("Waiting for {due:?} to renew lease"),
            None => info!("our lease is a reservation and needs no renewal"),
        }
        Ok(())
    }

    /// How long a store's lease lasts; nothing, so that it is renewed at once, if that is unknown.
    async fn remaining(&mut self, lease: i64) -> Result<Duration, Interruption> {
        // If it fails, what the key says is looked at again with the next list.
        let asked = self.keys.ttl(lease).await.map_err(WatchError::from)?;
        Ok(asked.unwrap_or_default())
    }

    /// Writes our new addresses to our key, which says the former ones; a reservation stays one.
    async fn write_again(&mut self, entry: Entry) -> Result<(), Interruption> {
        let attrs = self.table.own().attrs;
        let term = if entry.lease == 0 { Term::Permanent } else { Term::Lease };
        let asked_ns = boot_ns();
        let written = self.keys.renew(&entry, attrs, term).await;
        self.entry = entry;
        match written {
            Ok(Some(granted)) => {
                info!("our lease {} has address {} now", self.table.own_name(), attrs.public_ip);
                self.replaced = false;
                self.renewed(granted, asked_ns);
                Ok(())
            }
            Ok(None) => Box::pin(self.look_at_own_key()).await,
            // The next list leads here again.
            Err(cause) => {
                self.renewal_failed(&cause);
                Ok(())
            }
        }
    }

    /// Our key is gone: revoked, unless it ran out or the store lost everything.
    async fn gone(&mut self) -> Result<(), Interruption> {
        let lost = self.replaced || self.renewal.may_be_expired(boot_ns());
        if !lost {
            error!("{Revoked}");
            return Err(Revoked.into());
        }
        let Own { subnets, attrs, ref key, .. } = *self.table.own();
        let asked_ns = boot_ns();
        // If it fails, the next list leads here again.
        let created = self.keys.create(key, attrs).await.map_err(WatchError::from)?;
        match created {
            Some(granted) => {
                info!("lease {subnets} was lost and is ours again");
                self.replaced = false;
                self.renewed(granted, asked_ns);
            }
            // Who was faster is told by the watch.
            None => info!("lease {subnets} was lost; another node has it now"),
        }
        Ok(())
    }

    fn stolen(&mut self, value: &str) {
        self.replaced = false;
        if self.leases.own != OwnLease::Stolen {
            error!(
                "another node took our lease {}: {value}; leaving it alone, reporting not ready",
                self.table.own_name()
            );
        }
        self.set_own(OwnLease::Stolen);
    }

    /// The key is not as we knew it.
    pub(super) async fn look_at_own_key(&mut self) -> Result<(), Interruption> {
        // Until something better is known; whatever happens below may set another time.
        self.renewal.failed(boot_ns());
        let found = match self.keys.find(&self.table.own().key).await {
            Ok(found) => found,
            Err(cause) => {
                self.renewal_failed(&cause);
                return Ok(());
            }
        };
        let own = found.map_or(OwnKey::Gone, |entry| self.table.own_key(&entry));
        self.take_note(own).await
    }
}
