//! Clients of the control socket.

use super::tunnel::Tunnel;
use crate::control::{self, Call, Request, Response, ServerError};
use crate::subnet::PeerSpec;
use serde_json::json;
use std::path::Path;
use tokio::sync::mpsc;

/// The control socket and what is asked through it.
pub(super) struct Clients {
    calls: mpsc::Receiver<Call>,
    _served: Option<control::Served>,
}

impl Clients {
    /// Opens the control socket; it is closed with the result.
    pub(super) fn serve(path: &Path, group: Option<u32>) -> Result<Self, ServerError> {
        let (ask, calls) = mpsc::channel(control::PENDING_CALLS);
        Ok(Self { _served: Some(control::serve(path, group, ask)?), calls })
    }

    /// There is no control socket.
    #[cfg(feature = "etcd")]
    pub(super) fn none() -> Self {
        Self { calls: mpsc::channel(1).1, _served: None }
    }

    /// The next call.
    pub(super) async fn next(&mut self) -> Option<Call> {
        self.calls.recv().await
    }
}

/// What a request comes to.
pub(super) enum Asked {
    /// It was a look; this is what there is to see.
    Seen(Response),
    /// It wants something of the peers' source.
    Change(PeerChange),
}

/// What a client wants to be done about the peers.
pub(super) enum PeerChange {
    Add(PeerSpec),
    /// By name or by one of its networks.
    Delete(String),
    /// Make these the peers.
    Sync(Vec<PeerSpec>),
    Reload,
}

/// Answers what every daemon answers in the same way.
pub(super) fn look(tunnel: &Tunnel, request: Request) -> Asked {
    let observer = tunnel.gateway.observer();
    let seen = match request {
        Request::Status => json!(observer.snapshot()),
        Request::Histograms => json!(observer.histograms()),
        Request::PeerList => json!(tunnel.reconciler.current().iter().collect::<Vec<_>>()),
        Request::PeerAdd { peer } => return Asked::Change(PeerChange::Add(peer)),
        Request::PeerDel { which } => return Asked::Change(PeerChange::Delete(which)),
        Request::PeerSync { peers } => return Asked::Change(PeerChange::Sync(peers)),
        Request::Reload => return Asked::Change(PeerChange::Reload),
    };
    Asked::Seen(Response::Ok(seen))
}
