//! A watch on all leases.

use super::super::manager::{Event, ManagerError, Watch, WatchError};
use super::{cause, entry};
use etcd_client::{EventType, WatchResponse, WatchStream};

/// Changes of leases as etcd tells them.
pub struct EtcdWatch {
    stream: WatchStream,
}

impl EtcdWatch {
    pub(super) fn new(stream: WatchStream) -> Self {
        Self { stream }
    }
}

impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<Vec<Event>, WatchError> {
        match self.stream.message().await {
            Ok(Some(answer)) => events(&answer),
            Ok(None) => Err(lost("the server ended the stream".to_owned())),
            Err(error) => Err(lost(cause(&error))),
        }
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
    ManagerError { what: "watching leases".to_owned(), cause }.into()
}
