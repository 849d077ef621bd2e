//! Exponentials of vectors, to about 1e-7 relative. Polynomials: Cephes (Moshier), expf and tanhf.

use super::F32x16;
use crate::kernels::scalar::elementwise::GELU_SCALE;

/// Below this, `exp` is zero: the results would be subnormal, which are slow and nothing here needs.
pub(in crate::kernels) const EXP_FLOOR: f32 = -87.33;

#[inline(always)]
fn polynomial<S: F32x16, const N: usize>(x: S, coefficients: [f32; N]) -> S {
    let mut sum = S::splat(coefficients[0]);
    for i in 1..N {
        sum = sum.mul_add(x, S::splat(coefficients[i]));
    }
    sum
}

#[inline(always)]
pub(in crate::kernels) fn exp<S: F32x16>(x: S) -> S {
    // The bounds come first, so that NaN passes through.
    let clamped = S::splat(89.0).min(S::splat(EXP_FLOOR - 1.0).max(x));
    let n = clamped.mul(S::splat(std::f32::consts::LOG2_E)).round();
    // ln 2 in two parts, the first with few bits: n times it is exact.
    let r = n.mul_add(S::splat(-0.693_359_4), clamped);
    let r = n.mul_add(S::splat(2.121_944_4e-4), r);
    let p = polynomial(r, [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5]);
    let e = p.mul_add(r.mul(r), r).add(S::splat(1.0)).scale_by_power_of_two(n);
    x.select_below(S::splat(EXP_FLOOR), S::splat(0.0), e)
}

/// 2^x for x up to 127; what lies below 2^-100 comes out as that, which no sum of weights notices and which,
/// unlike smaller numbers, no product makes subnormal.
#[inline(always)]
pub(in crate::kernels) fn exp2<S: F32x16>(x: S) -> S {
    // 1.5 * 2^23, and the bias of exponents: a float of this size ends in the integer that was added to it.
    let magic = S::splat(12_582_912.0 + 127.0);
    // The bound comes first, so that NaN passes through.
    let x = S::splat(-100.0).max(x);
    let n = x.add(magic);
    let r = x.sub(n.sub(magic));
    // Minimax in relative error on -1/2 ..= 1/2.
    #[expect(clippy::approx_constant, reason = "near ln 2, Taylor's coefficient, but not equal to it")]
    let p = polynomial(r, [1.326_472_7e-3, 9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, 6.931_47e-1, 1.0]);
    p.mul(n.low_bits_to_exponent())
}

#[inline(always)]
pub(in crate::kernels) fn sigmoid<S: F32x16>(x: S) -> S {
    let one = S::splat(1.0);
    one.div(exp(S::splat(0.0).sub(x)).add(one))
}

#[inline(always)]
pub(in crate::kernels) fn tanh<S: F32x16>(x: S) -> S {
    let z = x.mul(x);
    let small = polynomial(z, [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1]);
    let small = small.mul(z).mul_add(x, x);
    // 1 - 2 / (e^2x + 1) cancels near zero, and is within rounding elsewhere.
    let one = S::splat(1.0);
    let large = one.sub(S::splat(2.0).div(exp(x.add(x)).add(one)));
    x.abs().select_below(S::splat(0.625), small, large)
}

/// x * (1 + tanh(u)) / 2 is x * sigmoid(2u), which does not cancel; u = sqrt(2/pi) (x + 0.044715 x³).
#[inline(always)]
pub(in crate::kernels) fn gelu_tanh<S: F32x16>(x: S) -> S {
    let inner = x.mul(x).mul_add(S::splat(0.044715), S::splat(1.0)).mul(x);
    x.mul(sigmoid(inner.mul(S::splat(GELU_SCALE))))
}

#[inline(always)]
pub(in crate::kernels) fn silu<S: F32x16>(x: S) -> S {
    x.mul(sigmoid(x))
}

/// cap * tanh(x / cap).
#[inline(always)]
pub(in crate::kernels) fn softcap<S: F32x16>(x: S, cap: S) -> S {
    tanh(x.div(cap)).mul(cap)
}
