//! An engine without a kernel, for tests: what would arrive is put in, what would leave is taken
//! out, and it refuses what a test tells it to.

use super::{Engine, EngineError, EngineKind, EngineStats, Ports};
use crate::sys::clock;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use twill_datapath::batch::{
    Chain, Datagrams, Failure, Frames, Inbox, Outcome, Piece, Pieces, Slot, Source, Train, TunFrame,
};

/// Decides with which `errno` something is refused, looking at its bytes.
pub(crate) type Refusal = fn(&[u8]) -> Option<i32>;

/// Both ends of the loopback, shared by the engine and its test.
pub(crate) struct Wires {
    /// Frames that the TUN device will hand out.
    pub(crate) from_tun: VecDeque<Vec<u8>>,
    /// Receives that the socket will hand out: outer source, segment size, bytes.
    pub(crate) from_udp: VecDeque<(SocketAddr, u16, Vec<u8>)>,
    /// Datagrams sent.
    pub(crate) to_udp: Vec<(SocketAddr, Vec<u8>)>,
    /// Those of them that left in fragments, by index.
    pub(crate) fragmented: Vec<usize>,
    /// Frames written.
    pub(crate) to_tun: Vec<Vec<u8>>,
    /// Which datagrams are refused.
    pub(crate) refuse_send: Refusal,
    /// Which frames are refused.
    pub(crate) refuse_write: Refusal,
}

impl Wires {
    /// Wires with nothing on them, which refuse nothing.
    pub(crate) fn new() -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            from_tun: VecDeque::new(),
            from_udp: VecDeque::new(),
            to_udp: Vec::new(),
            fragmented: Vec::new(),
            to_tun: Vec::new(),
            refuse_send: |_| None,
            refuse_write: |_| None,
        }))
    }

    /// Whether something has not been received yet.
    pub(crate) fn has_arrivals(&self) -> bool {
        !self.from_tun.is_empty() || !self.from_udp.is_empty()
    }
}

/// The engine's end.
pub(crate) struct Loopback {
    wires: Rc<RefCell<Wires>>,
    /// What was received and is not released; slots are numbered on and on.
    slots: BTreeMap<u16, Vec<u8>>,
    next: u16,
    batch: usize,
}

impl Loopback {
    /// An engine on these wires that takes up to `batch` arrivals per direction and turn.
    pub(crate) fn new(wires: Rc<RefCell<Wires>>, batch: usize) -> Self {
        Self { wires, slots: BTreeMap::new(), next: 0, batch }
    }

    fn bytes(&self, pieces: &Pieces, chain: &Chain) -> Vec<u8> {
        let len: u32 = pieces.iter(chain).map(|piece| piece.len).sum();
        let mut bytes = vec![0; len as usize];
        pieces.copy(chain, 0, &mut bytes, |piece: Piece, out: &mut [u8]| {
            let Source::Slot(Slot(slot)) = piece.source else { unreachable!("headers are theirs") };
            out.copy_from_slice(&self.slots[&slot][piece.offset as usize..][..out.len()]);
        });
        bytes
    }

    fn datagram(&self, datagrams: &Datagrams, item: usize, index: u16) -> (SocketAddr, Vec<u8>) {
        let run = &datagrams.runs()[item];
        let bytes = self.bytes(&datagrams.pieces, &run.chain);
        assert_eq!(bytes.len(), run.bytes as usize);
        let from = usize::from(run.segment) * usize::from(index);
        let to = from + run.datagram_len(index) as usize;
        (run.destination.to, bytes[from..to].to_vec())
    }
}

impl Engine for Loopback {
    fn kind(&self) -> EngineKind {
        EngineKind::Classic
    }

    fn receive(&mut self, inbox: &mut Inbox, _: Option<Duration>) -> Result<(), EngineError> {
        let held = inbox.frames.len() + inbox.trains.len();
        assert_eq!(self.slots.len(), held, "the last turn was not released");
        inbox.began_ns = clock::monotonic_ns();
        let mut wires = self.wires.borrow_mut();
        let room = self.batch - inbox.frames.len();
        for _ in 0..room.min(wires.from_tun.len()) {
            let frame = wires.from_tun.pop_front().expect("as many as were counted");
            let (len, read_ns) = (frame.len() as u32, inbox.began_ns);
            inbox.frames.push(TunFrame { slot: Slot(self.next), start: 0, len, read_ns });
            self.slots.insert(self.next, frame);
            self.next = self.next.wrapping_add(1);
        }
        let room = self.batch - inbox.trains.len();
        for _ in 0..room.min(wires.from_udp.len()) {
            let (from, segment, bytes) =
                wires.from_udp.pop_front().expect("as many as were counted");
            inbox.trains.push(Train {
                slot: Slot(self.next),
                start: 0,
                len: bytes.len() as u32,
                from,
                segment,
                tos: 0,
                received_ns: 0,
                flaw: None,
            });
            self.slots.insert(self.next, bytes);
            self.next = self.next.wrapping_add(1);
        }
        Ok(())
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        self.slots.get_mut(&slot.0).expect("slots are named from arrival to release")
    }

    fn send(&mut self, datagrams: &Datagrams, outcome: &mut Outcome) {
        for (item, run) in datagrams.runs().iter().enumerate() {
            for index in 0..run.datagrams {
                let (to, bytes) = self.datagram(datagrams, item, index);
                let mut wires = self.wires.borrow_mut();
                match (wires.refuse_send)(&bytes) {
                    Some(libc::EMSGSIZE) if run.destination.may_fragment => {
                        let index = wires.to_udp.len();
                        wires.fragmented.push(index);
                        wires.to_udp.push((to, bytes));
                    }
                    Some(errno) => {
                        outcome.fail(Failure { item: item as u32, first: index, count: 1, errno });
                    }
                    None => wires.to_udp.push((to, bytes)),
                }
            }
        }
    }

    fn write(&mut self, frames: &Frames, outcome: &mut Outcome) {
        for (item, frame) in frames.frames().iter().enumerate() {
            let bytes = self.bytes(&frames.pieces, &frame.chain);
            assert_eq!(bytes.len(), frame.len as usize);
            let mut wires = self.wires.borrow_mut();
            match (wires.refuse_write)(&bytes) {
                Some(errno) => {
                    let count = frame.packets;
                    outcome.fail(Failure { item: item as u32, first: 0, count, errno });
                }
                None => wires.to_tun.push(bytes),
            }
        }
    }

    fn release(&mut self, inbox: &mut Inbox) {
        let frames = inbox.frames.iter().map(|frame| frame.slot);
        for slot in frames.chain(inbox.trains.iter().map(|train| train.slot)) {
            self.slots.remove(&slot.0);
        }
        inbox.clear();
    }

    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }

    /// It has taken whatever is on the wires, as an engine does whose receives run ahead.
    fn receive_last(&mut self, inbox: &mut Inbox) -> Result<(), EngineError> {
        self.receive(inbox, None)
    }

    fn into_ports(self: Box<Self>) -> Ports {
        unreachable!("there is no kernel behind it")
    }
}
