//! The perf comparison harness.
