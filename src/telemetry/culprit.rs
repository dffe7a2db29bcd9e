//! The source of the last dropped datagram per reason, for the log.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use twill_datapath::DropReason;

/// One worker's note for every reason; written by the worker, read by anybody.
#[derive(Debug, Default)]
pub(crate) struct Culprits([Culprit; DropReason::ALL.len()]);

impl Culprits {
    /// A datagram from this outer source was dropped. Only the worker may call this.
    #[inline]
    pub(crate) fn note(&self, reason: DropReason, source: IpAddr) {
        self.0[reason as usize].set(source);
    }

    /// The outer source of the last datagram that was dropped for this reason; none if there was
    /// none, or if the note is being written at the moment.
    #[must_use]
    pub(crate) fn last(&self, reason: DropReason) -> Option<IpAddr> {
        self.0[reason as usize].source()
    }
}

/// An address in two words, under a sequence number that is odd while they change; 0 means none.
#[derive(Debug, Default)]
struct Culprit {
    sequence: AtomicU64,
    words: [AtomicU64; 2],
}

impl Culprit {
    fn set(&self, source: IpAddr) {
        let bits = match source {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits(),
        };
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.words[0].store((bits >> 64) as u64, Ordering::Relaxed);
        self.words[1].store(bits as u64, Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }

    fn source(&self) -> Option<IpAddr> {
        let before = self.sequence.load(Ordering::Acquire);
        let [high, low] = [0, 1].map(|at| self.words[at].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let settled = before == self.sequence.load(Ordering::Relaxed) && before.is_multiple_of(2);
        let bits = u128::from(high) << 64 | u128::from(low);
        (settled && before > 0).then(|| Ipv6Addr::from_bits(bits).to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn the_last_source_of_each_reason_is_told() {
        let culprits = Culprits::default();
        let (first, last) = ("192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap());

        culprits.note(DropReason::UnknownPeer, last);
        culprits.note(DropReason::UnknownPeer, first);
        culprits.note(DropReason::Short, last);

        assert_eq!(culprits.last(DropReason::UnknownPeer), Some(first));
        assert_eq!(culprits.last(DropReason::Short), Some(last));
        assert_eq!(culprits.last(DropReason::Ecn), None);
    }

    #[test]
    fn no_reader_sees_half_of_one_source_and_half_of_another() {
        let (culprits, done) = (Culprits::default(), AtomicBool::new(false));
        let sources: [IpAddr; 2] =
            ["1:1:1:1:1:1:1:1".parse().unwrap(), "2:2:2:2:2:2:2:2".parse().unwrap()];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..200_000 {
                    culprits.note(DropReason::Short, sources[round % 2]);
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                let seen = culprits.last(DropReason::Short);

                assert!(seen.is_none_or(|source| sources.contains(&source)), "{seen:?}");
            }
        });
    }
}
