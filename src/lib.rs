//! twill carries container traffic between hosts: IP packets from a TUN device, each one bare in a
//! UDP datagram, as flannel's `udp` backend does.
//!
//! This crate is the daemon: it opens devices and sockets, runs one worker per CPU, follows peers,
//! and tells how it fares. What becomes of a packet is decided in the crate `twill-datapath`, which
//! does no I/O; its front page has the glossary.
//!
//! - [`gateway`]: the data plane's resources, plan and workers, and the daemon around them.
//! - [`engine`]: what moves packets between the kernel and the datapath: `io_uring`, `epoll`.
//! - [`tun`], [`socket`], [`host`]: devices, sockets, and what the host's network knows.
//! - [`config`], [`subnet`]: peers from a file, or from flannel's leases in etcd.
//! - [`control`], [`telemetry`], [`cli`]: the control socket, metrics and logs, the command line.
//!
//! A gateway degrades, it does not stop: an engine or an offload that the kernel refuses is replaced
//! by the next best one, and the log and `twill status` say why. No input from the network ends the
//! process, and every packet that is not forwarded is counted under a reason.
//!
//! The modules are public for twill's own tests, benchmarks and harness. Only the command line, the
//! configuration files, the metrics and the control socket are stable.

pub mod cli;
pub mod config;
pub mod control;
pub mod engine;
#[cfg(feature = "fast-path")]
mod fastpath;
pub mod gateway;
pub mod host;
pub mod socket;
pub mod subnet;
pub mod sys;
pub mod telemetry;
pub mod tun;
