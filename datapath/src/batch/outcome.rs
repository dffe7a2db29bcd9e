//! What became of a batch that was handed to the kernel.

use alloc::vec::Vec;

/// Part of a batch that the kernel refused for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Index of the run or frame in its batch.
    pub item: u32,
    /// First datagram of the run that failed; 0 for a frame.
    pub first: u16,
    /// Datagrams that failed; packets of the frame.
    pub count: u16,
    /// The kernel's `errno`.
    pub errno: i32,
}

/// Everything that is not listed here has left, exactly once.
#[derive(Debug)]
pub struct Outcome {
    failures: Vec<Failure>,
    /// Runs that the kernel refused as a whole and that left as plain datagrams instead.
    pub replayed: u32,
}

impl Outcome {
    /// Bytes that [`Outcome::new`] allocates.
    #[must_use]
    pub const fn memory(capacity: usize) -> usize {
        capacity * size_of::<Failure>()
    }

    /// Room for `capacity` failures: one for every datagram or frame of a batch is enough.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { failures: Vec::with_capacity(capacity), replayed: 0 }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.failures.clear();
        self.replayed = 0;
    }

    /// Notes a failure; one that follows the last one directly, with the same errno, extends it.
    /// Beyond the capacity the list grows: what is not on it would count as sent.
    pub fn fail(&mut self, failure: Failure) {
        if let Some(last) = self.failures.last_mut()
            && last.item == failure.item
            && last.errno == failure.errno
            && last.first.checked_add(last.count) == Some(failure.first)
            && let Some(count) = last.count.checked_add(failure.count)
        {
            last.count = count;
            return;
        }
        self.failures.push(failure);
    }

    /// What failed, in batch order.
    #[must_use]
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILURE: Failure = Failure { item: 0, first: 0, count: 1, errno: 1 };

    #[test]
    fn failures_that_follow_each_other_are_one() {
        let mut outcome = Outcome::new(4);

        for first in 0..3 {
            outcome.fail(Failure { first, ..FAILURE });
        }
        outcome.fail(Failure { first: 4, ..FAILURE });
        outcome.fail(Failure { first: 5, errno: 2, ..FAILURE });
        outcome.fail(Failure { item: 1, first: 6, errno: 2, ..FAILURE });

        let seen = outcome.failures().iter().map(|it| (it.item, it.first, it.count));
        assert_eq!(seen.collect::<Vec<_>>(), [(0, 0, 3), (0, 4, 1), (0, 5, 1), (1, 6, 1)]);
    }

    #[test]
    fn no_failure_is_lost_or_moved_beyond_the_capacity_or_at_the_end_of_the_numbers() {
        let mut outcome = Outcome::new(1);

        for item in 0..3 {
            outcome.fail(Failure { item, count: u16::MAX, ..FAILURE });
            outcome.fail(Failure { item, first: u16::MAX, ..FAILURE });
            outcome.fail(Failure { item, first: 0, ..FAILURE });
        }

        let counts = outcome.failures().iter().map(|failure| u64::from(failure.count));
        assert_eq!(counts.sum::<u64>(), 3 * (u64::from(u16::MAX) + 2));
        assert!(outcome.failures().iter().all(|it| it.first.checked_add(it.count - 1).is_some()));
    }
}
