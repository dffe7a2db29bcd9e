//! The host around the gateway: links, addresses, routes, firewall rules, subnet.env.

mod events;
#[cfg(feature = "etcd")]
pub mod external_interface;
pub mod firewall;
mod network;
pub(crate) mod nic;
mod subnet_env;
mod survey;

pub use events::{HostEvent, HostEvents, RouteChange};
pub use network::{HostError, Network};
pub use subnet_env::{Previous, SubnetEnv, SubnetEnvError};
pub use survey::{Address, Interface, Path, Route, Survey};
