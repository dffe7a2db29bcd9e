//! The numbers inside a running gateway, and the ways to read them.

pub mod counter;
pub mod log;
