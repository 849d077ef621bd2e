//! Rounding to the nearest code, in groups of columns that share a scale: what better methods are measured against,
//! and what they round with.

use half::f16;

use super::Matrix;

/// 1.5 · 2²³: added and subtracted again, it rounds numbers below 2²² to the nearest integer, ties to even.
const ROUNDER: f32 = 12_582_912.0;

/// The codes that a weight can have: 0 ..= 2^bits - 1. A weight is scale * (code - zero).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codes {
    /// 4 or 8.
    pub bits: u32,
    /// Every group has a zero point of its own; otherwise it is the middle, 2^(bits - 1).
    pub zero_point: bool,
}

/// The factors of one group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    pub scale: f16,
    pub zero: u8,
}

/// A quantized matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Grouped {
    pub rows: usize,
    pub cols: usize,
    /// Columns that share a scale.
    pub group: usize,
    pub codes_of: Codes,
    /// (rows, cols)
    pub codes: Vec<u8>,
    /// (rows, cols / group)
    pub steps: Vec<Step>,
}

impl Codes {
    fn most(self) -> f32 {
        ((1u32 << self.bits) - 1) as f32
    }

    fn middle(self) -> u8 {
        1 << (self.bits - 1)
    }

    /// The factors whose codes reach from the lowest to the highest of `weights`.
    pub fn step(self, weights: &[f32]) -> Step {
        self.step_over(range(weights))
    }

    /// The factors whose codes reach from `low`, at most zero, to `high`, at least zero.
    pub fn step_over(self, (low, high): (f32, f32)) -> Step {
        if self.zero_point {
            let scale = usable((high - low) / self.most());
            let zero = (-low / scale.to_f32()).round().clamp(0.0, self.most());
            return Step { scale, zero: zero as u8 };
        }
        let most = high.max(-low);
        // Four bits have a code below the negative end, which is worth reaching; eight bits need none.
        let reach = if self.bits == 8 { f32::from(self.middle()) - 1.0 } else { self.most() / 2.0 };
        Step { scale: usable(most / reach), zero: self.middle() }
    }
}

/// The lowest and the highest of `weights` and zero.
pub fn range(weights: &[f32]) -> (f32, f32) {
    // Eight of each, so that they run side by side.
    let (mut low, mut high) = ([0.0f32; 8], [0.0f32; 8]);
    for weights in weights.chunks(8) {
        for ((low, high), &weight) in low.iter_mut().zip(&mut high).zip(weights) {
            (*low, *high) = (low.min(weight), high.max(weight));
        }
    }
    (low.into_iter().fold(0.0, f32::min), high.into_iter().fold(0.0, f32::max))
}

/// As a float16 that can divide.
fn usable(scale: f32) -> f16 {
    let scale = f16::from_f32(scale.min(f16::MAX.to_f32()));
    if scale.to_f32() > 0.0 { scale } else { f16::ONE }
}

impl Step {
    /// The nearest code, as a float.
    pub fn code(self, weight: f32, codes: Codes) -> f32 {
        self.rounder(codes).code(weight)
    }

    pub fn rounder(self, codes: Codes) -> Rounder {
        let scale = self.scale.to_f32();
        Rounder { scale, inverse: 1.0 / scale, zero: f32::from(self.zero), most: codes.most() }
    }
}

/// A group's factors, ready for many weights.
#[derive(Debug, Clone, Copy)]
pub struct Rounder {
    scale: f32,
    inverse: f32,
    zero: f32,
    most: f32,
}

impl Rounder {
    #[inline]
    pub fn code(self, weight: f32) -> f32 {
        let steps = (weight * self.inverse).clamp(-1024.0, 1024.0);
        ((steps + ROUNDER) - ROUNDER + self.zero).clamp(0.0, self.most)
    }

    #[inline]
    pub fn value(self, code: f32) -> f32 {
        self.scale * (code - self.zero)
    }
}

impl Grouped {
    /// Every weight to its nearest code.
    pub fn nearest(weights: &Matrix, group: usize, codes_of: Codes) -> Self {
        let steps = weights.data.chunks_exact(group).map(|weights| codes_of.step(weights)).collect();
        Self::with_steps(weights, group, codes_of, steps)
    }

    /// Every weight to its nearest code, given the groups' factors.
    pub fn with_steps(weights: &Matrix, group: usize, codes_of: Codes, steps: Vec<Step>) -> Self {
        let mut codes = vec![0; weights.data.len()];
        for ((weights, codes), step) in weights.data.chunks_exact(group).zip(codes.chunks_exact_mut(group)).zip(&steps)
        {
            let rounder = step.rounder(codes_of);
            weights.iter().zip(codes).for_each(|(&weight, code)| *code = rounder.code(weight) as u8);
        }
        Self { rows: weights.rows, cols: weights.cols, group, codes_of, codes, steps }
    }

    pub fn groups(&self) -> usize {
        self.cols / self.group
    }

    pub fn step(&self, row: usize, group: usize) -> Step {
        self.steps[row * self.groups() + group]
    }

    /// What the codes stand for.
    pub fn dequantize(&self) -> Matrix {
        let mut data = Vec::with_capacity(self.codes.len());
        for (codes, step) in self.codes.chunks_exact(self.group).zip(&self.steps) {
            let rounder = step.rounder(self.codes_of);
            data.extend(codes.iter().map(|&code| rounder.value(f32::from(code))));
        }
        Matrix { rows: self.rows, cols: self.cols, data }
    }

    /// Rows of several matrices below each other, as fused tensors have them.
    pub fn stack(parts: Vec<Self>) -> Self {
        let mut parts = parts.into_iter();
        let mut whole = parts.next().expect("a tensor has at least one part");
        for part in parts {
            whole.rows += part.rows;
            whole.codes.extend(part.codes);
            whole.steps.extend(part.steps);
        }
        whole
    }
}
