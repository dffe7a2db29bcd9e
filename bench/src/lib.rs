//! Micro-benchmarks of the pure half.

pub mod packets;
