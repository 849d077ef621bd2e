//! Attention over one chunk, for vector tiers: scores, softmax, weighted values.

mod element;
mod scores;
mod values;

use std::ops::Range;

use super::{F32x16, WIDTH, math};
use crate::config::KvDtype;
use crate::kernels::attention::{CHUNK_LEN, Chunk, MAX, STATE_HEADER, SUM};
use element::{Bf16Element, Element, F32Element};

/// The states (rows, state_stride) of the chunk's rows `q` (head_dim, rows) after its positions alone.
///
/// # Safety
/// The blocks that the rows see are valid for their shape and stored.
#[inline(always)]
pub(in crate::kernels) unsafe fn chunk_partial<S: F32x16>(
    chunk: &Chunk<'_>,
    q: &[f32],
    scores: &mut [f32],
    partial: &mut [f32],
) {
    // SAFETY: the caller's promise, and the element is that of the blocks.
    unsafe {
        match chunk.task.kv.shape.dtype {
            KvDtype::F32 => chunk_partial_of::<S, F32Element>(chunk, q, scores, partial),
            KvDtype::Bf16 => chunk_partial_of::<S, Bf16Element>(chunk, q, scores, partial),
        }
    }
}

/// # Safety
/// As above, and the blocks hold `E`.
#[inline(always)]
unsafe fn chunk_partial_of<S: F32x16, E: Element>(
    chunk: &Chunk<'_>,
    q: &[f32],
    scores: &mut [f32],
    partial: &mut [f32],
) {
    let num_rows = chunk.rows.len();
    let stride = partial.len() / num_rows;
    // SAFETY: the caller's promise.
    unsafe { scores::compute::<S, E>(chunk, q, scores) };
    let rows = scores.chunks_exact_mut(CHUNK_LEN).zip(partial.chunks_exact_mut(stride)).take(num_rows);
    for (row, (scores, state)) in rows.enumerate() {
        state.fill(0.0);
        (state[MAX], state[SUM]) = softmax::<S>(chunk, chunk.seen(row), scores);
    }
    // SAFETY: the caller's promise.
    unsafe { values::accumulate::<S, E>(chunk, scores, partial, stride) };
}

/// Turns the scores of `seen` into weights, relative to the greatest; returns it and their sum.
#[inline(always)]
fn softmax<S: F32x16>(chunk: &Chunk<'_>, seen: Range<usize>, scores: &mut [f32]) -> (f32, f32) {
    let first = seen.start / WIDTH * WIDTH;
    let vectors = || (first..seen.end).step_by(WIDTH);
    let mut greatest = S::splat(f32::NEG_INFINITY);
    for at in vectors() {
        // Positions outside are not stored, or not this row's to see: whatever stands there goes away here.
        let lanes = seen.start.saturating_sub(at)..seen.end - at;
        let score = finish_score(chunk, S::read(&scores[at..]));
        let score = score.keep_lanes(lanes.start, lanes.end, S::splat(f32::NEG_INFINITY));
        greatest = score.max(greatest);
        score.write(&mut scores[at..]);
    }
    let max = greatest.greatest();
    let mut sum = S::splat(0.0);
    for at in vectors() {
        let weight = math::exp(S::read(&scores[at..]).sub(S::splat(max)));
        sum = sum.add(weight);
        weight.write(&mut scores[at..]);
    }
    (max, sum.sum())
}

#[inline(always)]
fn finish_score<S: F32x16>(chunk: &Chunk<'_>, dot: S) -> S {
    let score = dot.mul(S::splat(chunk.task.scale));
    match chunk.task.softcap {
        Some(cap) => math::softcap(score, S::splat(cap)),
        None => score,
    }
}

/// Adds `partial` to `state`; both have seen something.
#[inline(always)]
pub(in crate::kernels) fn merge<S: F32x16>(state: &mut [f32], partial: &[f32]) {
    let max = state[MAX].max(partial[MAX]);
    let keep = math::exp(S::splat(state[MAX] - max));
    let take = math::exp(S::splat(partial[MAX] - max));
    let sum = S::splat(state[SUM]).mul(keep).add(S::splat(partial[SUM]).mul(take));
    state[MAX] = max;
    state[SUM] = sum.greatest();
    let sums = state[STATE_HEADER..].chunks_exact_mut(WIDTH).zip(partial[STATE_HEADER..].chunks_exact(WIDTH));
    for (state, partial) in sums {
        S::read(state).mul(keep).add(S::read(partial).mul(take)).write(state);
    }
}
