//! Our own node: its annotations are kept, its address is followed.

use super::{FollowEnd, Follower, Interruption, OWN_CHECK, OWN_PAUSE, OWN_RETRY, is_of_one_call};
use crate::subnet::HostAddress;
use crate::subnet::kube::api::Node;
use crate::subnet::kube::cluster::OwnNode;
use crate::subnet::kube::join::{Registration, State};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

impl Follower {
    /// Follows the host's addresses, too, while it runs.
    pub fn follow_host(&mut self, host: watch::Receiver<HostAddress>) {
        self.host = Some(host);
    }

    /// The host has other addresses: they are written as soon as there is a connection from the new one.
    pub(super) fn move_to(&mut self, host: HostAddress) {
        self.member.host = host;
        self.nodes.disconnect();
        self.own_due = Instant::now();
        self.dirty = true;
    }

    /// At once, unless that was done just now. What the watch has seen of our own node may be missed:
    /// it is read whole.
    pub(super) fn check_own_soon(&mut self) {
        self.own_due = self.own_due.min(self.own_seen + OWN_PAUSE);
    }

    pub(super) async fn check_own(&mut self) -> Result<(), Interruption> {
        self.forget_lost();
        match self.nodes.get(&self.member.name).await {
            Ok(node) => self.follow_own(node.as_ref()).await,
            Err(error) if is_of_one_call(&error) => {
                self.tell_own(&format!("cannot read our own node: {error}"));
                self.try_own_later();
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Our own node as the API server has it: its annotations are written again, its address is
    /// followed. A refusal to write does not keep us from following the others.
    pub(super) async fn follow_own(&mut self, node: Option<&Node>) -> Result<(), Interruption> {
        self.own_seen = Instant::now();
        self.own_due = self.own_seen + OWN_CHECK;
        let state = self.member.state(node).map_err(FollowEnd::from)?;
        let (place, node) = match (state, node) {
            (State::Ready(place), Some(node)) => (place, node),
            (State::Waiting(reason), _) => {
                self.tell_own(&reason);
                self.set_own(OwnNode::Gone);
                return Ok(());
            }
            (State::Ready(_), None) => return Ok(()),
        };
        if place.subnets != self.joined.subnets {
            return Err(Interruption::End(FollowEnd::Moved {
                node: self.member.name.clone(),
                before: self.joined.subnets,
                now: place.subnets,
            }));
        }
        let (public_ip, mistake) = match place.public_ip {
            Ok(public_ip) => (public_ip, None),
            // It started without the API server, and has published nothing yet.
            Err(mistake) if self.joined.uid.is_empty() => {
                self.tell_own(&mistake.to_string());
                self.set_own(OwnNode::Unregistered);
                return Ok(());
            }
            Err(mistake) => {
                let address = self.joined.public_ip;
                (address, Some(format!("{mistake}; keeping the address {address}")))
            }
        };
        self.dirty |= self.joined.public_ip != public_ip;
        self.joined = Registration { uid: place.uid, subnets: place.subnets, public_ip };
        match self.member.register(&self.nodes, node, public_ip).await {
            Ok(()) => {
                self.own_retry = OWN_RETRY.0;
                self.set_own(OwnNode::Registered);
                match mistake {
                    Some(mistake) => self.tell_own(&mistake),
                    None => self.own_told = None,
                }
            }
            Err(refused) => {
                self.cluster.failed_writes += 1;
                self.dirty = true;
                self.set_own(OwnNode::Unregistered);
                if !is_of_one_call(&refused) {
                    return Err(refused.into());
                }
                self.tell_own(&format!("cannot write the annotations of our own node: {refused}"));
                self.try_own_later();
            }
        }
        Ok(())
    }

    fn try_own_later(&mut self) {
        self.own_seen = Instant::now();
        self.own_due = self.own_seen + self.own_retry;
        self.own_retry = (self.own_retry * 2).min(OWN_RETRY.1);
    }

    /// Logs what is wrong with our own node, when it is news.
    fn tell_own(&mut self, reason: &str) {
        if self.own_told.as_deref() != Some(reason) {
            warn!("{reason}; still forwarding");
            self.own_told = Some(reason.to_owned());
        }
    }
}
