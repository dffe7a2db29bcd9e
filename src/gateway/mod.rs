//! The composition root: the only place that sees both planes. Four rooms, each of which imports
//! only those below it:
//!
//! ```text
//! shell      the daemons: one loop over a source of peers; signals, health, control calls, host events
//!   │
//! run        worker threads: start, publish peers to them, stop; gives the resources back
//!   │
//! resources  device, queues, sockets, wake-ups, raw sockets; what the machine is found to offer
//!   │
//! plan       pure: settings + findings -> offloads, rules, tuning, each with its reason
//! ```
//!
//! [`Gateway::start`] brings the data plane up, all of it or nothing. The control plane then
//! publishes a new [`View`](twill_datapath::route::View) whenever peers change, and stops it at the
//! end.

mod plan;
mod resources;
mod run;
mod shell;

pub use resources::{ResourceError, Resources};
pub(crate) use resources::{expected_fast_path, expected_offloads};
pub use run::{Gateway, StartError, WorkerFailure};
#[cfg(feature = "etcd")]
pub use shell::flanneld;
pub use shell::standalone;
