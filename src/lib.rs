//! twill carries container traffic between hosts: IP packets from a TUN device, each one bare in a
//! UDP datagram.

pub mod cli;
pub mod config;
pub mod control;
pub mod engine;
pub mod gateway;
pub mod host;
pub mod socket;
pub mod subnet;
pub mod sys;
pub mod telemetry;
pub mod tun;
