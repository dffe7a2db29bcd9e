//! The fast path: packets cross the gateway without leaving the kernel.
//!
//! Owns the programs of `program/fastpath.bpf.c`, their maps and the pair of links between them. What
//! the programs look up is made of a [`View`], as the workers' look-ups are; whatever they do not
//! handle exactly as `twill-datapath` does stays on its way to user space. They never drop a packet
//! that user space would forward.
//!
//! ```text
//!  pods ──> TUN device ──egress──> underlay          underlay ──ingress──> NAME-in ═══ NAME-gro
//!               │                                        │                                │
//!               └──> user space <────────────────────────┘         TUN device <──joined───┘
//! ```

mod attached;
mod layout;
mod paths;
mod programs;
mod tables;
#[cfg(test)]
mod tests;
mod underlay;
mod veth;

pub(crate) use attached::{FastPath, Spec};
pub(crate) use paths::why_not;
pub(crate) use programs::probe;
pub(crate) use underlay::unfinished;
