//! The UDP sockets of the tunnel: their options and offloads.

mod open;
mod originate;
mod path;
mod segmentation;
mod steering;

pub use open::{
    Fragmentation, SocketError, SocketSpec, check_free, open, open_first, probe_gro,
    set_fragmentation,
};
pub use originate::Originator;
pub use path::{Path, PathAsker, anywhere, path_between, path_to};
pub use segmentation::{GsoPolicy, gso_policy, max_run};
pub use steering::{open_spread, steer};
