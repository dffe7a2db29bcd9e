//! Engines move bytes between one TUN queue, one or two UDP sockets and memory. They know rings,
//! sockets and buffers, and nothing of IP; the datapath knows packets, and nothing of system calls.
//! The worker in `gateway` joins them:
//!
//! ```text
//! loop { receive -> (datapath) -> send, write -> release }
//! ```

mod arrival;
mod choice;
mod classic;
mod driver;
mod epoll;
mod error;
mod kernel;
mod kind;
#[cfg(test)]
pub(crate) mod loopback;
mod output;
mod probe;
#[cfg(feature = "tokio-uring")]
mod tokio_uring;
mod uring;

pub use choice::{Choice, PREFERENCE};
pub use error::EngineError;
pub use kernel::{Ability, Kernel, Lack, needs};
pub use kind::{EngineChoice, EngineKind};
pub use probe::{open, open_on, probe};

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use twill_datapath::batch::{Datagrams, Frames, Inbox, Outcome, Slot};
use twill_datapath::offload::vnet_hdr;

/// What an engine drives. All descriptors are nonblocking.
#[derive(Debug)]
pub struct Ports {
    /// One queue of the TUN device.
    pub tun: OwnedFd,
    /// The socket that receives, and that sends unless there is another.
    pub udp: OwnedFd,
    /// The socket that sends, where flows are spread over source ports.
    pub udp_send: Option<OwnedFd>,
    /// An eventfd: readable when the worker must look up from waiting.
    pub wake: OwnedFd,
}

impl Ports {
    /// The socket that sends.
    fn sender(&self) -> BorrowedFd<'_> {
        self.udp_send.as_ref().unwrap_or(&self.udp).as_fd()
    }

    /// Takes note of the wake-up, so that the descriptor is not readable any more.
    fn woken(&self) {
        let mut count = [0; 8];
        // It is nonblocking: without a wake-up there is nothing to read, which is as well.
        let _ = rustix::io::read(&self.wake, &mut count);
    }
}

/// How an engine is to use its ports.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Arrivals per direction in one turn.
    pub batch: usize,
    /// Receive UDP super-datagrams: slots for the socket must hold 64 KiB.
    pub gro: bool,
    /// Send runs with `UDP_SEGMENT`; when off, every datagram of a run is sent alone.
    pub gso: bool,
    /// Reads from the TUN device may bring super-packets of up to 64 KiB.
    pub super_packets: bool,
    /// The TUN device's MTU: what a read brings at most without super-packets, and a receive without
    /// GRO.
    pub mtu: u16,
    /// From where datagrams leave sockets of both IP families; the kernel chooses if there is none.
    pub sources: Option<Sources>,
}

/// The host's addresses from which datagrams leave, by the family of their destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources {
    /// To IPv4 addresses.
    pub v4: Ipv4Addr,
    /// To IPv6 addresses.
    pub v6: Ipv6Addr,
}

/// The longest frame that a TUN device hands out, with its virtio header.
const MAX_FRAME: usize = 65_535 + vnet_hdr::LEN;
/// The longest UDP payload that `UDP_GRO` joins.
const MAX_TRAIN: usize = 65_535;

impl Tuning {
    /// Bytes that one read from the TUN device brings at most, with its virtio header.
    fn frame_len(&self) -> usize {
        if self.super_packets { MAX_FRAME } else { usize::from(self.mtu) + vnet_hdr::LEN }
    }

    /// Bytes that one receive from the socket brings at most.
    fn train_len(&self) -> usize {
        if self.gro { MAX_TRAIN } else { self.mtu.into() }
    }
}

/// Ring and socket events that a gateway exports as gauges and counters; all since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// System calls made.
    pub syscalls: u64,
    /// Multishot operations armed again.
    pub rearmed: u64,
    /// Receives that found no free buffer in the ring.
    pub no_buffers: u64,
    /// Completion queue overflows.
    pub cq_overflows: u64,
    /// Reads that failed because the TUN device was down.
    pub tun_down: u64,
    /// Receives from the UDP socket that failed; ICMP from the underlay is not told to it.
    pub socket_errors: u64,
    /// Runs replayed as plain datagrams after the kernel refused `UDP_SEGMENT`.
    pub gso_replays: u64,
    /// Whether `UDP_SEGMENT` is still in use on the socket.
    pub gso_active: bool,
    /// Peers for which alone `UDP_SEGMENT` is off.
    pub gso_demoted_peers: u64,
    /// How often the socket's send buffer was enlarged, because what it held did not drain.
    pub buffer_growths: u64,
    /// Datagrams that the kernel dropped because the socket's queue was full (`SO_RXQ_OVFL`).
    pub socket_overflows: u64,
}

/// One way to move bytes. All methods are called by one thread, the worker's.
pub trait Engine {
    /// Which engine this is.
    fn kind(&self) -> EngineKind;

    /// Waits until something arrives, the wake descriptor fires or the timeout ends, then adds all
    /// that is there to the inbox, until it holds the batch size per direction, and says when it began
    /// to read. `None` sets no limit, a timeout of zero does not wait, and any wait may end earlier with
    /// nothing. Arrivals from before, whose slots are not released, may still be in the inbox if the
    /// timeout is zero.
    ///
    /// # Errors
    /// Only what the engine cannot recover from; everything else is counted in [`EngineStats`].
    fn receive(&mut self, inbox: &mut Inbox, timeout: Option<Duration>) -> Result<(), EngineError>;

    /// The bytes of a slot that was received and not released.
    fn slot_mut(&mut self, slot: Slot) -> &mut [u8];

    /// Sends all runs, in order per peer, and returns when the kernel has taken or refused each of
    /// them. A run that the kernel refuses only for being a run is replayed as plain datagrams,
    /// each exactly once; a datagram that is too long for its path leaves in IP fragments if it may
    /// ([`Destination::may_fragment`](twill_datapath::batch::Destination::may_fragment)).
    fn send(&mut self, datagrams: &Datagrams, outcome: &mut Outcome);

    /// Writes all frames in order and returns when the kernel has taken or refused each of them.
    fn write(&mut self, frames: &Frames, outcome: &mut Outcome);

    /// Gives back the slots of these arrivals, which may be some of those received, and forgets them.
    fn release(&mut self, inbox: &mut Inbox);

    /// Its events since the start.
    fn stats(&self) -> EngineStats;

    /// Takes nothing more from the kernel, and fills the inbox with what was taken already. Call it
    /// until the inbox stays empty: then no arrival is lost by [`Engine::into_ports`], and all that
    /// arrives from here on waits in the kernel for whoever has the ports next. The inbox is empty
    /// when called.
    ///
    /// # Errors
    /// As [`Engine::receive`], which must not be called any more.
    fn receive_last(&mut self, inbox: &mut Inbox) -> Result<(), EngineError>;

    /// Ends the engine and gives its ports back, with no operation on them under way. An engine
    /// whose receives run ahead (`uring`) loses what [`Engine::receive_last`] has not brought.
    fn into_ports(self: Box<Self>) -> Ports;
}
