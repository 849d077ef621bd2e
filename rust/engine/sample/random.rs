//! Random numbers that are a function of (seed, position), so that no state has to follow a sequence
//! through preemption, batching or resumption on another machine.

/// Philox-4x32 with 10 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for _ in 0..10 {
        let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// What a number is for: streams of the same seed never overlap.
#[derive(Clone, Copy)]
enum Stream {
    Token = 0,
    Choice = 1,
}

fn bits(seed: u64, stream: Stream, index: u64) -> u64 {
    let key = [seed as u32, (seed >> 32) as u32];
    let words = philox([index as u32, (index >> 32) as u32, stream as u32, 0], key);
    u64::from(words[0]) | u64::from(words[1]) << 32
}

/// The uniform number in [0, 1) that decides the token at `position`.
pub fn u01(seed: u64, position: usize) -> f64 {
    const UNIT: f64 = 1.0 / (1u64 << 53) as f64;
    (bits(seed, Stream::Token, position as u64) >> 11) as f64 * UNIT
}

/// The seed of choice `index` of a request with `seed`; choice 0 keeps the request's own.
pub fn choice_seed(seed: u64, index: usize) -> u64 {
    match index {
        0 => seed,
        _ => bits(seed, Stream::Choice, index as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that come with Random123, the authors' implementation.
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(
            philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn numbers_are_uniform_over_positions_and_over_seeds() {
        let by_position = (0..80_000).map(|position| u01(7, position));
        let by_seed = (0..80_000).map(|seed| u01(seed, 7));
        for numbers in [by_position.collect::<Vec<_>>(), by_seed.collect()] {
            let mut bins = [0u32; 8];
            numbers.iter().for_each(|u| bins[(u * 8.0) as usize] += 1);
            let chi2: f64 = bins.iter().map(|&n| (f64::from(n) - 1e4).powi(2) / 1e4).sum();
            assert!(chi2 < 24.3, "{chi2}: beyond the 0.1 % quantile of 7 degrees of freedom");
        }
    }

    #[test]
    fn choices_have_seeds_of_their_own() {
        assert_eq!(choice_seed(42, 0), 42);
        let mut seeds: Vec<u64> = (0..1000).map(|index| choice_seed(42, index)).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 1000);
    }
}
