//! Passes over a row of logits. Numbers that are not finite never count: they are a defect of the model
//! or a mask, and neither may win.

use crate::ids::TokenId;

/// Rows are walked in blocks that stay in the nearest cache between two looks.
pub const BLOCK: usize = 512;
/// Independent accumulators, so that the compiler uses vector registers.
const LANES: usize = 16;

/// exp(x) for x in [-87, 0], with a relative error below 2e-7; 0 for anything else, NaN and infinities included.
///
/// The minimax polynomial is that of Cephes (Moshier). Plain multiplications and additions give the same
/// bits on every machine, and vectorize.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// Adding it rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const POLYNOMIAL: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = POLYNOMIAL[0];
    for c in &POLYNOMIAL[1..] {
        p = p * r + c;
    }
    let power_of_two = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    let y = (p * r * r + r + 1.0) * power_of_two;
    if (-87.0..=0.0).contains(&x) { y } else { 0.0 }
}

/// A distribution over tokens before normalization: `exp((logit - max) / temperature)`.
#[derive(Debug, Clone, Copy)]
pub struct Softmax {
    /// The largest finite logit.
    pub max: f32,
    pub temperature: f32,
}

impl Softmax {
    #[inline(always)]
    pub fn weight(&self, logit: f32) -> f32 {
        exp((logit - self.max) / self.temperature)
    }

    /// The lowest logit whose weight may be `weight`, rounded down.
    pub fn logit_of(&self, weight: f64) -> f32 {
        ((f64::from(self.max) + f64::from(self.temperature) * weight.ln()) as f32).next_down()
    }

    /// The sum of all weights of `logits`.
    pub fn mass(&self, logits: &[f32]) -> f64 {
        let mut lanes = [0f64; LANES / 2];
        let (chunks, tail) = logits.as_chunks::<{ LANES / 2 }>();
        for chunk in chunks {
            let weights = chunk.map(|logit| self.weight(logit));
            for (lane, weight) in lanes.iter_mut().zip(weights) {
                *lane += f64::from(weight);
            }
        }
        lanes.iter().sum::<f64>() + tail.iter().map(|&l| f64::from(self.weight(l))).sum::<f64>()
    }

    /// The token at which the cumulated weights pass `u` times their sum, tokens in order.
    pub fn draw(&self, logits: &[f32], u: f64, block_masses: &mut Vec<f64>) -> TokenId {
        block_masses.clear();
        block_masses.extend(logits.chunks(BLOCK).map(|block| self.mass(block)));
        let target = u * block_masses.iter().sum::<f64>();
        let (block, before) = pass(block_masses.iter().copied(), target);
        let start = block * BLOCK;
        let block = &logits[start..logits.len().min(start + BLOCK)];
        let (offset, _) = pass(block.iter().map(|&l| f64::from(self.weight(l))), target - before);
        (start + offset) as TokenId
    }
}

/// The first index at which the cumulated `weights` exceed `target`, and the sum before it. Where rounding
/// keeps the sum from getting there: the last index with a weight.
pub fn pass(weights: impl Iterator<Item = f64>, target: f64) -> (usize, f64) {
    let (mut sum, mut last) = (0.0, (0, 0.0));
    for (i, weight) in weights.enumerate() {
        if weight > 0.0 {
            last = (i, sum);
            sum += weight;
            if sum > target {
                break;
            }
        }
    }
    last
}

/// The larger one; `a` if `b` is NaN. One instruction.
#[inline(always)]
fn higher(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// The largest finite number of `block`, or -inf.
pub fn block_max(block: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, tail) = block.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = higher(lanes[i], chunk[i]);
        }
    }
    let max = lanes.into_iter().chain(tail.iter().copied()).fold(f32::NEG_INFINITY, higher);
    match max == f32::INFINITY {
        true => block.iter().copied().filter(|logit| logit.is_finite()).fold(f32::NEG_INFINITY, higher),
        false => max,
    }
}

/// The best token and its logit; the lowest id of equals. None: no logit is finite.
pub fn argmax(logits: &[f32]) -> Option<(TokenId, f32)> {
    let mut best = (f32::NEG_INFINITY, 0);
    for (i, block) in logits.chunks(BLOCK).enumerate() {
        let max = block_max(block);
        if max > best.0 {
            best = (max, i);
        }
    }
    let start = best.1 * BLOCK;
    let offset = logits[start..].iter().position(|&l| l == best.0 && l.is_finite())?;
    Some(((start + offset) as TokenId, best.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_follows_the_library() {
        for i in 0..=870_000 {
            let x = -(i as f32) / 1e4;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 2e-7, "exp({x})");
        }
        assert_eq!(exp(0.0), 1.0);
        for x in [-88.0, -1e30, f32::NEG_INFINITY, f32::INFINITY, f32::NAN] {
            assert_eq!(exp(x), 0.0);
        }
    }

    #[test]
    fn the_lowest_id_of_equals_wins_and_numbers_that_are_not_finite_never_do() {
        let mut logits = vec![f32::NAN; 3 * BLOCK + 5];
        assert_eq!(argmax(&logits), None);
        assert_eq!(argmax(&[f32::NEG_INFINITY]), None);
        assert_eq!(argmax(&[]), None);
        logits[7] = f32::INFINITY;
        logits[3 * BLOCK + 4] = -2.0;
        assert_eq!(argmax(&logits), Some((3 * BLOCK as TokenId + 4, -2.0)));
        logits[BLOCK + 1] = -2.0;
        assert_eq!(argmax(&logits), Some((BLOCK as TokenId + 1, -2.0)));
    }
}
