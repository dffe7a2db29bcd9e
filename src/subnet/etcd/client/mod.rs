//! The keys of leases in a real etcd.
//!
//! Every call is bounded in time, and a watch whose server stopped answering is given up within 15 s:
//! the client would otherwise wait for a frozen server as long as TCP does.

mod connect;
mod connection;
mod watch;

pub use connect::{Access, AccessError, Credentials, TlsFiles};
pub use watch::EtcdWatch;

use super::keys::{Entry, Granted, KeyList, Keys, KeysError, Position, Term, WatchError};
use super::lease::{LeaseAttrs, Prefix};
use connection::{Connection, finish};
use etcd_client::{
    Client, Compare, CompareOp, Error, GetOptions, KeyValue, PutOptions, ResponseHeader, Txn,
    TxnOp, WatchOptions,
};
use ipnet::Ipv4Net;
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

/// etcd's words for a revision that it no longer has, and for one that it has not come to.
const COMPACTED: &str = "required revision has been compacted";
const FUTURE: &str = "required revision is a future revision";

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

    async fn grant(&self, client: &mut Client) -> Result<Granted, KeysError> {
        let seconds = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
        let answer =
            self.connection.ask("asking for a lease", client.lease_grant(seconds, None)).await?;
        let mut asked_for = self.asked_for.borrow_mut();
        asked_for.truncate(REMEMBERED - 1);
        asked_for.push_front(answer.id());
        let ttl = Duration::from_secs(u64::try_from(answer.ttl()).unwrap_or_default());
        Ok(Granted { lease: answer.id(), ttl: Some(ttl) })
    }

    /// Puts a key if the comparisons hold, under a new lease unless it is to be permanent.
    async fn put_if(
        &self,
        key: String,
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
        let put = TxnOp::put(key.as_str(), attrs.value(), Some(options));
        let txn = Txn::new().when(compares).and_then(vec![put]);
        let written = self.connection.ask(&format!("writing {key}"), client.txn(txn)).await?;
        if written.succeeded() {
            return Ok(Some(granted));
        }
        if granted.lease != 0 {
            // Left alone it would end by itself a day later.
            let _ = self.connection.answer(client.lease_revoke(granted.lease)).await;
        }
        Ok(None)
    }
}

impl Keys for EtcdKeys {
    type Watch = EtcdWatch;

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

    async fn find(&self, subnet: Ipv4Net) -> Result<Option<Entry>, KeysError> {
        let key = self.prefix.lease(subnet);
        let mut client = self.connection.client().await?;
        let answer =
            self.connection.ask(&format!("reading {key}"), client.get(key.as_str(), None)).await?;
        Ok(answer.kvs().first().map(entry))
    }

    /// Reads at the revision itself, the last one that was followed. A watch alone does not tell
    /// everything: a compaction right at a deletion lost the deletion (etcd issues 18089, 19179).
    async fn since(&self, revision: i64) -> Result<Position, WatchError> {
        let key = self.prefix.config();
        let mut client = self.connection.client().await?;
        let then = GetOptions::new().with_revision(revision).with_keys_only();
        let answer = match self.connection.answer(client.get(key.as_str(), Some(then))).await {
            Ok(Err(Error::GRpcStatus(status))) if status.message().ends_with(COMPACTED) => {
                return Err(WatchError::Compacted);
            }
            Ok(Err(Error::GRpcStatus(status))) if status.message().ends_with(FUTURE) => {
                // This is not the store that we knew.
                let now = GetOptions::new().with_keys_only();
                self.connection
                    .ask(&format!("reading {key}"), client.get(key.as_str(), Some(now)))
                    .await?
            }
            answer => finish(&format!("reading {key}"), answer)?,
        };
        Ok(position(answer.header()))
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

    async fn create(
        &self,
        subnet: Ipv4Net,
        attrs: LeaseAttrs,
    ) -> Result<Option<Granted>, KeysError> {
        let key = self.prefix.lease(subnet);
        let absent = Compare::version(key.as_str(), CompareOp::Equal, 0);
        Box::pin(self.put_if(key, vec![absent], attrs, Term::Lease)).await
    }

    async fn renew(
        &self,
        subnet: Ipv4Net,
        known: &Entry,
        attrs: LeaseAttrs,
        term: Term,
    ) -> Result<Option<Granted>, KeysError> {
        let key = self.prefix.lease(subnet);
        let unchanged = vec![
            Compare::value(key.as_str(), CompareOp::Equal, known.value.as_slice()),
            Compare::lease(key.as_str(), CompareOp::Equal, known.lease),
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
