//! The Unix control socket: how a running gateway is asked and told.
//!
//! One JSON object per line, a request from the client and a response from the gateway:
//!
//! ```text
//! {"version":1,"request":{"peer-del":{"which":"10.10.2.0/24"}}}
//! {"ok":{"changed":[],"removed":["b"]}}
//! ```
//!
//! Root, and whoever runs the gateway, may ask for anything; a group can be let in to look. Requests
//! are handled by the control plane one after the other; a client that is slow, silent or talks
//! nonsense holds up nobody but itself, and never a worker.

mod client;
mod protocol;
mod server;
mod socket;

pub use client::{ClientError, call};
pub use protocol::{Message, Request, Response, VERSION};
pub use server::{Call, PENDING_CALLS, Served, serve};
pub use socket::ServerError;
