//! The io_uring engine: multishot receives into buffer rings, one `io_uring_enter` per turn.
//!
//! ```text
//! TUN queue   multishot read     ──> frame buffers ──┐
//! UDP socket  multishot recvmsg  ──> train buffers ──┼──> completions ──> inbox
//! eventfd     multishot poll     ────────────────────┘
//! ```
//!
//! `SINGLE_ISSUER` and `DEFER_TASKRUN`: the kernel does its part of receiving only inside our own
//! `io_uring_enter`, in one go for all that has arrived, and never interrupts the worker. Sends and
//! TUN writes are plain system calls: they complete at once, and what completes at once gains
//! nothing from a ring (docs/PERF.md has numbers of `tokio-uring`, which queues them).

mod buffers;
mod receive;

pub(super) use receive::{Input, offers_buffer_rings};
