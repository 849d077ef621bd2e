//! A checksum at the speed of memory.

use crate::hash::mix;
use crate::quant::fetch;

/// Words that are taken in side by side, so that multiplications overlap.
const LANES: usize = 8;
/// Odd, so that multiplying loses nothing.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// From what is taken in to what memory is asked for: a core waits with too few words under way otherwise.
const AHEAD: usize = 4 << 10;

/// 64 bits. Every step is a bijection of the word that it takes in, so that damage within one word always shows.
pub fn checksum(bytes: &[u8]) -> u64 {
    let mut lanes: [u64; LANES] = std::array::from_fn(|lane| mix(lane as u64));
    let (lines, rest) = bytes.as_chunks();
    for line in lines {
        fetch(line.as_ptr().wrapping_add(AHEAD), line.len());
        take_in(&mut lanes, line);
    }
    let mut last = [0; 8 * LANES];
    last[..rest.len()].copy_from_slice(rest);
    take_in(&mut lanes, &last);
    lanes.iter().fold(bytes.len() as u64, |sum, lane| mix(sum ^ lane))
}

/// The rotation brings high bits, which multiplying only moves up, back to where they spread.
fn take_in(lanes: &mut [u64; LANES], line: &[u8; 8 * LANES]) {
    for (lane, word) in lanes.iter_mut().zip(line.as_chunks().0) {
        *lane = (lane.rotate_left(29) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_of_zeros_differ() {
        let sums: std::collections::HashSet<u64> = (0..300).map(|len| checksum(&vec![0; len])).collect();
        assert_eq!(sums.len(), 300);
    }

    proptest! {
        #[test]
        fn changed_bytes_change_the_sum(
            bytes in proptest::collection::vec(any::<u8>(), 1..300),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
        ) {
            let mut changed = bytes.clone();
            changes.iter().for_each(|(at, flip)| changed[at.index(bytes.len())] ^= flip);
            prop_assert_eq!(checksum(&changed) == checksum(&bytes), changed == bytes);
        }

        /// The pattern that multiplication alone would miss: the top bits of two words of one lane.
        #[test]
        fn top_bits_do_not_cancel(len in 2usize..8, first in 0usize..8, second in 0usize..8) {
            prop_assume!(first != second && first < len && second < len);
            let bytes = vec![7u8; len * 8 * LANES];
            let mut changed = bytes.clone();
            [first, second].iter().for_each(|line| changed[line * 8 * LANES + 7] ^= 0x80);
            prop_assert_ne!(checksum(&changed), checksum(&bytes));
        }
    }
}
