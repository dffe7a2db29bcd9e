//! A watch on all leases.

use super::super::keys::{Event, KeysError, Watch, WatchError};
use super::connection::{Connection, cause};
use super::entry;
use etcd_client::{EventType, WatchResponse, WatchStream};
use std::rc::Rc;

/// Changes of leases as etcd tells them.
pub struct EtcdWatch {
    stream: WatchStream,
    connection: Rc<Connection>,
}

impl EtcdWatch {
    pub(super) fn new(stream: WatchStream, connection: Rc<Connection>) -> Self {
        Self { stream, connection }
    }
}

impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<Vec<Event>, WatchError> {
        let lost = match self.stream.message().await {
            Ok(Some(answer)) => return events(&answer),
            Ok(None) => lost("the server ended the stream".to_owned()),
            Err(error) => lost(cause(&error)),
        };
        self.connection.give_up();
        Err(lost)
    }
}

fn events(answer: &WatchResponse) -> Result<Vec<Event>, WatchError> {
    if answer.compact_revision() != 0 {
        return Err(WatchError::Compacted);
    }
    if answer.canceled() {
        return Err(lost(format!("the server cancelled it: {}", answer.cancel_reason())));
    }
    let events = answer.events().iter().filter_map(|event| {
        let pair = event.kv()?;
        Some(match event.event_type() {
            EventType::Put => Event::Put(entry(pair)),
            EventType::Delete => {
                Event::Delete { key: pair.key().to_vec(), revision: pair.mod_revision() }
            }
        })
    });
    Ok(events.collect())
}

fn lost(cause: String) -> WatchError {
    KeysError { what: "watching leases".to_owned(), cause }.into()
}
