//! The epoll engine: nonblocking reads of the TUN, `recvmmsg`, `sendmmsg`.
//!
//! ```text
//! frames  | 64 KiB read | 92 B | 92 B | 92 B | ...       one arena, packed: small packets share
//!                                                        cache lines and pages
//! trains  | slot 1      | slot 2      | ...              one 64 KiB slot per receive with GRO
//! ```
//!
//! While traffic flows, a turn tries both directions without asking epoll first; it asks only after
//! a turn that found nothing.

mod receive;
mod slots;

pub(super) use receive::Input;
