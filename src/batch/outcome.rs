//! What became of a batch that was handed to the kernel.

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
    /// Room for `capacity` failures: one for every datagram and frame of a batch is enough.
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
    /// Beyond the capacity the last failure absorbs the count, so that no packet goes missing from
    /// the sums.
    pub fn fail(&mut self, failure: Failure) {
        let full = self.failures.len() == self.failures.capacity();
        if let Some(last) = self.failures.last_mut() {
            let follows = last.item == failure.item
                && last.errno == failure.errno
                && last.first + last.count == failure.first;
            if follows || full {
                last.count = last.count.saturating_add(failure.count);
                return;
            }
        }
        self.failures.push(failure);
    }

    /// What failed, in batch order.
    #[must_use]
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }
}
