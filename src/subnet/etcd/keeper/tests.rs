//! A keeper on a store that does what a test wants of it.

use super::*;
use crate::subnet::etcd::keys::KeyList;
use crate::subnet::etcd::lease::LeaseAttrs;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::rc::Rc;

const KEY: &str = "/coreos.com/network/subnets/10.5.1.0-24";
const PEER: &str = "/coreos.com/network/subnets/10.5.2.0-24";
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_store_that_is_wiped_after_it_said_compacted_takes_neither_peers_nor_our_lease() {
    let store = Fake::new(&[(KEY, "192.0.2.1", 7), (PEER, "192.0.2.2", 8)]);

    on_runtime(async {
        let mut leases = store.keep(granted(HOUR), 0);
        wait(&mut leases, |now| now.peers.len() == 1).await;
        store.0.borrow_mut().at = Position { cluster: 2, term: 1, revision: 1 };
        store.0.borrow_mut().entries.clear();
        store.tell(Err(WatchError::Compacted));
        store.until(|state| state.created == 1).await;
        tokio::time::sleep(2 * PUBLISH_INTERVAL).await;

        assert_eq!(leases.borrow().peers.len(), 1, "kept until it writes itself again");
        assert_eq!(leases.borrow().own, OwnLease::Held);
    });
}

#[test]
fn an_own_key_whose_lease_cannot_be_asked_about_is_looked_at_again() {
    let store = Fake::new(&[(KEY, "192.0.2.1", 7)]);
    store.0.borrow_mut().ttls = [None, Some(HOUR)].into();

    on_runtime(async {
        let mut leases = store.keep(granted(HOUR), 0);
        store.until(|state| state.watched == 1).await;
        store.0.borrow_mut().entries = vec![entry(KEY, "192.0.2.1", 99)];
        store.tell(Ok(vec![Event::Put(Entry { revision: 11, ..entry(KEY, "192.0.2.1", 99) })]));
        wait(&mut leases, |now| now.counts.duplicate_public_ip == 1).await;

        assert_eq!(store.0.borrow().listed, 2);
        assert!(store.0.borrow().ttls.is_empty());
    });
}

#[test]
fn a_lease_that_runs_out_right_when_it_should_is_not_revoked() {
    let store = Fake::new(&[(KEY, "192.0.2.1", 7)]);
    store.0.borrow_mut().ttls = [Some(Duration::ZERO)].into();

    on_runtime(async {
        // It was asked for that long ago; whatever the node did since does not make it longer.
        let length = Duration::from_secs(2);
        let asked_ns = boot_ns() - length.as_nanos() as u64;
        let mut leases = store.keep(granted(length), asked_ns);
        store.until(|state| state.watched == 1).await;
        store.0.borrow_mut().entries.clear();
        store.tell(Ok(vec![Event::Delete { key: KEY.into(), revision: 11 }]));
        store.until(|state| state.created == 1).await;

        wait(&mut leases, |now| now.own == OwnLease::Held).await;
    });
}

#[test]
fn a_watch_that_the_store_cancels_at_once_is_not_opened_again_and_again() {
    let store = Fake::new(&[(KEY, "192.0.2.1", 7)]);
    for _ in 0..1000 {
        let (what, cause) = ("watching leases".to_owned(), "permission denied".to_owned());
        store.tell(Err(KeysError { what, cause }.into()));
    }

    on_runtime(async {
        let _leases = store.keep(granted(HOUR), 0);
        tokio::time::pause();
        tokio::time::sleep(Duration::from_secs(60)).await;

        // 0.1, 0.2, 0.4, … 3.2 s, then every 5 s.
        let watched = store.0.borrow().watched;
        assert!((10..25).contains(&watched), "{watched} watches in a minute");
    });
}

#[test]
fn a_restored_store_that_is_busy_is_noticed_by_what_became_of_our_key() {
    let store = Fake::new(&[(KEY, "192.0.2.1", 7), (PEER, "192.0.2.2", 8)]);

    on_runtime(async {
        let mut leases = store.keep(granted(HOUR), 0);
        wait(&mut leases, |now| now.peers.len() == 1).await;
        // The backup is from before our lease, and others have written more than we had seen.
        store.0.borrow_mut().at.revision = 1000;
        store.0.borrow_mut().entries = vec![
            Entry { revision: 900, ..entry(KEY, "192.0.2.9", 70) },
            Entry { revision: 5, ..entry(PEER, "192.0.2.22", 8) },
        ];
        let (what, cause) = ("watching leases".to_owned(), "the server ended it".to_owned());
        store.tell(Err(KeysError { what, cause }.into()));

        wait(&mut leases, |now| now.own == OwnLease::Stolen).await;
        let moved = |now: &Leases| {
            now.peers.iter().any(|peer| peer.endpoint.ip().to_string() == "192.0.2.22")
        };
        wait(&mut leases, moved).await;
    });
}

