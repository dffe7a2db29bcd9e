//! The TUN device: its queues and its offloads.

mod configure;
mod device;
mod error;

pub use configure::configure;
pub use device::{Device, DeviceSpec};
pub use error::TunError;
