//! Which of the waiting arrivals make the next turn: flows that have little waiting come first.
//!
//! ```text
//! waiting   | A 64 KiB | A 64 KiB | A 64 KiB | b 100 bytes | C 64 KiB |
//! tag       | A 64     | A 128    | A 192    | b 0.1       | C 64     |   bytes of its flow so far
//! a turn of 128 KiB:   b, A, C
//! ```
//!
//! An arrival's tag is what its flow has waiting up to its end. Arrivals leave in the order of their
//! tags. So an arrival is behind all earlier ones of its flows, whose tags are smaller; every flow
//! that waits has its turn (fair queueing: Demers, Keshav, Shenker 1989); and what a flow sends now
//! and then does not wait behind what others have queued, which is what RFC 8290 does with new flows.
//! Nothing is remembered between turns: a flow is measured by what it has waiting now.

use crate::wire::{flow, ipv4, ipv6, protocol, tcp};
use alloc::vec;
use alloc::vec::Vec;

/// Flows are told apart by so many bits of their numbers. Flows that fall together share a tag: they
/// stay in order among each other, too.
const BITS: u32 = 10;

/// The flows of one arrival: of a frame one, of a train those of all its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flows {
    slots: [u16; Self::MOST],
    count: u8,
    /// There are fragments, whose flow is not known, or more flows than there is room for.
    is_barrier: bool,
    /// All packets are acknowledgements of TCP and nothing else: nobody waits for one of them alone.
    only_acks: bool,
}

impl Flows {
    const MOST: usize = 6;
    const NONE: Self =
        Self { slots: [0; Self::MOST], count: 0, is_barrier: false, only_acks: true };

    /// The flow of one packet or super-packet.
    #[must_use]
    pub fn of_packet(packet: &[u8]) -> Self {
        Self::NONE.and(flow::of(packet), is_bare_ack(packet))
    }

    /// The flows of a train: packets of `segment` bytes, the last one perhaps shorter; 0 if there is
    /// but one.
    #[must_use]
    pub fn of_train(bytes: &[u8], segment: u16) -> Self {
        let len = if segment == 0 { bytes.len() } else { segment.into() };
        let packets = bytes.chunks(len.max(1));
        packets.fold(Self::NONE, |flows, packet| flows.and(flow::of(packet), is_bare_ack(packet)))
    }

    /// Whether somebody may wait for one of the packets: all but acknowledgements of TCP.
    #[must_use]
    pub fn are_urgent(&self) -> bool {
        !self.only_acks
    }

    fn and(mut self, flow: Option<u32>, is_bare_ack: bool) -> Self {
        self.only_acks &= is_bare_ack;
        let Some(flow) = flow else { return Self { is_barrier: true, ..self } };
        let slot = (flow >> (u32::BITS - BITS)) as u16;
        let count = usize::from(self.count);
        if self.slots[..count].contains(&slot) {
            return self;
        }
        match self.slots.get_mut(count) {
            Some(room) => {
                *room = slot;
                self.count += 1;
            }
            None => self.is_barrier = true,
        }
        self
    }

    fn slots(&self) -> &[u16] {
        &self.slots[..self.count.into()]
    }
}

/// Whether a packet is an acknowledgement of TCP and nothing else.
fn is_bare_ack(packet: &[u8]) -> bool {
    let (number, at, len) = match packet.first().map(|octet| octet >> 4) {
        Some(4) => match ipv4::Packet::parse(packet) {
            Ok(header) => (header.protocol(), header.header_len(), header.total_len()),
            Err(_) => return false,
        },
        Some(6) => match (ipv6::Packet::parse(packet), ipv6::upper_layer(packet)) {
            (Ok(header), Some((number, at))) => (number, at, header.total_len()),
            _ => return false,
        },
        _ => return false,
    };
    let segment = packet.get(at..len).map(tcp::Segment::parse);
    number == protocol::TCP
        && matches!(segment, Some(Ok(segment)) if segment.flags() == tcp::flags::ACK
            && segment.header_len() == len - at)
}

/// The choice for one direction of one worker.
#[derive(Debug)]
pub struct Fair {
    /// The tag of each flow's last arrival.
    tags: Vec<u32>,
    /// Tags and positions of the arrivals, in the order in which they came.
    waiting: Vec<(u32, u32)>,
    /// The bytes of each of them.
    bytes: Vec<u32>,
    /// The order in which the turn's arrivals leave.
    order: Vec<usize>,
    /// The highest tag up to the last barrier, which nothing later may pass.
    floor: u32,
    highest: u32,
}

impl Fair {
    /// Bytes that [`Fair::new`] allocates.
    #[must_use]
    pub const fn memory(capacity: usize) -> usize {
        (size_of::<u32>() << BITS)
            + capacity * (size_of::<(u32, u32)>() + size_of::<u32>() + size_of::<usize>())
    }

