//! What becomes of every packet: pure functions from bytes to bytes.
//!
//! ```text
//!  TunFrame ──> Egress  ──> Datagrams (to peers)      + ICMP errors (to inner senders)
//!  Train    ──> Ingress ──> Frames (to the TUN device)
//! ```
//!
//! Packets are edited in place in the engine's slots; what leaves is described by pieces of them.
//! Both directions keep books that balance: packets in = packets out + drops by reason. What the
//! kernel refuses afterwards is booked back by `refused`.

mod check;
mod egress;
mod errno;
mod fair;
mod icmp_reply;
mod ingress;
mod inner;
mod tally;
mod unjoin;

pub use check::{IngressCheck, UnknownIngressCheck};
pub use egress::{Cut, Egress, EgressRules};
pub use fair::{Fair, Flows};
pub use icmp_reply::ReplyTally;
pub use ingress::{Ingress, IngressRules, TrainReport, TrainRest, Unwritten};
pub use tally::{DropReason, Tally};
pub use unjoin::Unjoin;

use crate::route::View;

/// What the datapath may know beside the packet.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// Peers and networks.
    pub view: &'a View,
    /// The time, nanoseconds of a monotonic clock.
    pub now_ns: u64,
}

/// How far an arrival got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<Rest> {
    /// All of it was forwarded or dropped.
    Done,
    /// The batch is full: hand it to the engine, clear it, and resume with the rest. What was
    /// decided stays decided: nothing is looked up, counted or edited twice.
    Full(Rest),
}
