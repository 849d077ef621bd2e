//! Attention over keys and values of bf16, or of what becomes bf16 without loss, where the machine multiplies pairs of them:
//! twice as many products an instruction. Queries and weights are rounded to bf16 as well; sums are float32.

use std::marker::PhantomData;

use super::element::{Bf16Element, Element, FloatElement, Fp8Element, float_sums};
use super::{apply_unit, scores, softmax, values};
use crate::kernels::attention::{Chunk, STATE_HEADER};
use crate::kernels::simd::{Bf16x16, WIDTH};

/// Elements that bf16 holds, divided by their `UNIT`.
pub(in crate::kernels) trait Bf16Elements: FloatElement {
    /// # Safety
    /// `p` is valid for reading `PAIR_BYTES`.
    unsafe fn load<S: Bf16x16>(p: *const u8) -> S::Pairs;
}

impl Bf16Elements for Bf16Element {
    #[inline(always)]
    unsafe fn load<S: Bf16x16>(p: *const u8) -> S::Pairs {
        // SAFETY: the caller's promise.
        unsafe { S::load_bf16_pairs(p) }
    }
}

impl Bf16Elements for Fp8Element {
    #[inline(always)]
    unsafe fn load<S: Bf16x16>(p: *const u8) -> S::Pairs {
        // SAFETY: the caller's promise.
        unsafe { S::load_e4m3_as_bf16_pairs(p) }
    }
}

/// Bf16 meets bf16.
struct Bf16Pairs<E>(PhantomData<E>);

impl<S: Bf16x16, E: Bf16Elements> Element<S> for Bf16Pairs<E> {
    const PAIR_BYTES: usize = E::PAIR_BYTES;
    type Factor = u16;
    type Pair = S::Pairs;
    float_sums!(S);

    #[inline(always)]
    unsafe fn load_pair(p: *const u8) -> S::Pairs {
        // SAFETY: the caller's promise.
        unsafe { E::load::<S>(p) }
    }

    #[inline(always)]
    unsafe fn add_pair(sum: S, factors: *const u16, pair: S::Pairs) -> S {
        // SAFETY: the caller's promise.
        let factors = unsafe { factors.cast::<u32>().read_unaligned() };
        sum.add_bf16_products(pair, S::splat_bf16_pair(factors))
    }

    #[inline(always)]
    unsafe fn store_factors(x: S, p: *mut u16) {
        // SAFETY: the caller's promise.
        unsafe { x.store_bf16(p) }
    }

    /// The other row may hold anything, NaN included.
    #[inline(always)]
    fn add_row(sum: S, factor: u16, pair: S::Pairs, row: usize) -> S {
        let factor = S::splat_bf16_pair(u32::from(factor) << (16 * row));
        sum.add_bf16_products(S::keep_element(pair, row), factor)
    }
}

/// As `chunk_partial` of the vector tiers, for blocks of `E`.
///
/// # Safety
/// As there.
#[inline(always)]
pub(in crate::kernels) unsafe fn chunk_partial<S: Bf16x16, E: Bf16Elements>(
    chunk: &Chunk<'_>,
    scores: &mut [f32],
    partial: &mut [f32],
) {
    let num_rows = chunk.rows.len();
    let stride = partial.len() / num_rows;
    for (row, state) in partial.chunks_exact_mut(stride).enumerate() {
        // SAFETY: the caller's promise.
        let query = unsafe { std::slice::from_raw_parts(chunk.query(row), chunk.task.kv.shape.head_dim) };
        // A state has its query in place of its sums until these begin.
        let room = state[STATE_HEADER..].as_mut_ptr().cast::<u16>();
        let (vectors, rest) = query.as_chunks::<WIDTH>();
        // SAFETY: a state has room for whole vectors of floats.
        unsafe {
            for (i, x) in vectors.iter().enumerate() {
                S::read(x).store_bf16(room.add(i * WIDTH));
            }
            if !rest.is_empty() {
                S::read(rest).store_bf16(room.add(vectors.len() * WIDTH));
            }
        }
    }
    let queries = partial[STATE_HEADER..].as_ptr();
    let query = |row: usize| queries.wrapping_add(row * stride).cast();
    // SAFETY: the caller's promise, and the queries above.
    unsafe { scores::compute::<S, Bf16Pairs<E>>(chunk, query, scores) };
    partial.fill(0.0);
    softmax::weigh::<S, Bf16Pairs<E>>(chunk, chunk.task.scale * E::UNIT, scores, partial, stride);
    // SAFETY: the caller's promise, and the weights above.
    unsafe { values::accumulate::<S, Bf16Pairs<E>>(chunk, scores.as_ptr().cast(), partial, stride) };
    apply_unit::<S, E>(partial, stride);
}
