//! What a receive brought, or what its failure means: the same for every engine.

use super::{EngineError, EngineStats};
use crate::sys::{address, cmsg};
use std::io;
use twill_datapath::batch::{Flaw, Slot, Train};

/// One message as recvmsg(2) reports it.
pub(super) struct Arrival<'a> {
    /// The slot that holds its payload.
    pub(super) slot: Slot,
    /// Where in the slot the payload begins, bytes.
    pub(super) start: u32,
    /// Bytes of payload in the slot.
    pub(super) len: u32,
    /// The sender's address.
    pub(super) name: &'a [u8],
    pub(super) control: &'a [u8],
    /// `MSG_TRUNC` and `MSG_CTRUNC`.
    pub(super) flags: i32,
}

impl Arrival<'_> {
    /// The train that it is; nothing when its sender cannot be read.
    pub(super) fn train(&self, stats: &mut EngineStats) -> Option<Train> {
        let said = cmsg::parse(self.control);
        if let Some(overflows) = said.overflows {
            // The kernel's counter has 32 bits and counts since the socket was opened.
            let before = stats.socket_overflows as u32;
            stats.socket_overflows += u64::from(overflows.wrapping_sub(before));
        }
        let flaw = match self.flags {
            flags if flags & libc::MSG_TRUNC != 0 => Some(Flaw::MessageTruncated),
            flags if flags & libc::MSG_CTRUNC != 0 => Some(Flaw::ControlTruncated),
            _ => None,
        };
        Some(Train {
            slot: self.slot,
            start: self.start,
            len: self.len,
            from: address::parse(self.name)?,
            segment: said.segment.unwrap_or(0),
            tos: said.tos,
            received_ns: said.received_ns,
            flaw,
        })
    }
}

/// A read of the TUN device that brought nothing.
pub(super) fn no_frame(errno: i32, stats: &mut EngineStats) -> Result<(), EngineError> {
    match errno {
        libc::EAGAIN | libc::EINTR => Ok(()),
        // EFAULT: `tun_ring_recv` says so to a reader that it wakes because the device goes away.
        libc::EIO | libc::EFAULT => {
            stats.tun_down += 1;
            Ok(())
        }
        libc::EBADFD | libc::ENODEV => Err(EngineError::DeviceGone),
        _ => Err(EngineError::ReadTun(error(errno))),
    }
}

/// A receive from the socket that brought nothing. ICMP errors are not among the reasons: Linux tells
/// them to sockets that are connected or ask for them (`IP_RECVERR`, `__udp4_lib_err`), and this one
/// is neither, as one peer's errors would come back from sends to another. Paths' MTUs are learned
/// all the same, by the kernel's routes. What else fails is counted, and the socket lives on.
pub(super) fn no_train(errno: i32, stats: &mut EngineStats) -> Result<(), EngineError> {
    match errno {
        libc::EAGAIN | libc::EINTR => Ok(()),
        libc::EBADF | libc::ENOTSOCK | libc::EFAULT | libc::EINVAL => {
            Err(EngineError::Receive(error(errno)))
        }
        _ => {
            stats.socket_errors += 1;
            Ok(())
        }
    }
}

fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_device_that_is_gone_and_broken_descriptors_end_an_engine() {
        for errno in 1..134 {
            let mut stats = EngineStats::default();
            let (frame, train) = (no_frame(errno, &mut stats), no_train(errno, &mut stats));

            let gone = matches!(frame, Err(EngineError::DeviceGone));
            assert_eq!(gone, [libc::EBADFD, libc::ENODEV].contains(&errno), "{errno}");
            let down = [libc::EIO, libc::EFAULT].contains(&errno);
            assert_eq!(stats.tun_down, u64::from(down), "{errno}");
            let broken = [libc::EBADF, libc::ENOTSOCK, libc::EFAULT, libc::EINVAL];
            assert_eq!(train.is_err(), broken.contains(&errno), "{errno}");
            let nothing = [libc::EAGAIN, libc::EINTR].contains(&errno);
            assert_eq!(stats.socket_errors == 0, train.is_err() || nothing, "{errno}");
        }
    }

    #[test]
    fn the_overflow_counter_is_followed_across_its_wrap() {
        let mut stats = EngineStats { socket_overflows: (3 << 32) - 2, ..EngineStats::default() };
        let mut control = (size_of::<libc::cmsghdr>() + 4).to_ne_bytes().to_vec();
        control.extend(libc::SOL_SOCKET.to_ne_bytes());
        control.extend(libc::SO_RXQ_OVFL.to_ne_bytes());
        control.extend(5u32.to_ne_bytes());
        let arrival =
            Arrival { slot: Slot(0), start: 0, len: 0, name: &[], control: &control, flags: 0 };

        let train = arrival.train(&mut stats);

        assert!(train.is_none(), "without an address there is no sender");
        assert_eq!(stats.socket_overflows, (3 << 32) + 5);
    }
}
