//! Kernels over single rows, for vector tiers.

use super::{F32x16, WIDTH, math};
use crate::model::Activation;

/// `x` = `f` of `x` and `y`, vector by vector. Whole vectors are apart from the last one: theirs need no masks.
macro_rules! update {
    ($S:ident, $x:ident, $f:expr) => {{
        let (whole, rest) = $x.as_chunks_mut::<WIDTH>();
        for x in whole {
            $f($S::read(x)).write(x);
        }
        $f($S::read(rest)).write(rest);
    }};
    ($S:ident, $x:ident, $y:ident, $f:expr) => {{
        let (whole, rest) = $x.as_chunks_mut::<WIDTH>();
        let (other, other_rest) = $y.as_chunks::<WIDTH>();
        for (x, y) in whole.iter_mut().zip(other) {
            $f($S::read(x), $S::read(y)).write(x);
        }
        $f($S::read(rest), $S::read(other_rest)).write(rest);
    }};
}

/// 1 / rms(x). The squares go to four sums in turn: a function of the length alone.
#[inline(always)]
fn inverse_rms<S: F32x16>(x: &[f32], eps: f32) -> S {
    let mut sums = [S::splat(0.0); 4];
    let (fours, rest) = x.as_chunks::<{ 4 * WIDTH }>();
    for four in fours {
        for (sum, x) in sums.iter_mut().zip(four.as_chunks::<WIDTH>().0) {
            let v = S::read(x);
            *sum = v.mul_add(v, *sum);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest.chunks(WIDTH)) {
        let v = S::read(x);
        *sum = v.mul_add(v, *sum);
    }
    let squares = sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum();
    S::splat(1.0 / (squares / x.len() as f32 + eps).sqrt())
}

/// x = x / rms(x) * weight.
#[inline(always)]
pub(in crate::kernels) fn rms_norm_inplace<S: F32x16>(x: &mut [f32], weight: &[f32], eps: f32) {
    let inverse: S = inverse_rms(x, eps);
    update!(S, x, weight, |x: S, weight: S| x.mul(inverse).mul(weight));
}

/// out = x / rms(x) * weight.
#[inline(always)]
pub(in crate::kernels) fn rms_norm<S: F32x16>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let inverse: S = inverse_rms(x, eps);
    let ((x, x_rest), (weight, weight_rest)) = (x.as_chunks::<WIDTH>(), weight.as_chunks::<WIDTH>());
    let (out, out_rest) = out.as_chunks_mut::<WIDTH>();
    for ((x, weight), out) in x.iter().zip(weight).zip(out) {
        S::read(x).mul(inverse).mul(S::read(weight)).write(out);
    }
    S::read(x_rest).mul(inverse).mul(S::read(weight_rest)).write(out_rest);
}

#[inline(always)]
pub(in crate::kernels) fn rope<S: F32x16>(heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    for head in heads.chunks_exact_mut(head_dim) {
        let (left, right) = head[..2 * cos.len()].split_at_mut(cos.len());
        rotate_head::<S>(left, right, cos, sin);
    }
}

#[inline(always)]
fn rotate_head<S: F32x16>(left: &mut [f32], right: &mut [f32], cos: &[f32], sin: &[f32]) {
    let ((left, left_rest), (right, right_rest)) = (left.as_chunks_mut::<WIDTH>(), right.as_chunks_mut::<WIDTH>());
    let ((cos, cos_rest), (sin, sin_rest)) = (cos.as_chunks::<WIDTH>(), sin.as_chunks::<WIDTH>());
    for ((left, right), (cos, sin)) in left.iter_mut().zip(right).zip(cos.iter().zip(sin)) {
        rotate::<S>(left, right, cos, sin);
    }
    rotate::<S>(left_rest, right_rest, cos_rest, sin_rest);
}

#[inline(always)]
fn rotate<S: F32x16>(left: &mut [f32], right: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (l, r, cos, sin) = (S::read(left), S::read(right), S::read(cos), S::read(sin));
    l.mul(cos).sub(r.mul(sin)).write(left);
    r.mul(cos).add(l.mul(sin)).write(right);
}

#[inline(always)]
pub(in crate::kernels) fn add<S: F32x16>(x: &mut [f32], y: &[f32]) {
    update!(S, x, y, |x: S, y: S| x.add(y));
}

#[inline(always)]
pub(in crate::kernels) fn gated_activation<S: F32x16>(activation: Activation, gate: &mut [f32], up: &[f32]) {
    match activation {
        Activation::Silu => update!(S, gate, up, |gate: S, up: S| math::silu(gate).mul(up)),
        Activation::GeluTanh => update!(S, gate, up, |gate: S, up: S| math::gelu_tanh(gate).mul(up)),
    }
}

#[inline(always)]
pub(in crate::kernels) fn softcap<S: F32x16>(x: &mut [f32], cap: f32) {
    let cap = S::splat(cap);
    update!(S, x, |x: S| math::softcap(x, cap));
}

#[inline(always)]
pub(in crate::kernels) fn scale<S: F32x16>(x: &mut [f32], factor: f32) {
    let factor = S::splat(factor);
    update!(S, x, |x: S| x.mul(factor));
}
