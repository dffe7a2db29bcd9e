//! The TUN device: its queues and its offloads.

mod device;
mod error;

pub use device::{Device, DeviceSpec};
pub use error::TunError;
