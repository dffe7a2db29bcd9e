//! A stock peer cannot tell twill from flannel's proxy: one table of packets, replayed.

#![allow(unsafe_code, reason = "packet sockets have addresses that socket2 does not model")]
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod datapath;
mod devices;
