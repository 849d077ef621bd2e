//! Attention over one chunk, for vector tiers: scores, softmax, weighted values. A state's maximum counts in powers of two.

pub(in crate::kernels) mod bf16;
pub(in crate::kernels) mod element;
mod int8;
mod scores;
mod softmax;
mod tile;
mod values;

use super::{F32x16, WIDTH, math};
use crate::config::KvDtype;
use crate::kernels::attention::{Chunk, MAX, STATE_HEADER, SUM};
use element::{Bf16Element, Element, F16Element, F32Element, FloatElement, Fp8Element};

/// The states (rows, state_stride) of the chunk's rows after its positions alone.
///
/// # Safety
/// The blocks that the rows see are valid for their shape and stored.
#[inline(always)]
pub(in crate::kernels) unsafe fn chunk_partial<S: F32x16>(chunk: &Chunk<'_>, scores: &mut [f32], partial: &mut [f32]) {
    // SAFETY: the caller's promise, and the element is that of the blocks.
    unsafe {
        match chunk.task.kv.shape.dtype {
            KvDtype::F32 => float_partial::<S, F32Element>(chunk, scores, partial),
            KvDtype::F16 => float_partial::<S, F16Element>(chunk, scores, partial),
            KvDtype::Bf16 => float_partial::<S, Bf16Element>(chunk, scores, partial),
            KvDtype::Fp8 => float_partial::<S, Fp8Element>(chunk, scores, partial),
            KvDtype::Int8 => int8::chunk_partial::<S>(chunk, scores, partial),
        }
    }
}

/// # Safety
/// As above, and the blocks hold `E`.
#[inline(always)]
unsafe fn float_partial<S: F32x16, E: FloatElement>(chunk: &Chunk<'_>, scores: &mut [f32], partial: &mut [f32]) {
    let num_rows = chunk.rows.len();
    let stride = partial.len() / num_rows;
    // SAFETY: the caller's promise.
    unsafe { scores::compute::<S, E>(chunk, |row| chunk.query(row), scores) };
    partial.fill(0.0);
    softmax::weigh::<S, E>(chunk, chunk.task.scale * E::UNIT, scores, partial, stride);
    // SAFETY: the caller's promise.
    unsafe { values::accumulate::<S, E>(chunk, scores.as_ptr(), partial, stride) };
    apply_unit::<S, E>(partial, stride);
}

/// Multiplies the sums of all states by what a widened element counts.
#[inline(always)]
fn apply_unit<S: F32x16, E: FloatElement>(partial: &mut [f32], stride: usize) {
    if E::UNIT == 1.0 {
        return;
    }
    for state in partial.chunks_exact_mut(stride) {
        let sums = state[STATE_HEADER..].chunks_exact_mut(WIDTH);
        sums.for_each(|sums| S::read(sums).mul(S::splat(E::UNIT)).write(sums));
    }
}

/// Adds `partial` to `state`; both have seen something.
#[inline(always)]
pub(in crate::kernels) fn merge<S: F32x16>(state: &mut [f32], partial: &[f32]) {
    let max = state[MAX].max(partial[MAX]);
    let keep = math::exp2(S::splat(state[MAX] - max));
    let take = math::exp2(S::splat(partial[MAX] - max));
    let sum = S::splat(state[SUM]).mul(keep).add(S::splat(partial[SUM]).mul(take));
    state[MAX] = max;
    state[SUM] = sum.greatest();
    let (state, partial) =
        (state[STATE_HEADER..].as_chunks_mut::<WIDTH>().0, partial[STATE_HEADER..].as_chunks::<WIDTH>().0);
    for (state, partial) in state.iter_mut().zip(partial) {
        S::read(state).mul(keep).add(S::read(partial).mul(take)).write(state);
    }
}

/// out = sums of weighted values / sum of weights.
#[inline(always)]
pub(in crate::kernels) fn average<S: F32x16>(state: &[f32], out: &mut [f32]) {
    let factor = S::splat(1.0 / state[SUM]);
    let (vectors, rest) = out.as_chunks_mut::<WIDTH>();
    let (sums, _) = state[STATE_HEADER..].as_chunks::<WIDTH>();
    for (out, sums) in vectors.iter_mut().zip(sums) {
        S::read(sums).mul(factor).write(out);
    }
    if !rest.is_empty() {
        S::read(&sums[vectors.len()]).mul(factor).write(rest);
    }
}
