//! A watch on all leases.

use super::super::keys::{Event, KeysError, Watch, WatchError};
use super::connection::{Connection, cause};
use super::entry;
use etcd_client::{WatchResponse, WatchStream};
use std::rc::Rc;

/// `mvccpb.Event.EventType`.
const PUT: i32 = 0;
const DELETE: i32 = 1;

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
        match self.stream.message().await {
            Ok(Some(answer)) => events(&answer),
            Ok(None) => {
                self.connection.give_up();
                Err(lost("the server ended the stream".to_owned()))
            }
            Err(error) => {
                self.connection.failed(&error);
                Err(lost(cause(&error)))
            }
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
    let mut events = Vec::with_capacity(answer.events().len());
    for event in answer.events() {
        let Some(pair) = event.kv() else { continue };
        // The raw number: the client library panics at one that it does not know.
        events.push(match event.0.r#type {
            PUT => Event::Put(entry(pair)),
            DELETE => Event::Delete { key: pair.key().to_vec(), revision: pair.mod_revision() },
            unknown => return Err(lost(format!("an event of the unknown type {unknown}"))),
        });
    }
    Ok(events)
}

fn lost(cause: String) -> WatchError {
    KeysError { what: "watching leases".to_owned(), cause }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use etcd_client::proto::{PbEvent, PbKeyValue, PbWatchResponse};

    #[test]
    fn an_event_of_an_unknown_type_loses_the_watch_and_not_the_process() {
        let of_type = |number| {
            let pair = PbKeyValue { key: b"key".to_vec(), ..PbKeyValue::default() };
            let event = PbEvent { r#type: number, kv: Some(pair), prev_kv: None };
            let answer = PbWatchResponse { events: vec![event], ..PbWatchResponse::default() };
            events(&WatchResponse(answer))
        };

        assert!(matches!(of_type(PUT).unwrap()[..], [Event::Put(_)]));
        assert!(matches!(of_type(DELETE).unwrap()[..], [Event::Delete { .. }]));
        for unknown in [2, -1, i32::MAX] {
            let lost = of_type(unknown).unwrap_err().to_string();
            assert!(lost.contains(&format!("unknown type {unknown}")), "{lost}");
        }
    }
}
