//! The async engine: the tokio-uring runtime, with one-shot operations only.
//!
//! ```text
//!             poll TUN ─┐
//!             poll UDP ─┼─> something is readable
//!         poll eventfd ─┘        │
//!                                v           one submission each
//!   read read read ...       ──> arrived frames ─┐
//!   recvmsg recvmsg ...      ──> arrived trains ─┴──> inbox
//!   sendmsg ─> sendmsg ...   <── runs           linked: one that fails stops the rest
//!   writev writev ...        <── frames
//! ```
//!
//! It needs no more of io_uring than Linux 5.10 has, where `uring` cannot run for want of multishot
//! receives and buffer rings. A submission takes a trip through the runtime, `io_uring_enter` and
//! `epoll_wait`, so operations are submitted by the batch; those on one descriptor complete in the
//! order of their submission, as none of them waits (see `operations`).

mod operations;
mod output;
mod receive;

pub(super) use receive::Input;
