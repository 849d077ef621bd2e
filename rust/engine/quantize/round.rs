//! Rounding to the nearest code, in groups of columns that share a scale: what better methods are measured against,
//! and what they round with.

use half::f16;

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

impl Codes {
    fn most(self) -> f32 {
        ((1u32 << self.bits) - 1) as f32
    }

    fn middle(self) -> u8 {
        1 << (self.bits - 1)
    }

    /// The factors whose codes reach from the lowest to the highest of `weights`, each times `shrink`.
    pub fn step(self, weights: &[f32], shrink: f32) -> Step {
        let (low, high) =
            weights.iter().fold((0.0f32, 0.0f32), |(low, high), &w| (low.min(shrink * w), high.max(shrink * w)));
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
