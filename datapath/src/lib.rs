//! The datapath of a UDP encapsulation gateway, without any I/O.
//!
//! A gateway carries IP packets between hosts, each one bare in a UDP datagram. This crate decides
//! what becomes of every packet, and how many of them share a system call. It does neither reads nor
//! writes: an *engine* fills buffers from a TUN device and a UDP socket, calls [`Egress`] and
//! [`Ingress`], and hands to the kernel what they describe. twill's engines use `io_uring` and
//! `epoll`; a test's engine is a vector. `examples/two_gateways.rs` is a small one.
//!
//! ```text
//!            receive                     this crate                    send / write
//!  TUN ──> TunFrame ──> Egress  ──> Datagrams (runs of equal size per peer) ──> UDP
//!  UDP ──> Train    ──> Ingress ──> Frames (packets and super-packets)      ──> TUN
//! ```
//!
//! # Modules
//!
//! - [`wire`]: headers of IPv4, IPv6, TCP, UDP and ICMP, to read and to write.
//! - [`offload`]: the virtio header, super-packets cut into packets ([`offload::split`]), packets
//!   joined into super-packets ([`offload::coalesce`]).
//! - [`route`]: who holds an address, as an immutable [`route::View`].
//! - [`batch`]: what one turn moves, as ranges of the engine's buffers.
//! - The root: [`Egress`], [`Ingress`], and what they count; [`Fair`], which chooses what leaves first.
//!
//! # Guarantees
//!
//! - **No I/O, no clock, no `unsafe`, no `std`.** The same bytes and the same [`World`] give the same
//!   result.
//! - **No input panics.** Packets, virtio headers and control data may hold anything.
//! - **No allocation** after `new`: every buffer has a fixed size, and [`Progress::Full`] says when
//!   one is used up.
//! - **Every packet is counted once.** Packets in = packets out + drops by [`DropReason`].
//! - **Flows keep their order**, within a batch and across batches.
//! - **Payload is not copied.** What leaves is a chain of ranges of receive buffers and of headers
//!   written here.
//!
//! # How it degrades
//!
//! Every offload may be missing, and each costs speed only. Without virtio headers the device hands
//! out single packets. Without `UDP_SEGMENT` a run has one datagram
//! ([`batch::RunLimits::datagrams`]). Without `UDP_GRO` a train has one. A device that refuses a
//! super-packet gets its packets one by one ([`Unjoin`]), and that kind is joined no more. A datagram
//! that is too long for its path leaves in fragments if its sender allows it; else the sender is
//! told the path's MTU ([`Egress::too_long`]).
//!
//! # Glossary
//!
//! | word | meaning |
//! |---|---|
//! | packet | An inner IP packet. |
//! | datagram | A UDP payload on the wire: one packet. |
//! | peer | Another gateway, with its UDP address and the networks behind it. |
//! | flow | Packets of one protocol between the same two addresses and ports. |
//! | super-packet | Several packets of one flow under one header (TSO, USO), up to 64 KiB. |
//! | segment | One packet of a super-packet. |
//! | slot | A receive buffer of the engine, known by its number. |
//! | piece | A range of bytes in a slot, or of headers written here. |
//! | chain | A list of pieces: the bytes of a run or of a frame. |
//! | frame | One read from or write to the TUN device: virtio header, packet or super-packet. |
//! | train | One receive from the socket (GRO): a datagram, or several of equal size. |
//! | run | One GSO send: datagrams of equal size to one peer, the last one may be shorter. |
//! | lane | A frame in the making: packets of one flow that will be joined. |
//! | batch | What one turn hands to the kernel: runs, or frames. |
//! | turn | Receive, choose, decide, send and write, once. |
//! | round | Turns that carry what waited when the first of them began. |
//! | tally | The books of one direction: packets in, packets out, drops by reason. |
//! | egress, ingress | From the device to peers; from peers to the device. |
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod batch;
mod forward;
pub mod offload;
pub mod route;
pub mod wire;

pub use forward::{
    Cut, DropReason, Egress, EgressRules, Fair, Flows, Ingress, IngressCheck, IngressRules,
    Progress, ReplyTally, Tally, TrainReport, TrainRest, Unjoin, UnknownIngressCheck, Unwritten,
    World,
};
