//! Kernels over single rows, for vector tiers.

use super::{F32x16, WIDTH, math};
use crate::model::Activation;

/// x / rms(x) * weight. The squares go to four sums in turn: a function of the length alone.
#[inline(always)]
pub(in crate::kernels) fn rms_norm_inplace<S: F32x16>(x: &mut [f32], weight: &[f32], eps: f32) {
    let mut sums = [S::splat(0.0); 4];
    for (i, x) in x.chunks(WIDTH).enumerate() {
        let v = S::read(x);
        sums[i % 4] = v.mul_add(v, sums[i % 4]);
    }
    let squares = sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum();
    let inverse = S::splat(1.0 / (squares / x.len() as f32 + eps).sqrt());
    for (x, weight) in x.chunks_mut(WIDTH).zip(weight.chunks(WIDTH)) {
        S::read(x).mul(inverse).mul(S::read(weight)).write(x);
    }
}

#[inline(always)]
pub(in crate::kernels) fn rope<S: F32x16>(left: &mut [f32], right: &mut [f32], cos: &[f32], sin: &[f32]) {
    let halves = left.chunks_mut(WIDTH).zip(right.chunks_mut(WIDTH));
    for ((left, right), (cos, sin)) in halves.zip(cos.chunks(WIDTH).zip(sin.chunks(WIDTH))) {
        let (l, r, cos, sin) = (S::read(left), S::read(right), S::read(cos), S::read(sin));
        l.mul(cos).sub(r.mul(sin)).write(left);
        r.mul(cos).add(l.mul(sin)).write(right);
    }
}

#[inline(always)]
pub(in crate::kernels) fn add<S: F32x16>(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.chunks_mut(WIDTH).zip(y.chunks(WIDTH)) {
        S::read(x).add(S::read(y)).write(x);
    }
}

#[inline(always)]
pub(in crate::kernels) fn gated_activation<S: F32x16>(activation: Activation, gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.chunks_mut(WIDTH).zip(up.chunks(WIDTH)) {
        let g = S::read(gate);
        let activated = match activation {
            Activation::Silu => math::silu(g),
            Activation::GeluTanh => math::gelu_tanh(g),
        };
        activated.mul(S::read(up)).write(gate);
    }
}

#[inline(always)]
pub(in crate::kernels) fn softcap<S: F32x16>(x: &mut [f32], cap: f32) {
    let cap = S::splat(cap);
    for x in x.chunks_mut(WIDTH) {
        math::softcap(S::read(x), cap).write(x);
    }
}

#[inline(always)]
pub(in crate::kernels) fn scale<S: F32x16>(x: &mut [f32], factor: f32) {
    let factor = S::splat(factor);
    for x in x.chunks_mut(WIDTH) {
        S::read(x).mul(factor).write(x);
    }
}
