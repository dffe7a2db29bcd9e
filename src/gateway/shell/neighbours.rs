//! Names the peers whose neighbours do not answer, when what waits for them fills a send buffer.

use crate::gateway::resources::blocking;
use crate::sys::neighbours::unanswering;
use crate::telemetry::observer::Observer;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;
use twill_datapath::route::Peer;

/// How often the workers are asked whether a buffer was enlarged.
const LOOK: Duration = Duration::from_secs(1);
/// As many are named.
const NAMED: usize = 16;

/// Looks at the workers and logs, for as long as it is polled.
pub(super) async fn watch(observer: Arc<Observer>) {
    let mut seen = 0;
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let growths = observer.books().counters.buffer_growths;
        if std::mem::replace(&mut seen, growths) == growths {
            continue;
        }
        let silent = blocking(unanswering).await.unwrap_or_default().into_iter().collect();
        let view = observer.view();
        warn!("{}", complaint(&silent, view.peers()));
    }
}

/// What to say about neighbours that do not answer.
fn complaint<'a>(silent: &BTreeSet<IpAddr>, peers: impl Iterator<Item = &'a Peer>) -> String {
    let blamed: Vec<_> = peers
        .filter(|peer| silent.contains(&peer.endpoint.ip().to_canonical()))
        .map(|peer| format!("{} ({})", peer.name, peer.endpoint.ip()))
        .collect();
    let cure = "packets to them fill the send buffer, which was enlarged; fix: start those hosts, or \
                remove the peers";
    if blamed.is_empty() {
        return format!(
            "{} neighbours do not answer (ip neigh show nud failed nud incomplete); {cure}",
            silent.len()
        );
    }
    let (count, more) = (blamed.len(), blamed.len().saturating_sub(NAMED));
    let mut names = blamed[..count - more].join(", ");
    if more > 0 {
        names.push_str(&format!(" and {more} more"));
    }
    format!("the hosts of {count} peers do not answer: {names}: {cure}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use twill_datapath::route::PeerIndex;

    #[test]
    fn peers_are_named_and_of_many_some() {
        let peers: Vec<_> = (0..20).map(peer).collect();
        let silent = |count: u8| (0..count).map(|host| peer(host).endpoint.ip()).collect();

        let two = complaint(&silent(2), peers.iter());
        let all = complaint(&silent(20), peers.iter());
        let others = complaint(&silent(3), peers[10..].iter());

        assert!(
            two.starts_with("the hosts of 2 peers do not answer: p0 (192.0.2.0), p1 (192.0.2.1): ")
        );
        assert!(all.contains("p15 (192.0.2.15) and 4 more: "), "{all}");
        assert!(others.starts_with("3 neighbours do not answer"), "{others}");
    }

    fn peer(host: u8) -> Peer {
        Peer {
            index: PeerIndex(host.into()),
            name: format!("p{host}").into(),
            endpoint: ([192, 0, 2, host], 8285).into(),
            subnets: Vec::new(),
        }
    }
}
