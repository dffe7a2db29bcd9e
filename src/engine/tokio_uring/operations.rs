//! The operations that tokio-uring lacks, through its public one-shot operations.
//!
//! Everything but [`readable`] completes within the call that submits it, with EAGAIN at worst: the
//! kernel holds no buffer while nobody waits for it. That is more than tidiness. A runtime that ends
//! frees the data of unfinished operations before it cancels them (tokio-uring 0.5.0,
//! `Driver::drop`), so an operation that waits must not have any.
#![allow(unsafe_code, reason = "operations hold pointers")]

use crate::sys::{address, cmsg};
use bytes::BytesMut;
use io_uring_06::types::{Fd, Timespec};
use io_uring_06::{cqueue, opcode, squeue};
use std::io;
use std::os::fd::RawFd;
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

/// Hands the owned data back with the kernel's result.
pub(super) struct Completion<D>(std::marker::PhantomData<fn() -> D>);

impl<D> OneshotOutputTransform for Completion<D> {
    type Output = (io::Result<usize>, D);
    type StoredData = D;

    fn transform_oneshot_output(self, data: D, completion: cqueue::Entry) -> Self::Output {
        let result = completion.result();
        let result = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
        (result, data)
    }
}

/// An operation that is under way, and the data that it owns.
pub(super) type InFlight<D> = InFlightOneshot<D, Completion<D>>;

fn submit<D>(data: D, entry: squeue::Entry) -> InFlight<D> {
    UnsubmittedOneshot::new(data, Completion(std::marker::PhantomData), entry).submit()
}

/// How reads and writes of a TUN device are kept from waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoWait {
    /// `RWF_NOWAIT`: the device says that it can (`FMODE_NOWAIT`, Linux 6.4).
    ByFlag,
    /// Before that the kernel refuses the flag, and lets a read that finds nothing wait however the
    /// descriptor is set: a linked timeout of zero ends it.
    ByTimeout,
}

impl NoWait {
    /// What a TUN queue needs. A read of no bytes finds out: it takes no packet.
    pub(super) async fn of(fd: RawFd) -> io::Result<Self> {
        match read(fd, BytesMut::new(), Self::ByFlag).await.0 {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Self::ByTimeout),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(Self::ByFlag),
        }
    }

    /// How many reads may be submitted at once and keep packets in order: one whose timeout has not
    /// come yet could overtake the next.
    pub(super) fn most(self) -> usize {
        match self {
            Self::ByFlag => usize::MAX,
            Self::ByTimeout => 1,
        }
    }

    fn flags(self) -> i32 {
        match self {
            Self::ByFlag => libc::RWF_NOWAIT,
            Self::ByTimeout => 0,
        }
    }
}

/// Waits until a descriptor is readable or broken; completes with poll(2)'s events.
pub(super) fn readable(fd: RawFd) -> InFlight<()> {
    submit((), opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).build())
}

/// Reads one packet into the buffer. With [`NoWait::ByTimeout`] the next operation must be
/// [`at_once`].
pub(super) fn read(fd: RawFd, mut buffer: BytesMut, no_wait: NoWait) -> InFlight<BytesMut> {
    let (at, len) = (buffer.as_mut_ptr(), buffer.len() as u32);
    let entry = opcode::Read::new(Fd(fd), at, len).rw_flags(no_wait.flags()).build();
    let link = match no_wait {
        NoWait::ByFlag => squeue::Flags::empty(),
        NoWait::ByTimeout => squeue::Flags::IO_LINK,
    };
    submit(buffer, entry.flags(link))
}

/// Ends the operation before it, if that has not completed by now.
pub(super) fn at_once() -> InFlight<()> {
    static NOW: Timespec = Timespec::new();
    submit((), opcode::LinkTimeout::new(&raw const NOW).build())
}

/// A message to receive into, with all that its header points at.
pub(super) struct Message {
    pub(super) payload: BytesMut,
    name: [u8; address::LEN],
    control: [u64; cmsg::RECEIVE_SPACE / 8],
    iovec: libc::iovec,
    header: libc::msghdr,
}

impl Message {
    pub(super) fn new(payload: BytesMut) -> Box<Self> {
        // SAFETY: all fields are integers and pointers, for which zero is a value.
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        let iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let control = [0; cmsg::RECEIVE_SPACE / 8];
        Box::new(Self { payload, name: [0; address::LEN], control, iovec, header })
    }

    /// The sender's address as the kernel wrote it.
    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    /// The control data as the kernel wrote it.
    pub(super) fn control(&self) -> &[u8] {
        let all = zerocopy::IntoBytes::as_bytes(&self.control);
        &all[..self.header.msg_controllen.min(all.len())]
    }

    /// `MSG_TRUNC` and `MSG_CTRUNC`.
    pub(super) fn flags(&self) -> i32 {
        self.header.msg_flags
    }
}

/// Receives one message.
pub(super) fn receive(fd: RawFd, mut message: Box<Message>) -> InFlight<Box<Message>> {
    let this = &mut *message;
    this.iovec.iov_base = this.payload.as_mut_ptr().cast();
    this.iovec.iov_len = this.payload.len();
    this.header.msg_name = this.name.as_mut_ptr().cast();
    this.header.msg_namelen = address::LEN as libc::socklen_t;
    this.header.msg_iov = &raw mut this.iovec;
    this.header.msg_iovlen = 1;
    this.header.msg_control = this.control.as_mut_ptr().cast();
    this.header.msg_controllen = cmsg::RECEIVE_SPACE;
    this.header.msg_flags = 0;
    let header = &raw mut this.header;
    let entry = opcode::RecvMsg::new(Fd(fd), header).flags(libc::MSG_DONTWAIT as u32).build();
    submit(message, entry)
}

/// Sends one message. Where `linked`, the next operation starts after this one, and only if this one
/// succeeds.
///
/// # Safety
/// The header, and every pointer in it for reads of the length beside it, is valid until the
/// operation has completed.
pub(super) unsafe fn send(fd: RawFd, header: &libc::msghdr, linked: bool) -> InFlight<()> {
    let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32;
    let entry = opcode::SendMsg::new(Fd(fd), &raw const *header).flags(flags).build();
    let link = if linked { squeue::Flags::IO_LINK } else { squeue::Flags::empty() };
    submit((), entry.flags(link))
}

/// Writes one packet. A TUN queue takes or refuses a packet at once.
///
/// # Safety
/// Every `iovec` is valid for reads of its length until the operation has completed.
pub(super) unsafe fn write(fd: RawFd, pieces: &[libc::iovec], no_wait: NoWait) -> InFlight<()> {
    let entry = opcode::Writev::new(Fd(fd), pieces.as_ptr(), pieces.len() as u32);
    submit((), entry.rw_flags(no_wait.flags()).build())
}
