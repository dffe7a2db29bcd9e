//! The numbers inside a running gateway, and the ways to read them: status, metrics, log.
//!
//! Workers write them without locks and without waiting for readers.

pub mod counter;
pub mod culprit;
pub mod drops;
pub mod histogram;
pub mod http;
pub mod instruments;
pub mod log;
pub mod observer;
pub mod peers;
pub mod probe;
pub mod prometheus;
pub mod status;
