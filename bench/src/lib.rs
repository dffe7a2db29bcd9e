//! Micro-benchmarks of the pure half.
