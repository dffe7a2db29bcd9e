//! The connection to one of the servers, until it fails; then to the next.
//!
//! The client library can balance over several servers, but then a request fails whenever it meets
//! one that is down. Here every request goes to a server that answered before.

use super::super::keys::KeysError;
use super::connect::Access;
use etcd_client::{Client, Error, GetOptions};
use std::cell::{Cell, RefCell};
use std::error::Error as _;
use std::time::{Duration, Instant};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// Longest wait for one answer. A list of 65,536 leases is 8 MB.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest wait for a sign of life of a server that is tried.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3);
/// The gRPC codes of answers that another server may give better: `UNKNOWN`, `DEADLINE_EXCEEDED`,
/// `RESOURCE_EXHAUSTED`, `FAILED_PRECONDITION` (a learner's), `ABORTED`, `UNIMPLEMENTED`, `INTERNAL`,
/// `UNAVAILABLE`, `DATA_LOSS`.
const BETTER_ELSEWHERE: [i32; 9] = [2, 4, 8, 9, 10, 12, 13, 14, 15];
/// gRPC's `UNAUTHENTICATED`.
const UNAUTHENTICATED: i32 = 16;
/// etcd's words for a token, or a lack of one, that a new login puts right.
const NEW_LOGIN: [&str; 4] = [
    "revision of auth store is old",
    "user name is empty",
    "invalid auth token",
    "authentication is not enabled",
];

/// What came of a request.
pub(super) type Answered<T> = Result<Result<T, Error>, Elapsed>;

/// A connection that moves on when it fails.
pub(super) struct Connection {
    access: Access,
    client: RefCell<Option<Client>>,
    /// Since when.
    since: Cell<Instant>,
    /// The endpoint that is tried next.
    endpoint: Cell<usize>,
    /// How often a login was found to be of no use any more.
    logins: Cell<u64>,
}

impl Connection {
    pub(super) fn new(access: Access) -> Self {
        let client = RefCell::new(None);
        let since = Cell::new(Instant::now());
        Self { access, client, since, endpoint: Cell::new(0), logins: Cell::new(0) }
    }

    /// A client of a server that answers.
    pub(super) async fn client(&self) -> Result<Client, KeysError> {
        if let Some(client) = &*self.client.borrow() {
            return Ok(client.clone());
        }
        let mut failure = "no endpoint is given".to_owned();
        let endpoints = self.access.endpoints();
        for _ in 0..endpoints.len() {
            let endpoint = &endpoints[self.endpoint.get() % endpoints.len()];
            match timeout(SIGN_OF_LIFE, Box::pin(self.try_out(endpoint))).await {
                Ok(Ok(client)) => {
                    self.client.replace(Some(client.clone()));
                    self.since.set(Instant::now());
                    return Ok(client);
                }
                Ok(Err(error)) => failure = format!("{endpoint}: {}", cause(&error)),
                Err(_) => failure = format!("{endpoint}: no answer within {SIGN_OF_LIFE:?}"),
            }
            self.give_up();
        }
        Err(KeysError { what: "connecting to etcd".to_owned(), cause: failure })
    }

    async fn try_out(&self, endpoint: &str) -> Result<Client, Error> {
        let mut client = self.access.connect(endpoint).await?;
        let question = GetOptions::new().with_keys_only().with_serializable();
        match client.get("/", Some(question)).await {
            // It answers; what it thinks of the question does not matter.
            // A token of no use shows with the request that matters, and is dealt with there.
            Err(error) if is_broken(&error) && !needs_login(&error) => Err(error),
            _ => Ok(client),
        }
    }

    /// How often a login was found to be of no use any more.
    pub(super) fn logins(&self) -> u64 {
        self.logins.get()
    }

    /// The next request gets a new connection, to the same server.
    pub(super) fn disconnect(&self) {
        self.client.replace(None);
    }

    /// The next request goes to the next server.
    pub(super) fn give_up(&self) {
        self.disconnect();
        self.endpoint.set(self.endpoint.get().wrapping_add(1));
    }

    /// Waits for an answer, not for ever.
    pub(super) async fn answer<T>(
        &self,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Answered<T> {
        let answer = timeout(ANSWER, answer).await;
        match &answer {
            Err(_) => self.give_up(),
            Ok(Err(error)) => self.failed(error),
            Ok(Ok(_)) => {}
        }
        answer
    }

    /// Draws the conclusions from an error.
    pub(super) fn failed(&self, error: &Error) {
        let is_connected = self.client.borrow().is_some();
        if is_connected && is_broken(error) && !needs_login(error) {
            self.access.ended(self.since.get().elapsed(), error);
        }
        if needs_login(error) {
            // The same server, with a new token.
            self.disconnect();
            self.logins.set(self.logins.get() + 1);
        } else if is_broken(error) {
            self.give_up();
        }
    }

    /// As [`Connection::answer`], with an error for people.
    pub(super) async fn ask<T>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, KeysError> {
        finish(what, self.answer(answer).await)
    }
}

/// What an answer is for people.
pub(super) fn finish<T>(what: &str, answer: Answered<T>) -> Result<T, KeysError> {
    let cause = match answer {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => cause(&error),
        Err(_) => format!("no answer within {ANSWER:?}"),
    };
    Err(KeysError { what: what.to_owned(), cause })
}

/// Whether the connection or the server is at fault, and not the request.
fn is_broken(error: &Error) -> bool {
    match error {
        Error::GRpcStatus(status) => {
            status.source().is_some() || BETTER_ELSEWHERE.contains(&(status.code() as i32))
        }
        Error::TransportError(_) | Error::IoError(_) => true,
        _ => false,
    }
}

/// Whether a new login would help.
fn needs_login(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else { return false };
    status.code() as i32 == UNAUTHENTICATED
        || NEW_LOGIN.iter().any(|words| status.message().contains(words))
}

/// An error and what is behind it, on one line, without the transport's metadata.
pub(super) fn cause(error: &Error) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_another_server_may_give_better_move_on_to_it() {
        // A learner of etcd 3.6 says FAILED_PRECONDITION, one of 3.4 UNAVAILABLE.
        for (code, moves_on) in
            [(9, true), (14, true), (8, true), (3, false), (7, false), (11, false)]
        {
            assert_eq!(BETTER_ELSEWHERE.contains(&code), moves_on, "code {code}");
        }
    }
}
