//! Attention over int8 keys and values, in integers.
//!
//! A query is rounded to i16 with one scale, so that its products with keys are integers and their sums exact; scores
//! are these sums times the scales of the query and of the position. A weight takes on the scale of its position's
//! values and is rounded likewise. Both roundings are 2^8 times finer than those of the cache.

use std::ops::Range;

use super::element::Int8Element;
use super::softmax::vectors;
use super::{scores, values};
use crate::kernels::attention::{BLOCK_SIZE, CHUNK_LEN, Chunk, MAX, SCALE, STATE_HEADER, SUM};
use crate::kernels::simd::{F32x16, I32x16, WIDTH, math, prefetch};

/// A vector of scores has the scales of one block.
const _: () = assert!(WIDTH == BLOCK_SIZE);

/// Of keys and values.
const MOST_INT8: usize = 127;

/// The greatest factor of which `terms` products with int8 fit into a sum.
const fn most_factor(terms: usize) -> f32 {
    let most = i32::MAX as usize / (MOST_INT8 * terms);
    if most < i16::MAX as usize { most as f32 } else { i16::MAX as f32 }
}

/// As `chunk_partial`, for blocks of int8.
///
/// # Safety
/// As for `chunk_partial`.
#[inline(always)]
pub(super) unsafe fn chunk_partial<S: F32x16>(chunk: &Chunk<'_>, scores: &mut [f32], partial: &mut [f32]) {
    let num_rows = chunk.rows.len();
    let stride = partial.len() / num_rows;
    prefetch_scales(chunk);
    for (row, state) in partial.chunks_exact_mut(stride).enumerate() {
        // SAFETY: the caller's promise.
        let query = unsafe { std::slice::from_raw_parts(chunk.query(row), chunk.task.kv.shape.head_dim) };
        // A state has its query in place of its sums until these begin.
        let (header, room) = state.split_at_mut(STATE_HEADER);
        header[SCALE] = round_query::<S>(query, room);
    }
    let queries = partial[STATE_HEADER..].as_ptr();
    let query = |row: usize| queries.wrapping_add(row * stride).cast();
    // SAFETY: the caller's promise, and the queries above.
    unsafe { scores::compute::<S, Int8Element>(chunk, query, scores) };
    let rows = scores.as_chunks_mut().0.iter_mut().zip(partial.chunks_exact_mut(stride)).take(num_rows);
    for (row, (scores, state)) in rows.enumerate() {
        let seen = chunk.seen(row);
        // SAFETY: the caller's promise.
        unsafe {
            state[MAX] = score::<S>(chunk, &seen, state[SCALE], scores);
            (state[SUM], state[SCALE]) = weigh::<S>(chunk, &seen, state[MAX], scores);
        }
        state[STATE_HEADER..].fill(0.0);
    }
    // SAFETY: the caller's promise.
    unsafe { values::accumulate::<S, Int8Element>(chunk, scores.as_ptr().cast(), partial, stride) };
    for state in partial.chunks_exact_mut(stride) {
        let (header, sums) = state.split_at_mut(STATE_HEADER);
        scale_integers::<S>(sums, S::splat(header[SCALE]));
    }
}

/// What rounds numbers to integers, and what turns these back.
#[derive(Clone, Copy)]
struct Rounding {
    inverse: f32,
    scale: f32,
}

impl Rounding {
    /// Of numbers whose sizes have this maximum and this sum; the sum tells whether one is not finite.
    #[inline(always)]
    fn new(greatest: f32, sum: f32, most: f32) -> Self {
        match (sum.is_finite(), greatest > 0.0) {
            (true, true) => Self { inverse: most / greatest, scale: greatest / most },
            (true, false) => Self { inverse: 0.0, scale: 0.0 },
            (false, _) => Self { inverse: 0.0, scale: f32::NAN },
        }
    }
}

/// Writes the query as i16 into `room`, which has whole vectors of floats; returns its scale.
#[inline(always)]
fn round_query<S: F32x16>(query: &[f32], room: &mut [f32]) -> f32 {
    let (mut greatest, mut sum) = (S::splat(0.0), S::splat(0.0));
    for x in query.chunks(WIDTH) {
        let size = S::read(x).abs();
        greatest = size.max(greatest);
        sum = sum.add(size);
    }
    let Rounding { inverse, scale } = Rounding::new(greatest.greatest(), sum.sum(), most_factor(query.len()));
    for (x, room) in query.chunks(WIDTH).zip(room.as_chunks_mut::<{ WIDTH / 2 }>().0) {
        // SAFETY: eight floats are sixteen i16.
        unsafe { S::read(x).mul(S::splat(inverse)).store_i16(room.as_mut_ptr().cast()) };
    }
    scale
}

