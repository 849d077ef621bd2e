//! Int8 with one scale for the numbers of a head: x = q * scale.

use crate::kernels::matmul::{code_of, scale_of};

#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    /// NaN where a number is not finite.
    pub scale: f32,
    inverse: f32,
}

impl Scale {
    /// The least that reaches the greatest number of `x`: it becomes 127, so that signs are equal.
    pub fn of(x: &[f32]) -> Self {
        // As integers, sizes are ordered like floats, and NaN comes last.
        let greatest = f32::from_bits(x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0));
        let (scale, inverse) = scale_of(greatest);
        Self { scale, inverse }
    }

    /// To the nearest, ties to even. `x` is one of the scale's numbers.
    pub fn quantize(&self, x: f32) -> i8 {
        code_of(x, self.inverse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_half_a_step_at_most() {
        for greatest in [1e-30, 0.3, 1.0, 127.0, 5e4f32] {
            let x: Vec<f32> = (-50..=50).map(|i| greatest * i as f32 / 50.0).collect();
            let scale = Scale::of(&x);
            assert_eq!(scale.quantize(greatest), 127);
            assert_eq!(scale.quantize(-greatest), -127);
            for x in x {
                let error = f32::from(scale.quantize(x)) * scale.scale - x;
                assert!(error.abs() <= 0.5001 * scale.scale, "{x} of {greatest}: {error}");
            }
        }
    }

    #[test]
    fn zeros_stay_and_what_is_not_finite_shows() {
        let zero = Scale::of(&[0.0, -0.0]);
        assert_eq!((zero.scale, zero.quantize(0.0)), (0.0, 0));
        for x in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(Scale::of(&[1.0, x, 2.0]).scale.is_nan(), "{x}");
        }
    }
}
