//! The keys of leases in a real etcd.
//!
//! Every call is bounded in time, and a watch whose server stopped answering is given up within 15 s:
//! the client would otherwise wait for a frozen server as long as TCP does.

mod channel;
mod connect;
mod connection;
mod pings;
mod watch;

pub use connect::{Access, AccessError, Credentials, TlsFiles};
pub use watch::EtcdWatch;

use super::keys::{Entry, Granted, KeyList, Keys, KeysError, Position, Term, WatchError};
use super::lease::{LeaseAttrs, Prefix};
use crate::subnet::Subnets;
use connection::Connection;
use etcd_client::{
    Client, Compare, CompareOp, GetOptions, KeyValue, PutOptions, ResponseHeader, Txn, TxnOp,
    TxnResponse, WatchOptions,
};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// Largest answer: a list of 65,536 leases, many times over.
const MAX_ANSWER_BYTES: usize = 256 << 20;
/// How long a lease lasts, as flannel's.
pub const LEASE_TTL: Duration = Duration::from_secs(24 * 3600);
/// How many of its own leases an [`EtcdKeys`] remembers: events of the last few renewals may be on their
/// way.
const REMEMBERED: usize = 16;

/// Leases in etcd.
pub struct EtcdKeys {
    connection: Rc<Connection>,
    prefix: Prefix,
    ttl: Duration,
    asked_for: RefCell<VecDeque<i64>>,
}

impl EtcdKeys {
    /// Connects when it is first asked something.
    #[must_use]
    pub fn new(access: Access, prefix: Prefix) -> Self {
        Self {
            connection: Rc::new(Connection::new(access)),
            prefix,
            ttl: LEASE_TTL,
            asked_for: RefCell::default(),
        }
    }

    /// Leases of another length than flannel's, in whole seconds.
    #[must_use]
    pub fn with_ttl(self, ttl: Duration) -> Self {
        Self { ttl, ..self }
    }

    /// Where the keys are.
    #[must_use]
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// This lease is one of ours: we asked for it, or a node did whose successor we are.
    pub(crate) fn remember(&self, lease: i64) {
        let mut asked_for = self.asked_for.borrow_mut();
        asked_for.truncate(REMEMBERED - 1);
        asked_for.push_front(lease);
    }

    async fn grant(&self, client: &mut Client) -> Result<Granted, KeysError> {
        let seconds = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
        let answer =
            self.connection.ask("asking for a lease", client.lease_grant(seconds, None)).await?;
        self.remember(answer.id());
        let ttl = Duration::from_secs(u64::try_from(answer.ttl()).unwrap_or_default());
        Ok(Granted { lease: answer.id(), ttl: Some(ttl) })
    }

    /// Puts a key if the comparisons hold, under a new lease unless it is to be permanent. With a
    /// token that etcd does not take any more it is tried again with a new one.
    async fn put_if(
        &self,
        key: &[u8],
        compares: Vec<Compare>,
        attrs: LeaseAttrs,
        term: Term,
    ) -> Result<Option<Granted>, KeysError> {
        let logins = self.connection.logins();
        match self.try_put_if(key, compares.clone(), attrs, term).await {
            Err(_) if self.connection.logins() != logins => {
                self.try_put_if(key, compares, attrs, term).await
            }
            done => done,
        }
    }

    async fn try_put_if(
        &self,
        key: &[u8],
        compares: Vec<Compare>,
        attrs: LeaseAttrs,
        term: Term,
    ) -> Result<Option<Granted>, KeysError> {
        let mut client = self.connection.client().await?;
        let granted = match term {
            Term::Lease => self.grant(&mut client).await?,
            Term::Permanent => Granted { lease: 0, ttl: None },
        };
        let options = PutOptions::new().with_lease(granted.lease);
        let put = TxnOp::put(key, attrs.value(), Some(options));
        let txn = Txn::new().when(compares).and_then(vec![put]);
        let what = format!("writing {}", String::from_utf8_lossy(key));
        let written = self.connection.ask(&what, client.txn(txn)).await;
        if written.as_ref().is_ok_and(TxnResponse::succeeded) {
            return Ok(Some(granted));
        }
        if granted.lease != 0 {
            // Left alone it would end by itself a day later. If the write did arrive although its
            // answer did not, the key goes with it, and the next try writes it again.
            if let Ok(mut client) = self.connection.client().await {
                let _ = self.connection.answer(client.lease_revoke(granted.lease)).await;
            }
        }
        written.map(|_| None)
    }
}

