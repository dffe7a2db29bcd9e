//! A registered ring of receive buffers, from which the kernel takes one for each arrival.
//!
//! ```text
//! ring     | addr len bid | addr len bid | ...        one page-aligned entry per free buffer
//! buffers  | slot 0       | slot 1       | ...        the kernel fills, we give back
//! ```
//!
//! The rings of this engine run with `DEFER_TASKRUN`: the kernel writes into buffers, and takes
//! entries, only while the worker itself is inside `io_uring_enter`. Outside of it all memory here
//! is ours alone.
#![allow(unsafe_code, reason = "the kernel shares the ring's memory")]

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

const PAGE: usize = 4096;

/// Buffers of equal size and the ring that offers them.
pub(super) struct BufferRing {
    group: u16,
    ring: NonNull<BufRingEntry>,
    layout: Layout,
    entries: u16,
    tail: u16,
    bytes: Box<[u8]>,
    slot_len: usize,
}

impl BufferRing {
    /// Registers `entries` buffers, a power of two, of `slot_len` bytes each, all free.
    pub(super) fn register(
        ring: &IoUring,
        group: u16,
        entries: u16,
        slot_len: usize,
    ) -> io::Result<Self> {
        assert!(entries.is_power_of_two(), "the kernel masks ring positions");
        let size = usize::from(entries) * size_of::<BufRingEntry>();
        let layout = Layout::from_size_align(size, PAGE).map_err(io::Error::other)?;
        // SAFETY: the layout has a size above zero, as `entries` is a power of two.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(memory.cast::<BufRingEntry>()) else {
            handle_alloc_error(layout)
        };
        let mut buffers = Self {
            group,
            ring: base,
            layout,
            entries,
            tail: 0,
            bytes: vec![0; usize::from(entries) * slot_len].into_boxed_slice(),
            slot_len,
        };
        let submitter = ring.submitter();
        let address = base.as_ptr() as u64;
        // SAFETY: the ring's memory is page-aligned, has `entries` entries, and lives until `self`
        // is dropped, which the engine does after its ring.
        unsafe { submitter.register_buf_ring_with_flags(address, entries, group, 0) }?;
        for bid in 0..entries {
            buffers.give_back(bid);
        }
        buffers.publish();
        Ok(buffers)
    }

    pub(super) fn group(&self) -> u16 {
        self.group
    }

    pub(super) fn slot(&self, bid: u16) -> &[u8] {
        let from = usize::from(bid) * self.slot_len;
        &self.bytes[from..from + self.slot_len]
    }

    pub(super) fn slot_mut(&mut self, bid: u16) -> &mut [u8] {
        let from = usize::from(bid) * self.slot_len;
        &mut self.bytes[from..from + self.slot_len]
    }

    /// Offers a buffer again, once [`BufferRing::publish`] is called.
    pub(super) fn give_back(&mut self, bid: u16) {
        let len = self.slot_len as u32;
        let address = self.slot_mut(bid).as_mut_ptr() as u64;
        let position = usize::from(self.tail & (self.entries - 1));
        // SAFETY: the position is below `entries`, so the entry lies in the ring's memory.
        let mut entry = unsafe { self.ring.add(position) };
        // SAFETY: entries are zeroed memory from the start, and this one is free: the kernel does
        // not look at it before `publish`.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(address);
        entry.set_len(len);
        entry.set_bid(bid);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see what was given back.
    pub(super) fn publish(&mut self) {
        // SAFETY: `ring` is the address of the first entry of the registered ring.
        let tail = unsafe { BufRingEntry::tail(self.ring.as_ptr()) };
        // SAFETY: the tail is aligned, lives as long as the ring, and is only accessed atomically
        // once the ring is registered.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: `ring` came from `alloc_zeroed` with this very layout.
        unsafe { dealloc(self.ring.as_ptr().cast(), self.layout) };
    }
}
