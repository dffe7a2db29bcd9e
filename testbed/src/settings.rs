//! The settings that tests' gateways have in common.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use ipnet::IpNet;
use std::net::SocketAddr;
use twill::config::file::Interface;
use twill::config::load::{self, Addressing};
use twill::config::{Mtu, Settings};

/// The defaults of `twill run` on the device `tun0`, with the MTU of flannel on Ethernet and a small
/// receive buffer. A test changes what it is about.
///
/// # Panics
/// Never: one queue needs no count of the CPUs.
#[must_use]
pub fn settings(listen: SocketAddr, address: IpNet, local: IpNet) -> Settings {
    let interface =
        Interface { name: "tun0".to_owned(), socket_buffer: 1 << 20, ..Interface::default() };
    let mtu = Mtu::try_from(1472).unwrap();
    let addressing = Addressing {
        addresses: vec![address],
        mtu,
        follows_paths: false,
        listen,
        listen_v6: None,
        local: vec![local],
    };
    load::settings(&interface, addressing).unwrap()
}