impl Keys for EtcdKeys {
    type Watch = EtcdWatch;

    fn disconnect(&self) {
        self.connection.disconnect();
    }

    async fn config(&self) -> Result<String, KeysError> {
        let key = self.prefix.config();
        let what = format!("reading {key}");
        let mut client = self.connection.client().await?;
        let answer = self.connection.ask(&what, client.get(key, None)).await?;
        let value = answer.kvs().first().map(KeyValue::value);
        let text = value.map(|value| String::from_utf8_lossy(value).into_owned());
        text.ok_or_else(|| KeysError { what, cause: "the key does not exist".to_owned() })
    }

    async fn list(&self) -> Result<KeyList, KeysError> {
        let mut client =
            self.connection.client().await?.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES);
        let options = GetOptions::new().with_prefix();
        let request = client.get(self.prefix.leases(), Some(options));
        let answer = self.connection.ask("listing leases", request).await?;
        let entries = answer.kvs().iter().map(entry).collect();
        Ok(KeyList { entries, at: position(answer.header()) })
    }

    async fn find(&self, key: &[u8]) -> Result<Option<Entry>, KeysError> {
        let what = format!("reading {}", String::from_utf8_lossy(key));
        let mut client = self.connection.client().await?;
        let answer = self.connection.ask(&what, client.get(key, None)).await?;
        Ok(answer.kvs().first().map(entry))
    }

    async fn ttl(&self, lease: i64) -> Result<Option<Duration>, KeysError> {
        let mut client = self.connection.client().await?;
        let request = client.lease_time_to_live(lease, None);
        let answer = self.connection.ask("asking how long our lease lasts", request).await?;
        Ok(u64::try_from(answer.ttl()).ok().map(Duration::from_secs))
    }

    fn asked_for(&self, lease: i64) -> bool {
        self.asked_for.borrow().contains(&lease)
    }

    fn key(&self, subnets: Subnets) -> Vec<u8> {
        self.prefix.lease(subnets).into()
    }

    async fn create(&self, key: &[u8], attrs: LeaseAttrs) -> Result<Option<Granted>, KeysError> {
        let absent = Compare::version(key, CompareOp::Equal, 0);
        Box::pin(self.put_if(key, vec![absent], attrs, Term::Lease)).await
    }

    async fn renew(
        &self,
        known: &Entry,
        attrs: LeaseAttrs,
        term: Term,
    ) -> Result<Option<Granted>, KeysError> {
        let key = known.key.as_slice();
        let unchanged = vec![
            Compare::value(key, CompareOp::Equal, known.value.as_slice()),
            Compare::lease(key, CompareOp::Equal, known.lease),
        ];
        Box::pin(self.put_if(key, unchanged, attrs, term)).await
    }

    async fn remove(&self, known: &Entry) -> Result<bool, KeysError> {
        let key = known.key.as_slice();
        let unchanged = Compare::mod_revision(key, CompareOp::Equal, known.revision);
        let txn = Txn::new().when(vec![unchanged]).and_then(vec![TxnOp::delete(key, None)]);
        let mut client = self.connection.client().await?;
        let what = format!("removing {}", String::from_utf8_lossy(key));
        Ok(self.connection.ask(&what, client.txn(txn)).await?.succeeded())
    }

    async fn watch(&self, from: i64) -> Result<EtcdWatch, WatchError> {
        let mut client = self
            .connection
            .client()
            .await?
            .watch_client()
            .max_decoding_message_size(MAX_ANSWER_BYTES);
        let options = WatchOptions::new().with_prefix().with_start_revision(from);
        let request = client.watch(self.prefix.leases(), Some(options));
        let stream = self.connection.ask("watching leases", request).await?;
        Ok(EtcdWatch::new(stream, Rc::clone(&self.connection)))
    }
}

fn entry(pair: &KeyValue) -> Entry {
    Entry {
        key: pair.key().to_vec(),
        value: pair.value().to_vec(),
        revision: pair.mod_revision(),
        lease: pair.lease(),
    }
}

fn position(header: Option<&ResponseHeader>) -> Position {
    header.map_or_else(Position::default, |header| Position {
        cluster: header.cluster_id(),
        term: header.raft_term(),
        revision: header.revision(),
    })
}
