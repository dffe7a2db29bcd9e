//! The numbers inside a running gateway, and the ways to read them: status, metrics, log.
//!
//! Workers write them without locks and without waiting for readers.

pub(crate) mod counter;
pub(crate) mod culprit;
pub(crate) mod drops;
pub(crate) mod fast;
pub(crate) mod histogram;
pub mod http;
pub(crate) mod instruments;
pub(crate) mod log;
pub(crate) mod news;
pub mod observer;
pub(crate) mod past;
pub(crate) mod peers;
pub(crate) mod probe;
pub(crate) mod prometheus;
pub(crate) mod silence;
pub mod status;
