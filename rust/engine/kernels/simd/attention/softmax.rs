//! From scores to weights.

use std::ops::Range;

use crate::kernels::attention::Chunk;
use crate::kernels::simd::{F32x16, WIDTH, math};

/// Turns the dot products of `seen`, each times `scale`, into weights 2^(score - greatest), scores being in powers of
/// two; returns the greatest score and the sum of the weights.
#[inline(always)]
pub(super) fn weigh<S: F32x16>(chunk: &Chunk<'_>, seen: Range<usize>, scale: f32, scores: &mut [f32]) -> (f32, f32) {
    let scale = match chunk.task.softcap {
        Some(cap) => {
            softcap::<S>(&seen, scores, scale, cap);
            std::f32::consts::LOG2_E
        }
        None => scale * std::f32::consts::LOG2_E,
    };
    hide_edges::<S>(&seen, scores, -f32::INFINITY.copysign(scale));
    let scale = S::splat(scale);
    let mut greatest = S::splat(f32::NEG_INFINITY);
    for at in vectors(&seen) {
        greatest = S::read(&scores[at..]).mul(scale).max(greatest);
    }
    let max = greatest.greatest();
    let (minus_max, mut sum) = (S::splat(-max), S::splat(0.0));
    for at in vectors(&seen) {
        let weight = math::exp2(S::read(&scores[at..]).mul_add(scale, minus_max));
        sum = sum.add(weight);
        weight.write(&mut scores[at..]);
    }
    (max, sum.sum())
}

/// Where the vectors begin that hold `seen`.
pub(super) fn vectors(seen: &Range<usize>) -> impl Iterator<Item = usize> + use<> {
    (seen.start / WIDTH * WIDTH..seen.end).step_by(WIDTH)
}

/// Score = cap * tanh(dot * scale / cap).
#[inline(always)]
fn softcap<S: F32x16>(seen: &Range<usize>, scores: &mut [f32], scale: f32, cap: f32) {
    for at in vectors(seen) {
        math::softcap(S::read(&scores[at..]).mul(S::splat(scale)), S::splat(cap)).write(&mut scores[at..]);
    }
}

/// Positions outside `seen` that share a vector with it are not stored, or not this row's to see: whatever
/// stands there gives way to `hidden`.
#[inline(always)]
fn hide_edges<S: F32x16>(seen: &Range<usize>, scores: &mut [f32], hidden: f32) {
    if seen.is_empty() {
        return;
    }
    for at in [seen.start / WIDTH * WIDTH, (seen.end - 1) / WIDTH * WIDTH] {
        let lanes = seen.start.saturating_sub(at)..(seen.end - at).min(WIDTH);
        S::read(&scores[at..]).keep_lanes(lanes.start, lanes.end, S::splat(hidden)).write(&mut scores[at..]);
    }
}
