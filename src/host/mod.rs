//! The machine around the gateway: links, routes, firewall, files.

mod network;

pub use network::{HostError, LinkEvent, LinkEvents, Network};
