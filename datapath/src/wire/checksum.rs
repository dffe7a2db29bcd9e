//! The Internet checksum: RFC 1071, incremental update by RFC 1624.
//!
//! Sums are kept as unfolded 64-bit accumulators of native-endian words, because one's complement
//! addition does not care about byte order (RFC 1071 section 2(B)): the loop below then vectorises,
//! and only [`Sum::finish`] swaps.

use core::net::{Ipv4Addr, Ipv6Addr};

/// A partial one's complement sum over an even number of bytes (the last added piece may be odd).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes. All pieces but the last must have even length, as words must not straddle
    /// pieces.
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        // Eight independent lanes let the compiler keep vectors of sums; halves of 64-bit words in
        // 64-bit lanes cannot overflow below 2^32 words, far above any packet.
        let mut lanes = [0u64; 8];
        let (blocks, rest) = bytes.as_chunks::<64>();
        for block in blocks {
            let (words, _) = block.as_chunks::<8>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                let word = u64::from_ne_bytes(*word);
                *lane += (word & 0xffff_ffff) + (word >> 32);
            }
        }
        let mut sum = self.0 + lanes.iter().sum::<u64>();
        let (words, last) = rest.as_chunks::<2>();
        for word in words {
            sum += u64::from(u16::from_ne_bytes(*word));
        }
        if let [last] = last {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        Self(sum)
    }

    /// Adds one 16-bit field given in host byte order.
    #[inline]
    #[must_use]
    pub fn word(self, value: u16) -> Self {
        Self(self.0 + u64::from(value.to_be()))
    }

    /// Adds the IPv4 pseudo-header of a transport checksum (RFC 9293 section 3.1); `len` counts
    /// header and payload.
    #[inline]
    #[must_use]
    pub fn pseudo_v4(
        self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: u8,
        len: u16,
    ) -> Self {
        self.bytes(&source.octets())
            .bytes(&destination.octets())
            .word(u16::from(protocol))
            .word(len)
    }

    /// Adds the IPv6 pseudo-header of a transport checksum (RFC 8200 section 8.1); `len` counts
    /// header and payload.
    #[inline]
    #[must_use]
    pub fn pseudo_v6(
        self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        protocol: u8,
        len: u32,
    ) -> Self {
        self.bytes(&source.octets())
            .bytes(&destination.octets())
            .bytes(&len.to_be_bytes())
            .word(u16::from(protocol))
    }

    /// The folded sum, not complemented, in host byte order: what a partial checksum (`NEEDS_CSUM`)
    /// holds.
    #[inline]
    #[must_use]
    pub fn fold(self) -> u16 {
        let mut sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        sum = (sum >> 32) + (sum & 0xffff_ffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        u16::from_be(sum as u16)
    }

    /// The checksum: the complement of the folded sum, in host byte order.
    #[inline]
    #[must_use]
    pub fn finish(self) -> u16 {
        !self.fold()
    }
}

/// The checksum after one 16-bit field changed from `old` to `new`: RFC 1624 equation 3.
#[inline]
#[must_use]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let mut sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 section 4.1, word by word: the oracle for the fast loop.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for word in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
            sum = (sum >> 16) + (sum & 0xffff);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071_sums_to_its_value() {
        let sum = Sum::default().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);

        assert_eq!(sum.fold(), 0xddf2);
    }

    proptest! {
        #[test]
        fn the_fast_loop_equals_the_word_by_word_sum(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
            prop_assert_eq!(Sum::default().bytes(&bytes).finish(), reference(&bytes));
        }

        #[test]
        fn pieces_of_even_length_sum_to_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 0usize..200,
        ) {
            let cut = (cut * 2).min(bytes.len() & !1);

            let pieces = Sum::default().bytes(&bytes[..cut]).bytes(&bytes[cut..]);

            prop_assert_eq!(pieces.finish(), reference(&bytes));
        }

        #[test]
        fn an_incremental_update_equals_a_new_sum(
            mut bytes in proptest::collection::vec(any::<u8>(), 20..60), new in any::<u16>(), word in 0usize..10,
        ) {
            let before = reference(&bytes);
            let old = u16::from_be_bytes([bytes[word * 2], bytes[word * 2 + 1]]);
            bytes[word * 2..word * 2 + 2].copy_from_slice(&new.to_be_bytes());

            let after = update(before, old, new);

            // Zero has two forms in one's complement; both verify.
            let expected = reference(&bytes);
            prop_assert!(after == expected || (after ^ expected == 0xffff && (after == 0 || expected == 0)));
        }
    }
}
