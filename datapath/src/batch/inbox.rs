//! What an engine received in one turn.

use super::Slot;
use alloc::vec::Vec;
use core::net::SocketAddr;

/// One read from the TUN device: virtio header (where the device has one), then a packet or an
/// aggregate.
#[derive(Clone, Copy, Debug)]
pub struct TunFrame {
    /// Where the bytes lie.
    pub slot: Slot,
    /// First byte within the slot.
    pub start: u32,
    /// Number of bytes.
    pub len: u32,
    /// When it was read, nanoseconds of `CLOCK_MONOTONIC`.
    pub read_ns: u64,
}

/// One receive from the UDP socket: one datagram, or several of equal size that the kernel joined
/// (`UDP_GRO`).
#[derive(Clone, Copy, Debug)]
pub struct Train {
    /// Where the bytes lie.
    pub slot: Slot,
    /// First byte within the slot.
    pub start: u32,
    /// Number of bytes.
    pub len: u32,
    /// Outer source.
    pub from: SocketAddr,
    /// Bytes of every datagram but the last; 0 when the kernel joined none.
    pub segment: u16,
    /// Outer TOS or traffic class octet.
    pub tos: u8,
    /// The kernel's receive time, nanoseconds of `CLOCK_REALTIME`; 0 when unknown.
    pub received_ns: u64,
    /// What the kernel said is wrong with it.
    pub flaw: Option<Flaw>,
}

/// A receive that the kernel marked as incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// `MSG_TRUNC`: the buffer was too short.
    MessageTruncated,
    /// `MSG_CTRUNC`: control data was lost, the segment size is unknown.
    ControlTruncated,
}

/// Arrivals: those that wait, in the order in which they came per direction, or those of one turn, in
/// the order in which they leave.
#[derive(Debug)]
pub struct Inbox {
    /// When the engine last began to read, nanoseconds of `CLOCK_MONOTONIC`: what took longer,
    /// waited for us.
    pub began_ns: u64,
    /// From the TUN device.
    pub frames: Vec<TunFrame>,
    /// From the UDP socket.
    pub trains: Vec<Train>,
}

impl Inbox {
    /// Bytes that [`Inbox::new`] allocates.
    #[must_use]
    pub const fn memory(capacity: usize) -> usize {
        capacity * (size_of::<TunFrame>() + size_of::<Train>())
    }

    /// Room for `capacity` arrivals per direction; an engine stops there.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            began_ns: 0,
            frames: Vec::with_capacity(capacity),
            trains: Vec::with_capacity(capacity),
        }
    }

    /// Forgets all arrivals.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.trains.clear();
    }

    /// Whether nothing arrived.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.trains.is_empty()
    }

    /// Bytes of all frames, and of all trains.
    #[must_use]
    pub fn bytes(&self) -> [u32; 2] {
        let frames = self.frames.iter().map(|frame| frame.len);
        [frames.sum(), self.trains.iter().map(|train| train.len).sum()]
    }
}
