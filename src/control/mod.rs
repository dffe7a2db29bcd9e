//! The Unix control socket: how a running gateway is asked and told.
//!
//! One JSON object per line, a request from the client and a response from the gateway:
//!
//! ```text
//! {"request":"peer-add","peer":{"name":"b","endpoint":"192.0.2.2:8285","subnets":["10.10.2.0/24"]}}
//! {"ok":{"changed":true}}
//! ```
//!
//! Requests are handled by the control plane one after the other; a client that is slow, silent or
//! talks nonsense holds up nobody but itself.

mod client;
mod protocol;
mod server;

pub use client::{ClientError, call};
pub use protocol::{Request, Response};
pub use server::{Call, Served, ServerError, serve};
