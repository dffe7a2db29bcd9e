//! flannel's proxy, packet by packet, as bytes: what its `tun_to_udp` and `udp_to_tun` make of each
//! input, and where twill differs on purpose, what twill makes of it. The overlay: this host holds
//! 10.10.0.0/24 with TUN address 10.10.0.0, peer A 10.10.1.0/24, peer B 10.10.2.0/24; ingress is
//! not checked, as in flannel.
//!
//! Bytes are written as `tcpdump -x` prints them, the IP header on a line of its own.

mod datagrams;
mod frames;

/// What comes in.
#[derive(Clone, Copy, Debug)]
pub enum Given {
    /// A packet that the kernel routed to the TUN device.
    FromTun(&'static str),
    /// A datagram, with its outer source.
    FromPeer(&'static str, &'static str),
}

/// What comes out, and nothing beside it.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// Nothing at all.
    Silence,
    /// A datagram to this address.
    ToPeer(&'static str, &'static str),
    /// A packet written to the TUN device.
    ToTun(&'static str),
}

/// What flannel's proxy makes of the same input.
#[derive(Clone, Copy, Debug)]
pub enum Stock {
    /// The same bytes.
    Same,
    /// Something else: what, and why twill does not.
    Differs(Outcome, &'static str),
    /// It depends on what its buffer held before: how.
    Undefined(&'static str),
}

/// One input and its outcomes.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What is special about it.
    pub name: &'static str,
    /// What comes in.
    pub given: Given,
    /// What twill makes of it.
    pub twill: Outcome,
    /// What flannel's proxy makes of it.
    pub stock: Stock,
}

/// The table.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    frames::CASES.iter().chain(datagrams::CASES)
}

/// The bytes of a dump.
///
/// # Panics
/// When it holds anything but hexadecimal digits and space.
#[must_use]
pub fn bytes(dump: &str) -> Vec<u8> {
    let digits: Vec<u8> = dump
        .chars()
        .filter(|character| !character.is_whitespace())
        .map(|digit| digit.to_digit(16).expect("a hexadecimal digit") as u8)
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
