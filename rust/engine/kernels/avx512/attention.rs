//! Attention over one chunk, compiled for this tier.

use super::vector::Vector;
use crate::config::KvDtype;
use crate::kernels::attention::Chunk;
use crate::kernels::attention::store::Bf16Slot;
use crate::kernels::simd::attention as simd;
use crate::kernels::simd::attention::element::{Bf16Element, Fp8Element};

/// # Safety
/// As for the vector tiers' `chunk_partial`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in crate::kernels) unsafe fn chunk_partial(chunk: &Chunk<'_>, scores: &mut [f32], partial: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { simd::chunk_partial::<Vector>(chunk, scores, partial) }
}

/// The same over blocks of bf16 or fp8, on a machine that multiplies bf16.
///
/// # Safety
/// As above.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
pub(in crate::kernels) unsafe fn bf16_partial(chunk: &Chunk<'_>, scores: &mut [f32], partial: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe {
        match chunk.task.kv.shape.dtype {
            KvDtype::Fp8 => simd::bf16::chunk_partial::<Vector, Fp8Element>(chunk, scores, partial),
            _ => simd::bf16::chunk_partial::<Vector, Bf16Element>(chunk, scores, partial),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(in crate::kernels) fn merge(state: &mut [f32], partial: &[f32]) {
    simd::merge::<Vector>(state, partial);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(in crate::kernels) fn average(state: &[f32], out: &mut [f32]) {
    simd::average::<Vector>(state, out);
}

/// # Safety
/// As for `Bf16Slot::store`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in crate::kernels) unsafe fn store_bf16(to: Bf16Slot, k: &[f32], v: &[f32]) {
    // SAFETY: the caller's promise.
    unsafe { to.store(k, v) }
}
