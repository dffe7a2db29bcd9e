//! The TUN device: its queues and its offloads.

mod configure;
mod device;
mod error;
mod probe;

pub use configure::configure;
pub use device::{Device, DeviceSpec};
pub use error::TunError;
pub use probe::{SuperPackets, reads_without_waiting, super_packets, throw_away};
