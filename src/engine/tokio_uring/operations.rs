//! The operations that tokio-uring lacks, through its public one-shot operations. What the kernel
//! points into is owned by the operation until it has completed, also when nobody waits any more.
#![allow(unsafe_code, reason = "an empty message header can only be made from zeroes")]

use crate::sys::{address, cmsg};
use bytes::BytesMut;
use io_uring_06::{cqueue, opcode, squeue, types};
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

type InFlight<D> = InFlightOneshot<D, Completion<D>>;

fn submit<D: Unpin>(data: D, entry: squeue::Entry) -> InFlight<D> {
    UnsubmittedOneshot::new(data, Completion(std::marker::PhantomData), entry).submit()
}

/// Reads once into the whole buffer.
pub(super) fn read(fd: RawFd, mut buffer: BytesMut) -> InFlight<BytesMut> {
    let (at, len) = (buffer.as_mut_ptr(), buffer.len() as u32);
    submit(buffer, opcode::Read::new(types::Fd(fd), at, len).build())
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
    submit(message, opcode::RecvMsg::new(types::Fd(fd), header).build())
}

/// Sends one message whose header and all that it points at the caller keeps until the operation
/// has completed. Where `linked`, the next operation starts after this one, and only if this one
/// succeeds.
pub(super) fn send(fd: RawFd, header: &libc::msghdr, linked: bool) -> InFlight<()> {
    let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32;
    let entry = opcode::SendMsg::new(types::Fd(fd), &raw const *header).flags(flags).build();
    let link = if linked { squeue::Flags::IO_LINK } else { squeue::Flags::empty() };
    submit((), entry.flags(link))
}

/// Writes one packet whose pieces the caller keeps until the operation has completed.
pub(super) fn write(fd: RawFd, pieces: &[libc::iovec]) -> InFlight<()> {
    let entry = opcode::Writev::new(types::Fd(fd), pieces.as_ptr(), pieces.len() as u32).build();
    submit((), entry)
}
