//! The overlay that most tests are about: this gateway, peer A and peer B.
//!
//! ```text
//! here 10.10.0.0/24, TUN address 10.10.0.0     A 10.10.1.0/24     B 10.10.2.0/24
//! ```

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use twill_datapath::route::{Overlay, Peer, PeerIndex};

/// MTU of the TUN device.
pub const MTU: u16 = 1472;
/// The TUN device's address, the first of the lease as flannel sets it.
pub const OWN: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 0);
/// A host behind this gateway.
pub const HERE: [u8; 4] = [10, 10, 0, 5];
/// A host behind peer A.
pub const AT_A: [u8; 4] = [10, 10, 1, 5];
/// A host behind peer B.
pub const AT_B: [u8; 4] = [10, 10, 2, 5];
/// Peer A's UDP address.
pub const A: &str = "192.0.2.1:8285";
/// Peer B's UDP address.
pub const B: &str = "192.0.2.2:8285";

/// The overlay, its peers at these UDP addresses.
#[must_use]
pub fn overlay(a: SocketAddr, b: SocketAddr) -> Overlay {
    Overlay {
        peers: vec![peer(0, a, "10.10.1.0/24"), peer(1, b, "10.10.2.0/24")],
        local: vec!["10.10.0.0/24".parse().unwrap()],
        addresses: vec![IpAddr::V4(OWN)],
    }
}

/// The overlay with its peers at [`A`] and [`B`].
#[must_use]
pub fn with_a_and_b() -> Overlay {
    overlay(A.parse().unwrap(), B.parse().unwrap())
}

/// A peer that holds one subnet, which is its name too.
///
/// # Panics
/// When `subnet` is not written as `10.10.1.0/24` is.
#[must_use]
pub fn peer(index: u32, endpoint: SocketAddr, subnet: &str) -> Peer {
    Peer {
        index: PeerIndex(index),
        name: subnet.into(),
        endpoint,
        subnets: vec![subnet.parse().unwrap()],
    }
}
