//! Leases in etcd v3, by flannel's schema.
//!
//! Every call is bounded in time, and a connection whose server stopped answering is given up after
//! [`KEEP_ALIVE`]: the client would otherwise wait for a frozen server as long as TCP does.

mod connect;
mod watch;

pub use connect::{Access, AccessError, Credentials, TlsFiles};
pub use watch::EtcdWatch;

use super::lease::{Holder, Prefix};
use super::manager::{Entry, Granted, Manager, ManagerError, Position, Snapshot, Term, WatchError};
use etcd_client::{
    Client, Compare, CompareOp, Error, GetOptions, KeyValue, PutOptions, ResponseHeader, Txn,
    TxnOp, WatchOptions,
};
use ipnet::Ipv4Net;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::error::Error as _;
use std::time::Duration;
use tokio::time::timeout;

/// Ping interval and answer time. etcd refuses pings that come more often than every 5 s
/// (`--grpc-keepalive-min-time`); both together stay below 15 s.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(5));
/// Longest wait for one answer. A list of 65,536 leases is 8 MB.
const ANSWER: Duration = Duration::from_secs(10);
/// Largest answer: a list of 65,536 leases, many times over.
const MAX_ANSWER_BYTES: usize = 256 << 20;
/// How long a lease lasts, as flannel's.
pub const LEASE_TTL: Duration = Duration::from_secs(24 * 3600);
/// How many of its own leases a manager remembers: events of the last few renewals may be on their
/// way.
const REMEMBERED: usize = 16;

/// Leases in etcd.
pub struct EtcdManager {
    access: Access,
    prefix: Prefix,
    ttl: Duration,
    client: RefCell<Option<Client>>,
    asked_for: RefCell<VecDeque<i64>>,
}

impl EtcdManager {
    /// A manager that connects when it is first asked something.
    #[must_use]
    pub fn new(access: Access, prefix: Prefix) -> Self {
        Self {
            access,
            prefix,
            ttl: LEASE_TTL,
            client: RefCell::new(None),
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

    async fn client(&self) -> Result<Client, ManagerError> {
        if let Some(client) = &*self.client.borrow() {
            return Ok(client.clone());
        }
        let client = bounded("connecting to etcd", self.access.connect(KEEP_ALIVE)).await?;
        self.client.replace(Some(client.clone()));
        Ok(client)
    }

    async fn grant(&self, client: &mut Client) -> Result<Granted, ManagerError> {
        let seconds = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
        let answer = bounded("asking for a lease", client.lease_grant(seconds, None)).await?;
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
        holder: Holder,
        term: Term,
    ) -> Result<Option<Granted>, ManagerError> {
        let mut client = self.client().await?;
        let granted = match term {
            Term::Lease => self.grant(&mut client).await?,
            Term::Permanent => Granted { lease: 0, ttl: None },
        };
        let options = PutOptions::new().with_lease(granted.lease);
        let put = TxnOp::put(key.as_str(), holder.value(), Some(options));
        let txn = Txn::new().when(compares).and_then(vec![put]);
        let written = bounded(&format!("writing {key}"), client.txn(txn)).await?;
        if written.succeeded() {
            return Ok(Some(granted));
        }
        if granted.lease != 0 {
            // Left alone it would end by itself a day later.
            let _ = timeout(ANSWER, client.lease_revoke(granted.lease)).await;
        }
        Ok(None)
    }
}

impl Manager for EtcdManager {
    type Watch = EtcdWatch;

    async fn config(&self) -> Result<String, ManagerError> {
        let key = self.prefix.config();
        let what = format!("reading {key}");
        let mut client = self.client().await?;
        let answer = bounded(&what, client.get(key, None)).await?;
        let value = answer.kvs().first().map(KeyValue::value);
        let text = value.map(|value| String::from_utf8_lossy(value).into_owned());
        text.ok_or_else(|| ManagerError { what, cause: "the key does not exist".to_owned() })
    }

    async fn list(&self) -> Result<Snapshot, ManagerError> {
        let mut client =
            self.client().await?.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES);
        let options = GetOptions::new().with_prefix();
        let request = client.get(self.prefix.leases(), Some(options));
        let answer = bounded("listing leases", request).await?;
        let entries = answer.kvs().iter().map(entry).collect();
        Ok(Snapshot { entries, at: position(answer.header()) })
    }

    async fn find(&self, subnet: Ipv4Net) -> Result<(Option<Entry>, Position), ManagerError> {
        let key = self.prefix.lease(subnet);
        let mut client = self.client().await?;
        let answer = bounded(&format!("reading {key}"), client.get(key.as_str(), None)).await?;
        Ok((answer.kvs().first().map(entry), position(answer.header())))
    }

    async fn ttl(&self, lease: i64) -> Result<Option<Duration>, ManagerError> {
        let mut client = self.client().await?;
        let request = client.lease_time_to_live(lease, None);
        let answer = bounded("asking how long our lease lasts", request).await?;
        Ok(u64::try_from(answer.ttl()).ok().map(Duration::from_secs))
    }

    fn asked_for(&self, lease: i64) -> bool {
        self.asked_for.borrow().contains(&lease)
    }

    async fn create(
        &self,
        subnet: Ipv4Net,
        holder: Holder,
    ) -> Result<Option<Granted>, ManagerError> {
        let key = self.prefix.lease(subnet);
        let absent = Compare::version(key.as_str(), CompareOp::Equal, 0);
        Box::pin(self.put_if(key, vec![absent], holder, Term::Lease)).await
    }

    async fn renew(
        &self,
        subnet: Ipv4Net,
        known: &Entry,
        holder: Holder,
        term: Term,
    ) -> Result<Option<Granted>, ManagerError> {
        let key = self.prefix.lease(subnet);
        let unchanged = vec![
            Compare::value(key.as_str(), CompareOp::Equal, known.value.as_slice()),
            Compare::lease(key.as_str(), CompareOp::Equal, known.lease),
        ];
        Box::pin(self.put_if(key, unchanged, holder, term)).await
    }

    async fn remove(&self, known: &Entry) -> Result<bool, ManagerError> {
        let key = known.key.as_slice();
        let unchanged = Compare::mod_revision(key, CompareOp::Equal, known.revision);
        let txn = Txn::new().when(vec![unchanged]).and_then(vec![TxnOp::delete(key, None)]);
        let mut client = self.client().await?;
        let what = format!("removing {}", String::from_utf8_lossy(key));
        Ok(bounded(&what, client.txn(txn)).await?.succeeded())
    }

    async fn watch(&self, from: i64) -> Result<EtcdWatch, WatchError> {
        let mut client =
            self.client().await?.watch_client().max_decoding_message_size(MAX_ANSWER_BYTES);
        let options = WatchOptions::new().with_prefix().with_start_revision(from);
        let request = client.watch(self.prefix.leases(), Some(options));
        Ok(EtcdWatch::new(bounded("watching leases", request).await?))
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

/// Waits for an answer, not for ever.
async fn bounded<T>(
    what: &str,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, ManagerError> {
    let cause = match timeout(ANSWER, answer).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => cause(&error),
        Err(_) => format!("no answer within {ANSWER:?}"),
    };
    Err(ManagerError { what: what.to_owned(), cause })
}

/// An error and what is behind it, on one line, without the transport's metadata.
fn cause(error: &Error) -> String {
    let Error::GRpcStatus(status) = error else { return error.to_string() };
    let mut text = status.message().to_owned();
    if text.is_empty() {
        text = status.code().to_string();
    }
    let mut source = status.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}
