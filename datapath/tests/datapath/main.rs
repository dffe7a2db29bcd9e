//! The datapath on its own, packet by packet: what FAULTS asks of bad input, what a peer may rely
//! on, and the books that must balance whatever comes.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod aggregates;
mod batches;
mod decapsulation;
mod encapsulation;
mod harness;
mod laws;
mod replies;
