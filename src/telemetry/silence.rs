//! Logs peers that fall silent, and those that answer again: once each time.

use super::news;
use super::observer::Observer;
use super::status::PeerStatus;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

/// How often peers are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Looks at peers and logs, for as long as it is polled.
pub(crate) async fn watch(observer: Arc<Observer>) {
    let mut silent = BTreeSet::new();
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let peers = observer.suspects();
        let (new, back) = compare(&mut silent, &peers);
        let why = |name: &String| {
            let peer = peers.iter().find(|peer| peer.name == *name);
            let (endpoint, why) = peer.map(|peer| (peer.endpoint, peer.silence())).unzip();
            let (endpoint, why) = (endpoint.map(tracing::field::display), why.flatten());
            let why = why.unwrap_or_default();
            warn!(peer = name, endpoint, "the peer is silent: {why}: is its gateway running?");
        };
        news::tell(new.iter(), why, |count| warn!(count, "peers are silent"));
        let one = |peer| info!(peer, "the peer answers again");
        news::tell(back.iter(), one, |count| info!(count, "peers answer again"));
    }
}

/// Updates the names of silent peers. Returns those that are new, and those that answer again; a peer
/// that was removed does neither.
fn compare(silent: &mut BTreeSet<String>, peers: &[PeerStatus]) -> (Vec<String>, Vec<String>) {
    let named = |wanted: bool| {
        let those = peers.iter().filter(move |peer| peer.silence().is_some() == wanted);
        those.map(|peer| peer.name.clone()).collect::<BTreeSet<_>>()
    };
    let (now, heard) = (named(true), named(false));
    let new = now.difference(silent).cloned().collect();
    let back = silent.intersection(&heard).cloned().collect();
    *silent = now;
    (new, back)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::status::tests::busy;

    #[test]
    fn a_peer_is_logged_when_it_falls_silent_and_when_it_answers_again() {
        let heard = busy().peers;
        let mut lost = heard.clone();
        lost[0].last_seen_seconds = Some(19.0);
        lost[0].probe.as_mut().unwrap().last_lost = true;
        let mut silent = BTreeSet::new();
        let name = || vec!["h2".to_owned()];

        assert_eq!(compare(&mut silent, &heard), (vec![], vec![]));
        assert_eq!(compare(&mut silent, &lost), (name(), vec![]));
        assert_eq!(compare(&mut silent, &lost), (vec![], vec![]), "once");
        assert_eq!(compare(&mut silent, &heard), (vec![], name()));
        compare(&mut silent, &lost);
        assert_eq!(compare(&mut silent, &[]), (vec![], vec![]), "it was removed");
    }
}
