//! Attention over one chunk, compiled for this tier.

use super::vector::Vector;
use crate::kernels::attention::Chunk;
use crate::kernels::attention::store::Bf16Slot;
use crate::kernels::simd::attention as simd;

/// # Safety
/// As for the vector tiers' `chunk_partial`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) unsafe fn chunk_partial(chunk: &Chunk<'_>, scores: &mut [f32], partial: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { simd::chunk_partial::<Vector>(chunk, scores, partial) }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) fn merge(state: &mut [f32], partial: &[f32]) {
    simd::merge::<Vector>(state, partial);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) fn average(state: &[f32], out: &mut [f32]) {
    simd::average::<Vector>(state, out);
}

/// # Safety
/// As for `Bf16Slot::store`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) unsafe fn store_bf16(to: Bf16Slot, k: &[f32], v: &[f32]) {
    // SAFETY: the caller's promise.
    unsafe { to.store(k, v) }
}
