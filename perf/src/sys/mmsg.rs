#![allow(unsafe_code, reason = "sendmmsg and recvmmsg take arrays of raw message headers")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

/// Most messages that one call moves.
pub(crate) const BATCH: usize = 64;

/// Sends the messages on a connected socket, as many as fit one call; returns how many left.
pub(crate) fn send_batch(socket: impl AsFd, messages: &[&[u8]]) -> io::Result<usize> {
    let mut parts = [const { libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 } }; BATCH];
    let mut headers = [empty_header(); BATCH];
    let count = messages.len().min(BATCH);
    for ((message, part), header) in messages.iter().zip(&mut parts).zip(&mut headers) {
        part.iov_base = message.as_ptr().cast_mut().cast();
        part.iov_len = message.len();
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
    }

    // SAFETY: the first `count` headers each point at one part, and each part at a message that
    // outlives the call; sendmmsg only reads what the parts point at.
    let sent = unsafe {
        libc::sendmmsg(socket.as_fd().as_raw_fd(), headers.as_mut_ptr(), count as u32, 0)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Room for the messages of one receive call.
pub(crate) struct ReceiveBatch {
    bytes: Vec<u8>,
    lengths: [usize; BATCH],
}

impl ReceiveBatch {
    /// Bytes per message; longer ones are cut.
    const SLOT: usize = 2048;

    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; BATCH * Self::SLOT], lengths: [0; BATCH] }
    }

    /// Waits for the first message, at most the socket's receive time-out, takes what else is
    /// there, and returns how many came.
    pub(crate) fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let mut parts = [const { libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 } }; BATCH];
        let mut headers = [empty_header(); BATCH];
        let slots = self.bytes.chunks_exact_mut(Self::SLOT);
        for ((slot, part), header) in slots.zip(&mut parts).zip(&mut headers) {
            part.iov_base = slot.as_mut_ptr().cast();
            part.iov_len = slot.len();
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
        }

        // SAFETY: each header points at one part, each part at its own slot of `self.bytes`, which
        // is borrowed mutably for the whole call; the time-out is absent.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_WAITFORONE,
                ptr::null_mut(),
            )
        };
        if received < 0 {
            return Err(io::Error::last_os_error());
        }
        for (length, header) in self.lengths.iter_mut().zip(&headers) {
            *length = header.msg_len as usize;
        }
        Ok(received as usize)
    }

    /// The first `count` messages of the last call.
    pub(crate) fn messages(&self, count: usize) -> impl Iterator<Item = &[u8]> {
        let slots = self.bytes.chunks_exact(Self::SLOT);
        slots.zip(self.lengths).take(count).map(|(slot, length)| &slot[..length])
    }
}

fn empty_header() -> libc::mmsghdr {
    let header = MaybeUninit::<libc::mmsghdr>::zeroed();
    // SAFETY: a message header of zero bytes is valid: null pointers with zero lengths.
    unsafe { header.assume_init() }
}