#[test]
fn a_successor_has_the_peers_and_the_lease_before_the_store_answers_and_goes_on_from_there() {
    on_runtime(async {
        let store = Fake::new(&[(KEY, "192.0.2.1", 7), (PEER, "192.0.2.2", 8)]);
        let asked_ns = boot_ns();
        let mut first = store.keep(granted(HOUR), asked_ns);
        wait(&mut first, |leases| leases.peers.len() == 1).await;
        let memory = first.borrow().clone();
        let kept = Kept { disconnects: 3, ..Kept::clone(memory.kept.as_ref().unwrap()) };
        let kept: Kept = serde_json::from_value(serde_json::json!(kept)).unwrap();
        let peers: Vec<_> = memory.peers.iter().cloned().collect();

        let keeping = Keeping {
            networks: "10.5.0.0/16".parse().unwrap(),
            held: kept.held.clone(),
            local: Vec::new(),
            margin: Duration::from_secs(60),
            port: 8285,
        };
        let (keeper, mut second) = Keeper::resume(store.clone(), keeping, &kept, &peers);

        assert_eq!(second.borrow().peers, memory.peers);
        assert_eq!((second.borrow().own, second.borrow().disconnects), (OwnLease::Held, 3));
        assert_eq!(kept.held.asked_ns, asked_ns);
        // The store was wiped meanwhile: what it lacks stays, and our lease is written again.
        {
            let mut state = store.0.borrow_mut();
            state.at = Position { cluster: 2, term: 1, revision: 1 };
            state.entries.clear();
        }
        tokio::task::spawn_local(Box::pin(keeper.run()));
        store.until(|state| state.created == 1).await;
        wait(&mut second, |leases| {
            let kept = leases.kept.as_ref().unwrap();
            leases.peers.len() == 1 && kept.unconfirmed.len() == 1 && kept.forget_at_ns.is_some()
        })
        .await;
    });
}

struct State {
    at: Position,
    entries: Vec<Entry>,
    /// Answers to come; `None` fails.
    ttls: VecDeque<Option<Duration>>,
    events: VecDeque<Result<Vec<Event>, WatchError>>,
    listed: u32,
    watched: u32,
    created: u32,
}

#[derive(Clone)]
struct Fake(Rc<RefCell<State>>);

impl Fake {
    fn new(entries: &[(&str, &str, i64)]) -> Self {
        Self(Rc::new(RefCell::new(State {
            at: Position { cluster: 1, term: 1, revision: 10 },
            entries: entries.iter().map(|(key, ip, lease)| entry(key, ip, *lease)).collect(),
            ttls: VecDeque::new(),
            events: VecDeque::new(),
            listed: 0,
            watched: 0,
            created: 0,
        })))
    }

    /// Keeps our lease, asked for at that time; now, if that is 0.
    fn keep(&self, granted: Granted, asked_ns: u64) -> watch::Receiver<Leases> {
        let asked_ns = if asked_ns == 0 { boot_ns() } else { asked_ns };
        let attrs = LeaseAttrs { public_ip: Ipv4Addr::new(192, 0, 2, 1).into() };
        let subnets = "10.5.1.0/24".parse().unwrap();
        let keeping = Keeping {
            networks: "10.5.0.0/16".parse().unwrap(),
            held: Held { subnets, key: KEY.into(), attrs, granted, asked_ns },
            local: Vec::new(),
            margin: Duration::from_secs(60),
            port: 8285,
        };
        let (keeper, leases) = Keeper::new(self.clone(), keeping);
        tokio::task::spawn_local(Box::pin(keeper.run()));
        leases
    }

    fn tell(&self, events: Result<Vec<Event>, WatchError>) {
        self.0.borrow_mut().events.push_back(events);
    }

    async fn until(&self, condition: impl Fn(&State) -> bool) {
        let reached = async {
            while !condition(&self.0.borrow()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), reached).await.unwrap();
    }
}

fn failure() -> KeysError {
    KeysError { what: "asking".to_owned(), cause: "a test".to_owned() }
}

impl Keys for Fake {
    type Watch = Self;

    fn disconnect(&self) {}

    async fn config(&self) -> Result<String, KeysError> {
        Err(failure())
    }

    async fn list(&self) -> Result<KeyList, KeysError> {
        let mut state = self.0.borrow_mut();
        state.listed += 1;
        Ok(KeyList { entries: state.entries.clone(), at: state.at })
    }

    async fn find(&self, _: &[u8]) -> Result<Option<Entry>, KeysError> {
        Err(failure())
    }

    async fn ttl(&self, _: i64) -> Result<Option<Duration>, KeysError> {
        self.0.borrow_mut().ttls.pop_front().unwrap().map(Some).ok_or_else(failure)
    }

    fn asked_for(&self, lease: i64) -> bool {
        lease == 7
    }

    fn key(&self, subnets: Subnets) -> Vec<u8> {
        unreachable!("{subnets} has its key already")
    }

    async fn create(&self, _: &[u8], attrs: LeaseAttrs) -> Result<Option<Granted>, KeysError> {
        let mut state = self.0.borrow_mut();
        state.created += 1;
        state.entries.push(entry(KEY, &attrs.public_ip.to_string(), 7));
        Ok(Some(granted(HOUR)))
    }

    async fn renew(&self, _: &Entry, _: LeaseAttrs, _: Term) -> Result<Option<Granted>, KeysError> {
        Err(failure())
    }

    async fn remove(&self, _: &Entry) -> Result<bool, KeysError> {
        Err(failure())
    }

    async fn watch(&self, _: i64) -> Result<Self, WatchError> {
        self.0.borrow_mut().watched += 1;
        Ok(self.clone())
    }
}

impl Watch for Fake {
    async fn next(&mut self) -> Result<Vec<Event>, WatchError> {
        loop {
            if let Some(events) = self.0.borrow_mut().events.pop_front() {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn granted(ttl: Duration) -> Granted {
    Granted { lease: 7, ttl: Some(ttl) }
}

fn entry(key: &str, public_ip: &str, lease: i64) -> Entry {
    let value = LeaseAttrs { public_ip: public_ip.parse().unwrap() }.value();
    Entry { key: key.into(), value: value.into(), revision: 1, lease }
}

async fn wait(leases: &mut watch::Receiver<Leases>, condition: impl FnMut(&Leases) -> bool) {
    let reached = leases.wait_for(condition);
    tokio::time::timeout(Duration::from_secs(10), reached).await.unwrap().unwrap();
}

fn on_runtime(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work);
}
