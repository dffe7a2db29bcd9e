//! The offloads against those who define them: the kernel's own segmentation, and two crates.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod crates;
mod kernel;
