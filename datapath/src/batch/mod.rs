//! What one turn of a worker moves: the vocabulary between engines and the datapath.
//!
//! ```text
//!            receive                     datapath                      send / write
//!  TUN ──> Inbox.frames ──> egress ──> Datagrams (runs of equal size per peer) ──> UDP
//!  UDP ──> Inbox.trains ──> ingress ─> Frames (packets and aggregates)        ──> TUN
//! ```
//!
//! Received bytes stay in the engine's slots until the turn ends. What leaves is described by
//! [`Piece`]s: ranges of those slots, or of headers that the datapath wrote itself. Nobody holds a
//! pointer, so this module and the datapath need no `unsafe`; the engine turns pieces into `iovec`s
//! when it calls the kernel.

mod datagrams;
mod frames;
mod inbox;
mod outcome;
mod pieces;

pub use datagrams::{Datagrams, Destination, Run, RunLimits};
pub use frames::{Frame, FrameKind, Frames};
pub use inbox::{Flaw, Inbox, Train, TunFrame};
pub use outcome::{Failure, Outcome};
pub use pieces::{Chain, Piece, Pieces, Source};

/// The position of one receive buffer in an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(pub u16);

/// The batch has no room left: hand it to the engine, clear it, go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the batch is full")]
pub struct Full;