/// The scales of all values are read before the first value.
#[inline(always)]
fn prefetch_scales(chunk: &Chunk<'_>) {
    for block in chunk.blocks.clone() {
        for piece in [chunk.keys[block], chunk.values[block]] {
            prefetch(scales(chunk, piece).cast(), BLOCK_SIZE * size_of::<f32>());
        }
    }
}

/// Where a block's piece keeps its scales.
#[inline(always)]
fn scales(chunk: &Chunk<'_>, piece: *const u8) -> *const f32 {
    piece.wrapping_add(chunk.task.kv.shape.scales_at()).cast()
}

/// Turns the dot products of `seen` (integers) into scores, in powers of two; returns the greatest.
///
/// # Safety
/// The blocks that hold `seen` are valid.
#[inline(always)]
unsafe fn score<S: F32x16>(
    chunk: &Chunk<'_>,
    seen: &Range<usize>,
    query_scale: f32,
    scores: &mut [f32; CHUNK_LEN],
) -> f32 {
    let task = chunk.task;
    let log2_e = std::f32::consts::LOG2_E;
    let factor = query_scale * task.scale * if task.softcap.is_some() { 1.0 } else { log2_e };
    let mut greatest = S::splat(f32::NEG_INFINITY);
    for block in vectors(seen) {
        let scores = &mut scores.as_chunks_mut::<WIDTH>().0[block];
        // SAFETY: sixteen words, and the caller's promise.
        let (dots, scales) =
            unsafe { (S::Integers::load(scores.as_ptr().cast()), S::load(scales(chunk, chunk.keys[block]))) };
        let mut score = dots.to_floats().mul(scales.mul(S::splat(factor)));
        if let Some(cap) = task.softcap {
            score = math::softcap(score, S::splat(cap)).mul(S::splat(log2_e));
        }
        let score = keep_seen(score, seen, block * BLOCK_SIZE, f32::NEG_INFINITY);
        greatest = score.max(greatest);
        score.write(scores);
    }
    greatest.greatest()
}

/// Turns scores into weights 2^(score - max) times the scales of the values, rounded to i16, in place. Returns the
/// sum of the weights alone, and what an integer counts.
///
/// # Safety
/// The blocks that hold `seen` are valid.
#[inline(always)]
unsafe fn weigh<S: F32x16>(
    chunk: &Chunk<'_>,
    seen: &Range<usize>,
    max: f32,
    scores: &mut [f32; CHUNK_LEN],
) -> (f32, f32) {
    let [mut sum, mut greatest, mut sum_scaled] = [S::splat(0.0); 3];
    for block in vectors(seen) {
        let scores = &mut scores.as_chunks_mut::<WIDTH>().0[block];
        // SAFETY: the caller's promise.
        let scales = unsafe { S::load(scales(chunk, chunk.values[block])) };
        let weight = math::exp2(S::read(scores).sub(S::splat(max)));
        sum = sum.add(weight);
        let scaled = keep_seen(weight.mul(scales), seen, block * BLOCK_SIZE, 0.0);
        greatest = scaled.max(greatest);
        sum_scaled = sum_scaled.add(scaled);
        scaled.write(scores);
    }
    let rounding = Rounding::new(greatest.greatest(), sum_scaled.sum(), most_factor(CHUNK_LEN));
    for block in vectors(seen) {
        let scaled = S::read(&scores.as_chunks::<WIDTH>().0[block]).mul(S::splat(rounding.inverse));
        // SAFETY: sixteen i16 end before the next sixteen floats begin.
        unsafe { scaled.store_i16(scores.as_mut_ptr().cast::<i16>().add(block * WIDTH)) };
    }
    (sum.sum(), rounding.scale)
}

/// `x` is of the positions `at ..`; those outside `seen` may not be stored, and give way to `hidden`.
#[inline(always)]
fn keep_seen<S: F32x16>(x: S, seen: &Range<usize>, at: usize, hidden: f32) -> S {
    if seen.start <= at && at + WIDTH <= seen.end {
        return x;
    }
    x.keep_lanes(seen.start.saturating_sub(at), (seen.end - at).min(WIDTH), S::splat(hidden))
}

/// Turns integers into floats, in place: x = i * factor.
#[inline(always)]
fn scale_integers<S: F32x16>(x: &mut [f32], factor: S) {
    for x in x.chunks_exact_mut(WIDTH) {
        // SAFETY: sixteen words, of which any bits are an integer.
        let integers = unsafe { S::Integers::load(x.as_ptr().cast()) };
        integers.to_floats().mul(factor).write(x);
    }
}
