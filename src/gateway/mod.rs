//! The composition root: the only place that sees both planes.
//!
//! [`Gateway::start`] brings the data plane up, all of it or nothing; the control plane then
//! publishes a new [`View`](twill_datapath::route::View) whenever peers change, and stops it at the end.

#[cfg(feature = "etcd")]
pub mod flanneld;
mod offloads;
pub mod standalone;
mod start;
mod watch;
mod worker;

pub use offloads::expected as expected_offloads;
pub use start::{Gateway, StartError, WorkerFailure};
