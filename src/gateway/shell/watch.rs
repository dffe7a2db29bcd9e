//! When the host is compared with what the tunnel needs, and what was missing last time. Pure.

use crate::config::Addresses;
use crate::host::{HostEvent, RouteChange};
use ipnet::IpNet;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Whoever takes one thing away mostly takes more: what is missing is put back this long after.
const SETTLE: Duration = Duration::from_millis(100);
/// The least pause between two comparisons, for a host where somebody takes away again and again
/// what twill puts back; and the pause before what is still missing is tried again.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// An address that is away for longer than this has changed.
const GRACE: Duration = Duration::from_secs(2);

/// Decides by the host's events.
#[derive(Debug)]
pub(super) struct Watch {
    /// The device.
    index: u32,
    /// Where the tunnel receives; unspecified if at any address.
    listen: Addresses,
    is_up: bool,
    /// Since when the host does not have an address at which the tunnel receives.
    lost: Option<Instant>,
    /// Whether the MTU of paths matters.
    follows_paths: bool,
    /// Whether paths to peers may have another MTU than before.
    paths_changed: bool,
    last: Option<Instant>,
    next: Option<Instant>,
    /// What is missing, a sentence each.
    missing: Vec<String>,
}

impl Watch {
    pub(super) fn new(index: u32, listen: Addresses, follows_paths: bool) -> Self {
        Self {
            index,
            listen,
            is_up: true,
            lost: None,
            follows_paths,
            paths_changed: false,
            last: None,
            next: None,
            missing: Vec::new(),
        }
    }

    /// The tunnel receives at other addresses from now on.
    #[cfg(feature = "etcd")]
    pub(super) fn set_listen(&mut self, listen: Addresses) {
        self.listen = listen;
        self.lost = None;
    }

    /// Whether the device is up.
    pub(super) fn is_up(&self) -> bool {
        self.is_up
    }

    /// Takes note of an event; `wanted` are the networks that are routed to the device.
    pub(super) fn notice(&mut self, event: HostEvent, wanted: impl FnOnce() -> Vec<IpNet>) {
        let matters = match event {
            HostEvent::Link { index, up } if index == self.index => {
                // The kernel forgets routes and IPv6 addresses of a device that goes down.
                std::mem::replace(&mut self.is_up, up) != up
            }
            HostEvent::Link { .. } => false,
            HostEvent::Address { index, address, gone } => {
                (index == self.index && gone) || self.listen.iter().any(|own| own == address)
            }
            HostEvent::Route { index, change: RouteChange::Gone, .. } => index == Some(self.index),
            HostEvent::Route { network, index, change: RouteChange::Replaced } => {
                index != Some(self.index) && wanted().contains(&network)
            }
            HostEvent::Route { change: RouteChange::Added, .. } => false,
            HostEvent::Missed => true,
        };
        let paths = self.follows_paths && self.is_about_paths(event);
        self.paths_changed |= paths;
        if matters || paths {
            self.expect();
        }
    }

    /// Compares soon.
    pub(super) fn expect(&mut self) {
        let soon = Instant::now() + SETTLE;
        let at = self.last.map_or(soon, |last| soon.max(last + PAUSE));
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// Whether an event may change the MTU of paths to peers.
    fn is_about_paths(&self, event: HostEvent) -> bool {
        match event {
            HostEvent::Link { index, up } => up && index != self.index,
            HostEvent::Address { index, gone, .. } => !gone && index != self.index,
            HostEvent::Route { network, index, .. } => {
                index != Some(self.index) && network.prefix_len() == 0
            }
            HostEvent::Missed => true,
        }
    }

    /// Whether paths to peers may have another MTU than at the last call.
    pub(super) fn take_paths_changed(&mut self) -> bool {
        std::mem::take(&mut self.paths_changed)
    }

    /// Waits for the time to compare; pends as long as there is no reason to.
    pub(super) async fn due(&self) {
        match self.next {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Takes note of what a comparison found missing; says whether that is news.
    pub(super) fn found(&mut self, missing: Vec<String>) -> bool {
        let now = Instant::now();
        self.last = Some(now);
        self.next = (!missing.is_empty()).then_some(now + PAUSE);
        let is_news = self.missing != missing;
        self.missing = missing;
        is_news
    }

    /// Takes note of whether an address at which the tunnel receives is lost.
    pub(super) fn set_lost(&mut self, is_lost: bool) {
        self.lost = is_lost.then(|| self.lost.unwrap_or_else(Instant::now));
    }

    /// Whether that address does not seem to come back: some services remove an address for a moment
    /// and add it again.
    pub(super) fn has_lost(&self) -> bool {
        self.lost.is_some_and(|since| since.elapsed() >= GRACE)
    }

    /// What is missing.
    pub(super) fn missing(&self) -> &[String] {
        &self.missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: u32 = 7;
    const UPLINK: u32 = 2;

    #[test]
    fn only_what_concerns_the_tunnel_makes_it_compare() {
        let ours: IpNet = "10.1.0.0/16".parse().unwrap();
        let other: IpNet = "10.2.0.0/16".parse().unwrap();
        let route =
            |network, index, change| HostEvent::Route { network, index: Some(index), change };
        let address = |index, address: &str, gone| HostEvent::Address {
            index,
            address: address.parse().unwrap(),
            gone,
        };
        let link = |index, up| HostEvent::Link { index, up };
        for (event, expected) in [
            (route(ours, DEVICE, RouteChange::Gone), true),
            (route(other, UPLINK, RouteChange::Gone), false),
            (route(ours, UPLINK, RouteChange::Replaced), true),
            (route(other, UPLINK, RouteChange::Replaced), false),
            (route(ours, DEVICE, RouteChange::Added), false),
            (address(DEVICE, "10.1.1.0", true), true),
            (address(DEVICE, "10.1.1.0", false), false),
            (address(UPLINK, "192.0.2.1", true), true),
            (address(UPLINK, "192.0.2.1", false), true),
            (address(UPLINK, "192.0.2.9", true), false),
            (address(UPLINK, "2001:db8::1", true), true),
            (link(DEVICE, false), true),
            (link(DEVICE, true), false),
            (link(UPLINK, false), false),
            (HostEvent::Missed, true),
        ] {
            let listen = "192.0.2.1, 2001:db8::1".parse().unwrap();
            let mut watch = Watch::new(DEVICE, listen, false);

            watch.notice(event, || vec![ours]);

            assert_eq!(watch.next.is_some(), expected, "{event:?}");
        }
    }

    #[test]
    fn an_uplink_that_changes_makes_an_automatic_mtu_follow() {
        let everywhere: IpNet = "0.0.0.0/0".parse().unwrap();
        let added = RouteChange::Added;
        let route = HostEvent::Route { network: everywhere, index: Some(UPLINK), change: added };
        for event in [HostEvent::Link { index: UPLINK, up: true }, route] {
            for follows in [true, false] {
                let mut watch = Watch::new(DEVICE, "192.0.2.1".parse().unwrap(), follows);

                watch.notice(event, Vec::new);

                assert_eq!(watch.next.is_some(), follows, "{event:?}");
                assert_eq!(watch.take_paths_changed(), follows, "{event:?}");
                assert!(!watch.take_paths_changed(), "once");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn somebody_who_takes_away_again_and_again_is_answered_once_a_pause() {
        let mut watch = Watch::new(DEVICE, "192.0.2.1".parse().unwrap(), false);
        let began = Instant::now();

        for _ in 0..5 {
            watch.expect();
            watch.due().await;
            watch.found(Vec::new());
        }

        assert!(began.elapsed() >= 4 * PAUSE, "{:?}", began.elapsed());
    }
}
