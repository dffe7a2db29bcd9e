//! The daemons. What they have in common stands here once; each brings its [`PeerSource`].
//!
//! ```text
//!  signals, worker failures, host events ──┐
//!  control calls ──────────────────────────┼─> serve ──> Tunnel: reconciler, gateway, routes
//!  PeerSource::news: a file, leases ───────┘
//! ```
//! All of it is one thread. Nothing here blocks it: what would, runs on a thread of its own.

mod clients;
mod fast_path;
#[cfg(feature = "etcd")]
pub mod flanneld;
mod handover;
mod health;
mod neighbours;
pub mod standalone;
mod tunnel;
mod watch;

use self::clients::{Asked, Clients, PeerChange, Wanted};
use self::handover::Bequest;
use self::tunnel::Tunnel;
use super::run::WorkerFailure;
use crate::config::Succession;
use crate::control::handover::Conversation;
use crate::control::{Response, report};
use crate::subnet::PeerSet;
use crate::sys::seccomp::{self, Programs};
use futures_util::StreamExt;
use ipnet::IpNet;
use sd_notify::NotifyState;
use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{debug, error, info, warn};

/// Why a gateway ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A worker failed.
    #[error(transparent)]
    Worker(#[from] WorkerFailure),
    /// The host has another address, at which the gateway cannot go on.
    #[error(
        "this host's address has changed from {from} to {to}, and {why}: ending, so that the service \
         starts again with the new one"
    )]
    Moved {
        /// The address that is lost.
        from: IpAddr,
        /// The address now.
        to: IpAddr,
        /// Why the gateway cannot go on there.
        why: String,
    },
}

/// Where the peers of a gateway come from.
trait PeerSource {
    /// What it learns: a file that was read again, leases that changed.
    type News;

    /// Waits for news. It may be dropped and called again at any time.
    async fn news(&mut self) -> Self::News;

    /// Does what the news demand.
    async fn apply(&mut self, tunnel: &mut Tunnel, news: Self::News);

    /// Does what a client wants, and answers.
    async fn change(
        &mut self,
        tunnel: &mut Tunnel,
        change: PeerChange,
        answer: oneshot::Sender<Response>,
    );

    /// What a successor gets to know.
    fn bequest(&self, peers: &PeerSet) -> Bequest;

    /// The networks that are routed to the device.
    fn routes(&self, peers: &PeerSet) -> Vec<IpNet>;

    /// When the host has lost an address of this gateway: has it go on at those at which a gateway
    /// that started now would receive. Says whether it does; it waits if there are no others.
    async fn follow_address(&mut self, tunnel: &mut Tunnel) -> Result<bool, ServeError>;
}

/// Why a daemon stops serving, although nothing failed.
enum Ended {
    /// Somebody asked for it.
    Asked,
    /// A successor asks for a hand-over, on this connection.
    Successor(UnixStream),
}

/// Serves until somebody asks for the end, a worker fails, or a successor comes.
async fn serve(
    tunnel: &mut Tunnel,
    source: &mut impl PeerSource,
    clients: &mut Clients,
    stop: &mut StopSignals,
) -> Result<Ended, ServeError> {
    loop {
        tokio::select! {
            () = stop.asked() => return Ok(Ended::Asked),
            Some(failure) = tunnel.gateway.failed() => return Err(failure.into()),
            news = source.news() => source.apply(tunnel, news).await,
            Some(wanted) = clients.next() => {
                let call = match wanted {
                    Wanted::Answer(call) => call,
                    Wanted::HandOver(stream) => return Ok(Ended::Successor(stream)),
                };
                match clients::look(tunnel, call.request) {
                    // The client may have gone away.
                    Asked::Seen(seen) => drop(call.answer.send(seen)),
                    Asked::Change(change) => source.change(tunnel, change, call.answer).await,
                }
            }
            Some(event) = tunnel.events.next() => {
                tunnel.watch.notice(event, || source.routes(tunnel.reconciler.current()));
            }
            () = tunnel.watch.due() => {
                tunnel.restore(&source.routes(tunnel.reconciler.current())).await;
                if tunnel.watch.has_lost() && source.follow_address(tunnel).await? {
                    tunnel.restore(&source.routes(tunnel.reconciler.current())).await;
                }
            }
        }
    }
}

/// Gives up system calls that the daemon does not need from here on. `TWILL_SECCOMP=off` keeps them,
/// for those who look for a fault.
fn restrict(programs: Programs) {
    if std::env::var_os("TWILL_SECCOMP").is_some_and(|word| word == "off") {
        return info!("system calls are not restricted: TWILL_SECCOMP=off");
    }
    match seccomp::restrict(programs) {
        Ok(refused) => debug!("{refused} system calls are refused from now on"),
        Err(reason) => warn!(
            "cannot restrict system calls: {reason}; fix: a kernel with CONFIG_SECCOMP_FILTER"
        ),
    }
}

/// Runs a daemon on this thread.
fn block_on<T>(daemon: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(daemon);
    // A thread may still be waiting for a name server.
    runtime.shutdown_background();
    Ok(ended)
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn install() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Says that all is there: to systemd, and to the `twill upgrade` that started this process.
fn tell_ready() {
    tell_systemd(NotifyState::Ready);
    report::ready();
}

/// What a gateway does whose successor has taken over.
fn tell_successor(successor: &Conversation) {
    // systemd follows the successor from here on, and takes it for the unit's main process.
    match successor.peer() {
        Some(pid) => tell_systemd(NotifyState::MainPid(pid)),
        None => debug!("the successor is in another PID namespace"),
    }
}

/// Lets the successor go on, once all else of this gateway is closed, and waits for the end if whoever
/// started this process would start it again.
async fn after(successor: Option<Conversation>, succession: Succession, stop: &mut StopSignals) {
    let Some(successor) = successor else { return };
    // Tasks that were ended with the gateway close what they hold when they are next looked at.
    tokio::task::yield_now().await;
    drop(successor);
    if succession.waits {
        info!("waiting for SIGTERM");
        stop.asked().await;
    }
}

/// Only means something under systemd; anywhere else nobody listens.
fn tell_systemd(state: NotifyState<'_>) {
    let said = state.to_string();
    if let Err(reason) = sd_notify::notify(&[state]) {
        error!("Failed to notify systemd the message {said} {reason}");
    }
}