    /// A choice among up to `capacity` arrivals.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            tags: vec![0; 1 << BITS],
            waiting: Vec::with_capacity(capacity),
            bytes: Vec::with_capacity(capacity),
            order: Vec::with_capacity(capacity),
            floor: 0,
            highest: 0,
        }
    }

    /// Forgets all arrivals.
    pub fn clear(&mut self) {
        self.tags.fill(0);
        self.waiting.clear();
        self.bytes.clear();
        (self.floor, self.highest) = (0, 0);
    }

    /// Adds the next arrival. Packets of no known flow stay where they are: they pass nothing, and
    /// nothing passes them.
    pub fn add(&mut self, bytes: u32, flows: &Flows) {
        let tag = self.last(flows, self.floor).saturating_add(bytes.max(1));
        for slot in flows.slots() {
            self.tags[usize::from(*slot)] = tag;
        }
        self.highest = self.highest.max(tag);
        if flows.is_barrier {
            self.floor = tag;
        }
        self.waiting.push((tag, self.waiting.len() as u32));
        self.bytes.push(bytes);
    }

    /// Adds an arrival that is not to leave now. What follows it in its flows does not either.
    pub fn hold(&mut self, flows: &Flows) {
        self.add(u32::MAX, flows);
    }

    /// Bytes that the flows of an arrival have waiting, up to the last of them: of those that share a tag
    /// together, and with a fragment all that waits.
    #[must_use]
    pub fn bytes_of(&self, flows: &Flows) -> u32 {
        self.last(flows, 0)
    }

    /// The highest tag of these flows, at least so much; with a fragment, the highest of all.
    fn last(&self, flows: &Flows, at_least: u32) -> u32 {
        if flows.is_barrier {
            return self.highest;
        }
        flows.slots().iter().map(|slot| self.tags[usize::from(*slot)]).fold(at_least, u32::max)
    }

    /// Chooses arrivals for a turn until they have so many bytes, of each flow those that begin
    /// within its first `of_a_flow` bytes: their positions, in the order in which they must leave.
    /// The arrival that has waited longest is always among them, unless it is held, so that each
    /// one leaves within as many turns as there were arrivals before it.
    pub fn choose(&mut self, of_a_flow: u32, bytes: u32) -> &[usize] {
        self.order.clear();
        // Positions are unique: an unstable sort, which needs no memory, is as good.
        self.waiting.sort_unstable();
        let mut chosen = 0;
        for (tag, position) in &self.waiting {
            let position = *position as usize;
            let is_beyond = *tag - self.bytes[position] >= of_a_flow && !self.order.is_empty();
            if is_beyond || chosen >= bytes || *tag == u32::MAX {
                break;
            }
            chosen = chosen.saturating_add(self.bytes[position]);
            self.order.push(position);
        }
        let oldest = self.waiting.iter().find(|(_, position)| *position == 0);
        if oldest.is_some_and(|(tag, _)| *tag < u32::MAX) && !self.order.contains(&0) {
            self.order.push(0);
        }
        &self.order
    }

    /// Takes the chosen arrivals out of a list of all that were added: they come to `chosen` in their
    /// order, the rest stays in its own.
    pub fn take<T: Copy>(&mut self, all: &mut Vec<T>, chosen: &mut Vec<T>) {
        chosen.extend(self.order.iter().map(|position| all[*position]));
        self.rest(all);
    }

    /// Keeps of a list of all that were added those that were not chosen.
    pub fn rest<T>(&mut self, all: &mut Vec<T>) {
        let mut position = 0;
        all.retain(|_| {
            position += 1;
            !self.order.contains(&(position - 1))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SUPER: u32 = 65_000;

    #[test]
    fn a_flow_with_little_passes_one_with_much() {
        let mut fair = Fair::new(8);
        for (bytes, flow) in [(SUPER, A), (SUPER, A), (SUPER, A), (100, B)] {
            fair.add(bytes, &flows(&[Some(flow)]));
        }

        assert_eq!(fair.choose(u32::MAX, 2 * SUPER), [3, 0, 1]);
    }

    #[test]
    fn flows_with_much_take_turns() {
        let mut fair = Fair::new(8);
        for flow in [A, A, A, B, B] {
            fair.add(SUPER, &flows(&[Some(flow)]));
        }

        assert_eq!(fair.choose(u32::MAX, u32::MAX), [0, 3, 1, 4, 2]);
    }

    #[test]
    fn a_turn_takes_a_portion_of_each_flow() {
        let mut fair = Fair::new(8);
        for flow in [A, A, A, B, C, C] {
            fair.add(SUPER, &flows(&[Some(flow)]));
        }

        assert_eq!(fair.choose(SUPER, u32::MAX), [0, 3, 4]);
        assert_eq!(fair.choose(SUPER, 2 * SUPER), [0, 3]);
    }

    #[test]
    fn an_arrival_that_begins_within_a_flows_portion_leaves_whole() {
        let mut fair = Fair::new(8);
        for flow in [A, A, A, B] {
            fair.add(SUPER, &flows(&[Some(flow)]));
        }

        assert_eq!(fair.choose(SUPER + 1, u32::MAX), [0, 3, 1]);
    }

    #[test]
    fn what_has_waited_longest_leaves_even_if_all_others_are_smaller() {
        let mut fair = Fair::new(8);
        fair.add(SUPER, &flows(&[Some(A)]));
        for flow in [B, C] {
            fair.add(1000, &flows(&[Some(flow)]));
        }

        assert_eq!(fair.choose(u32::MAX, 1500), [1, 2, 0]);
    }

    #[test]
    fn a_train_of_several_flows_passes_none_of_them() {
        let mut fair = Fair::new(8);
        fair.add(SUPER, &flows(&[Some(A)]));
        fair.add(SUPER, &flows(&[Some(A)]));
        fair.add(200, &flows(&[Some(B), Some(A)]));
        fair.add(100, &flows(&[Some(B)]));
        fair.add(100, &flows(&[Some(C)]));

        assert_eq!(fair.choose(u32::MAX, u32::MAX), [4, 0, 1, 2, 3]);
    }

    #[test]
    fn nothing_passes_a_fragment_and_it_passes_nothing() {
        let mut fair = Fair::new(8);
        fair.add(SUPER, &flows(&[Some(A)]));
        fair.add(SUPER, &flows(&[Some(A)]));
        fair.add(100, &flows(&[None]));
        fair.add(100, &flows(&[Some(B)]));

        assert_eq!(fair.choose(u32::MAX, u32::MAX), [0, 1, 2, 3]);
    }

    #[test]
    fn what_is_held_holds_what_follows_it_and_nothing_else() {
        let mut fair = Fair::new(8);
        fair.add(SUPER, &flows(&[Some(A)]));
        fair.hold(&flows(&[Some(B)]));
        fair.add(100, &flows(&[Some(B)]));
        fair.add(100, &flows(&[Some(C)]));

        assert_eq!(fair.choose(u32::MAX, u32::MAX), [3, 0]);
    }

    #[test]
    fn acknowledgements_alone_are_not_urgent() {
        let packet = |flags, data: &[u8]| {
            twill_testbed::packets::tcp([10, 0, 0, 1], [10, 0, 0, 2], 64, 1, flags, data)
        };
        let (ack, data) = (packet(tcp::flags::ACK, b""), packet(tcp::flags::ACK, b"x"));
        let end = packet(tcp::flags::ACK | tcp::flags::FIN, b"");

        assert!(!Flows::of_packet(&ack).are_urgent());
        assert!(!Flows::of_train(&ack.repeat(3), ack.len() as u16).are_urgent());
        assert!(Flows::of_packet(&data).are_urgent());
        assert!(Flows::of_packet(&end).are_urgent());
        assert!(Flows::of_train(&[ack.clone(), end].concat(), ack.len() as u16).are_urgent());
        assert!(Flows::of_packet(&[]).are_urgent(), "what is no packet is none");
    }

    /// Numbers whose upper bits differ.
    const A: u32 = 1 << 30;
    const B: u32 = 2 << 30;
    const C: u32 = 3 << 30;

    fn flows(all: &[Option<u32>]) -> Flows {
        all.iter().fold(Flows::NONE, |flows, flow| flows.and(*flow, false))
    }

    fn arrivals() -> impl Strategy<Value = Vec<(u32, Vec<Option<u32>>)>> {
        let flow = prop::option::weighted(0.9, (0u32..9).prop_map(|flow| flow << 28));
        let arrival = (1..SUPER, prop::collection::vec(flow, 1..4));
        prop::collection::vec(arrival, 1..64)
    }

    proptest! {
        #[test]
        fn flows_stay_in_order_turn_after_turn_and_all_arrivals_leave(
            all in arrivals(), of_a_flow in 1..200_000u32, portion in 1..200_000u32,
        ) {
            let mut fair = Fair::new(64);
            let mut waiting: Vec<usize> = (0..all.len()).collect();
            let mut left = Vec::new();
            let mut turns = 0;

            while !waiting.is_empty() {
                fair.clear();
                for index in &waiting {
                    fair.add(all[*index].0, &flows(&all[*index].1));
                }
                let oldest = waiting[0];
                let before = left.len();
                fair.choose(of_a_flow, portion);
                fair.take(&mut waiting, &mut left);
                prop_assert!(left[before..].contains(&oldest));
                turns += 1;
            }

            prop_assert!(turns <= all.len());
            let mut sorted = left.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..all.len()).collect::<Vec<_>>(), "each leaves once");
            for (at, later) in left.iter().enumerate() {
                for earlier in &left[..at] {
                    let share = |a: usize, b: usize| {
                        let is_known = |flow: &Option<u32>| flow.is_some();
                        !all[a].1.iter().all(is_known) || !all[b].1.iter().all(is_known)
                            || all[a].1.iter().any(|flow| all[b].1.contains(flow))
                    };
                    prop_assert!(earlier < later || !share(*earlier, *later));
                }
            }
        }

        #[test]
        fn a_flow_waits_for_no_more_of_another_than_it_has_waiting_itself_and_one_arrival(
            bulk in 1usize..60, sparse in 1..2000u32,
        ) {
            let mut fair = Fair::new(64);
            for _ in 0..bulk {
                fair.add(SUPER, &flows(&[Some(A)]));
            }
            fair.add(sparse, &flows(&[Some(B)]));

            prop_assert_eq!(fair.choose(1, 1)[0], bulk);
        }
    }
}
