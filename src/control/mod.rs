//! The Unix control socket, over which programs read and change a running gateway.
//!
//! One JSON object per line, a request from the client and a response from the gateway:
//!
//! ```text
//! {"version":1,"request":{"peer-del":{"which":"10.10.2.0/24"}}}
//! {"ok":{"changed":[],"removed":["b"]}}
//! ```
//!
//! Root and the user who runs the gateway may send every request; a group can be allowed to send
//! the read-only ones. The control plane handles requests one after the other. A client that is
//! slow, silent or sends nonsense delays no other client, and never a worker.

mod client;
pub(crate) mod clients;
pub mod handover;
mod peer;
mod protocol;
pub(crate) mod report;
mod server;
mod socket;

pub use client::{ClientError, call, running};
pub use peer::peer;
pub use protocol::{Message, Request, Response};
pub(crate) use server::PENDING_CALLS;
pub use server::{Call, Handovers, Served, serve, serve_successors};
pub use socket::{Place, ServerError};
