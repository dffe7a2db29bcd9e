//! What becomes of every packet: pure functions from bytes to bytes.

mod verdict;

pub use verdict::{DropReason, Tally};
