//! Why an engine cannot begin or go on.

use super::EngineKind;
use crate::socket::SocketError;
use crate::tun::TunError;
use std::io;

/// Why an engine cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The program was built without the engine's crate.
    #[error("engine {0} is not in this program: choose another, or build with cargo's feature {0}")]
    NotBuilt(EngineKind),
    /// The TUN device is gone (EBADFD, POLLERR without EIO, ENODEV).
    #[error("the TUN device was deleted")]
    DeviceGone,
    /// The kernel or the container refuses what this engine is made of.
    #[error("{what} is not available: {source}{cure}", cure = cure(source))]
    Unsupported {
        /// What was tried.
        what: &'static str,
        /// What came back.
        source: io::Error,
    },
    /// There is no descriptor for epoll.
    #[error("setting up epoll: {0}: raise the limit of open files (ulimit -n)")]
    Epoll(#[source] io::Error),
    /// The wait for arrivals failed.
    #[error("waiting for packets: {0}")]
    Wait(#[source] io::Error),
    /// io_uring took no operation.
    #[error("submitting to io_uring: its queue is full")]
    SubmissionQueue,
    /// The TUN device cannot be read.
    #[error("reading the TUN device: {0}")]
    ReadTun(#[source] io::Error),
    /// The UDP socket cannot receive.
    #[error("receiving from the UDP socket: {0}")]
    Receive(#[source] io::Error),
    /// A probe has no device to try the engine on.
    #[error("probing the engine: {0}")]
    ProbeDevice(#[from] TunError),
    /// A probe has no socket.
    #[error("probing the engine: {0}")]
    ProbeSocket(#[from] SocketError),
    /// A probe could not send its packet.
    #[error("probing the engine: sending a packet through a throw-away TUN device: {0}")]
    ProbePacket(#[source] io::Error),
    /// The packet of a probe did not arrive.
    #[error("probing the engine: no packet came through a throw-away TUN device within 2 seconds")]
    ProbeSilent,
}

/// What to do where the kernel's answer does not say it.
fn cure(refused: &io::Error) -> &'static str {
    match refused.raw_os_error() {
        // Rings are locked memory for those without CAP_IPC_LOCK (io_uring_setup(2)).
        Some(libc::ENOMEM) => ": raise RLIMIT_MEMLOCK (ulimit -l), or grant CAP_IPC_LOCK",
        _ => "",
    }
}
