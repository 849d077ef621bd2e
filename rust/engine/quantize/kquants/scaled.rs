//! A block's numbers in units in which nothing overflows.

use super::group::{Group, Line};
use crate::quant::blocks::Half;

/// `N` numbers of [-2, 2], and what their squared errors count.
#[derive(Debug)]
pub struct Scaled<const N: usize> {
    numbers: [f32; N],
    weights: [f32; N],
    /// A power of two: what 1 here is outside.
    unit: f32,
}

impl<const N: usize> Scaled<N> {
    /// `numbers` are finite; `importance`, of the same length, is finite and not negative. None: all count alike.
    pub fn new(numbers: &[f32; N], importance: Option<&[f32; N]>) -> Self {
        let unit = power_of_two(numbers.iter().fold(0.0, |most: f32, x| most.max(x.abs())));
        Self { numbers: numbers.map(|x| x / unit), weights: importance.map_or([1.0; N], weights), unit }
    }

    /// Numbers `at * M..(at + 1) * M`.
    pub fn group<const M: usize>(&self, at: usize) -> Group<'_, M> {
        Group {
            numbers: self.numbers[at * M..].first_chunk().expect("groups divide the block"),
            weights: self.weights[at * M..].first_chunk().expect("groups divide the block"),
        }
    }

    /// The float16 outside that is nearest to `x` here.
    pub fn half(&self, x: f32) -> Half {
        Half::nearest(x * self.unit)
    }

    /// What `half` makes of a number.
    pub fn rounded(&self, x: f32) -> f32 {
        self.half(x).to_f32() / self.unit
    }

    pub fn rounded_line(&self, line: Line) -> Line {
        Line { scale: self.rounded(line.scale), offset: self.rounded(line.offset) }
    }
}

/// The importance of a block's columns, at most 1 and never nothing: columns that calibration has not met count little.
fn weights<const N: usize>(importance: &[f32; N]) -> [f32; N] {
    let most = importance.iter().fold(0.0, |most: f32, &x| most.max(x));
    if most == 0.0 {
        return [1.0; N];
    }
    importance.map(|x| (x / most).max(LEAST_WEIGHT))
}

const LEAST_WEIGHT: f32 = 1e-4;

/// The greatest power of two up to `x`, or the least normal one.
fn power_of_two(x: f32) -> f32 {
    const EXPONENT: u32 = 0xff << 23;
    f32::from_bits(x.max(f32::MIN_POSITIVE).to_bits() & EXPONENT)
}
