//! A stock peer cannot tell twill from flannel's proxy: one table of packets, replayed.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod cases;
mod datapath;
