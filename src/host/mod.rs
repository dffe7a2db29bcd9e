//! The host around the gateway: links, addresses, routes, firewall rules, subnet.env.

#[cfg(feature = "etcd")]
pub mod external_interface;
pub mod firewall;
mod network;
pub(crate) mod nic;
mod subnet_env;
mod survey;

pub use network::{HostError, LinkEvent, LinkEvents, Network};
pub use subnet_env::{Previous, SubnetEnv, SubnetEnvError};
pub use survey::{Address, Interface, Path, Route, Survey};
