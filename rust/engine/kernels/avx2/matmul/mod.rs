//! The matrix kernels in AVX2: a panel's 16 rows are two registers of 8.

mod float32;
mod int8;
mod unpack;

use std::arch::x86_64::*;

use crate::kernels::matmul::{Lanes, MatmulTier, RowMut, quantize_groups};

pub static TIER: MatmulTier = MatmulTier {
    quantize,
    unpack: unpack::unpack,
    int8_tile: int8::int8_tile,
    int8_panel: Some(int8::int8_panel),
    decode: float32::decode,
    widen: float32::widen,
    f32_tile: float32::f32_tile,
};

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantize(x: &[f32], out: RowMut) {
    // SAFETY: the caller's promise.
    unsafe { quantize_groups(x, out) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load8(lanes: &Lanes, half: usize) -> __m256 {
    // SAFETY: half is 0 or 1.
    unsafe { _mm256_loadu_ps(lanes.as_ptr().add(8 * half)) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn store8(lanes: &mut Lanes, half: usize, v: __m256) {
    // SAFETY: half is 0 or 1.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr().add(8 * half), v) }
}
