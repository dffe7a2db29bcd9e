//! The TUN device: its queues and its offloads.

mod backpressure;
mod configure;
mod device;
mod error;
mod probe;
mod queues;

pub use backpressure::Backpressure;
pub use configure::configure;
pub use device::{Device, DeviceSpec};
pub use error::TunError;
pub use probe::{SuperPackets, probe_super_packets};
pub(crate) use probe::{reads_without_waiting, throw_away};
pub use queues::{add_queue, has_room_for_queues, set_attached, steer};
