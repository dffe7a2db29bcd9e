//! A kernel for tests: it refuses what a test tells it to, and remembers what it took.
#![allow(unsafe_code, reason = "message headers hold pointers")]

use super::send::{SendCalls, some};
use crate::socket::Fragmentation;
use crate::sys::{address, cmsg};
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::slice;
use std::time::Duration;

/// One message as the kernel would read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) to: SocketAddr,
    /// Its datagrams, cut by the `UDP_SEGMENT` that came with it.
    pub(super) datagrams: Vec<Vec<u8>>,
    /// Whether it came with `UDP_SEGMENT`.
    pub(super) is_run: bool,
    /// The source that it names.
    pub(super) source: Option<Ipv6Addr>,
    /// Whether it may be cut into IP fragments.
    pub(super) in_fragments: bool,
}

/// The calls of a kernel that asks `refuse` about every message.
pub(super) struct Faulty<F> {
    refuse: F,
    /// Messages that one call takes at most.
    most: usize,
    fragmentation: Fragmentation,
    pub(super) taken: Vec<Sent>,
    pub(super) calls: usize,
    pub(super) waits: usize,
    /// Whether waiting brings no room.
    full: bool,
    /// What waits for neighbours that do not answer, bytes.
    pub(super) held: u64,
    /// The send buffer as the kernel counts it, and the largest that it grants.
    pub(super) buffer: u32,
    pub(super) largest: u32,
}

impl<F: FnMut(&Sent) -> Option<i32>> Faulty<F> {
    pub(super) fn new(refuse: F) -> Self {
        let fragmentation = Fragmentation::Refused;
        Self {
            refuse,
            most: usize::MAX,
            fragmentation,
            taken: Vec::new(),
            calls: 0,
            waits: 0,
            full: false,
            held: 0,
            buffer: 8 << 20,
            largest: u32::MAX,
        }
    }

    pub(super) fn at_most(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// With a send buffer of which this was asked for, and which stays full.
    pub(super) fn full(self, configured: u32) -> Self {
        Self { full: true, buffer: 2 * configured, ..self }
    }

    /// All datagrams taken, in order.
    pub(super) fn wire(&self) -> Vec<(SocketAddr, Vec<u8>)> {
        let datagrams = |sent: &Sent| {
            let to = sent.to;
            sent.datagrams.clone().into_iter().map(move |bytes| (to, bytes))
        };
        self.taken.iter().flat_map(datagrams).collect()
    }
}

impl<F: FnMut(&Sent) -> Option<i32>> SendCalls for Faulty<F> {
    fn send(&mut self, headers: &mut [libc::mmsghdr]) -> io::Result<NonZeroUsize> {
        self.calls += 1;
        for (index, header) in headers.iter().take(self.most).enumerate() {
            let in_fragments = self.fragmentation == Fragmentation::Allowed;
            let sent = Sent { in_fragments, ..read(&header.msg_hdr) };
            match (self.refuse)(&sent) {
                None => self.taken.push(sent),
                // As the kernel does: an error is told only when it is the first message's.
                Some(errno) if index == 0 => return Err(io::Error::from_raw_os_error(errno)),
                Some(_) => return some(index),
            }
        }
        some(headers.len().min(self.most))
    }

    fn set_fragmentation(&mut self, _: bool, fragmentation: Fragmentation) -> io::Result<()> {
        self.fragmentation = fragmentation;
        Ok(())
    }

    fn wait_for_room(&mut self, _: Duration) -> bool {
        self.waits += 1;
        !self.full
    }

    fn held_for_neighbours(&mut self) -> u64 {
        self.held
    }

    fn send_buffer(&mut self) -> u32 {
        self.buffer
    }

    fn set_send_buffer(&mut self, bytes: u32) {
        self.buffer = bytes.saturating_mul(2).min(self.largest);
    }
}

fn read(header: &libc::msghdr) -> Sent {
    // SAFETY: the code under test points the name at that many bytes, as the kernel would demand.
    let name =
        unsafe { slice::from_raw_parts(header.msg_name.cast::<u8>(), header.msg_namelen as usize) };
    // SAFETY: the same holds for the iovecs.
    let iovecs = unsafe { slice::from_raw_parts(header.msg_iov, header.msg_iovlen as _) };
    let bytes: Vec<u8> = iovecs
        .iter()
        .flat_map(|iovec| {
            // SAFETY: and for what they point at.
            unsafe { slice::from_raw_parts(iovec.iov_base.cast::<u8>(), iovec.iov_len) }
        })
        .copied()
        .collect();
    let control = if header.msg_control.is_null() {
        &[]
    } else {
        // SAFETY: and for the control data.
        unsafe {
            slice::from_raw_parts(header.msg_control.cast::<u8>(), header.msg_controllen as _)
        }
    };
    let (segment, source) = read_control(control);
    Sent {
        source,
        to: address::parse(name).expect("an address"),
        datagrams: bytes.chunks(segment.unwrap_or(bytes.len())).map(<[u8]>::to_vec).collect(),
        is_run: segment.is_some(),
        in_fragments: false,
    }
}

/// The segment size and the source, the only control data that is ever sent: the source goes first.
fn read_control(mut control: &[u8]) -> (Option<usize>, Option<Ipv6Addr>) {
    // A value ends the first words after its header.
    const AT: usize = size_of::<libc::cmsghdr>();
    let mut source = None;
    if let Some((named, rest)) = control.split_at_checked(cmsg::SOURCE_SPACE) {
        let address: [u8; 16] = named[AT..AT + 16].try_into().unwrap();
        let address = Ipv6Addr::from(address);
        assert_eq!(named, cmsg::source(address));
        source = Some(address);
        control = rest;
    }
    let segment = (!control.is_empty()).then(|| {
        let segment = u16::from_ne_bytes([control[AT], control[AT + 1]]);
        assert_eq!(control, cmsg::segment(segment));
        usize::from(segment)
    });
    (segment, source)
}
