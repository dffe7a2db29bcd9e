//! Counts which packets of a flow arrived, twice, or out of order.

/// How far back a number is remembered; an older one cannot be told from a duplicate any more and
/// counts as late.
const WINDOW: u64 = 1 << 16;

/// The arrivals of one flow whose packets are numbered 0, 1, 2, …
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    next: u64,
    unique: u64,
    duplicates: u64,
    reordered: u64,
    /// One bit per number of the window; number n is bit n modulo the window.
    seen: Box<[u64]>,
}

impl Default for Flow {
    fn default() -> Self {
        let seen = vec![0; (WINDOW / 64) as usize].into_boxed_slice();
        Self { next: 0, unique: 0, duplicates: 0, reordered: 0, seen }
    }
}

impl Flow {
    /// Counts one arrival; returns whether it is the packet's first.
    pub(crate) fn saw(&mut self, number: u64) -> bool {
        if number >= self.next {
            self.forget(self.next, number);
            self.next = number + 1;
            self.mark(number);
            self.unique += 1;
            return true;
        }
        let within_window = self.next - number <= WINDOW;
        if within_window && self.is_marked(number) {
            self.duplicates += 1;
            return false;
        }
        if within_window {
            self.mark(number);
        }
        self.unique += 1;
        self.reordered += 1;
        true
    }

    /// Packets that arrived, each counted once.
    pub(crate) fn unique(&self) -> u64 {
        self.unique
    }

    /// Arrivals of packets that had arrived before.
    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Packets that arrived after one with a higher number (RFC 4737, section 3.3).
    pub(crate) fn reordered(&self) -> u64 {
        self.reordered
    }

    /// Empties the window's bits for the numbers `from..=to`, which take the places of old ones.
    fn forget(&mut self, from: u64, to: u64) {
        if to - from >= WINDOW {
            self.seen.fill(0);
            return;
        }
        for number in from..=to {
            let bit = number % WINDOW;
            self.seen[(bit / 64) as usize] &= !(1 << (bit % 64));
        }
    }

    fn mark(&mut self, number: u64) {
        let bit = number % WINDOW;
        self.seen[(bit / 64) as usize] |= 1 << (bit % 64);
    }

    fn is_marked(&self, number: u64) -> bool {
        let bit = number % WINDOW;
        self.seen[(bit / 64) as usize] & (1 << (bit % 64)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn the_books_agree_with_a_set_of_all_numbers(
            numbers in proptest::collection::vec(0..2000u64, 0..3000)
        ) {
            let mut flow = Flow::default();
            let mut seen = HashSet::new();
            let (mut duplicates, mut reordered, mut highest) = (0, 0, None);

            for number in numbers {
                let first = seen.insert(number);
                prop_assert_eq!(flow.saw(number), first);
                if !first {
                    duplicates += 1;
                } else if highest.is_some_and(|highest| number < highest) {
                    reordered += 1;
                }
                highest = highest.max(Some(number));
            }

            prop_assert_eq!(flow.unique(), seen.len() as u64);
            prop_assert_eq!(flow.duplicates(), duplicates);
            prop_assert_eq!(flow.reordered(), reordered);
        }
    }

    #[test]
    fn a_gap_longer_than_the_window_forgets_what_was_before() {
        let mut flow = Flow::default();

        for number in [0, 1, 5 * WINDOW, 5 * WINDOW + 1, 5 * WINDOW, 4 * WINDOW + 2] {
            flow.saw(number);
        }

        assert_eq!((flow.unique(), flow.duplicates(), flow.reordered()), (5, 1, 1));
    }
}
