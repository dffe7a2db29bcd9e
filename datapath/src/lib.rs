//! What becomes of a packet in a UDP encapsulation gateway: pure functions from bytes to bytes.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod batch;
mod forward;
pub mod offload;
pub mod route;
pub mod wire;

pub use forward::{
    Cut, DropReason, Egress, EgressRules, Ingress, IngressCheck, IngressRules, Progress,
    ReplyTally, Tally, TrainReport, TrainRest, Unjoin, UnknownIngressCheck, Unwritten, World,
};
