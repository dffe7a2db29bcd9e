//! What the program shares with its loader, as `program/layout.h` has it.
#![allow(unsafe_code, reason = "aya asks for a promise about what goes into maps")]

use aya::Pod;
use std::net::Ipv4Addr;
use twill_datapath::DropReason;

/// Bits of a key in front of its address.
pub(super) const KEY_BITS: u32 = 32;
/// Entries of the program's list of source ports.
pub(super) const SOURCE_PORTS: usize = 64;

/// Bytes that a gateway writes down for the next one.
pub(super) const ABOUT_BYTES: usize = 4096;

/// Peers with lower numbers are counted in an array, others in a hash table.
pub(super) const FIRST_PEERS: u32 = 4096;

/// Behind this gateway.
pub(super) const LOCAL: u32 = 1;
/// Behind a peer.
pub(super) const PEER: u32 = 2;
/// User space decides.
pub(super) const OTHER: u32 = 3;

/// Which addresses a key is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Space {
    /// Addresses of inner packets.
    InnerV4 = 4,
    /// Addresses of peers' datagrams.
    OuterV4 = 104,
}

/// What a table is searched for, behind the length of the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub(super) struct Key {
    space: u8,
    padding: [u8; 3],
    address: [u8; 4],
}

impl Key {
    pub(super) fn new(space: Space, address: Ipv4Addr) -> Self {
        Self { space: space as u8, padding: [0; 3], address: address.octets() }
    }
}

/// Who holds a network, and how a peer is reached. Addresses and port are in network order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Route {
    pub(super) holder: u32,
    pub(super) peer: u32,
    pub(super) endpoint: [u8; 4],
    pub(super) source: [u8; 4],
    pub(super) device: u32,
    pub(super) mtu: u32,
    pub(super) port: [u8; 2],
    pub(super) padding: u16,
}

/// What may change while the program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct State {
    /// Which of the two tables is in force.
    pub(super) table: u32,
    /// The MTU of the TUN device, bytes.
    pub(super) mtu: u32,
    /// Of the table's contents; never 0.
    pub(super) generation: u32,
}

/// The books of one direction on one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Tally {
    pub(super) packets_in: u64,
    pub(super) bytes_in: u64,
    pub(super) packets_out: u64,
    pub(super) bytes_out: u64,
    pub(super) packets_up: u64,
    pub(super) bytes_up: u64,
    pub(super) drops: [u64; DropReason::ALL.len()],
}

/// What passed to and from a peer on one CPU, by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct PeerTally {
    pub(super) packets: [u64; 2],
    pub(super) bytes: [u64; 2],
}

// SAFETY: plain bytes without padding; any value is one.
unsafe impl Pod for Key {}
// SAFETY: plain numbers without padding; any value is one.
unsafe impl Pod for Route {}
// SAFETY: plain numbers without padding; any value is one.
unsafe impl Pod for State {}
// SAFETY: plain numbers without padding; any value is one.
unsafe impl Pod for Tally {}
// SAFETY: plain numbers without padding; any value is one.
unsafe impl Pod for PeerTally {}

const _: () = assert!(size_of::<Key>() == 8 && size_of::<Route>() == 28);
const _: () = assert!(size_of::<Tally>() == 8 * (6 + DropReason::ALL.len()));

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = include_str!("program/layout.h");

    /// The number that the header gives a name.
    fn number(name: &str) -> Option<usize> {
        HEADER.lines().find_map(|line| {
            let words = line.trim().trim_start_matches("#define ").replace('=', " ");
            let mut words = words.split_whitespace();
            (words.next() == Some(name))
                .then(|| words.next()?.trim_end_matches(',').parse().ok())?
        })
    }

    #[test]
    fn the_program_has_the_same_numbers() {
        let expected = [
            ("REASONS", DropReason::ALL.len()),
            ("SEND_NO_BUFFERS", DropReason::SendNoBuffers as usize),
            ("TUN_OTHER", DropReason::TunOther as usize),
            ("SOURCE_PORTS", SOURCE_PORTS),
            ("ABOUT_BYTES", ABOUT_BYTES),
            ("FIRST_PEERS", FIRST_PEERS as usize),
            ("KEY_BITS", KEY_BITS as usize),
            ("LOCAL", LOCAL as usize),
            ("PEER", PEER as usize),
            ("OTHER", OTHER as usize),
            ("INNER_V4", Space::InnerV4 as usize),
            ("OUTER_V4", Space::OuterV4 as usize),
        ];
        for (name, value) in expected {
            assert_eq!(number(name), Some(value), "{name}");
        }
    }
}
