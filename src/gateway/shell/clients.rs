//! Clients of the control socket.

use super::tunnel::Tunnel;
use crate::control::{self, Call, Place, Request, Response, ServerError};
use crate::subnet::PeerSpec;
use serde_json::json;
use std::os::unix::net::UnixStream;
use std::path::Path;
use tokio::sync::mpsc;

/// The control socket and what is asked through it.
pub(super) struct Clients {
    calls: mpsc::Receiver<Call>,
    successors: mpsc::Receiver<UnixStream>,
    served: Option<control::Served>,
}

impl Clients {
    /// Opens the control socket; it is closed with the result.
    pub(super) fn serve(
        path: &Path,
        group: Option<u32>,
        place: Place,
    ) -> Result<Self, ServerError> {
        let (ask, calls) = mpsc::channel(control::PENDING_CALLS);
        let (hand_over, successors) = mpsc::channel(1);
        let served = control::serve_successors(path, group, ask, Some(hand_over), place)?;
        Ok(Self { served: Some(served), successors, calls })
    }

    /// There is no control socket.
    #[cfg(feature = "etcd")]
    pub(super) fn none() -> Self {
        Self { calls: mpsc::channel(1).1, successors: mpsc::channel(1).1, served: None }
    }

    /// Whether clients still find the control socket.
    pub(super) fn are_there(&self) -> bool {
        self.served.as_ref().is_some_and(control::Served::is_named)
    }

    /// What a client wants next.
    pub(super) async fn next(&mut self) -> Option<Wanted> {
        tokio::select! {
            // Who waits for an answer gets it before the gateway is handed over.
            biased;
            Some(call) = self.calls.recv() => Some(Wanted::Answer(call)),
            Some(stream) = self.successors.recv() => Some(Wanted::HandOver(stream)),
            else => None,
        }
    }
}

/// What a client wants.
pub(super) enum Wanted {
    /// An answer to its request.
    Answer(Call),
    /// The gateway, handed over on this connection.
    HandOver(UnixStream),
}

/// What a request comes to.
pub(super) enum Asked {
    /// It was a look; this is what there is to see.
    Seen(Response),
    /// It is for the peers' source.
    Change(PeerChange),
}

/// What a client wants of the peers' source.
pub(super) enum PeerChange {
    Add(PeerSpec),
    /// By name or by one of its networks.
    Delete(String),
    /// Make these the peers.
    Sync(Vec<PeerSpec>),
    Reload,
    /// Say from which file they come, and which of them have no address.
    Origin,
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
        Request::PeerOrigin => return Asked::Change(PeerChange::Origin),
        Request::Reload => return Asked::Change(PeerChange::Reload),
        // The server keeps such connections for itself, see `successor`.
        Request::HandOver => return Asked::Seen(Response::Error("no hand-over here".to_owned())),
    };
    Asked::Seen(Response::Ok(seen))
}
