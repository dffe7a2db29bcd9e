//! The UDP sockets of the tunnel: their options and offloads.

mod buffer;
mod open;
mod originate;
mod path;
mod segmentation;
mod steering;

pub(crate) use buffer::{send_buffer, set_buffers, set_send_buffer, wait_for_room};
pub use open::{Fragmentation, SocketError, SocketSpec, check_free, open, open_first};
pub(crate) use open::{has_both_families, probe_gro, set_fragmentation};
pub use originate::Originator;
pub(crate) use path::anywhere;
pub use path::{Path, PathAsker, path_to};
pub use segmentation::{GsoPolicy, gso_policy, max_run};
pub use steering::steer;
pub(crate) use steering::{open_spread, steer_among_first, steer_to_first};
