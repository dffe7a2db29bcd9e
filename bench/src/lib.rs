//! Micro-benchmarks of the pure half, and the packets that they work on.

use twill_testbed::packets::{ACK, tcp, udp};

/// An IPv4 packet with a UDP payload of `len` bytes.
#[must_use]
pub fn udp_packet(from: [u8; 4], to: [u8; 4], len: usize) -> Vec<u8> {
    udp(from, to, 64, &vec![7; len])
}

/// Segment `index` of a TCP stream of segments of `len` bytes.
#[must_use]
pub fn tcp_segment(from: [u8; 4], to: [u8; 4], index: u32, len: usize) -> Vec<u8> {
    tcp(from, to, 64, index * len as u32, ACK, &vec![7; len])
}
